# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Mail of removed mailboxes: moved aside with a date, moved back when the mailbox is declared again before it.

`<mail>/.archive/<address>/<when>-until-<date>/` is what was `<mail>/<domain>/<local part>/`; on the same file system, so that one
rename moves it. Owner root, mode 0700: the daemons see none of it. A piece whose name ends in `-merged` has given back what was of use.
What is past its date is deleted by a timer (purge-archive.py of the role dovecot), and by nothing else.

Everything below <mail> belongs to vmail, who must not lead root elsewhere by a symbolic link: directories are opened, not named.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from .commands import run, shorten
from .errors import Invalid
from .maps import check_address

__all__ = ["MAIL", "Archive", "end_sessions"]

MAIL: Final = Path("/var/vmail")
NAME: Final = ".archive"
MERGED: Final = "-merged"
_STAMP: Final = "%Y%m%dT%H%M%S%fZ"
_UNTIL: Final = "%Y%m%dT%H%M%SZ"
_PIECE: Final = re.compile(rf"\d{{8}}T\d{{12}}Z-until-(\d{{8}}T\d{{6}}Z)(?:{MERGED})?", re.ASCII)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Archive:
    """The mail below one directory, and the archive in it."""

    def __init__(self, mail: Path = MAIL) -> None:
        self.mail = mail
        self.path = mail / NAME

    # -- reading

    def has_mail(self, address: str) -> bool:
        """Whether the mailbox has a directory."""
        local, _, domain = check_address(address).rpartition("@")
        return (self.mail / domain / local).is_dir()

    def addresses(self) -> set[str]:
        """Who could get mail back."""
        with contextlib.suppress(FileNotFoundError):
            return {name for name in _names(self.path) if _is_address(name) and self._pieces(name)}
        return set()

    def _pieces(self, address: str) -> list[str]:
        """Names of the pieces that nothing was given back of, oldest first."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in _names(self.path / address) if _PIECE.fullmatch(name) and not name.endswith(MERGED))
        return []

    # -- moving

    def store(self, address: str, days: int, now: dt.datetime | None = None) -> bool:
        """Move a mailbox's mail aside; false where it has none. Raises OSError, and then it is where it was."""
        local, _, domain = check_address(address).rpartition("@")
        when = now or dt.datetime.now(dt.UTC)
        try:
            with _opened(self.mail) as mail, _opened(domain, mail) as source:
                if not _is_directory(local, source):
                    return False
                with self._opened_archive(mail) as archive, _opened(address, archive, make=True) as pieces:
                    name = f"{when:{_STAMP}}-until-{when + dt.timedelta(days=days):{_UNTIL}}"
                    os.rename(local, name, src_dir_fd=source, dst_dir_fd=pieces)
                    for descriptor in (pieces, archive, source):
                        os.fsync(descriptor)
                # The last mailbox of its domain.
                with contextlib.suppress(OSError):
                    os.rmdir(domain, dir_fd=mail)
        except FileNotFoundError:
            return False
        return True

    def restore(self, address: str) -> bool:
        """Move a mailbox's mail back, or into what has come since; false where there is none. May be repeated after a kill."""
        local, _, domain = check_address(address).rpartition("@")
        names = self._pieces(address)
        if not names:
            return False
        with (
            _opened(self.mail) as mail,
            self._opened_archive(mail) as archive,
            _opened(address, archive) as pieces,
            _opened(domain, mail, make=True, like=mail) as target,
        ):
            for name in names:
                if _is_directory(local, target):
                    with _opened(name, pieces) as source, _opened(local, target) as home:
                        _merge(source, home)
                    try:
                        os.rmdir(name, dir_fd=pieces)
                    except OSError:
                        # Indexes, or a file that exists on both sides: it stays until its date.
                        os.rename(name, name + MERGED, src_dir_fd=pieces, dst_dir_fd=pieces)
                else:
                    os.rename(name, local, src_dir_fd=pieces, dst_dir_fd=target)
                for descriptor in (target, pieces):
                    os.fsync(descriptor)
            with contextlib.suppress(OSError):
                os.rmdir(address, dir_fd=archive)
        return True

    @contextlib.contextmanager
    def _opened_archive(self, mail: int) -> Iterator[int]:
        with _opened(NAME, mail, make=True) as archive:
            found = os.fstat(archive)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
                raise PermissionError(
                    1, f"owner and mode are not root and 0700: look at it, then set them ({self.mail} is vmail's)", str(self.path)
                )
            yield archive


@contextlib.contextmanager
def _opened(name: Path | str, parent: int | None = None, *, make: bool = False, like: int | None = None) -> Iterator[int]:
    """A directory's descriptor; no symbolic link is followed. With `make` it is made where missing, with the owner of `like`."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
            if parent is not None:
                os.fsync(parent)
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        if make and like is not None:
            owner, found = os.fstat(like), os.fstat(descriptor)
            if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        yield descriptor
    finally:
        os.close(descriptor)


def _names(directory: int | Path) -> list[str]:
    with os.scandir(directory) as found:
        return sorted(entry.name for entry in found)


def _is_address(name: str) -> bool:
    try:
        return bool(check_address(name))
    except Invalid:
        return False


def _is_directory(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _merge(source: int, target: int) -> None:
    """Move everything of `source` into `target` that it has not; messages have names of their own. What is left stays."""
    for name in _names(source):
        if _is_directory(name, source):
            try:
                # Also where the target's is empty.
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            except OSError:
                if not _is_directory(name, target):
                    continue
                with _opened(name, source) as below, _opened(name, target) as onto:
                    _merge(below, onto)
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=source)
            continue
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileExistsError:
            # Left by a kill between the two.
            if not os.path.samestat(*(os.stat(name, dir_fd=where, follow_symlinks=False) for where in (source, target))):
                continue
        os.unlink(name, dir_fd=source)
    os.fsync(target)


def end_sessions(addresses: Collection[str], anvil: Path = Path("/run/dovecot/anvil")) -> None:
    """End the IMAP, POP3 and ManageSieve sessions of mailboxes, where Dovecot runs. Raises OSError when one is still there."""
    until = time.monotonic() + 10
    while addresses and anvil.exists():
        status, output = run(["doveadm", "-f", "tab", "who"], timeout=30)
        if status != 0:
            raise OSError(f"doveadm who: {shorten(output)}")
        open_ones = sorted({line.split("\t")[0] for line in output.splitlines()} & set(addresses))
        if not open_ones:
            return
        if time.monotonic() > until:
            raise OSError(f"sessions do not end: {', '.join(open_ones)}")
        for address in open_ones:
            # Its status tells whether there was one, differently in 2.3 and 2.4.
            run(["doveadm", "kick", address], timeout=30)
        time.sleep(0.1)  # between two looks: a session ends when its process comes to it
