"""Which folders Dovecot is asked to read: those whose deliveries have left a long log behind an index, and no others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = "roles/dovecot/templates/common/usr/local/lib/mailwright/sync-indexes.py"


@pytest.fixture
def script(load_plugin: Callable[[str], ModuleType]) -> ModuleType:
    return load_plugin(SCRIPT)


def folder(root: Path, name: str, log: int, behind: float | None, age: float = 0) -> None:
    """A folder with a log of that many octets, written so many seconds ago; its index is `behind` seconds older, or missing."""
    written = time.time() - age
    place = root / name
    place.mkdir(parents=True)
    (place / "dovecot.index.log").write_bytes(bytes(log))
    os.utime(place / "dovecot.index.log", (written, written))
    if behind is not None:
        (place / "dovecot.index").touch()
        os.utime(place / "dovecot.index", (written - behind, written - behind))


@pytest.mark.parametrize(
    ("log", "behind", "found"),
    [(200_000, None, True), (200_000, 3600, True), (200_000, 1, False), (1_000, 3600, False), (1_000, None, False)],
    ids=["never read", "long ago", "just read", "short", "new"],
)
def test_a_long_log_that_is_newer_than_its_index(script: ModuleType, tmp_path: Path, log: int, behind: float | None, found: bool) -> None:
    folder(tmp_path, "oak.test/alice/Maildir", log, behind)
    folder(tmp_path, "oak.test/bob/Maildir", 10, None)
    folder(tmp_path, "oak.test/bob/Maildir/.Lists.Mail", log, behind)
    assert list(script.users(str(tmp_path))) == (["alice@oak.test", "bob@oak.test"] if found else [])


def test_only_mailboxes_in_use_are_looked_at(script: ModuleType, tmp_path: Path) -> None:
    folder(tmp_path, ".archive/alice@oak.test/Maildir", 200_000, None)
    folder(tmp_path, "oak.test/alice/Maildir/cur", 200_000, None)
    folder(tmp_path, "oak.test/disabled/Maildir", 200_000, None, age=7200)
    (tmp_path / "oak.test/carol").mkdir()
    (tmp_path / "elm.test").symlink_to(tmp_path / "oak.test")
    assert list(script.users(str(tmp_path))) == []
    assert script.main(str(tmp_path)) == 0
