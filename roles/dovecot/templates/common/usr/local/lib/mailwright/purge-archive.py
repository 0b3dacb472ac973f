"""Deletes archived mail that is past the date in its name, and nothing else. Names are told in Mailwright's module_utils/archive.py."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator

PIECE = re.compile(r"\d{8}T\d{12}Z-until-(\d{8}T\d{6}Z)(?:-merged)?", re.ASCII)
# No run takes it back any more, and what is left of it after a kill is deleted the next time.
DOOMED = "-deleted"
# The mail belongs to vmail, who must not lead root elsewhere.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def names(directory: int) -> list[str]:
    """Names of the directories in a directory."""
    with os.scandir(directory) as found:
        return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of Mailwright's runs."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def purge(path: str, lock: str, now: dt.datetime) -> list[str]:
    """Delete what is past its date below `path`; the names. Raises OSError."""
    try:
        archive = os.open(path, DIRECTORY)
    except FileNotFoundError:
        return []
    found = os.fstat(archive)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise PermissionError(1, "owner and mode are not root and 0700", path)
    done = []
    for address in names(archive):
        pieces = os.open(address, DIRECTORY, dir_fd=archive)
        with locked(lock):
            for name in names(pieces):
                date = PIECE.fullmatch(name)
                if date and dt.datetime.strptime(date[1] + "+0000", "%Y%m%dT%H%M%SZ%z") < now:
                    os.rename(name, name + DOOMED, src_dir_fd=pieces, dst_dir_fd=pieces)
                    done.append(f"{address}/{name}")
        for name in names(pieces):
            if name.endswith(DOOMED) and PIECE.fullmatch(name.removesuffix(DOOMED)):
                shutil.rmtree(name, dir_fd=pieces)
        os.close(pieces)
        with contextlib.suppress(OSError):
            os.rmdir(address, dir_fd=archive)
    os.close(archive)
    return done


if __name__ == "__main__":
    for name in purge(*sys.argv[1:3], dt.datetime.now(dt.UTC)):
        print(f"deleted {name}")
