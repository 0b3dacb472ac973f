"""Large inventories: what checking, applying, applying again and one mailbox more cost, and how much memory that takes.

    preflight         validate.yml alone; ratio to loading the YAML of the domain files
    apply_first       site.yml with all mailboxes and aliases new; ratio to loading the YAML
    apply_no_change   site.yml once more; ratio to `ansible -m ping`
    add_one           one mailbox more, until the run has ended; then a message must arrive there. Ratio to `ansible -m ping`
    controller_memory largest process of the first apply, MB
    passwords_…       the same with passwords in clear, which the host hashes, and checks when their list has changed
    peer_loop         as many mailboxes as n by a loop of one Ansible task each, the field's usual way; peer_loop_each is its slope

Every mailbox has an alias. Hashes are given, except for passwords_….
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from bench import Bench, Run

ROOT = Path(__file__).resolve().parents[1]
LAB_INVENTORY = ROOT / "inventories/lab"
# (mailboxes, domains)
SIZES = ((10, 1), (1_000, 100), (10_000, 1), (10_000, 100), (10_000, 1_000), (100_000, 1_000))
PASSWORDS = 1_000
LOOP = 100
HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4"
SETTINGS = {
    "mail_hostname": "mail.oak.test",
    "mail_postmaster": "user0@d0.scale.test",
    "mail_allow_plaintext_passwords": True,
    # One size after the other on one host: what is gone was meant to go.
    "directory_removals_allowed": True,
}
LOOP_PLAYBOOK = """
- hosts: mail
  gather_facts: false
  tasks:
    - ansible.builtin.lineinfile:
        path: /root/peer-users
        line: "user{{ item }}@peer.test:HASH::::::"
        regexp: "^user{{ item }}@peer.test:"
        create: true
        mode: "0600"
      loop: "{{ range(count | int) | list }}"
"""


class Scale:
    """The measurements on the lab's mail host."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.inventory = directory / "inventory"

    def run(self, *argv: str) -> Run:
        return self.bench.ansible(*argv, inventory=self.inventory)

    def site(self, *arguments: str) -> Run:
        return self.run("ansible-playbook", str(ROOT / "site.yml"), *arguments)

    def write(self, mailboxes: int, domains: int, secret: str) -> None:
        """An inventory for the lab's host; `secret` is the line of each mailbox's password."""
        shutil.rmtree(self.inventory, ignore_errors=True)
        shutil.copytree(LAB_INVENTORY, self.inventory, ignore=shutil.ignore_patterns("*.test.yml", "mail"))
        settings = self.inventory / "group_vars/mail/mail.yml"
        settings.parent.mkdir()
        settings.write_text(yaml.safe_dump(SETTINGS))
        for number in range(domains):
            count = mailboxes // domains
            boxes = "".join(f"  - name: user{n}\n    {secret.replace('NUMBER', f'{number}-{n}')}\n" for n in range(count))
            aliases = "".join(f"  - name: alias{n}\n    to: [user{n}]\n" for n in range(count))
            self.domain(number).write_text(f"domain: d{number}.scale.test\naliases:\n{aliases}mailboxes:\n{boxes}")

    def domain(self, number: int) -> Path:
        return self.inventory / f"domains/d{number}.scale.test.yml"

    def load_alone(self) -> float:
        """Seconds for the YAML of the domain files, by the fastest loader there is."""
        start = time.monotonic()
        for path in (self.inventory / "domains").iterdir():
            yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        return time.monotonic() - start

    def add_one(self) -> float:
        """Seconds until one mailbox more is live; proven by a message."""
        with self.domain(0).open("a") as file:
            file.write(f"  - name: newcomer\n    password_hash: '{HASH}'\n")
        seconds = self.site("--tags", "accounts").seconds
        self.bench.load("198.51.100.10", 1, ("newcomer@d0.scale.test",), wait_for="mail")
        return seconds

    def measure(self) -> None:
        self.write(1, 1, f"password_hash: '{HASH}'")
        self.site()
        ping = statistics.median(self.run("ansible", "mail", "-m", "ping").seconds for _ in range(3))
        for mailboxes, domains in SIZES:
            print(f"  {mailboxes} mailboxes and as many aliases, {domains} domains:")
            self.write(mailboxes, domains, f"password_hash: '{HASH}'")
            floor = self.load_alone()

            def note(name: str, value: float, unit: str, ratio: float | None = None, n: int = mailboxes) -> None:
                self.bench.note(name, value, unit, ratio, n)

            checked = self.run("ansible-playbook", str(ROOT / "playbooks/validate.yml"))
            note("preflight", checked.seconds, "s", checked.seconds / floor)
            first = self.site()
            note("apply_first", first.seconds, "s", first.seconds / floor)
            note("controller_memory", first.memory, "MB")
            note("apply_no_change", *self.again(ping))
            seconds = self.add_one()
            note("add_one", seconds, "s", seconds / ping)
        self.passwords(ping)
        self.loop()

    def again(self, ping: float) -> tuple[float, str, float]:
        run = self.site()
        run.assert_unchanged()
        return run.seconds, "s", run.seconds / ping

    def passwords(self, ping: float) -> None:
        """Passwords in clear."""
        self.write(PASSWORDS, 10, "password: opens-mailbox-NUMBER")
        print(f"  {PASSWORDS} passwords in clear:")
        first = self.site()
        self.bench.note("passwords_first", first.seconds, "s", first.seconds / ping, PASSWORDS)
        self.bench.note("passwords_no_change", *self.again(ping), PASSWORDS)
        seconds = self.add_one()
        self.bench.note("passwords_add_one", seconds, "s", seconds / ping, PASSWORDS)

    def loop(self) -> None:
        """The peer."""
        playbook = self.inventory.parent / "loop.yml"
        playbook.write_text(LOOP_PLAYBOOK)
        few, many = (self.run("ansible-playbook", str(playbook), "-e", f"count={count}").seconds for count in (10, LOOP))
        self.bench.note("peer_loop", many, "s", n=LOOP)
        self.bench.note("peer_loop_each", (many - few) / (LOOP - 10), "s/mailbox", n=LOOP)


def measure(bench: Bench) -> None:
    """All of it, on a lab that is up."""
    with tempfile.TemporaryDirectory() as directory:
        Scale(bench, Path(directory)).measure()
