"""Reading mail: IMAP and POP3 as their users meet them (O9, M4, M16, S6, S9, S15, S19, S28, S41, S42, S44 of the targets)."""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import secrets
import smtplib
import socket
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import correspondent
import pytest
from correspondent import MailHost, until
from mailstore import ManageSieve, deliver, imap, mailbox, plain_mailboxes, search, tls_versions
from testinfra.host import Host


@pytest.fixture
def owner(model: dict[str, Any]) -> str:
    """A mailbox with everything allowed."""
    return plain_mailboxes(model)[0]


@pytest.fixture
def session(mail: MailHost, accounts: dict[str, str], owner: str) -> Iterator[imaplib.IMAP4_SSL]:
    """Its IMAP session."""
    with imap(mail, owner, accounts[owner]) as session:
        yield session


def folders(session: imaplib.IMAP4, command: str = "list") -> list[str]:
    """Names of the folders that LIST or LSUB shows."""
    return [line.decode().partition(' "/" ')[2].strip('"') for line in getattr(session, command)('""', "*")[1] if line]


def attempt(mail: MailHost, login: str, password: str) -> str:
    """Why a login is refused; empty if it is not."""
    try:
        with imap(mail, login, password):
            return ""
    except imaplib.IMAP4.error as error:
        return str(error)


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("port", [24, 110, 143, 2000])
def test_ports_without_tls_from_the_first_byte_are_closed(mail: MailHost, port: int, ipv6: bool) -> None:
    with pytest.raises(OSError):  # refused, or dropped by the firewall
        mail.socket(port, ipv6=ipv6, timeout=1).close()


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("port", "greeting"), [(993, b"* OK "), (995, b"+OK ")])
def test_imap_and_pop3_answer_under_tls(mail: MailHost, port: int, greeting: bytes, ipv6: bool) -> None:
    with mail.socket(port, ipv6=ipv6) as plain, mail.tls.wrap_socket(plain, server_hostname=mail.hostname) as tls:
        assert tls.recv(200).startswith(greeting)


@pytest.mark.parametrize("port", [993, 995])
def test_only_tls_1_2_and_1_3_are_spoken(mail: MailHost, port: int) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of ssl, for naming old versions
        assert tls_versions(mail, port) == {"TLSv1.2", "TLSv1.3"}


def test_a_login_works_in_upper_case(mail: MailHost, accounts: dict[str, str], owner: str) -> None:
    assert attempt(mail, owner.upper(), accounts[owner]) == ""


def test_a_wrong_password_and_an_unknown_user_look_the_same(mail: MailHost, owner: str) -> None:
    together = threading.Barrier(2)

    def timed(login: str) -> tuple[str, float]:
        session = correspondent._ImapAt(mail.hostname, mail.ipv4, mail.tls)
        try:
            together.wait(60)
            start = time.monotonic()
            with pytest.raises(imaplib.IMAP4.error) as refused:
                session.login(login, "wrong")
            return str(refused.value), time.monotonic() - start
        finally:
            session.shutdown()

    def apart() -> float:
        return statistics.median(abs(known - unknown) for (_, known), (_, unknown) in pairs)

    # At the same moment: Dovecot answers failures on the beat of its clock, and what else the computer does delays both. A beat is a
    # second, and now and then one comes between the two: chance, if not mostly.
    pairs: list[list[tuple[str, float]]] = []
    with ThreadPoolExecutor() as pool:
        while len(pairs) < 3 or (apart() >= 0.1 and len(pairs) < 15):
            pairs.append(list(pool.map(timed, (owner, f"nobody-{secrets.token_hex(4)}@{owner.partition('@')[2]}"))))
    assert len({text for pair in pairs for text, _ in pair}) == 1
    assert "" not in {text for pair in pairs for text, _ in pair}
    assert apart() < 0.1
    assert min(seconds for pair in pairs for _, seconds in pair) > 2


def test_a_failed_login_delays_nobody_else_at_the_same_address(mail: MailHost, accounts: dict[str, str], owner: str) -> None:
    for _ in range(2):
        assert attempt(mail, owner, "wrong")

    def delay() -> float:
        assert attempt(mail, owner, "wrong")
        start = time.monotonic()
        assert attempt(mail, owner, accounts[owner]) == ""
        return time.monotonic() - start

    # A computer that stops for a moment does so once; a penalty would be there each time.
    assert any(delay() < 2 for _ in range(5))


