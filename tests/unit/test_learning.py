"""Which messages of a folder the filter is taught, and how a run goes on where the last one ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.learning import LearningError, folder_path, teach


class Controller:
    """Answers as Rspamd's controller does."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    def __call__(self, path: str, body: bytes) -> tuple[int, str]:
        if body == b"refused":
            return 403, "Unauthorized"
        if b"bad" in body:
            return 500, "no parser"
        if len(body) < 4:
            return 204, "less tokens than required"
        known = (path, body) in self.told
        self.told.append((path, body))
        return (208, "already") if known else (200, "OK")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for part in ("cur", "new", ".Junk/cur", ".Junk/new", r".Old.Spam\\2e1/cur"):
        (tmp_path / "oak.test/alice/Maildir" / part.replace("\\\\", "\\")).mkdir(parents=True)
    junk = tmp_path / "oak.test/alice/Maildir/.Junk"
    for name, text in {"cur/1.a:2,S": "spam one", "cur/2.a:2,": "abc", "cur/4.a:2,ST": "deleted", "new/3.a": "spam two"}.items():
        (junk / name).write_text(text)
    return tmp_path


def test_a_folder_is_found_as_dovecot_names_it(home: Path) -> None:
    maildir = home / "oak.test/alice/Maildir"
    assert folder_path("Alice@oak.test", "inbox", home) == maildir
    assert folder_path("alice@oak.test", "Junk", home) == maildir / ".Junk"
    assert folder_path("alice@oak.test", "Old/Spam.1", home) == maildir / r".Old.Spam\2e1"


@pytest.mark.parametrize(
    ("address", "folder", "problem"),
    [
        ("alice@oak.test", "Jnuk", "alice@oak.test has no folder Jnuk"),
        ("bob@oak.test", "Junk", "bob@oak.test has no mail here"),
        ("alice@oak.test", "../../bob", "a level begins or ends with"),
        ("../../etc@oak.test", "Junk", "begins or ends with a dot"),
        ("alice@oak.test", "Link", "is no directory"),
    ],
)
def test_what_is_no_folder_is_refused(home: Path, address: str, folder: str, problem: str) -> None:
    (home / "oak.test/alice/Maildir/.Link").symlink_to("/etc")
    with pytest.raises(Invalid, match=problem):
        folder_path(address, folder, home)


def test_every_message_is_taught_once_but_those_that_are_deleted(home: Path) -> None:
    rspamd, junk = Controller(), folder_path("alice@oak.test", "Junk", home)
    (junk / "cur/5.a:2,").symlink_to("/etc/passwd")
    (junk / "cur/6.a:2,").write_text("bad one")
    batch = teach("spam", junk, ask=rspamd)
    assert rspamd.told == [("/learnspam", b"spam one"), ("/learnspam", b"spam two")]
    assert (batch.learned, batch.known, batch.short, batch.failed, batch.left, batch.next) == (2, 0, 1, 1, 0, "")
    assert batch.errors == ["cur/6.a:2,: no parser"]
    again = teach("spam", junk, ask=rspamd)
    assert (again.learned, again.known) == (0, 2)


def test_a_batch_goes_on_where_the_last_one_ended(home: Path) -> None:
    rspamd, junk = Controller(), folder_path("alice@oak.test", "Junk", home)
    after, left = "", []
    for _ in range(3):
        batch = teach("ham", junk, after=after, seconds=0, ask=rspamd)
        left.append(batch.left)
        after = batch.next
    assert left == [2, 1, 0]
    assert after == ""
    assert [body for _, body in rspamd.told] == [b"spam one", b"spam two"]


def test_nothing_is_taught_in_check_mode_or_to_a_filter_that_refuses(home: Path) -> None:
    rspamd, junk = Controller(), folder_path("alice@oak.test", "Junk", home)
    assert teach("spam", junk, ask=rspamd, check_mode=True).left == 3
    assert rspamd.told == []
    (junk / "cur/0.a:2,").write_text("refused")
    with pytest.raises(LearningError, match="refuses"):
        teach("spam", junk, ask=rspamd)
