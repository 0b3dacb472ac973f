# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Files replaced as a whole or not at all: what every module of ours uses to write on a host."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

# Prefix of unfinished files; a dot so that no daemon's `include *.conf` picks one up.
TEMPORARY_PREFIX = ".mailwright-"
# Not /run/lock: there any user could create and hold it.
LOCK_PATH = Path("/run/mailwright.lock")


class LockedError(Exception):
    """Another run holds the host's lock."""


def fsync_directory(path: Path) -> None:
    """Make renames and removals inside the directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, uid: int = -1, gid: int = -1, age: float = 0) -> None:
    """Put `data` at `path` by a rename in the same directory, owner and mode set beforehand, file and directory synced.

    A symbolic link at `path` is replaced, not followed. `uid` or `gid` -1 is the caller's own; the file counts as modified `age`
    seconds ago. Raises OSError, and then leaves `path` as it was and no temporary file behind. See rename(2), fsync(2).
    """
    with staged_file(path, mode=mode, uid=uid, gid=gid) as descriptor:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if age:
            os.utime(descriptor, (time.time(), time.time() - age))


@contextlib.contextmanager
def staged_file(path: Path, *, mode: int = 0o644, uid: int = -1, gid: int = -1) -> Iterator[int]:
    """Yield the descriptor of a new file that takes the place of `path` when the block ends without an exception."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            # Owner first: chown drops the set-id bits.
            if (uid, gid) != (-1, -1):
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def link_atomic(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, whatever file or link it was before. Raises OSError."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    temporary.symlink_to(target)
    try:
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def remove_file(path: Path) -> bool:
    """Remove the file or link `path` durably; true where there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    fsync_directory(path.parent)
    return True


def make_directory(path: Path, *, mode: int = 0o755, uid: int = -1, gid: int = -1) -> bool:
    """Make `path` a directory with that owner and mode; true where anything was different.

    Missing parents become 0755 and the caller's own, whatever the umask.
    An existing directory is corrected. Raises OSError (NotADirectoryError where something else has the name).
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            make_directory(path.parent)
        path.mkdir(mode=0o700)
        if (uid, gid) != (-1, -1):
            os.chown(path, uid, gid)
        path.chmod(mode)
        fsync_directory(path.parent)
        return True
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "not a directory", str(path))
    changed = False
    if (uid not in (-1, found.st_uid)) or (gid not in (-1, found.st_gid)):
        os.chown(path, uid, gid)
        changed = True
    if changed or stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
        changed = True
    return changed


def directory_digest(directory: Path, pattern: str) -> str:
    """SHA-256 of owner and mode of a directory and of its files that match, and of their contents. Raises OSError."""
    digest = hashlib.sha256()
    for path in (directory, *sorted(directory.glob(pattern))):
        found = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(found.st_mode) else ""
        digest.update(f"{path}\n{found.st_mode:o} {found.st_uid} {found.st_gid} {content}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def host_lock(wait: float = 10.0, path: Path = LOCK_PATH) -> Iterator[None]:
    """Hold the host's one lock, so that two runs never write at once; the kernel drops it when the process dies.

    Raises LockedError when another run still holds it after `wait` seconds. See flock(2).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise LockedError(
                        f"another Mailwright run is at work on this host (lock {path}); try again when it has ended"
                    ) from None
                time.sleep(0.1)  # between two tries: flock(2) can wait, but not for a limited time
        yield
    finally:
        os.close(descriptor)
