"""Mail of removed mailboxes: moved aside with a date, back in time, never destroyed before its date, never led astray by a link."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from ansible.module_utils.mailwright import archive as a
from ansible.module_utils.mailwright.archive import Archive

ALICE = "alice@oak.test"
NOW = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
SCRIPT = "roles/dovecot/templates/common/usr/local/lib/mailwright/purge-archive.py"


@pytest.fixture
def store(tmp_path: Path) -> Archive:
    (tmp_path / "vmail").mkdir(mode=0o700)
    return Archive(tmp_path / "vmail")


@pytest.fixture
def purge(load_plugin: Callable[[str], ModuleType], store: Archive, tmp_path: Path) -> Callable[[dt.datetime], list[str]]:
    """What the timer runs."""
    return lambda now: load_plugin(SCRIPT).purge(str(store.path), str(tmp_path / "lock"), now)


def deliver(store: Archive, name: str, address: str = ALICE, folder: str = "Maildir/new", text: str = "") -> Path:
    local, _, domain = address.partition("@")
    path = store.mail / domain / local / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or name)
    return path


def files(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def test_mail_moves_aside_and_back_as_it_was(store: Archive) -> None:
    deliver(store, "1", folder="Maildir/.Sent Items/cur")
    deliver(store, ".dovecot.sieve", folder=".")
    inode = (store.mail / "oak.test/alice").stat().st_ino
    before = files(store.mail)
    assert store.store(ALICE, 30, NOW)
    assert not (store.mail / "oak.test").exists(), "its last mailbox is gone"
    assert [str(p.relative_to(store.path)) for p in store.path.glob("*/*")] == [f"{ALICE}/20260301T120000123456Z-until-20260331T120000Z"]
    assert store.path.stat().st_mode & 0o777 == 0o700
    assert store.addresses() == {ALICE}
    assert store.restore(ALICE)
    assert files(store.mail) == before
    assert (store.mail / "oak.test/alice").stat().st_ino == inode, "a rename, not a copy"
    assert store.addresses() == set()
    assert list(store.path.iterdir()) == []


def test_the_domain_stays_while_another_mailbox_is_in_it(store: Archive) -> None:
    deliver(store, "1")
    other = deliver(store, "2", "bob@oak.test")
    store.store(ALICE, 30, NOW)
    assert other.exists()


def test_a_mailbox_without_mail_leaves_nothing(store: Archive) -> None:
    assert not store.store(ALICE, 30, NOW)
    assert not store.restore(ALICE)
    assert not Archive(store.mail / "missing").store(ALICE, 30, NOW)
    assert list(store.mail.iterdir()) == []


def test_what_came_in_meanwhile_and_what_was_archived_are_both_there(store: Archive) -> None:
    deliver(store, "1", folder="Maildir/cur")
    deliver(store, "2", folder="Maildir/.Sent/cur")
    deliver(store, "dovecot-uidlist", folder="Maildir", text="old")
    deliver(store, ".dovecot.sieve", folder=".")
    store.store(ALICE, 30, NOW)
    deliver(store, "3")
    store.store(ALICE, 30, NOW + dt.timedelta(seconds=1))
    deliver(store, "4", folder="Maildir/cur")
    deliver(store, "dovecot-uidlist", folder="Maildir", text="new")
    assert store.restore(ALICE)
    assert files(store.mail / "oak.test/alice") == {
        ".dovecot.sieve": ".dovecot.sieve",
        "Maildir/.Sent/cur/2": "2",
        "Maildir/cur/1": "1",
        "Maildir/cur/4": "4",
        "Maildir/dovecot-uidlist": "new",
        "Maildir/new/3": "3",
    }
    left = files(store.path)
    assert list(left.values()) == ["old"], "what exists on both sides stays in the archive until its date"
    assert all("Z-merged/" in name for name in left)
    assert not store.restore(ALICE)


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextlib.contextmanager
def kill(point: int, names: tuple[str, ...]) -> Iterator[None]:
    """The process dies at its `point`-th call of one of these functions of os."""
    left = [point]

    def wrapped(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(a.os, name, wrapped(getattr(os, name)))
        yield


def test_a_return_killed_at_any_point_is_completed_by_the_next(tmp_path: Path) -> None:
    expected = ["1", "2", "3", "sent1", "sent2", "sent3"]
    for point in range(1, 100):
        store = Archive(tmp_path / str(point))
        store.mail.mkdir()
        for number in "123":
            deliver(store, number, folder="Maildir/cur")
            deliver(store, f"sent{number}", folder="Maildir/.Sent/cur")
            store.store(ALICE, 30, NOW + dt.timedelta(seconds=int(number)))
        killed = True
        with kill(point, ("rename", "link", "unlink", "rmdir", "mkdir", "fsync")), contextlib.suppress(Killed):
            store.restore(ALICE)
            killed = False
        assert {p.name for p in store.mail.rglob("*") if p.is_file()} == set(expected), f"killed at {point}"
        store.restore(ALICE)
        assert sorted(p.name for p in (store.mail / "oak.test/alice").rglob("*") if p.is_file()) == expected
        assert files(store.path) == {}
        if not killed:
            break
    assert 15 < point < 99


def test_only_what_is_past_its_date_is_deleted(store: Archive, purge: Callable[[dt.datetime], list[str]]) -> None:
    assert purge(NOW) == []
    deliver(store, "1")
    store.store(ALICE, 1, NOW)
    deliver(store, "2", "bob@oak.test")
    store.store("bob@oak.test", 2, NOW)
    for path in (store.path / "notes", store.path / ALICE / "kept by hand"):
        path.mkdir()
        (path / "text").touch()
    assert purge(NOW + dt.timedelta(hours=23)) == []
    assert purge(NOW + dt.timedelta(hours=25)) == [f"{ALICE}/20260301T120000123456Z-until-20260302T120000Z"]
    assert store.addresses() == {"bob@oak.test"}
    assert (store.path / "notes").exists()
    assert (store.path / ALICE / "kept by hand").exists()
    purge(NOW + dt.timedelta(hours=49))
    assert not (store.path / "bob@oak.test").exists()


def test_a_deletion_that_a_kill_left_half_done_is_ended_and_never_comes_back(
    store: Archive, purge: Callable[[dt.datetime], list[str]], load_plugin: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(store, "1")
    store.store(ALICE, 1, NOW)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            purge(NOW + dt.timedelta(days=2))
    assert not store.restore(ALICE)
    purge(NOW + dt.timedelta(days=2))
    assert list(store.path.iterdir()) == []


@pytest.mark.parametrize("which", [".archive", "oak.test", "alice"])
def test_a_link_in_the_mail_leads_nowhere(store: Archive, tmp_path: Path, which: str) -> None:
    outside = tmp_path / "outside"
    (outside / "alice").mkdir(parents=True, mode=0o700)
    outside.chmod(0o700)
    if which == ".archive":
        deliver(store, "1")
        store.path.symlink_to(outside)
    elif which == "oak.test":
        (store.mail / "oak.test").symlink_to(outside)
    else:
        (store.mail / "oak.test").mkdir()
        (store.mail / "oak.test/alice").symlink_to(outside)
    with contextlib.suppress(OSError):
        assert not store.store(ALICE, 30, NOW)
    assert [p.name for p in outside.iterdir()] == ["alice"]
    assert not list(store.mail.glob(".archive/*/*"))


def test_an_archive_that_others_can_reach_is_not_used(store: Archive) -> None:
    deliver(store, "1")
    store.path.mkdir()
    store.path.chmod(0o770)
    with pytest.raises(PermissionError, match="0700"):
        store.store(ALICE, 30, NOW)
    assert store.has_mail(ALICE)
