"""`make test`: every check, and at the end a table of what ran, how long it took and what it found.

First lint, unit and template tests; then, for each release given, the molecule scenario and the behaviour tests in labs side by side.
The labs of a release share its behaviour test files (tests/behaviour/sharing.py). What is printed is prefixed with the part's name and kept
in build/<part>.log; the table is kept in build/test-report.txt. A run that is cut off ends with the same table, and says what had not run.
Where the machine cannot boot the lab, it says why and leaves the labs out; in CI (CI=true) that is a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import demo

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "molecule/shared"
BUILD = ROOT / "build"
BIN = Path(sys.executable).parent
TIMES = ROOT / "tests/behaviour/times.json"
# Free memory for a lab, with its tests and the playbooks they run.
GIB_PER_LAB = 2
# The last line of pytest.
SUMMARY = re.compile(r"(\d+ (?:passed|failed|errors?)(?:, \d+ \w+)*) in [\d.]+s")
COLOUR = re.compile(r"\x1b\[[\d;]*m")
WORTH_REPEATING = re.compile(r"(E  |LOG |fatal:|FAILED |ERROR |_{3,} .* _{3,}$)")


@dataclass
class Part:
    """One line of the table."""

    name: str
    release: str = ""
    seconds: float = 0.0
    outcome: str = "not run"
    passed: str = ""

    @property
    def label(self) -> str:
        return "-".join([self.release, *self.name.split()]).strip("-")

    @property
    def log(self) -> Path:
        return BUILD / f"{self.label}.log"


@dataclass
class Suite:
    """The parts of a run, and the processes that run now."""

    releases: list[str]
    parts: list[Part] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    cut_off: str = ""
    printing: threading.Lock = field(default_factory=threading.Lock)

    def say(self, line: str) -> None:
        with self.printing:
            print(line, flush=True)

    def part(self, name: str, release: str = "") -> Part:
        made = Part(name, release)
        self.parts.append(made)
        return made

    def run(self, part: Part, *commands: list[str | Path], **environment: str) -> bool:
        """Run commands until one fails; their output is the part's."""
        if self.cut_off:
            return False
        began, part.outcome, ok = time.monotonic(), "cut off", True
        with part.log.open("w") as log:
            for command in commands:
                ok = ok and not self.cut_off and self._command(part, command, environment, log)
        part.seconds = time.monotonic() - began
        if not self.cut_off:
            part.outcome = "ok" if ok else "FAILED"
        said = SUMMARY.findall(COLOUR.sub("", part.log.read_text()))
        part.passed = said[-1] if said else ""
        return ok

    def _command(self, part: Part, command: list[str | Path], environment: dict[str, str], log: IO[str]) -> bool:
        with subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            self.running.add(process.pid)
            if self.cut_off:
                self._end(process.pid)
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                self.say(f"[{part.label}] {line.rstrip()}")
        self.running.discard(process.pid)
        return process.returncode == 0

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """End what runs; the parts return, and the table says how far they came."""
        self.cut_off = signal.Signals(number).name
        for pid in list(self.running):
            self._end(pid)

    def _end(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)

    # -- the parts

    def check(self) -> bool:
        parts = [self.part("lint"), self.part("unit")]
        with ThreadPoolExecutor() as pool:
            return all(pool.map(lambda part: self.run(part, ["make", "--no-print-directory", part.name]), parts))

    def labs(self) -> bool:
        """The labs of all releases at once."""
        doctor = subprocess.run([sys.executable, SHARED / "lab.py", "doctor"], check=False, capture_output=True, text=True)
        if doctor.returncode != 0:
            self.say(f"Left out: scenario and behaviour tests, because this machine cannot boot the lab:\n{doctor.stdout}{doctor.stderr}")
            return os.environ.get("CI") != "true"
        # As many as there is memory for, and keep the cores busy.
        number = max(1, min(_free_gib() // GIB_PER_LAB // len(self.releases), 1 + (os.cpu_count() or 1) // 2))
        images = self.part("images")
        parts = {release: self._parts(release, number) for release in self.releases}
        if not self.run(images, [sys.executable, SHARED / "lab.py", "images"]):
            return False
        with ThreadPoolExecutor(len(parts)) as pool:
            ok = all(list(pool.map(self._release, parts.keys(), parts.values())))
        return ok and not any(_left(release) for release in self.releases)

    def _parts(self, release: str, number: int) -> list[tuple[Part, Part]]:
        """For each lab: what makes its mail host, and what tests it."""
        return [
            (self.part("scenario" if lab == 1 else f"copy {lab}", release), self.part(f"behaviour {lab}", release))
            for lab in range(1, number + 1)
        ]

    def _release(self, release: str, parts: list[tuple[Part, Part]]) -> bool:
        """The scenario makes a host; copies of it, and then the host itself, run behaviour tests until no file is left."""
        names = [f"test-{release}-{number}" for number, _ in enumerate(parts, start=1)]
        made = BUILD / f"molecule-{release}"
        shutil.rmtree(made, ignore_errors=True)
        playbook = [BIN / "ansible-playbook", "-i", demo.LAB_INVENTORY, SHARED / "model.yml"]
        try:
            return self.run(
                parts[0][0],
                # What an earlier run left behind, finished or not.
                *(_lab(name, "down") for name in names),
                [BIN / "molecule", "test", "--destroy=never"],
                [*playbook, "-e", f"model_file={demo.model_path(names[0])}"],
                *(_lab(name, "up", "--release", release, "--like", names[0]) for name in names[1:]),
                **_environment(names[0]),
                RELEASE=release,
                MOLECULE_EPHEMERAL_DIRECTORY=str(made),
            ) and self._tests(release, names, parts)
        finally:
            for name in names:
                subprocess.run(list(map(str, _lab(name, "down"))), check=False, capture_output=True)

    def _tests(self, release: str, names: list[str], parts: list[tuple[Part, Part]]) -> bool:
        pytest = [BIN / "pytest", "-v", "-o", "console_output_style=classic", "--durations=15", "--share", _share(release)]

        def one(name: str, parts: tuple[Part, Part]) -> bool:
            converge = [sys.executable, SHARED / "demo.py", "--release", release, "--lab", name, "--converge-only"]
            copied = name != names[0]
            ready = not copied or self.run(parts[0], converge, **_environment(name))
            words = [*pytest, *(["--copied"] if copied else []), "tests/behaviour"]
            return ready and self.run(parts[1], _lab(name, "exec", "--", *words), **_environment(name))

        with ThreadPoolExecutor(len(names)) as pool:
            return all(list(pool.map(one, names, parts)))

    # -- the report

    def report(self) -> str:
        """The table: parts, what had not run, the slowest files."""
        lines = ["", f"{'part':14} {'release':9} {'minutes':>7}  {'outcome':8} tests"]
        for part in self.parts:
            lines.append(f"{part.name:14} {part.release or '-':9} {part.seconds / 60:7.1f}  {part.outcome:8} {part.passed}".rstrip())
        notes = [(release, *entry) for release in self.releases for entry in _notes(release).items()]
        slowest = sorted(notes, key=lambda entry: -entry[2]["seconds"])[:10]
        lines += ["", f"{'slowest file':32} {'release':9} {'minutes':>7}  lab"] if slowest else []
        lines += [f"{name:32} {release:9} {note['seconds'] / 60:7.1f}  {note['lab']}" for release, name, note in slowest]
        for release in self.releases:
            if left := _left(release):
                lines += ["", f"Not run on {release}, or not to the end: {', '.join(left)}"]
        if self.cut_off:
            lines += ["", f"The run was cut off by {self.cut_off}."]
        return "\n".join(lines)

    def failures(self) -> str:
        """What failed, repeated at the end of the output."""
        lines = []
        for part in self.parts:
            if part.outcome == "FAILED":
                said = part.log.read_text().splitlines()
                lines += ["", f"FAILED: {part.label}, from build/{part.log.name}:"]
                lines += [line for line in said if WORTH_REPEATING.match(line)][-150:] or said[-40:]
        return "\n".join(lines)


def _free_gib() -> int:
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1]) // 2**20


