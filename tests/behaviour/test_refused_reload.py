"""A reload that Dovecot refuses fails the run, and leaves nothing behind (O11; promise 3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from correspondent import until
from edits import Site
from testinfra.host import Host

# As soon as Dovecot's last process that has it is gone.
SQUAT = "until python3 -c 'import socket, time; s = socket.create_server((str(), 995)); time.sleep(600)'; do sleep 0.1; done"
COMPILED = "/etc/dovecot/sieve/before/elm.test.svbin"


@pytest.fixture
def site(tmp_path: Path, host: Host) -> Iterator[Site]:
    """Without POP3, its port taken by somebody else, and with a script more; afterwards as the lab has it."""
    site = Site(tmp_path / "inventory")
    domain = site.path / "domains/elm.test.yml"
    lab = domain.read_text()
    domain.write_text(f"{lab}sieve_before: |\n  keep;\n")
    try:
        site.changed("--tags", "dovecot", "-e", json.dumps({"dovecot_pop3_enabled": False}))
        host.check_output("systemd-run --quiet --unit=squatter sh -c %s", SQUAT)
        host.check_output("timeout 60 sh -c 'until ss -Hltnp sport = :995 | grep -q python; do sleep 0.1; done'")
        domain.write_text(lab)
        yield site
    finally:
        host.run("systemctl stop squatter")
        domain.write_text(lab)
        site.changed("--tags", "dovecot")


def test_a_port_that_dovecot_cannot_have_fails_the_run_and_the_former_configuration_is_back(host: Host, site: Site) -> None:
    assert host.file(COMPILED).exists
    status, output = site.run("--tags", "dovecot")
    assert status != 0
    assert "the new configuration is refused: unit dovecot.service: master: Error: service(pop3-login): listen(*, 995) failed" in output
    assert "The previous configuration is back and answers." in output
    assert host.file("/etc/dovecot/sieve/before/elm.test.sieve").exists
    assert host.file(COMPILED).exists
    host.check_output("systemctl stop squatter")
    assert site.changed("--tags", "dovecot") == 1
    until("POP3 is back", lambda: host.check_output("ss -Hltn sport = :995"))
    # Nothing of a script that is gone.
    assert not host.file(COMPILED).exists
