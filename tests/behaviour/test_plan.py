"""The plan of a run: it changes nothing, hides secrets, and says what the run then does (O10)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from correspondent import until
from edits import Site, edited_lab
from mailstore import deliver
from testinfra.host import Host

SECRET = "secret-that-no-plan-shows"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Site]:
    """Afterwards the lab's own inventory is live."""
    host.check_output("rm -rf /var/vmail/.archive/nofiling@oak.test")
    with edited_lab(tmp_path_factory.mktemp("plan")) as site:
        yield site


def plan(site: Site, *arguments: str) -> tuple[int, str]:
    """Exit code and all output of the plan."""
    argv = [sys.executable, ROOT / "playbooks/plan.py", "-i", site.path, *arguments]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert SECRET not in done.stdout
    assert "argon2id$" not in done.stdout
    return done.returncode, done.stdout


def test_a_plan_says_what_the_run_then_does(host: Host, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(host, "nofiling@oak.test", b"Subject: x\r\n\r\nHello\r\n")
    (site.path / "domains/fir.yml").write_text(
        f"domain: fir.test\nmailboxes:\n  - {{name: frank, password: {SECRET}}}\naliases:\n  - {{name: sales, to: [frank]}}\n"
        "alias_patterns:\n  - {pattern: 'case-[0-9]+', to: [frank]}\nspam: {greylist: 4, junk: 6, reject: 14}\n"
    )
    oak = site.path / "domains/oak.test.yml"
    text = oak.read_text()
    start = text.index("  - name: nofiling")
    end = text.index("Its junk stays in the inbox") + len("Its junk stays in the inbox\n")
    oak.write_text((text[:start] + text[end:]).replace("quota: 1G", "quota: 2G"))
    site.edit("group_vars/mail/mail.yml", "alice@oak.test: alice-opens-the-lab", f"alice@oak.test: {SECRET}")
    variables = ["-e", "{postfix_main_overrides: {smtp_helo_timeout: 77s}}"]
    everything = "find /var/lib/mailwright /etc /var/vmail -xdev -printf '%p %T@\\n' | sort"

    def at_rest() -> str:
        # A delivery is over for its sender before Dovecot has closed all of its files.
        found = host.check_output(everything)
        return found if found == host.check_output(everything) else ""

    before = until("nothing else changes", at_rest)
    code, output = plan(site, *variables)
    assert code == 2, output
    for line in (
        "domains     + fir.test",
        "mailboxes   + frank@fir.test",
        "mailboxes   - nofiling@oak.test",
        "mail        - nofiling@oak.test: to the archive",
        "aliases     + sales@fir.test",
        "dns         + fir.test MX",
        "services    ~ postfix.service: reload",
        "files       ~ /etc/postfix/main.cf",
        "A run would change 1 of 1 hosts. Nothing was changed now.",
    ):
        assert line in output, output
    assert "mailboxes   ~ alice@oak.test: password: *** (changed), quota: 1073741824 bytes → 2147483648 bytes" in output
    code, output = plan(site, "--json", *variables)
    assert code == 2, output
    planned: dict[str, Any] = json.loads(output[output.index("{\n") :])
    assert host.check_output(everything) == before

    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "mail_report")
    monkeypatch.setenv("MAILWRIGHT_REPORT", str(tmp_path / "report.json"))
    status, output = site.run("--diff", *variables)
    assert status == 0, output[-4000:]
    done = json.loads((tmp_path / "report.json").read_text())
    for name, host_done in done["hosts"].items():
        for section, found in host_done.items():
            assert planned["hosts"][name][section] == found, section
    assert {key: done[key] for key in planned} == planned
    assert SECRET not in (tmp_path / "report.json").read_text()
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o600
    monkeypatch.undo()

    code, output = plan(site, *variables)
    assert (code, output.splitlines()[-1]) == (0, "A run would change nothing.")


def test_a_run_that_would_stop_is_an_error_of_the_plan(site: Site) -> None:
    code, output = plan(site, "-e", "{postfix_main_overrides: {smtp_hello_timeout: 77s}}")
    assert code == 1
    assert "smtp_hello_timeout" in output
    assert "A run would stop there." in output
    (site.path / "domains/fir.yml").write_text("domain: fir.test\nmailboxess: []\n")
    code, output = plan(site, "--json")
    assert code == 1
    assert "domains/fir.yml:2: mailboxess" in output
