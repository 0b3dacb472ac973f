"""Mail under load, with default features, with everything on, with long access lists, beside Debian's packages; and searching it."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scale import Scale

if TYPE_CHECKING:
    from bench import Bench

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "198.51.100.10"
TWIN = "198.51.100.11"
MESSAGES = 800
PAIRS = 10
MAILBOXES = 40
# ms of a service's processor time that are worth a line.
LEAST = 0.1
# elm.test greylists such poor messages.
LAB_RECIPIENTS = ("alice@oak.test", "bob@oak.test", "nopop@oak.test", "nosieve@oak.test")
TWIN_RECIPIENTS = tuple(f"user{number}@twin.oak.test" for number in range(MAILBOXES))
ENTRIES = 10_000
FOLDER = 10_000
# Every tenth message has the word of its tens; each has text around it that others have, too.
FILL = """
import os, pathlib, random
random.seed(1)
words = [format(random.randrange(16**6), "06x") for _ in range(5000)]
place = pathlib.Path("PLACE")
for folder in (place, *(place / name for name in ("cur", "new", "tmp"))):
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(folder, 5000, 5000)
for number in range(COUNT):
    text = " ".join(random.choices(words, k=200))
    path = place / "cur" / f"{number}.bench:2,S"
    path.write_text(
        "From: a@good.test\\nTo: user0@example\\nSubject: message %d\\nMessage-ID: <%d@good.test>\\n"
        "Date: Mon, 1 Jan 2024 00:00:00 +0000\\n\\n%s needle%d\\n" % (number, number, text, number % 1000)
    )
    os.chown(path, 5000, 5000)
"""


class Flow(NamedTuple):
    """What one load came to: messages per second, and milliseconds of processor time for each message, of the host and by service."""

    rate: float
    cpu: float
    units: Mapping[str, float]


def middle(flows: Sequence[Flow]) -> Flow:
    """The median of each figure."""
    units = {unit: statistics.median(flow.units.get(unit, 0) for flow in flows) for unit in flows[0].units}
    return Flow(statistics.median(flow.rate for flow in flows), statistics.median(flow.cpu for flow in flows), units)


class Load:
    """What mail costs, by the settings of the host."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.scale = Scale(bench, directory)

    def apply(self, settings: Mapping[str, Any] | None = None) -> float:
        """Mailboxes with default features and these settings; seconds of the run."""
        self.scale.write(MAILBOXES, 1, settings=settings)
        return self.scale.site().seconds

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(f"user{number}@d0.{self.scale.suffix}" for number in range(MAILBOXES))

    def run(self, machine: str, recipients: tuple[str, ...]) -> Flow:
        """One load, once warm."""
        address = ADDRESS if machine == "mail" else TWIN
        self.bench.load(address, 40, recipients, wait_for=machine)
        before, used = self.bench.cpu_by_unit(machine), self.bench.cpu_seconds(machine)
        rate = MESSAGES / self.bench.load(address, MESSAGES, recipients, wait_for=machine)
        spent = self.bench.cpu_seconds(machine) - used
        after = self.bench.cpu_by_unit(machine)
        units = {unit: (after[unit] - before.get(unit, 0)) * 1000 / MESSAGES for unit in after}
        return Flow(rate, spent * 1000 / MESSAGES, units)

    def beside_stock(self, suffix: str, recipients: tuple[str, ...]) -> None:
        """The host and the twin by turns, because a computer shared with others is faster in one minute than in the next.

        Ratios are medians over the pairs.
        """
        names = {"mail": recipients, "twin": TWIN_RECIPIENTS[: len(recipients)]}
        pairs: list[tuple[Flow, Flow]] = []
        for turn in range(PAIRS):
            flows = {machine: self.run(machine, names[machine]) for machine in sorted(names, reverse=turn % 2 == 1)}
            pairs.append((flows["mail"], flows["twin"]))
        ours, stock = (middle(flows) for flows in zip(*pairs, strict=True))
        n = MESSAGES * PAIRS
        note = self.bench.note
        note(f"mail_rate{suffix}", ours.rate, "messages/s", statistics.median(a.rate / b.rate for a, b in pairs), n)
        note(f"mail_cpu{suffix}", ours.cpu, "ms/message", statistics.median(a.cpu / b.cpu for a, b in pairs), n)
        self.by_unit(f"mail_cpu{suffix}", ours, n)
        if not suffix:
            note("mail_rate_stock", stock.rate, "messages/s", n=n)
            note("mail_cpu_stock", stock.cpu, "ms/message", n=n)
            self.by_unit("mail_cpu_stock", stock, n)

    def by_unit(self, name: str, flow: Flow, n: int) -> None:
        """Note what each service used, the largest first."""
        for unit, used in sorted(flow.units.items(), key=lambda row: -row[1]):
            if used >= LEAST:
                self.bench.note(f"{name}_{unit}", used, "ms/message", n=n)

    def measure(self) -> None:
        if not self.bench.on("twin", "command -v postfix || true"):
            self.bench.equip_twin()
        self.bench.on("twin", (ROOT / "bench/stock.sh").read_text())
        self.bench.site("-e", "directory_removals_allowed=true")
        self.beside_stock("_all", LAB_RECIPIENTS)
        self.apply()
        self.beside_stock("", self.recipients)
        kinds = ("sender", "helo", "client")
        entries = [{"action": "block", kinds[number % 3]: f"n{number}.example.net"} for number in range(ENTRIES)]
        self.bench.note("access_apply", self.apply({"mail_access": entries}), "s", n=ENTRIES)
        self.beside_stock("_access", self.recipients)

    def search(self) -> None:
        """The same search in the same folder, by reading and by the index. Each word is in ten messages."""
        self.apply({"dovecot_search_enabled": False})
        user = self.recipients[0]
        place = f"/var/vmail/{user.partition('@')[2]}/user0/Maildir/.Archive"
        fill = FILL.replace("PLACE", place).replace("COUNT", str(FOLDER))
        self.bench.on("mail", f"rm -rf {place}; python3 -c '{fill}'; doveadm mailbox status -u {user} messages Archive")
        floor = self.find(user, "needle7", FOLDER // 1000)
        self.apply({"dovecot_search_enabled": True})
        start = time.monotonic()
        self.bench.on("mail", f"doveadm index -u {user} Archive")
        self.bench.note("search_index", time.monotonic() - start, "s", n=FOLDER)
        seconds = self.find(user, "needle8", FOLDER // 1000)
        self.bench.note("search", seconds, "s", seconds / floor, FOLDER)
        self.bench.note("search_read", floor, "s", n=FOLDER)

    def find(self, user: str, word: str, least: int) -> float:
        """Seconds of one search on the host, which must find the word's messages. (Parts of words may be found as well.)"""
        script = (
            f"start=$(date +%s%N); doveadm search -u {user} mailbox Archive body {word} >/run/bench-found; end=$(date +%s%N);"
            " echo $(((end - start) / 1000)) $(wc -l </run/bench-found)"
        )
        found = re.fullmatch(r"(\d+) (\d+)", self.bench.on("mail", script).strip())
        if found is None or int(found[2]) < least:
            raise SystemExit(f"the search found {found and found[2]} messages, at least {least} have the word")
        return int(found[1]) / 1e6


def measure(bench: Bench) -> None:
    """All of it, on a lab that is up."""
    with tempfile.TemporaryDirectory() as directory:
        Load(bench, Path(directory)).measure()


def measure_search(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Load(bench, Path(directory)).search()
