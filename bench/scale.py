"""Large inventories: what checking, applying, applying again and one mailbox more cost, and how much memory that takes.

    preflight         validate.yml alone; ratio to loading the YAML of the domain files
    apply_first       site.yml with all mailboxes, aliases, domains and DKIM keys new; ratio to loading the YAML
    apply_no_change   site.yml once more; ratio to `ansible -m ping`
    add_one           one mailbox more, until the run has ended; then a message must arrive there. Ratio to `ansible -m ping`
    …_cpu             processor time of these runs, controller and host together, which depends less on what else the computer does
    controller_memory largest process of the first apply, MB
    host_memory       largest process of the first apply on the host, MB
    passwords_…       the same with passwords in clear, which the host hashes, and checks when their list has changed
    peer_loop         as many mailboxes as n by a loop of one Ansible task each, the field's usual way; peer_loop_each is its slope

Every mailbox has an alias. Hashes are given, except for passwords_…. Between the first apply and the next the DKIM records are published,
so that the keys sign, as they do on a host in service.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from bench import Bench, Run

ROOT = Path(__file__).resolve().parents[1]
LAB_INVENTORY = ROOT / "inventories/lab"
# (mailboxes, domains)
SIZES = ((10, 1), (1_000, 100), (10_000, 100), (10_000, 1_000), (100_000, 1_000))
PASSWORDS = 1_000
LOOP = 100
HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4"
GIVEN = f"password_hash: '{HASH}'"
SETTINGS = {
    "mail_hostname": "mail.oak.test",
    "mail_allow_plaintext_passwords": True,
    # A thousand certificates are the ACME server's time, not ours.
    "mail_mta_sts": "disabled",
    "mail_dns_updates": [],
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
# What a process of a login has held at most: looked at so often that little is missed, since the kernel keeps the highest figure.
SAMPLER = r"""
import glob, re, time
def processes():
    found = {}
    for path in glob.glob("/proc/[0-9]*/status"):
        try:
            text = open(path).read()
        except OSError:
            continue
        held = re.search(r"^VmHWM:\s+(\d+)", text, re.M)
        if held and text.startswith("Name:\tpython3"):
            found[path] = int(held[1])
    return found
others = set(processes())
most = 0
while True:
    most = max([most, *(held for path, held in processes().items() if path not in others)])
    open("/run/bench-memory.new", "w").write(str(most))
    __import__("os").replace("/run/bench-memory.new", "/run/bench-memory")
    time.sleep(0.1)  # between two looks: nothing announces a process that grows