def test_passwords_are_never_logged(mail: MailHost, host: Host, accounts: dict[str, str], owner: str) -> None:
    canary = f"canary-{secrets.token_hex(8)}"
    assert attempt(mail, owner, canary)
    assert attempt(mail, owner, accounts[owner]) == ""
    assert host.run("journalctl --quiet --grep %s", canary).stdout == ""
    assert host.run("journalctl --quiet --unit dovecot --grep %s", accounts[owner]).stdout == ""


PROTOCOLS = ("imap", "pop3", "sieve", "smtp")


def logs_in(mail: MailHost, name: str, login: str, password: str) -> bool:
    """Whether a protocol takes this password."""
    match name:
        case "imap":
            return attempt(mail, login, password) == ""
        case "sieve":
            with ManageSieve(mail) as sieve:
                return sieve.login(login, password).startswith("OK")
        case "pop3":
            with pop3(mail) as session, contextlib.suppress(poplib.error_proto):
                session.user(login)
                return session.pass_(password).startswith(b"+OK")
        case _:
            with smtp(mail) as session, contextlib.suppress(smtplib.SMTPAuthenticationError):
                return session.login(login, password)[0] == 235
    return False


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mailbox_is_refused_for_the_protocol_it_lacks_and_for_no_other(
    mail: MailHost, accounts: dict[str, str], model: dict[str, Any], protocol: str
) -> None:
    address = mailbox(model, denied_protocols=protocol)
    denied = next(box["denied_protocols"] for box in model["mailboxes"] if box["address"] == address)
    assert {name for name in PROTOCOLS if not logs_in(mail, name, address, accounts[address])} == set(denied)


def test_a_disabled_mailbox_logs_in_nowhere(mail: MailHost, accounts: dict[str, str], model: dict[str, Any]) -> None:
    address = next(box["address"] for box in model["mailboxes"] if not box["enabled"])
    assert not [name for name in PROTOCOLS if logs_in(mail, name, address, accounts[address])]


class PopAt(poplib.POP3_SSL):
    """POP3 to a literal address, verified under the host name."""

    def __init__(self, mail: MailHost) -> None:
        self._mail = mail
        super().__init__(mail.ipv4, 995, context=mail.tls, timeout=30)

    def _create_socket(self, timeout: float) -> socket.socket:
        return self._mail.tls.wrap_socket(self._mail.socket(995), server_hostname=self._mail.hostname)


@contextlib.contextmanager
def pop3(mail: MailHost) -> Iterator[poplib.POP3_SSL]:
    session = PopAt(mail)
    try:
        yield session
    finally:
        session.close()


@contextlib.contextmanager
def smtp(mail: MailHost) -> Iterator[smtplib.SMTP]:
    """A session with submissions (465), not yet logged in."""
    session = smtplib.SMTP(local_hostname="client102.world.test", timeout=30)
    try:
        session.sock = mail.tls.wrap_socket(mail.socket(465), server_hostname=mail.hostname)
        assert session.getreply()[0] == 220
        session.ehlo()
        yield session
    finally:
        session.close()


def test_pop3_hands_out_what_was_delivered(mail: MailHost, host: Host, accounts: dict[str, str], owner: str) -> None:
    subject = secrets.token_hex(8)
    deliver(host, owner, f"Subject: {subject}\r\n\r\nHello\r\n".encode())
    with pop3(mail) as session:
        session.user(owner)
        session.pass_(accounts[owner])
        # What other mail of this mailbox was on its way may have come in the meantime.
        newest = range(len(session.list()[1]), 0, -1)[:10]
        (ours,) = [number for number in newest if f"Subject: {subject}".encode() in session.retr(number)[1]]
        session.dele(ours)
        session.quit()


def test_special_use_folders_are_there_and_subscribed_from_the_first_login(session: imaplib.IMAP4_SSL) -> None:
    listed = [line.decode() for line in session.list('""', "*")[1]]
    for name in ("Drafts", "Sent", "Junk", "Trash", "Archive"):
        assert any(rf"\{name}" in line and line.endswith(f' "/" {name}') for line in listed), (name, listed)
        assert folders(session).count(name) == 1
        assert folders(session, "lsub").count(name) == 1


