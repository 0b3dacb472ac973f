# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What the filter has learned from mail (Bayes), and teaching it the messages of a folder.

The controller of Rspamd is asked over its socket, which only the filter and root may use; it knows what it has learned already.
What was learned is counted in Redis, where it is at once, not a minute later as in the controller's own statistics.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import names
from .archive import MAIL
from .errors import Invalid

__all__ = ["KINDS", "Batch", "LearningError", "ask", "folder_path", "forget", "statistics", "teach"]

KINDS: Final = ("spam", "ham")
CONTROLLER: Final = "/run/rspamd/controller.sock"
REDIS: Final = ("redis-cli", "-e", "-s", "/run/redis/redis-server.sock")
# All that Bayes keeps: counts, words, the list of tables, which messages were learned. Nothing else begins like these.
PATTERNS: Final = ("RS", "RS_*", "BAYES_SPAM_keys", "BAYES_HAM_keys", "learned_ids")
# How the controller answers: learned; too short to be learned from; learned before.
LEARNED, SHORT, KNOWN = 200, 204, 208
# Keys told to Redis at once.
BLOCK: Final = 1000
TIMEOUT: Final = 30.0

Ask = Callable[[str, bytes], tuple[int, str]]


class LearningError(Exception):
    """Rspamd or Redis did not answer or refused; the message has what it said."""


@dataclass
class Batch:
    """What became of some messages of a folder. `next` is where to go on, empty at the end; `left` are the messages after it."""

    learned: int = 0
    known: int = 0
    short: int = 0
    failed: int = 0
    left: int = 0
    next: str = ""
    errors: list[str] = field(default_factory=list)


class _Controller(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(CONTROLLER)


def ask(path: str, body: bytes) -> tuple[int, str]:
    """Status and reason of the controller's answer. Raises LearningError."""
    connection = _Controller("localhost", timeout=TIMEOUT)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.reason
    except (OSError, http.client.HTTPException) as error:
        raise LearningError(f"the controller of Rspamd does not answer: {error}") from None
    finally:
        connection.close()


def folder_path(address: str, folder: str, root: Path = MAIL) -> Path:
    """The Maildir of a folder. Raises Invalid where there is none."""
    local, _, domain = names.address(address).rpartition("@")
    home = root / domain / local / "Maildir"
    path = home if folder.upper() == "INBOX" else home / names.folder_directory(names.folder(folder))
    # No link on the way: what stands in a mailbox may be its owner's doing.
    for part in (home.parent, home, path):
        try:
            if not stat.S_ISDIR(part.lstat().st_mode):
                raise Invalid(f"{part} is no directory")
        except FileNotFoundError:
            raise Invalid(f"{address} has no folder {folder}" if part is path else f"{address} has no mail here") from None
    return path


def _messages(path: Path) -> list[str]:
    """cur/NAME and new/NAME, in one order whatever happens between two looks; what is marked as deleted is left out."""
    found = []
    for part in ("cur", "new"):
        try:
            with os.scandir(path / part) as entries:
                found += [f"{part}/{entry.name}" for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return sorted(name for name in found if "T" not in name.rpartition(":2,")[2] or ":2," not in name)


def teach(kind: str, path: Path, *, after: str = "", seconds: float = 10, ask: Ask = ask, check_mode: bool = False) -> Batch:
    """Teach the messages of a folder that come after `after`, as many as `seconds` are enough for. Raises LearningError."""
    waiting = [name for name in _messages(path) if name > after]
    batch = Batch(left=len(waiting))
    if check_mode:
        return batch
    end = time.monotonic() + seconds
    for name in waiting:
        body = _read(path / name)
        # Empty, or gone meanwhile.
        if body:
            status, reason = ask(f"/learn{kind}", body)
            if status == LEARNED:
                batch.learned += 1
            elif status == KNOWN:
                batch.known += 1
            elif status == SHORT:
                batch.short += 1
            elif status in (401, 403):
                raise LearningError(f"the controller of Rspamd refuses: {reason}")
            else:
                batch.failed += 1
                batch.errors = [*batch.errors, f"{name}: {reason}"][:3]
        batch.left -= 1
        if time.monotonic() > end and batch.left:
            batch.next = name
            break
    return batch


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _redis(run: Callable[..., tuple[int, str]], *words: str, text: str = "") -> list[str]:
    status, output = run([*REDIS, *words], text=text)
    if status:
        raise LearningError(f"Redis does not answer: {output}")
    return output.splitlines()


def _keys(run: Callable[..., tuple[int, str]], pattern: str) -> Iterator[str]:
    # A scan may name a key twice.
    yield from set(_redis(run, "--scan", "--pattern", pattern))


def statistics(run: Callable[..., tuple[int, str]]) -> dict[str, Any]:
    """How many messages of each kind were learned, and how many words are remembered. Raises LearningError."""
    counts = [int(line) if re.fullmatch("[0-9]+", line) else 0 for line in _redis(run, "HMGET", "RS", "learns_spam", "learns_ham")]
    spam, ham = [*counts, 0, 0][:2]
    return {"spam": spam, "ham": ham, "tokens": sum(1 for _ in _keys(run, "RS_*"))}


def forget(run: Callable[..., tuple[int, str]]) -> None:
    """Everything that was learned, and which messages were. Raises LearningError."""
    for pattern in PATTERNS:
        keys = list(_keys(run, pattern))
        for start in range(0, len(keys), BLOCK):
            _redis(run, text="".join(f"UNLINK {key}\n" for key in keys[start : start + BLOCK]))
