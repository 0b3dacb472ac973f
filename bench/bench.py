"""`make bench`: what Mailwright costs, measured in the lab beside a floor named in the same run.

Prints a table and writes build/bench.json, a list of {name, release, n, value, unit, ratio}:

    no_change        seconds of site.yml with nothing to change (median); ratio to `ansible -m ping`
    no_change_tasks  its tasks that reached the host
    first_run        bare host → first mail delivered, seconds; ratio to one `apt-get install` of the same packages on a twin
    mail_rate        messages/s through the whole chain; ratio to the packages' stock configuration on the twin
    mail_cpu         processor time of the host for each of these messages; ratio likewise. Depends less on what else the computer does
    idle_memory      MiB (proportional set size) of all services, and each one
    preflight … add_one, controller_memory, passwords_…, peer_loop: large inventories, see scale.py

All traffic stays in the lab; the load is N messages of 2 KB from the world's machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "molecule/shared"))
os.environ["MAILWRIGHT_LAB"] = LAB_NAME = "bench"

import demo  # noqa: E402  (needs the path and the lab's name above)
import scale  # noqa: E402

MESSAGES = 2000
SIZE = 2048
CLIENT = "ns.world.test"  # the name of the world's machine, both ways
RECIPIENTS = ("alice@oak.test", "bob@oak.test", "nopop@oak.test", "nosieve@oak.test")  # elm.test greylists such poor messages
UNITS = {
    "bookworm": ["postfix@-", "dovecot", "rspamd", "redis-server", "unbound", "nginx"],
    "trixie": ["postfix", "dovecot", "rspamd", "redis-server", "unbound", "nginx"],
}
INVENTORY = ROOT / "inventories/lab"


@dataclass(frozen=True)
class Run:
    """One command on the controller."""

    seconds: float
    # Of the largest process, MB.
    memory: float
    output: str

    def assert_unchanged(self) -> None:
        """Of site.yml on a converged host."""
        if not re.search(r"^mail\.oak\.test .*changed=0\b", self.output, re.MULTILINE):
            raise SystemExit("site.yml changed something on a converged host:\n" + self.output[-3000:])


class Bench:
    """One run of all measurements on one release."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.lab = demo.Lab(LAB_NAME)
        self.results: list[dict[str, object]] = []

    def note(self, name: str, value: float, unit: str, ratio: float | None = None, n: int = 1) -> None:
        rounded = None if ratio is None else round(ratio, 2)
        self.results.append({"name": name, "release": self.release, "n": n, "value": round(value, 2), "unit": unit, "ratio": rounded})
        print(f"  {name:24} {value:10.2f} {unit:12} {'' if rounded is None else f'{rounded} x'}", flush=True)

    def on(self, machine: str, script: str) -> str:
        """Run a shell script on a machine and return what it prints."""
        argv = [*self.lab.command, "run", machine, "--", "bash", "--norc", "-euc", script]
        return subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE, env=self.lab.environment).stdout

    def ansible(self, *argv: str, inventory: Path = INVENTORY) -> Run:
        """An Ansible command on an inventory, the lab's own by default."""
        environment = {**self.lab.environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        command = [str(Path(sys.executable).parent / argv[0]), "-i", str(inventory), *argv[1:]]
        with tempfile.TemporaryFile("w+") as output:
            start = time.monotonic()
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - start
            output.seek(0)
            text = output.read()
        if process.returncode != 0:
            raise SystemExit(text[-6000:])
        return Run(seconds, usage.ru_maxrss / 1000, text)

    def first_run(self) -> None:
        """From a bare host to the first mail, beside the bare `apt-get install` of the same packages."""
        planned = self.ansible("ansible-playbook", str(ROOT / "site.yml"), "--check", "--tags", "packages").output
        packages = " ".join(re.findall(r"Packages to install: ([^']+)'", planned)[0].split())
        held = (
            "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; export DEBIAN_FRONTEND=noninteractive"
        )
        install = f"apt-get install -qq -y --no-install-recommends {packages}"
        # The lab's package cache is warm for both.
        self.on("twin", f"apt-get update -qq; {install} --download-only >/dev/null; apt-get clean")
        start = time.monotonic()
        self.on("twin", f"{held}; {install} >/dev/null 2>&1")
        floor = time.monotonic() - start
        self.lab.playbook(ROOT / "molecule/shared/publish.yml", INVENTORY, quiet=True)
        start = time.monotonic()
        self.ansible("ansible-playbook", str(ROOT / "site.yml"))
        self.load("198.51.100.10", 1, RECIPIENTS[:1], wait_for="mail")
        taken = time.monotonic() - start
        self.note("first_run", taken, "s", taken / floor)
        self.note("first_run_floor", floor, "s")

    def no_change(self) -> None:
        """site.yml with nothing to change."""
        ping = statistics.median(self.ansible("ansible", "mail", "-m", "ping").seconds for _ in range(3))
        runs = [self.ansible("ansible-playbook", str(ROOT / "site.yml")) for _ in range(3)]
        for run in runs:
            run.assert_unchanged()
        seconds = statistics.median(run.seconds for run in runs)
        self.note("no_change", seconds, "s", seconds / ping, len(runs))
        verbose = self.ansible("ansible-playbook", str(ROOT / "site.yml"), "-vvv").output
        tasks = re.split(r"^TASK \[", verbose, flags=re.MULTILINE)[1:]
        self.note("no_change_tasks", sum("SSH: EXEC" in task for task in tasks), "tasks")

    def delivered(self, machine: str) -> int:
        where = "/var/vmail/*/*/Maildir/new /var/vmail/*/*/Maildir/cur" if machine == "mail" else "/home/*/Maildir/new"
        return int(self.on(machine, f"find {where} -type f 2>/dev/null | wc -l || true"))

    def cpu_seconds(self, machine: str) -> float:
        """Processor time that everything on a machine has used so far."""
        return int(self.on(machine, "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat")) / 1e6

    def load(self, address: str, count: int, recipients: tuple[str, ...], wait_for: str) -> float:
        """Send `count` messages from the world's machine; seconds until all lie in mailboxes."""
        before = self.delivered(wait_for)
        share = count // len(recipients)
        sources = " ".join(
            f"smtp-source -M {CLIENT} -f bench@{CLIENT} -s 5 -l {SIZE} -m {share} -t {to} {address}:25 & pids+=($!);" for to in recipients
        )
        start = time.monotonic()
        self.on("world", f"pids=(); {sources} for pid in ${{pids[@]}}; do wait $pid; done")
        while self.delivered(wait_for) < before + share * len(recipients):
            if time.monotonic() - start > 120:
                raise SystemExit(f"only {self.delivered(wait_for) - before} of {count} messages were delivered within 120 s")
        return time.monotonic() - start

    def mail_rate(self) -> None:
        """2 KB messages through the whole chain, and through the stock packages on the twin."""
        self.on("twin", (ROOT / "bench/stock.sh").read_text())
        rates, cpu = {}, {}
        for machine, address in (("mail", "198.51.100.10"), ("twin", "198.51.100.11")):
            recipients = RECIPIENTS if machine == "mail" else tuple(f"{to.partition('@')[0]}@twin.oak.test" for to in RECIPIENTS)
            self.load(address, 40, recipients, wait_for=machine)
            used = self.cpu_seconds(machine)
            rates[machine] = MESSAGES / self.load(address, MESSAGES, recipients, wait_for=machine)
            cpu[machine] = (self.cpu_seconds(machine) - used) * 1000 / MESSAGES
        self.note("mail_rate", rates["mail"], "messages/s", rates["mail"] / rates["twin"], MESSAGES)
        self.note("mail_rate_stock", rates["twin"], "messages/s", n=MESSAGES)
        self.note("mail_cpu", cpu["mail"], "ms/message", cpu["mail"] / cpu["twin"], MESSAGES)
        self.note("mail_cpu_stock", cpu["twin"], "ms/message", n=MESSAGES)

    def idle_memory(self) -> None:
        """Proportional set size of each service's processes."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", choices=sorted(UNITS), default="trixie")
    release = parser.parse_args().release
    bench = Bench(release)
    bench.lab.call("down")
    bench.lab.call("up", "--release", release, "--machines", "mail", "world", "twin")
    print(f"Debian {release}, {os.cpu_count()} cores:")
    try:
        bench.first_run()
        bench.no_change()
        bench.idle_memory()
        bench.mail_rate()
        scale.measure(bench)
    finally:
        bench.lab.call("down")
    path = ROOT / "build/bench.json"
    path.parent.mkdir(exist_ok=True)
    kept = [row for row in json.loads(path.read_text()) if row["release"] != release] if path.exists() else []
    path.write_text(json.dumps([*kept, *bench.results], indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
