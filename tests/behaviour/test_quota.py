"""Quotas (M5): shown to the user, enforced, announced, and told to senders while they can still be told: at RCPT."""

from __future__ import annotations

import imaplib
import re
import secrets
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest
from correspondent import MailHost, until
from mailstore import deliver, imap, search
from testinfra.host import Host

SMALL = 10 * 2**20

# Runs on the mail host: what the policy service answers.
ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/var/spool/postfix/private/quota-status")
s.sendall(sys.argv[1].encode())
print(s.recv(1000).decode().strip())
"""


@pytest.fixture
def small(model: dict[str, Any]) -> dict[str, Any]:
    """A mailbox that is soon full."""
    boxes = [box for box in model["mailboxes"] if 0 < box["quota_bytes"] <= SMALL and box["password"]]
    assert boxes, "the lab's inventory has no mailbox with a small quota"
    return boxes[0]


@pytest.fixture
def session(mail: MailHost, small: dict[str, Any]) -> Iterator[imaplib.IMAP4_SSL]:
    """Its IMAP session; afterwards the mailbox is empty again."""
    with imap(mail, small["address"], small["password"]) as session:
        yield session
        for folder in ("INBOX", "Trash"):
            session.select(folder)
            session.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
            session.expunge()


def fill(session: imaplib.IMAP4, size: int) -> str:
    """APPEND a message of `size` bytes, in one line (what counts is the file, where a line ends in one byte); returns the answer."""
    head = b"Subject: filler\r\n\r\n"
    kind, answer = session.append("INBOX", None, None, head + b"x" * (size - len(head)))
    return f"{kind} {answer[0].decode()}"


def warning(session: imaplib.IMAP4, percent: int) -> str:
    """The warning that the mailbox is so full, as soon as it is there."""
    found = until(f"the warning at {percent} %", lambda: search(session, "INBOX", "Subject", f"{percent}%"))
    return str(session.fetch(found[0].decode(), "(RFC822)")[1][0][1].decode())


def used(session: imaplib.IMAP4) -> tuple[int, int]:
    """Bytes used and allowed, as GETQUOTAROOT tells them (it counts in KiB)."""
    _, (_, quota) = session.getquotaroot("INBOX")
    numbers = re.search(rb"STORAGE (\d+) (\d+)", quota[0])
    assert numbers, quota
    return int(numbers[1]) * 1024, int(numbers[2]) * 1024


def rcpt(mail: MailHost, recipient: str, size: int = 1000) -> tuple[int, str]:
    """What port 25 answers to a stranger's RCPT TO."""
    with smtplib.SMTP(mail.ipv4, 25, local_hostname="client110.world.test", timeout=60, source_address=("198.51.100.110", 0)) as smtp:
        smtp.ehlo()
        assert smtp.mail("somebody@good.test", [f"SIZE={size}"])[0] == 250
        code, text = smtp.rcpt(recipient)
        return code, text.decode()


def test_imap_shows_the_declared_quota(mail: MailHost, model: dict[str, Any]) -> None:
    for box in model["mailboxes"]:
        if box["enabled"] and box["quota_bytes"] and "imap" not in box["denied_protocols"]:
            with imap(mail, box["address"], box["password"]) as session:
                assert used(session)[1] == box["quota_bytes"]


def test_a_full_mailbox_is_refused_at_rcpt_and_no_other(
    mail: MailHost, session: imaplib.IMAP4_SSL, small: dict[str, Any], host: Host, model: dict[str, Any]
) -> None:
    address = small["address"]
    assert rcpt(mail, address)[0] == 250
    assert fill(session, small["quota_bytes"] - 2000).startswith("OK")
    assert warning(session, 95)
    deliver(host, address, b"Subject: the last one\r\n\r\n" + b"x\r\n" * 1000)
    assert until("the mailbox to be full", lambda: used(session)[0] >= small["quota_bytes"])
    code, text = rcpt(mail, address)
    assert (code, text[:5]) == (552, "5.2.2"), text
    local, _, domain = address.partition("@")
    assert rcpt(mail, f"{local}+tag@{domain}")[0] == 552
    assert rcpt(mail, next(box["address"] for box in model["mailboxes"] if box["quota_bytes"] > SMALL))[0] == 250


def test_a_message_larger_than_what_is_left_is_refused_at_rcpt(mail: MailHost, small: dict[str, Any]) -> None:
    code, text = rcpt(mail, small["address"], 30 * 2**20)
    assert code == 552, text
    assert "the mailbox" in text or "no room" in text


def test_a_user_cannot_append_beyond_the_quota_but_can_clear_it_by_way_of_trash(session: imaplib.IMAP4_SSL, small: dict[str, Any]) -> None:
    assert fill(session, small["quota_bytes"] - 2000).startswith("OK")
    assert warning(session, 95)
    assert "[OVERQUOTA]" in fill(session, 4000)
    session.select("INBOX")
    assert session.copy("1", "Trash")[0] == "OK"
    session.store("1", "+FLAGS", r"\Deleted")
    session.expunge()
    session.select("Trash")
    session.store("1:*", "+FLAGS", r"\Deleted")
    session.expunge()
    assert used(session)[0] < small["quota_bytes"] // 2


def test_the_owner_is_warned_before_the_mailbox_is_full(mail: MailHost, session: imaplib.IMAP4_SSL, small: dict[str, Any]) -> None:
    assert fill(session, int(small["quota_bytes"] * 0.85)).startswith("OK")
    text = warning(session, 80)
    assert "Auto-Submitted: auto-generated" in text
    assert small["address"] in text
    assert not search(session, "INBOX", "Subject", "95%")
    assert fill(session, int(small["quota_bytes"] * 0.12)).startswith("OK")
    assert warning(session, 95)


def test_an_unknown_or_odd_recipient_is_no_business_of_the_quota_service(host: Host, model: dict[str, Any]) -> None:
    domain = model["domains"][0]["name"]
    for recipient in (f"nobody-{secrets.token_hex(4)}@{domain}", "somebody@elsewhere.test", "", "a b@c", "@", "'\"\\"):
        request = f"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={recipient}\nsize=100\n\n"
        assert host.check_output("python3 -c %s %s", ASK, request) == "action=DUNNO", recipient


def test_new_settings_reach_what_asked_before(mail: MailHost, small: dict[str, Any], host: Host) -> None:
    """Postfix keeps its connections to the service, and each connection has the settings that it began with."""
    conf, words, size = "/etc/dovecot/dovecot.conf", "In other words:", 30 * 2**20
    assert rcpt(mail, small["address"], size)[0] == 552
    host.check_output("cp -p %s %s.test", conf, conf)
    try:
        host.check_output("sed -Ei %s %s && doveadm reload", f"s/Mailbox has no room|Message is larger/{words} &/", conf)
        assert until("the new answer", lambda: words in rcpt(mail, small["address"], size)[1])
    finally:
        host.check_output("mv %s.test %s && doveadm reload", conf, conf)
