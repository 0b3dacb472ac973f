"""A kernel limit that several machines at once reach: without inotify, systemd in them does not start its services."""

from __future__ import annotations

import json
from pathlib import Path

from .host import every_pid, say, write

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
WANTED = 1024
ROOM = 64  # instances; a machine takes about ten
_NOTE = "inotify.json"


def in_use() -> int:
    """Instances root holds; descriptors shared by several processes count more than once, which errs on the safe side."""
    count = 0
    for pid in every_pid():
        try:
            if Path(f"/proc/{pid}").stat().st_uid == 0:
                links = [file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()]
                count += sum(str(link) == "anon_inode:inotify" for link in links)
        except OSError:
            continue
    return count


def raise_for_machines(notes: Path) -> None:
    """Make room, and note what was there before."""
    limit, used = int(LIMIT.read_text()), in_use()
    if limit - used >= ROOM or limit >= WANTED:
        return
    say(f"fs.inotify.max_user_instances: {WANTED} instead of {limit} while a lab is up ({used} in use)")
    write(notes / _NOTE, json.dumps(limit))
    LIMIT.write_text(f"{WANTED}\n")


def restore(notes: Path) -> None:
    """Put back what `raise_for_machines` changed, unless someone else has changed it since."""
    note = notes / _NOTE
    if note.exists() and int(LIMIT.read_text()) == WANTED:
        LIMIT.write_text(f"{json.loads(note.read_text())}\n")
