# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What domain files hold, kept on the controller between runs: to read YAML costs as much as to check it.

One file for each domain file, in a directory that only its owner can enter, with what stands in the inventory itself and nothing else:
files with a password in clear or a vault are not kept. As it is JSON under a digest of the text, the worst that a wrong one can be is
ignored. May be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Final

from .reader import Plain

__all__ = ["MISSING", "ParseCache"]

MISSING: Final = object()
# Reading smaller ones takes no longer than looking them up.
_SMALL: Final = 2_000
_DAY: Final = 86_400
# What was not used for so long goes: a checkout that is no more.
_KEPT: Final = 30 * _DAY


def _directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailwright" / "domains"


class ParseCache:
    """Plain values by path and text. `version` is of the program that parses."""

    def __init__(self, version: str, directory: Path | None = None) -> None:
        self._version = version
        self._directory = directory or _directory()
        self._usable: bool | None = None
        self._pruned = False

    def knows(self, path: Path) -> bool:
        """Whether something is kept of the file, be it of a former text, or nothing need be, since it is small."""
        try:
            return path.stat().st_size < _SMALL or self._file(path).stat().st_mtime >= path.stat().st_mtime
        except OSError:
            return False

    def usable(self) -> bool:
        """Whether something can be kept."""
        return self._is_private(make=True)

    def get(self, path: Path, text: str) -> Plain:
        """What the text holds, or MISSING."""
        if len(text) < _SMALL or not self._is_private():
            return MISSING
        file = self._file(path)
        try:
            if file.stat().st_mtime < time.time() - _DAY:
                os.utime(file)
            digest, content = json.loads(file.read_bytes())
        except (OSError, ValueError, TypeError):
            return MISSING
        return content if digest == self._digest(text) else MISSING

    def put(self, path: Path, text: str, content: Plain) -> None:
        """Keep it, where that can be done without loss."""
        if len(text) < _SMALL or not self._is_private(make=True):
            return
        try:
            self._prune()
            data = json.dumps([self._digest(text), content])
            file = self._file(path)
            temporary = file.with_suffix(f".{os.getpid()}")
            # Not synced: what a power cut leaves is checked when it is read.
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as new:
                new.write(data)
            temporary.replace(file)
        except (OSError, ValueError, TypeError):
            # Dates are no JSON; a full disk is no reason to stop.
            return

    def _file(self, path: Path) -> Path:
        return self._directory / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()}.json"

    def _digest(self, text: str) -> str:
        return hashlib.sha256(f"{self._version}\n{text}".encode()).hexdigest()

    def _is_private(self, make: bool = False) -> bool:
        if self._usable is None or (make and not self._usable):
            try:
                if make:
                    self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = self._directory.lstat()
                self._usable = found.st_uid == os.geteuid() and found.st_mode & 0o170077 == 0o040000
            except (OSError, RuntimeError):
                self._usable = False
        return self._usable

    def _prune(self) -> None:
        """Once in a run that keeps something new."""
        if self._pruned:
            return
        self._pruned = True
        for file in self._directory.iterdir():
            # Others may tidy up at the same time.
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - _KEPT:
                    file.unlink()
