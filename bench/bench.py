"""`make bench`: what Mailwright costs, measured in the lab beside a floor named in the same run.

Prints a table and writes build/bench.json, a list of {name, release, n, domains, value, unit, ratio}; what was not measured this time stays
in it. The parts, in their order; `--only PART …` measures some of them, `--keep` leaves the lab up for the next call:

    first      first_run        bare host → first mail delivered, seconds; ratio to one `apt-get install` of the same packages on a twin
    idle       no_change        seconds of site.yml with nothing to change (median); ratio to `ansible -m ping`
               no_change_tasks  its tasks that reached the host
               idle_memory      MiB (proportional set size) of all services, and each one
    dns        records          every DNS record of 1 000 domains as zone files (playbooks/dns.yml, without asking the host)
               dns_check        seconds of dns-check.yml for 100 domains over four name servers; ratio to `ansible -m ping`
               dkim_keys        seconds for the DKIM keys of 100 domains, an RSA and an Ed25519 key each; ratio to `ansible -m ping`
    mail       mail_rate        messages/s through the whole chain with default features; ratio to stock packages on the twin, by turns
               mail_cpu         processor time of the host for each of these messages; depends less on what else the computer does
               mail_cpu_UNIT    the same of one service, where it is a tenth of a millisecond or more; so for stock, all and access
               mail_rate_all, mail_cpu_all      the same with everything that the lab's inventory switches on
               access_apply, …_access           applying 10 000 entries of mail_access; the same with them
    search     search           seconds of a search for a word in a folder of 10 000 messages; ratio to reading all of them (no index)
               search_index     seconds to index these
    scale      preflight … host_memory: large inventories, see scale.py; `--sizes 10000/100` (mailboxes/domains) picks some
    passwords  passwords_first, passwords_no_change, passwords_add_one: 1 000 passwords in clear, which the host hashes
    peer       peer_loop, peer_loop_each: the field's usual way, one Ansible task for each mailbox

All traffic stays in the lab; the load is messages of 2 KB from the world's machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "molecule/shared"))
os.environ["MAILWRIGHT_LAB"] = LAB_NAME = "bench"

import demo  # noqa: E402  (needs the path and the lab's name above)
import mail  # noqa: E402
import scale  # noqa: E402

ADDRESS = "198.51.100.10"
TWIN = "198.51.100.11"
CLIENT = "ns.world.test"  # the name of the world's machine, both ways
SIZE = 2048
# Seconds for the messages of one load.
PATIENCE = 300
UNITS = {
    "bookworm": ["postfix@-", "dovecot", "rspamd", "redis-server", "unbound", "nginx"],
    "trixie": ["postfix", "dovecot", "rspamd", "redis-server", "unbound", "nginx"],
}
INVENTORY = ROOT / "inventories/lab"
RESULTS = ROOT / "build/bench.json"


@dataclass(frozen=True)
class Run:
    """One command on the controller."""

    seconds: float
    # Processor time, seconds.
    cpu: float
    # Of the largest process, MB.
    memory: float
    output: str

    def assert_unchanged(self) -> None:
        """Of site.yml on a converged host."""
        if not re.search(r"^mail\.oak\.test .*changed=0\b", self.output, re.MULTILINE):
            raise SystemExit("site.yml changed something on a converged host:\n" + self.output[-3000:])


class Bench:
    """One run of measurements on one release."""

    def __init__(self, release: str, sizes: list[tuple[int, int]]) -> None:
        self.release = release
        self.sizes = sizes
        self.lab = demo.Lab(LAB_NAME)
        self.parts: dict[str, Callable[[], None]] = {
            "first": self.first_run,
            "idle": self.idle,
            "dns": self.dns,
            "mail": lambda: mail.measure(self),
            "search": lambda: mail.measure_search(self),
            "scale": lambda: scale.measure(self),
            "passwords": lambda: scale.measure_passwords(self),
            "peer": lambda: scale.measure_loop(self),
        }

    def note(self, name: str, value: float, unit: str, ratio: float | None = None, n: int = 1, domains: int | None = None) -> None:
        """Print a figure and keep it."""
        rounded = None if ratio is None else round(ratio, 2)
        row = {"name": name, "release": self.release, "n": n, "domains": domains, "value": round(value, 2), "unit": unit, "ratio": rounded}
        print(f"  {name:24} {value:10.2f} {unit:12} {'' if rounded is None else f'{rounded} x'}", flush=True)

        def same(other: dict[str, object]) -> bool:
            return all(other.get(key) == row[key] for key in ("name", "release", "n", "domains"))

        RESULTS.parent.mkdir(exist_ok=True)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        RESULTS.write_text(json.dumps([*(other for other in rows if not same(other)), row], indent=1) + "\n")

    def on(self, machine: str, script: str) -> str:
        """Run a shell script on a machine and return what it prints."""
        argv = [*self.lab.command, "run", machine, "--", "bash", "--norc", "-euc", script]
        return subprocess.run(
            argv, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.lab.environment
        ).stdout

    def ansible(self, *argv: str, inventory: Path = INVENTORY) -> Run:
        """An Ansible command on an inventory, the lab's own by default."""
        environment = {**self.lab.environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        command = [str(Path(sys.executable).parent / argv[0]), "-i", str(inventory), *argv[1:]]
        with tempfile.TemporaryFile("w+") as output:
            start = time.monotonic()
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - start
            output.seek(0)
            text = output.read()
        if process.returncode != 0:
            raise SystemExit(text[-6000:])
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, text)

    def site(self, *arguments: str, inventory: Path = INVENTORY) -> Run:
        return self.ansible("ansible-playbook", str(ROOT / "site.yml"), *arguments, inventory=inventory)

    def ping(self) -> float:
        """The floor of what reaches the host."""
        return statistics.median(self.ansible("ansible", "mail", "-m", "ping").seconds for _ in range(3))

    # -- first, idle

    def packages(self) -> str:
        """What a bare host gets, such as the twin is."""
        planned = self.site("--check", "--tags", "packages", "-e", f"ansible_host={TWIN}").output
        return " ".join(re.findall(r"Packages to install: ([^']+)'", planned)[0].split())

    def converged(self) -> bool:
        return self.on("mail", "test -e /var/lib/mailwright/trees/rspamd/manifest.json && echo yes || true") != ""

    def equip_twin(self) -> float:
        """Seconds of one `apt-get install` of the packages on the twin, from a warm cache."""
        held = (
            "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; export DEBIAN_FRONTEND=noninteractive"
        )
        install = f"apt-get install -qq -y --no-install-recommends {self.packages()}"
        self.on("twin", f"apt-get update -qq; {install} --download-only >/dev/null; apt-get clean")
        start = time.monotonic()
        self.on("twin", f"{held}; {install} >/dev/null 2>&1")
        return time.monotonic() - start

    def first_run(self) -> None:
        """From a bare host to the first mail, beside the bare `apt-get install` of the same packages."""
        floor = self.equip_twin()
        self.lab.playbook(ROOT / "molecule/shared/publish.yml", INVENTORY, quiet=True)
        start = time.monotonic()
        self.site()
        self.load(ADDRESS, 1, ("alice@oak.test",), wait_for="mail")
        taken = time.monotonic() - start
        self.note("first_run", taken, "s", taken / floor)
        self.note("first_run_floor", floor, "s")

    def idle(self) -> None:
        """site.yml with nothing to change, and what the services need when nothing happens."""
        self.site("-e", "directory_removals_allowed=true")
        ping = self.ping()
        runs = [self.site() for _ in range(3)]
        for run in runs:
            run.assert_unchanged()
        seconds = statistics.median(run.seconds for run in runs)
        self.note("no_change", seconds, "s", seconds / ping, len(runs))
        tasks = re.split(r"^TASK \[", self.site("-vvv").output, flags=re.MULTILINE)[1:]
        self.note("no_change_tasks", sum("SSH: EXEC" in task for task in tasks), "tasks")
        total = 0.0
        for unit in UNITS[self.release]:
            script = (
                f"group=$(systemctl show -P ControlGroup '{unit}.service');"
                " for pid in $(find /sys/fs/cgroup$group -name cgroup.procs -exec cat {} +); do"
                " sed -n 's/^Pss: *//p' /proc/$pid/smaps_rollup; done | awk '{s += $1} END {print s}'"
            )
            mebibytes = int(self.on("mail", script) or 0) / 1024
            total += mebibytes
            self.note(f"idle_memory_{unit.rstrip('@-')}", mebibytes, "MiB")
        self.note("idle_memory", total, "MiB")

    # -- load

    def delivered(self, machine: str) -> int:
        where = "/var/vmail/*/*/Maildir/new /var/vmail/*/*/Maildir/cur" if machine == "mail" else "/home/*/Maildir/new"
        return int(self.on(machine, f"find {where} -type f 2>/dev/null | wc -l || true"))

    def cpu_seconds(self, machine: str) -> float:
        """Processor time that everything on a machine has used so far."""
        return int(self.on(machine, "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat")) / 1e6

    def cpu_by_unit(self, machine: str) -> dict[str, float]:
        """The same by service of systemd."""
        script = "cd /sys/fs/cgroup; grep -H ^usage_usec $(find system.slice -path '*.service/cpu.stat') || true"
        found = re.findall(r"/([^/]+)\.service/cpu\.stat:usage_usec (\d+)", self.on(machine, script))
        return {unit.rstrip("@-"): int(used) / 1e6 for unit, used in found}

    def load(self, address: str, count: int, recipients: tuple[str, ...], wait_for: str) -> float:
        """Send `count` messages from the world's machine; seconds until all lie in mailboxes."""
        before = self.delivered(wait_for)
        share = count // len(recipients)
        # Four senders at work, each one mailbox after the other.
        sources = " ".join(
            f"(for to in {' '.join(recipients[lane::4])}; do"
            f" smtp-source -M {CLIENT} -f bench@{CLIENT} -s 5 -l {SIZE} -m {share} -t $to {address}:25; done) & pids+=($!);"
            for lane in range(min(4, len(recipients)))
        )
        start = time.monotonic()
        self.on("world", f"pids=(); {sources} for pid in ${{pids[@]}}; do wait $pid; done")
        while self.delivered(wait_for) < before + share * len(recipients):
            if time.monotonic() - start > PATIENCE:
                raise SystemExit(f"only {self.delivered(wait_for) - before} of {count} messages were delivered within {PATIENCE} s")
        return time.monotonic() - start

    # -- dns

    def dns(self) -> None:
        self.records()
        self.dkim_keys()
        self.dns_check()

    def records(self, domains: int = 1000) -> None:
        """Every DNS record of many domains, as zone files; the host is not asked."""
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            (place / "domains").mkdir()
            (place / "hosts.yml").write_text("mail: {hosts: {mail.oak.test: {}}}\n")
            (place / "group_vars").mkdir()
            settings = {"mail_hostname": "mail.oak.test", "mail_postmaster": "p@d0.test", "mail_addresses": ["192.0.2.7"]}
            (place / "group_vars/mail.yml").write_text(json.dumps(settings))
            for number in range(domains):
                content = {"domain": f"d{number}.test", "mailboxes": [{"name": "p", "password_hash": scale.HASH}]}
                (place / f"domains/d{number}.test.yml").write_text(json.dumps(content))
            options = {"dns_offline": True, "dns_format": "zone", "dns_directory": str(place / "out")}
            run = self.ansible("ansible-playbook", str(ROOT / "playbooks/dns.yml"), "-e", json.dumps(options), inventory=place)
            files = len(list((place / "out").rglob("*.zone")))
            if files < domains:
                raise SystemExit(run.output[-2000:])
            self.note("records", run.seconds, "s", n=domains)

    def dkim_keys(self, domains: int = 100) -> None:
        """The keys of domains that are new, in a directory of their own."""
        kinds = [{"algorithm": "rsa", "bits": 2048}, {"algorithm": "ed25519", "bits": None}]
        common = {"selector": None, "private_key": None, "shared": False}
        keys = [{"domain": f"key{number}.test", **common, **kind} for number in range(domains) for kind in kinds]
        self.on("mail", "rm -rf /root/bench-dkim")
        run = self.ansible("ansible", "mail", "-m", "dkim_keys", "-a", json.dumps({"keys": json.dumps(keys), "path": "/root/bench-dkim"}))
        made = int(self.on("mail", "ls /root/bench-dkim | grep -c '[.]key$'"))
        if made != len(keys):
            raise SystemExit(f"{made} keys instead of {len(keys)}:\n{run.output[-2000:]}")
        self.note("dkim_keys", run.seconds, "s", run.seconds / self.ping(), domains)

    def dns_check(self) -> None:
        """100 domains that the world's name server publishes under four names and addresses."""
        domains = [f"dns{number}.test" for number in range(100)]
        servers = {f"ns{number}.dns0.test": f"198.51.100.{20 + number}" for number in range(1, 5)}
        records = [{"name": name, "type": "A", "value": address} for name, address in servers.items()]
        for domain in domains:
            records += [
                {"name": domain, "type": "NS", "value": [f"{name}." for name in servers]},
                {"name": domain, "type": "MX", "value": "10 mail.oak.test."},
                {"name": domain, "type": "TXT", "value": "v=spf1 mx -all"},
                {"name": f"_dmarc.{domain}", "type": "TXT", "value": "v=DMARC1; p=reject"},
            ]
        published = json.dumps({"zones": domains, "records": records})
        subprocess.run([*self.lab.command, "publish", "-"], input=published, check=True, text=True, env=self.lab.environment)
        with tempfile.TemporaryDirectory() as directory:
            inventory = Path(directory) / "inventory"
            shutil.copytree(INVENTORY, inventory)
            for domain in domains:
                (inventory / "domains" / f"{domain}.yml").write_text(f"domain: {domain}\ndkim: false\nmta_sts: disabled\n")
            ping = self.ping()
            runs = [self.ansible("ansible-playbook", str(ROOT / "playbooks/dns-check.yml"), inventory=inventory) for _ in range(3)]
        if not all("dns99.test" in run.output for run in runs):
            raise SystemExit("dns-check.yml did not look at every domain:\n" + runs[0].output[-3000:])
        seconds = statistics.median(run.seconds for run in runs)
        self.note("dns_check", seconds, "s", seconds / ping, len(domains))


