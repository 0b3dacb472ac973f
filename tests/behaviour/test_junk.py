"""Junk: filed into its folder (F3), and moving mail in and out of it teaches the filter (F4; S33 and S41 of the targets)."""

from __future__ import annotations

import imaplib
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from correspondent import MailHost, until, write
from mailstore import deliver, imap, mailbox, plain_mailboxes, search, sieve
from testinfra.host import Host

CONTROLLER = "/run/rspamd/controller.sock"


@pytest.fixture
def owner(model: dict[str, Any]) -> str:
    """A mailbox whose junk is filed."""
    return plain_mailboxes(model)[0]


@pytest.fixture
def session(mail: MailHost, accounts: dict[str, str], owner: str) -> Iterator[imaplib.IMAP4_SSL]:
    """Its IMAP session."""
    with imap(mail, owner, accounts[owner]) as session:
        yield session


def letter(owner: str, **headers: str) -> tuple[str, bytes]:
    """Subject and bytes of a message that no other is like; the subject is in its Message-ID, too."""
    subject = secrets.token_hex(8)
    words = " ".join(secrets.token_hex(4) for _ in range(100))
    message = write("friend@good.test", owner, subject, words + "\n", **headers)
    message.replace_header("Message-ID", f"<{subject}@good.test>")
    return subject, message.as_bytes()


def learned(host: Host, subject: str) -> list[str]:
    """As what Rspamd has learned the message, in order, as told in the journal. (Its own statistics are up to a minute old.)"""
    host.check_output("journalctl --sync")
    text = host.run("journalctl --quiet --identifier mailwright-learn --output cat").stdout
    return re.findall(rf"^learned as (spam|ham): <{subject}@good\.test>, by \S+@\S+$", text, re.MULTILINE)


def move(session: imaplib.IMAP4, subject: str, source: str, target: str) -> None:
    """Move the message with this subject, as mail programs do."""
    (number,) = search(session, source, "Subject", subject)
    assert session._simple_command("MOVE", number.decode(), f'"{target}"')[0] == "OK"  # type: ignore[attr-defined]


def drop(session: imaplib.IMAP4, subject: str, folder: str) -> None:
    """Delete the message with this subject."""
    for number in search(session, folder, "Subject", subject):
        session.store(number.decode(), "+FLAGS", r"(\Deleted)")
    session.expunge()


def test_junk_is_filed_into_junk(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    subject, message = letter(owner, X_Spam="Yes")
    deliver(host, owner, message)
    assert len(search(session, "Junk", "Subject", subject)) == 1
    assert not search(session, "INBOX", "Subject", subject)
    drop(session, subject, "Junk")


def test_filed_mail_is_counted_in_a_folder_that_is_not_open(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    def messages() -> int:
        _, (answer,) = session.status("Junk", "(MESSAGES)")
        return int(re.findall(rb"MESSAGES (\d+)", answer)[0])

    session.select("INBOX")
    before = messages()
    subject, message = letter(owner, X_Spam="Yes")
    deliver(host, owner, message)
    assert messages() == before + 1
    drop(session, subject, "Junk")


def test_other_mail_stays_in_the_inbox(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    subject, message = letter(owner)
    deliver(host, owner, message)
    assert len(search(session, "INBOX", "Subject", subject)) == 1
    drop(session, subject, "INBOX")


def test_a_mailbox_can_keep_its_junk_in_the_inbox(mail: MailHost, host: Host, accounts: dict[str, str], model: dict[str, Any]) -> None:
    address = mailbox(model, junk_filing=False)
    subject, message = letter(address, X_Spam="Yes")
    deliver(host, address, message)
    with imap(mail, address, accounts[address]) as session:
        assert len(search(session, "INBOX", "Subject", subject)) == 1
        assert not search(session, "Junk", "Subject", subject)
        drop(session, subject, "INBOX")


def test_a_script_of_the_user_is_not_asked_about_junk(
    mail: MailHost, host: Host, accounts: dict[str, str], session: imaplib.IMAP4_SSL, owner: str
) -> None:
    subject, message = letter(owner, X_Spam="Yes")
    with sieve(mail, owner, accounts[owner]) as filters:
        filters.use("discard;")
        deliver(host, owner, message)
    assert len(search(session, "Junk", "Subject", subject)) == 1
    drop(session, subject, "Junk")


def test_moving_mail_into_junk_teaches_spam_and_out_of_it_ham(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    subject, message = letter(owner)
    deliver(host, owner, message)
    move(session, subject, "INBOX", "Junk")
    until("it is learned as spam", lambda: learned(host, subject) == ["spam"])
    move(session, subject, "Junk", "INBOX")
    until("it is learned as ham", lambda: learned(host, subject) == ["spam", "ham"])
    drop(session, subject, "INBOX")


def test_only_declared_trainers_teach(mail: MailHost, host: Host, accounts: dict[str, str], model: dict[str, Any]) -> None:
    trainers = model["settings"]["spam_trainers"]
    address = next(address for address in plain_mailboxes(model) if address not in trainers)
    subject, message = letter(address)
    deliver(host, address, message)
    with imap(mail, address, accounts[address]) as session:
        move(session, subject, "INBOX", "Junk")
        move(session, subject, "Junk", "INBOX")
        drop(session, subject, "INBOX")
    assert learned(host, subject) == []


@pytest.mark.parametrize(("source", "target"), [("Junk", "Trash"), ("INBOX", "Trash"), ("INBOX", "Archive")])
def test_other_moves_teach_nothing(session: imaplib.IMAP4_SSL, host: Host, owner: str, source: str, target: str) -> None:
    subject, message = letter(owner, **({"X_Spam": "Yes"} if source == "Junk" else {}))
    deliver(host, owner, message)
    move(session, subject, source, target)
    assert len(search(session, target, "Subject", subject)) == 1
    assert learned(host, subject) == []
    drop(session, subject, target)


def test_a_move_succeeds_while_the_filter_is_down(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    subject, message = letter(owner)
    deliver(host, owner, message)
    host.check_output("systemctl stop rspamd")
    try:
        start = time.monotonic()
        move(session, subject, "INBOX", "Junk")
        assert time.monotonic() - start < 15
    finally:
        host.check_output("systemctl start rspamd")
        until("Rspamd's controller", lambda: host.run("rspamc --connect %s stat", CONTROLLER).rc == 0, 90)
    drop(session, subject, "Junk")


def test_a_move_succeeds_while_the_filter_hangs(session: imaplib.IMAP4_SSL, host: Host, owner: str) -> None:
    subject, message = letter(owner)
    deliver(host, owner, message)
    host.check_output("systemctl kill --signal STOP rspamd")
    try:
        start = time.monotonic()
        move(session, subject, "INBOX", "Junk")
        assert time.monotonic() - start < 25
    finally:
        host.check_output("systemctl kill --signal CONT rspamd")
    drop(session, subject, "Junk")


def test_nobody_but_the_filter_may_teach_it(host: Host) -> None:
    for user in ("vmail", "www-data", "nobody"):
        assert host.run("runuser -u %s -- rspamc --timeout 2 --connect %s stat", user, CONTROLLER).rc != 0
        for kind in ("spam", "ham"):
            path = f"/run/dovecot/learn-{kind}"
            connect = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
            allowed = host.run("runuser -u %s -- python3 -c %s", user, connect).rc == 0
            assert allowed == (user == "vmail")
