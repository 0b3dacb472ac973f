"""Ports 465 and 587: people send with their login, under TLS, in their own name, and without telling where they are."""

from __future__ import annotations

import email
import email.policy
import uuid

import pytest
from correspondent import MailHost, until
from testinfra.host import Host
from wire import STRANGER4, connect, submission

PORTS = [465, 587]


@pytest.mark.parametrize("port", PORTS)
def test_a_login_is_needed(mail: MailHost, port: int) -> None:
    with submission(mail, port) as session:
        assert session.rcpt("alice@oak.test", "bob@good.test")[-1] >= 500
    with submission(mail, port) as session:
        assert session.rcpt("someone@good.test", "alice@oak.test")[-1] >= 500


def test_a_login_in_clear_text_is_neither_offered_nor_taken(mail: MailHost, accounts: dict[str, str]) -> None:
    with connect(mail, 587) as session:
        assert session.reply()[0] == 220
        assert "AUTH" not in session.hello()
        assert session.login("alice@oak.test", accounts["alice@oak.test"]) == 530


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("login", ["alice@oak.test", "ALICE@Oak.Test"])
def test_a_right_password_opens_whatever_the_case_of_the_name(mail: MailHost, accounts: dict[str, str], port: int, login: str) -> None:
    with submission(mail, port) as session:
        assert session.login(login, accounts["alice@oak.test"]) == 235


@pytest.mark.parametrize("port", PORTS)
def test_a_wrong_password_does_not(mail: MailHost, port: int) -> None:
    with submission(mail, port) as session:
        assert session.login("alice@oak.test", "not-the-password") == 535


@pytest.mark.parametrize("login", ["readonly@oak.test", "disabled@oak.test"])
def test_a_mailbox_without_submission_cannot_log_in(mail: MailHost, accounts: dict[str, str], login: str) -> None:
    with submission(mail, 465) as session:
        assert session.login(login, accounts[login]) == 535


def test_a_send_only_mailbox_can_send(mail: MailHost, accounts: dict[str, str]) -> None:
    with submission(mail, 465, "robot@oak.test", accounts["robot@oak.test"]) as session:
        assert session.rcpt("robot@oak.test", "bob@oak.test") == [250, 250]


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "sender",
    ["alice@oak.test", "Alice@OAK.test", "alice+tag@oak.test", "ALICE+tag@oak.test", "sales@oak.test", "office@oak.test", ""],
)
def test_alice_can_send_as_herself(mail: MailHost, accounts: dict[str, str], port: int, sender: str) -> None:
    """Also with a tag, in any case, as her own alias, as an alias she may send as, and with the null sender of receipts."""
    with submission(mail, port, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt(sender, "bob@oak.test") == [250, 250]


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "sender",
    [
        "bob@oak.test",
        "BOB@oak.test",
        "bob+tag@oak.test",
        "team@oak.test",
        "postmaster@oak.test",
        "nobody-here@oak.test",
        "alice@elm.test",
        "someone@good.test",
        "alice@mail.oak.test",
        "alice@sub.oak.test",
        "alice",
    ],
)
def test_alice_cannot_send_as_somebody_else(mail: MailHost, accounts: dict[str, str], port: int, sender: str) -> None:
    with submission(mail, port, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt(sender, "bob@oak.test")[-1] >= 500


def test_the_null_sender_reaches_one_recipient_only(mail: MailHost, accounts: dict[str, str]) -> None:
    with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("", "bob@oak.test", "carol@oak.test") == [250, 250, 250]
        assert session.code("DATA") >= 500


@pytest.mark.parametrize("recipient", ["nobody-here@oak.test", "robot@oak.test"])
def test_a_typing_error_is_told_at_once(mail: MailHost, accounts: dict[str, str], recipient: str) -> None:
    with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("alice@oak.test", recipient)[-1] >= 500


@pytest.mark.parametrize("port", PORTS)
def test_submitted_mail_does_not_tell_where_it_was_written(mail: MailHost, accounts: dict[str, str], port: int) -> None:
    message_id = f"<{uuid.uuid4().hex}@oak.test>"
    text = (
        "Received: from laptop.inner.example (laptop [10.9.8.7]) by router.inner.example; Thu, 1 Jan 2026 00:00:00 +0000\n"
        "From: Alice <alice@oak.test>\nTo: bob@oak.test\nSubject: Private\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n"
        f"Message-ID: {message_id}\nUser-Agent: Telltale/1.0\nX-Mailer: Telltale\nX-Originating-IP: [10.9.8.7]\nX-Kept: yes\n\nHello\n"
    )
    with submission(mail, port, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("alice@oak.test", "bob@oak.test") == [250, 250]
        assert session.data(text) == 250
    raw = mail.find("bob@oak.test", accounts["bob@oak.test"], message_id)
    for secret in (STRANGER4.encode(), b"10.9.8.7", b"inner.example", b"Telltale", b"client.world.test"):
        assert secret not in raw, raw.decode()
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["From"] == "Alice <alice@oak.test>"
    assert message["X-Kept"] == "yes"
    assert any("with ESMTPSA" in received for received in message.get_all("Received", []))


def answers(mail: MailHost, port: int) -> bool:
    try:
        with submission(mail, port, timeout=3):
            return True
    except (AssertionError, OSError):
        return False


@pytest.mark.parametrize("port", PORTS)
def test_submission_is_back_as_soon_as_dovecot_is(mail: MailHost, host: Host, port: int) -> None:
    # New processes: one that has asked Dovecot for its mechanisms does not ask again.
    host.check_output("systemctl reload postfix && systemctl stop dovecot")
    try:
        until("nobody can log in", lambda: not answers(mail, port))
    finally:
        host.check_output("systemctl start dovecot")
    until("the port answers", lambda: answers(mail, port), 10)
