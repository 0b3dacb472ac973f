"""The ClamAV trees: limits that fit the rest, and a scanner that nobody else can use."""

from __future__ import annotations

import json
import re
from typing import Any

import test_postfix
from rendering import SETTINGS, render

UNIT = "/etc/systemd/system/clamav-daemon.service.d/mailwright.conf"
ANTIVIRUS: dict[str, Any] = {"action": "reject", "unscanned": "defer", "updates": True, "signatures": []}
MAIL = {"settings": {**SETTINGS, "antivirus": ANTIVIRUS}}


def test_what_postfix_accepts_is_not_too_large_for_the_scanner() -> None:
    conf = dict(line.split(" ", 1) for line in render("clamav", "enabled")["/etc/clamav/clamd.conf"].splitlines() if line[:1] != "#")
    assert int(conf["StreamMaxLength"]) == int(conf["MaxFileSize"]) > SETTINGS["message_size_limit"]
    assert int(conf["MaxScanSize"]) > int(conf["MaxFileSize"])
    assert conf["AlertExceedsMax"] == "yes"


def test_the_scanner_gives_up_before_the_filter_and_the_filter_before_postfix() -> None:
    conf = render("clamav", "enabled")["/etc/clamav/clamd.conf"]
    scan = int(re.search(r"^MaxScanTime (\d+)$", conf, re.MULTILINE)[1]) / 1000
    tree = render("rspamd", mail=MAIL)
    waits = int(re.search(r"TIMEOUT = (\d+)", tree["/etc/rspamd/mailwright/antivirus.lua"])[1])
    task = float(re.search(r'"task_timeout" = ([\d.]+);', tree["/etc/rspamd/override.d/options.inc"])[1])
    assert scan < waits < task < 120
    assert '"task_timeout" = 8.0;' in render("rspamd")["/etc/rspamd/override.d/options.inc"]


def test_the_scanner_has_no_network_and_no_rights() -> None:
    tree = render("clamav", "enabled", "updates")
    for line in ("User=clamav", "PrivateNetwork=yes", "CapabilityBoundingSet=", "ProtectSystem=strict"):
        assert re.search(rf"^{line}$", tree[UNIT], re.MULTILINE)
    assert "SocketMode=0660" in tree["/etc/systemd/system/clamav-daemon.socket.d/mailwright.conf"]
    assert "NotifyClamd /etc/clamav/clamd.conf" in tree["/etc/clamav/freshclam.conf"]


def test_the_filter_knows_what_is_declared_but_no_signatures() -> None:
    settings = {**SETTINGS, "antivirus": {**ANTIVIRUS, "action": "tag", "signatures": [{"name": "x.ndb", "text": "LONG"}]}}
    tree = render("rspamd", mail={"settings": settings})
    known = json.loads(tree["/etc/rspamd/mailwright/policy.json"])["antivirus"]
    assert known == {"action": "tag", "unscanned": "defer", "updates": True}
    assert "MAILWRIGHT_VIRUS" in tree["/etc/rspamd/local.d/force_actions.conf"]
    assert "MAILWRIGHT_VIRUS" not in render("rspamd", mail=MAIL)["/etc/rspamd/local.d/force_actions.conf"]


def test_postfix_redirects_what_the_filter_marks_only_where_there_is_a_quarantine() -> None:
    assert "/etc/postfix/quarantine" not in test_postfix.render("12")
    assert test_postfix.parameters(test_postfix.render("13")["/etc/postfix/main.cf"])["milter_header_checks"] == ""
