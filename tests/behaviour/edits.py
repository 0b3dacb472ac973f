"""An inventory that is edited and applied as its owner would: a copy of the lab's, real runs of ansible-playbook, what they lead to."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT
from correspondent import MailHost
from wire import stranger, submission

LAB_INVENTORY = ROOT / "inventories/lab"
CANARY = "canary-that-nobody-prints"


class Site:
    """A copy of the lab's inventory, to be edited."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(LAB_INVENTORY, path)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that the file has exactly once."""
        text = (self.path / file).read_text()
        assert text.count(old) == 1
        (self.path / file).write_text(text.replace(old, new))

    def run(self, *arguments: str, playbook: str = "site.yml") -> tuple[int, str]:
        """Status and output of a playbook."""
        argv = [Path(sys.executable).parent / "ansible-playbook", ROOT / playbook, "-i", self.path, *arguments]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, done.stdout

    def changed(self, *arguments: str) -> int:
        """How many tasks changed something on the mail host, in a run that succeeds."""
        status, output = self.run(*arguments)
        assert status == 0, output[-4000:]
        found = re.search(r"^mail\.oak\.test +: .*changed=(\d+)", output, re.MULTILINE)
        assert found, output
        return int(found[1])


@contextlib.contextmanager
def edited_lab(directory: Path, *arguments: str) -> Iterator[Site]:
    """A copy to be edited; afterwards, even of a failure, the lab's own inventory is live, by a run with these arguments."""
    try:
        yield Site(directory / "edited")
    finally:
        Site(directory / "lab").changed("-e", "directory_removals_allowed=true", *arguments)


def publish_lab_records(directory: Path) -> None:
    """The DNS is as the lab's own inventory has it: what a test published beside it, or instead, goes."""
    status, output = Site(directory / "published").run(playbook="playbooks/dns-publish.yml")
    assert status == 0, output[-4000:]


def logs_in(mail: MailHost, address: str, password: str) -> bool:
    with submission(mail, 465) as session:
        return session.login(address, password) == 235


def answer(mail: MailHost, recipient: str) -> int:
    """What a stranger is told at RCPT."""
    with stranger(mail) as session:
        return session.rcpt("friend@good.test", recipient)[-1]
