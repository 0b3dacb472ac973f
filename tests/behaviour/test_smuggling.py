"""SMTP smuggling (CVE-2023-51764) and its relatives: what looks like the end of a message to somebody else must not be one here."""

from __future__ import annotations

import time
import uuid

import pytest
from correspondent import MailHost
from testinfra.host import Host
from wire import Session, connect, stranger, submission

FAKE_ENDS = {
    "lf-dot-lf": b"\n.\n",
    "lf-dot-crlf": b"\n.\r\n",
    "crlf-dot-lf": b"\r\n.\n",
    "cr-dot-cr": b"\r.\r",
    "crlf-dot-cr": b"\r\n.\r",
    "cr-dot-crlf": b"\r.\r\n",
    "cr-dot-lf": b"\r.\n",
    "lf-dot-cr": b"\n.\r",
    "crlf-nul-dot-crlf": b"\r\n\0.\r\n",
    "crlf-dot-crcrlf": b"\r\n.\r\r\n",
}


def smuggle(session: Session, sender: str, fake_end: bytes) -> tuple[list[int], str]:
    """Codes that follow the data of a message with another behind a fake end, and the sender of the hidden one."""
    hidden = f"smuggler-{uuid.uuid4().hex}@good.test"
    assert session.rcpt(sender, "bob@oak.test") == [250, 250]
    assert session.code("DATA") == 354
    session.send(
        f"From: <{sender}>\r\nTo: bob@oak.test\r\nSubject: outer\r\nMessage-ID: <{uuid.uuid4().hex}@good.test>\r\n\r\nouter".encode()
        + fake_end
        + f"MAIL FROM:<{hidden}>\r\nRCPT TO:<alice@oak.test>\r\nDATA\r\nFrom: <{hidden}>\r\nSubject: inner\r\n\r\ninner\r\n.\r\n".encode()
    )
    codes = [session.reply()[0]]
    session.send(b"QUIT\r\n")
    return codes + session.replies(), hidden


def assert_one_message(host: Host, began: float, codes: list[int], hidden: str) -> None:
    """One reply to the data and one to QUIT (or a broken-off connection); the hidden sender never was a sender."""
    assert len(codes) <= 2, codes
    assert 0 not in codes[:1], codes
    assert host.run("journalctl --since=@%s --grep=%s", str(int(began)), f"from=<{hidden}>").rc == 1


@pytest.mark.parametrize("fake_end", FAKE_ENDS.values(), ids=FAKE_ENDS)
def test_a_message_of_a_stranger_hides_no_other(mail: MailHost, host: Host, fake_end: bytes) -> None:
    began = time.time()
    with stranger(mail) as session:
        assert_one_message(host, began, *smuggle(session, "someone@good.test", fake_end))


@pytest.mark.parametrize("port", [465, 587])
@pytest.mark.parametrize("fake_end", FAKE_ENDS.values(), ids=FAKE_ENDS)
def test_a_submitted_message_hides_no_other(mail: MailHost, host: Host, accounts: dict[str, str], port: int, fake_end: bytes) -> None:
    began = time.time()
    with submission(mail, port, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert_one_message(host, began, *smuggle(session, "alice@oak.test", fake_end))


@pytest.mark.parametrize("setting", ["smtpd_forbid_bare_newline_exclusions"])
def test_no_network_is_excepted(host: Host, setting: str) -> None:
    assert host.check_output("postconf -xh %s", setting) == ""


@pytest.mark.parametrize("port", [25, 587])
def test_commands_behind_starttls_are_not_executed(mail: MailHost, port: int) -> None:
    with connect(mail, port) as session:
        assert session.reply()[0] == 220
        session.hello()
        session.send(b"STARTTLS\r\nRSET\r\nNOOP\r\n")
        code = session.reply()[0]
        if code == 220:  # else the server broke off, which is as good
            try:
                session.start_tls()
            except OSError:
                return
            assert session.code("EHLO client.world.test") == 250
            session.send(b"QUIT\r\n")
            assert session.replies() in ([221], [])
        else:
            assert code >= 500 or code == 0


def test_a_client_that_does_not_wait_for_replies_is_refused(mail: MailHost) -> None:
    with connect(mail) as session:
        assert session.reply()[0] == 220
        session.send(b"HELO client.world.test\r\nMAIL FROM:<someone@good.test>\r\nRCPT TO:<bob@oak.test>\r\nDATA\r\n")
        assert any(code >= 500 for code in session.replies())
