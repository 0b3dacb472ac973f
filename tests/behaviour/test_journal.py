"""What the services say about a clean run: from the boot of the bare host to the first message, which is all that site.yml did."""

from __future__ import annotations

import json
import re

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.from_bare

# What has nothing to do with the inventory: (who says it, what).
KNOWN = (
    # The image of the lab has no locale, and no right to raise the limits of a container.
    ("sshd.*", r"pam_env\(sshd:session\): Unable to open env file: /etc/default/locale.*"),
    ("dbus-daemon", r".*Failed to set fd limit.*"),
    # Said so at every first start, and at every reload.
    ("fail2ban", r"New database created\. Version .*"),
    ("dovecot", r"master: Warning: SIGHUP received - reloading configuration"),
    # A computer that is busy with something else stops for a moment.
    ("dovecot", r".*Warning: Time (moved|jumped) forwards by \S+ seconds.*"),
)


def test_no_service_warns_between_the_bare_host_and_the_first_message(host: Host) -> None:
    # json of all lines of a long run would be much: the time of the first one is enough.
    first = host.check_output("journalctl -q -b -o short-unix -t postfix/cleanup | sed -n '1s/ .*//p'")
    warnings = [
        (entry.get("SYSLOG_IDENTIFIER", ""), str(entry["MESSAGE"]))
        for entry in map(json.loads, host.check_output("journalctl --sync; journalctl -q -b -p warning -o json").splitlines())
        if int(entry["__REALTIME_TIMESTAMP"]) < float(first or "inf") * 1e6
    ]
    assert warnings, "a bare host says something: this test looks at the wrong place"
    assert [row for row in warnings if not any(re.fullmatch(who, row[0]) and re.fullmatch(what, row[1]) for who, what in KNOWN)] == []
