"""What the lab needs from the machine it runs on: commands, locks, progress lines and processes that are surely ours."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

CACHE = Path("/var/cache/mailwright-lab")
STATE = Path("/var/lib/mailwright-lab")
LOCKS = Path("/run/lock/mailwright-lab")
NETNS = Path("/run/netns")

_started = time.monotonic()
_print_lock = threading.Lock()


class LabError(Exception):
    """What went wrong, in a sentence for the person at the terminal."""


def say(text: str) -> None:
    with _print_lock:
        print(f"lab {time.monotonic() - _started:6.1f} s  {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], **options: object) -> str:
    """Run a command and return what it wrote; a failure becomes a LabError with the end of its words."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed; `lab.py doctor` says how to get it") from error
    if done.returncode != 0:
        words_said = (done.stderr or done.stdout).strip().splitlines()[-15:]
        raise LabError("\n  ".join([f"{' '.join(words)} failed ({done.returncode}):", *words_said]))
    return str(done.stdout)


@contextmanager
def lock(name: str, waiting: str) -> Iterator[None]:
    """Hold a lock that ends with this process; say so when another one has it."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str | bytes, mode: int = 0o644) -> Path:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    new.chmod(mode)
    new.replace(path)
    return path


class Process(NamedTuple):
    """A process by its number and its start, so that a number used again is never mistaken for it."""

    pid: int
    start: int


def boot() -> str:
    """Which start of this computer this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, int, int]:
    """State, parent and start of a process from /proc/PID/stat, whose second field may hold blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def process(pid: int) -> Process | None:
    """The live process of this number; a dead one nobody has waited for is none."""
    try:
        state, _, start = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, IndexError, ValueError):
        return None
    return None if state in "ZX" else Process(pid, start)


def alive(known: Process) -> bool:
    return process(known.pid) == known


def ancestors() -> set[int]:
    """This process and those above it."""
    found = {os.getpid()}
    pid = os.getpid()
    while pid > 1:
        try:
            pid = parse_stat(Path(f"/proc/{pid}/stat").read_text())[1]
        except (OSError, IndexError, ValueError):
            break
        found.add(pid)
    return found


def every_pid() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208  (names only, in one call)


def processes_in_namespace(path: Path) -> list[int]:
    """Who lives in a network namespace, seen from outside of it."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    found = []
    for pid in every_pid():
        try:
            seen = Path(f"/proc/{pid}/ns/net").stat()
        except OSError:
            continue
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(pid)
    return found


def end(pids: Iterable[int], still_ours: Callable[[int], bool], patience: float = 10) -> None:
    """Kill processes; a pidfd taken before the question `still_ours` keeps a number used again out of harm."""
    descriptors = []
    spared = ancestors()
    try:
        for pid in pids:
            if pid in spared or pid <= 1:
                continue
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            descriptors.append((pid, descriptor))
            if still_ours(pid):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        deadline = time.monotonic() + patience
        while any(process(pid) and still_ours(pid) for pid, _ in descriptors):
            if time.monotonic() > deadline:
                raise LabError("processes of the lab do not end: " + " ".join(str(pid) for pid, _ in descriptors))
            time.sleep(0.05)
    finally:
        for _, descriptor in descriptors:
            os.close(descriptor)


def tail(path: Path, lines: int = 20) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()[-lines:])