"""


class Scale:
    """An inventory of any size on the lab's mail host."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.inventory = directory / "inventory"
        self.suffix = "scale.test"

    def run(self, *argv: str) -> Run:
        return self.bench.ansible(*argv, inventory=self.inventory)

    def site(self, *arguments: str) -> Run:
        return self.bench.site(*arguments, inventory=self.inventory)

    def write(self, mailboxes: int, domains: int, secret: str = GIVEN, settings: Mapping[str, Any] | None = None) -> None:
        """An inventory for the lab's host; `secret` is the line of each mailbox's password. Domains are others for each size."""
        self.suffix = f"m{mailboxes}d{domains}.test"
        shutil.rmtree(self.inventory, ignore_errors=True)
        shutil.copytree(LAB_INVENTORY, self.inventory, ignore=shutil.ignore_patterns("domains", "mail", "host_vars"))
        (self.inventory / "domains").mkdir()
        target = self.inventory / "group_vars/mail/mail.yml"
        target.parent.mkdir()
        target.write_text(yaml.safe_dump({**SETTINGS, "mail_postmaster": f"user0@d0.{self.suffix}", **(settings or {})}))
        for number in range(domains):
            count = mailboxes // domains
            boxes = "".join(f"  - name: user{n}\n    {secret.replace('NUMBER', f'{number}-{n}')}\n" for n in range(count))
            aliases = "".join(f"  - name: alias{n}\n    to: [user{n}]\n" for n in range(count))
            self.domain(number).write_text(f"domain: d{number}.{self.suffix}\naliases:\n{aliases}mailboxes:\n{boxes}")

    def domain(self, number: int) -> Path:
        return self.inventory / f"domains/d{number}.{self.suffix}.yml"

    def load_alone(self) -> float:
        """Seconds for the YAML of the domain files, by the fastest loader there is."""
        start = time.monotonic()
        for path in (self.inventory / "domains").iterdir():
            yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        return time.monotonic() - start

    @contextmanager
    def host_memory(self) -> Iterator[list[float]]:
        """MB of the largest process that logins start meanwhile, in a list once it is over."""
        found: list[float] = []
        self.bench.on("mail", f"rm -f /run/bench-memory; systemd-run --quiet --unit=bench-memory python3 -c '{SAMPLER}'")
        try:
            yield found
        finally:
            found.append(int(self.bench.on("mail", "cat /run/bench-memory; systemctl stop bench-memory")) * 1024 / 1e6)

    def settle(self) -> None:
        """The owner publishes the DKIM records, the keys sign: until a run has nothing to do but look."""
        state = json.loads(self.bench.on("mail", "cat /var/lib/mailwright/dkim/state.json"))
        keys = [key for key in state["keys"] if key["domain"].endswith(f".{self.suffix}")]
        records = [{"name": f"{key['selector']}._domainkey.{key['domain']}", "type": "TXT", "value": key["value"]} for key in keys]
        document = json.dumps({"zones": sorted({key["domain"] for key in keys}), "records": records})
        lab = self.bench.lab
        subprocess.run(
            [*lab.command, "publish", "-"], input=document, check=True, text=True, stdout=subprocess.DEVNULL, env=lab.environment
        )
        for _ in range(4):
            output = self.site().output
            if re.search(r"^mail\.oak\.test .*changed=0\b", output, re.MULTILINE) and re.search(
                r"^TASK \[dkim : Sign.*\nskipping:", output, re.M
            ):
                return
        print("  (some DKIM keys still wait for their records: each run asks for them)", flush=True)

    def cpu(self) -> float:
        return self.bench.cpu_seconds("mail")

    def again(self) -> tuple[Run, float]:
        """site.yml with nothing to change, and its processor time."""
        before = self.cpu()
        run = self.site()
        run.assert_unchanged()
        return run, run.cpu + self.cpu() - before

    def add_one(self, ping: float, name: str, n: int, domains: int) -> None:
        """Until one mailbox more is live; proven by a message."""
        with self.domain(0).open("a") as file:
            file.write(f"  - name: newcomer\n    {GIVEN}\n")
        before = self.cpu()
        run = self.site("--tags", "accounts")
        self.bench.note(name, run.seconds, "s", run.seconds / ping, n, domains)
        self.bench.note(f"{name}_cpu", run.cpu + self.cpu() - before, "s of a core", n=n, domains=domains)
        self.bench.load("198.51.100.10", 1, (f"newcomer@d0.{self.suffix}",), wait_for="mail")

    def ping(self) -> float:
        return statistics.median(self.run("ansible", "mail", "-m", "ping").seconds for _ in range(3))

    def measure(self, mailboxes: int, domains: int) -> None:
        """One size, on a host that has nothing of it."""
        self.write(1, 1)
        self.site()
        ping = self.ping()
        print(f"  {mailboxes} mailboxes and as many aliases, {domains} domains:")
        self.write(mailboxes, domains)
        floor = self.load_alone()

        def note(name: str, value: float, unit: str, ratio: float | None = None) -> None:
            self.bench.note(name, value, unit, ratio, mailboxes, domains)

        checked = self.run("ansible-playbook", str(ROOT / "playbooks/validate.yml"))
        note("preflight", checked.seconds, "s", checked.seconds / floor)
        before = self.cpu()
        with self.host_memory() as memory:
            first = self.site()
        note("apply_first", first.seconds, "s", first.seconds / floor)
        note("apply_first_cpu", first.cpu + self.cpu() - before, "s of a core")
        note("controller_memory", first.memory, "MB")
        note("host_memory", memory[0], "MB")
        self.settle()
        run, cpu = self.again()
        note("apply_no_change", run.seconds, "s", run.seconds / ping)
        note("apply_no_change_cpu", cpu, "s of a core")
        self.add_one(ping, "add_one", mailboxes, domains)

    def passwords(self) -> None:
        """Passwords in clear."""
        self.write(1, 1)
        self.site()
        ping = self.ping()
        domains = 10
        self.write(PASSWORDS, domains, "password: opens-mailbox-NUMBER")
        first = self.site()
        self.bench.note("passwords_first", first.seconds, "s", first.seconds / ping, PASSWORDS, domains)
        self.settle()
        run, _ = self.again()
        self.bench.note("passwords_no_change", run.seconds, "s", run.seconds / ping, PASSWORDS, domains)
        self.add_one(ping, "passwords_add_one", PASSWORDS, domains)

    def loop(self) -> None:
        """The peer."""
        playbook = self.inventory.parent / "loop.yml"
        playbook.write_text(LOOP_PLAYBOOK)
        self.write(1, 1)
        few, many = (self.run("ansible-playbook", str(playbook), "-e", f"count={count}").seconds for count in (10, LOOP))
        self.bench.note("peer_loop", many, "s", n=LOOP)
        self.bench.note("peer_loop_each", (many - few) / (LOOP - 10), "s/mailbox", n=LOOP)


def measure(bench: Bench) -> None:
    """All sizes, on a lab that is up."""
    with tempfile.TemporaryDirectory() as directory:
        for mailboxes, domains in bench.sizes:
            Scale(bench, Path(directory)).measure(mailboxes, domains)


def measure_passwords(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Scale(bench, Path(directory)).passwords()


def measure_loop(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Scale(bench, Path(directory)).loop()