def _lab(name: str, *words: str | Path) -> list[str | Path]:
    return [sys.executable, SHARED / "lab.py", "--lab", name, *words]


def _environment(name: str) -> dict[str, str]:
    return {"MAILWRIGHT_LAB": name, "MAILWRIGHT_LAB_DISK": "volatile"}


def _share(release: str) -> Path:
    return BUILD / f"share-{release}"


def _notes(release: str) -> dict[str, dict[str, Any]]:
    """What is noted of each file of behaviour tests, {name: note}; see tests/behaviour/sharing.py."""
    texts = {path.name: path.read_text() for path in _share(release).glob("test_*.py")}
    return {name: json.loads(text) for name, text in texts.items() if text}


def _left(release: str) -> list[str]:
    """The files of behaviour tests that have not run to their end."""
    notes = _notes(release)
    return sorted(path.name for path in (ROOT / "tests/behaviour").glob("test_*.py") if not notes.get(path.name, {}).get("done"))


def keep_times() -> None:
    """Keep what each file took in the last run, the longer of the releases, for the order of the next one."""
    times: dict[str, int] = {}
    for directory in BUILD.glob("share-*"):
        for name, note in _notes(directory.name.removeprefix("share-")).items():
            if note["done"]:
                times[name] = max(times.get(name, 0), round(note["seconds"]))
    TIMES.write_text(json.dumps(times, indent=2, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", default=["bookworm", "trixie"])
    parser.add_argument("--keep-times", action="store_true", help="only write tests/behaviour/times.json from the last run")
    options = parser.parse_args()
    if options.keep_times:
        keep_times()
        return 0
    suite = Suite(options.releases)
    for release in suite.releases:
        shutil.rmtree(_share(release), ignore_errors=True)
        _share(release).mkdir(parents=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, suite.stop)
    began = time.monotonic()
    ok = False
    try:
        ok = suite.check() and suite.labs()
    finally:
        print(suite.failures())
        report = f"{suite.report()}\n\n{(time.monotonic() - began) / 60:.1f} minutes in all\n"
        (BUILD / "test-report.txt").write_text(report)
        print(report, flush=True)
    return 0 if ok and not suite.cut_off else 1


if __name__ == "__main__":
    sys.exit(main())
