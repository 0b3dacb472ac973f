"""What every behaviour test works with: the converged mail host seen from outside, its accounts, and a way to look inside.

pytest runs in the lab's network namespace (`make behaviour`), so the bridge's client addresses are the rest of the internet.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/shared"))

import correspondent  # noqa: E402  (needs the path above)
import hosts  # noqa: E402  (needs the path above)
from sharing import pytest_addoption, pytest_configure, pytest_runtestloop  # noqa: E402, F401  (hooks of pytest)

# What matters in a journal: the ways of mail, and what went wrong.
WORTH_TELLING = "status=|reject|NOQUEUE|from=<|warning|error|fatal|[Ff]ail|timeout|timed out|Start|Stop|SERVFAIL"
LOG = f"grep -Ev 'session-|user@|runtime-dir|agent' | grep -E '{WORTH_TELLING}' | tail -n 50"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With each failure, what the machines logged meanwhile: the lab is gone when somebody reads of it."""
    report = yield
    if report.failed:
        for machine in ("mail", "world"):
            with contextlib.suppress(subprocess.SubprocessError):
                log = hosts.run_on(machine, "sh", "-c", f"journalctl --quiet --output short-iso --since @{call.start - 5:.0f} | {LOG}")
                report.sections.append(
                    (f"log of {machine}", "\n".join(f"LOG {line[:300]}" for line in log.decode(errors="replace").split("\n")))
                )
    return report


@pytest.fixture(scope="session")
def model() -> dict[str, Any]:
    """The compiled inventory that the host was converged with."""
    return json.loads((ROOT / "build" / f"{os.environ['MAILWRIGHT_LAB']}-model.json").read_text())


@pytest.fixture(scope="session")
def mail(model: dict[str, Any]) -> correspondent.MailHost:
    """The mail host, from outside."""
    correspondent.use_world_dns()
    return hosts.mail_host(model["hostname"])


@pytest.fixture(scope="session")
def ca_file(mail: correspondent.MailHost) -> Path:
    """The certificate authority that signs the host's certificate."""
    return mail.ca_file


@pytest.fixture(scope="session")
def accounts(model: dict[str, Any]) -> dict[str, str]:
    """Address → clear-text password of every mailbox."""
    return {box["address"]: box["password"] for box in model["mailboxes"] if box["password"]}


@pytest.fixture(scope="session")
def host() -> Host:
    """The mail host, from inside (root)."""
    return testinfra.get_host(hosts.testinfra_url("mail"))


@pytest.fixture(scope="session")
def world() -> Host:
    """The world's machine, from inside (root)."""
    return testinfra.get_host(hosts.testinfra_url("world"))


def main_pid(host: Host, unit: str) -> str:
    """The main process of a service; Postfix's unit does not know it on Debian 12."""
    if unit == "postfix":
        return host.file("/var/spool/postfix/pid/master.pid").content_string.strip()
    return host.check_output("systemctl show -P MainPID %s", f"{unit}.service")