@pytest.mark.parametrize("name", ["a.b", "a.b/c.d", ".hidden", "end.", "tmp", "new", "~home", "B&APw-cher 2.0"])
def test_folder_names_with_a_dot_work(session: imaplib.IMAP4_SSL, name: str) -> None:
    quoted = f'"{name}"'
    assert session.create(quoted)[0] == "OK"
    try:
        assert session.subscribe(quoted)[0] == "OK"
        assert session.append(quoted, None, None, b"Subject: dot\r\n\r\nHello\r\n")[0] == "OK"
        assert name in folders(session)
        assert name in folders(session, "lsub")
        assert session.select(quoted) == ("OK", [b"1"])
        session.close()
        assert session.rename(quoted, f'"renamed.{name}"')[0] == "OK"
        assert session.status(f'"renamed.{name}"', "(MESSAGES)")[1][0].endswith(b"(MESSAGES 1)")
        assert session.rename(f'"renamed.{name}"', quoted)[0] == "OK"
    finally:
        for folder in (quoted, f'"renamed.{name}"', '"a.b"'):
            session.unsubscribe(folder)
            session.delete(folder)


@pytest.mark.parametrize("name", ["../../etc", "a/../../b", "/etc/passwd", "a//b", "x" * 300])
def test_folder_names_cannot_leave_the_mailbox(session: imaplib.IMAP4_SSL, host: Host, name: str) -> None:
    before = host.check_output("find /var/vmail -maxdepth 2 | sort")
    session.create(f'"{name}"')
    session.delete(f'"{name}"')
    assert host.check_output("find /var/vmail -maxdepth 2 | sort") == before
    assert session.noop()[0] == "OK"


def test_a_reload_keeps_imap_sessions(session: imaplib.IMAP4_SSL, host: Host, mail: MailHost, owner: str) -> None:
    assert session.select("INBOX")[0] == "OK"
    host.check_output("systemctl reload dovecot")
    assert session.noop()[0] == "OK"
    subject = secrets.token_hex(8)
    deliver(host, owner, f"Subject: {subject}\r\n\r\nHello\r\n".encode())
    (number,) = until("the new message in the old session", lambda: search(session, "INBOX", "Subject", subject))
    session.store(number.decode(), "+FLAGS", r"\Deleted")
    session.expunge()


def test_mail_belongs_to_vmail_alone(host: Host, owner: str) -> None:
    local, _, domain = owner.partition("@")
    for path in ("/var/vmail", f"/var/vmail/{domain}", f"/var/vmail/{domain}/{local}"):
        directory = host.file(path)
        assert (directory.user, directory.group, directory.mode) == ("vmail", "vmail", 0o700), path
    vmail = host.user("vmail")
    assert (vmail.uid, vmail.gid, vmail.groups) == (5000, 5000, ["vmail"])
    assert vmail.shell.endswith("nologin")


def test_processes_that_handle_mail_cannot_read_password_hashes(session: imaplib.IMAP4_SSL, host: Host) -> None:
    # Processes of other sessions may end while they are looked at.
    look = "for pid in $(pgrep --exact --euid vmail imap); do sed -n 's/^Groups:/groups /p' /proc/$pid/status; done 2>/dev/null || true"
    rows = host.check_output(look).splitlines()
    assert rows
    assert not [row for row in rows if str(host.group("dovecot").gid) in row.split()]
    users = host.file("/var/lib/mailwright/dovecot/users")
    assert (users.user, users.group, users.mode) == ("root", "dovecot", 0o640)


def test_dovecot_comes_back_after_a_crash(host: Host, mail: MailHost, accounts: dict[str, str], owner: str) -> None:
    pid = host.check_output("systemctl show --property MainPID --value dovecot")
    host.check_output("kill -9 %s", pid)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return attempt(mail, owner, accounts[owner]) == "" and host.check_output(
                "systemctl show --property MainPID --value dovecot"
            ) not in {"0", pid}
        return False

    assert until("IMAP after a crash", answers, 90)