def size(text: str) -> tuple[int, int]:
    """Mailboxes and domains of `10000/100`."""
    mailboxes, _, domains = text.partition("/")
    return int(mailboxes), int(domains)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = list(Bench("trixie", []).parts)
    parser.add_argument("--release", choices=sorted(UNITS), default="trixie")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--sizes", nargs="+", type=size, default=scale.SIZES, metavar="MAILBOXES/DOMAINS", help="of the part scale")
    parser.add_argument("--keep", action="store_true", help="begin with the lab that is up, and leave it up")
    given = parser.parse_args()
    bench = Bench(given.release, given.sizes)
    if not given.keep:
        bench.lab.call("down")
    bench.lab.call("up", "--release", given.release, "--machines", "mail", "world", "twin")
    print(f"Debian {given.release}, {os.cpu_count()} cores:")
    began = time.monotonic()
    try:
        if "first" not in given.only and not bench.converged():
            bench.lab.playbook(ROOT / "molecule/shared/publish.yml", INVENTORY, quiet=True)
            bench.site()
        for name in parts:
            if name in given.only:
                start = time.monotonic()
                bench.parts[name]()
                print(f"  ({name} took {time.monotonic() - start:.0f} s)", flush=True)
    finally:
        if not given.keep:
            bench.lab.call("down")
    print(f"written to {RESULTS.relative_to(ROOT)}, {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
