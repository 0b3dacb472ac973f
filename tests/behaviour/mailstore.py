"""How the tests of Dovecot reach what correspondent.py does not: ManageSieve, LMTP, and mailboxes with a given property."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import ssl
from collections.abc import Iterator
from typing import Any

import correspondent
from testinfra.host import Host

# Runs on the mail host: hands stdin to Dovecot as Postfix does, and prints its answer to the message.
LMTP = """
import smtplib, sys
with smtplib.LMTP("/var/spool/postfix/private/dovecot-lmtp") as lmtp:
    lmtp.ehlo_or_helo_if_needed()
    print(lmtp.mail(sys.argv[1]), lmtp.rcpt(sys.argv[2]), lmtp.data(sys.stdin.buffer.read()))
"""


def deliver(host: Host, recipient: str, raw: bytes, sender: str = "somebody@good.test") -> str:
    """Deliver `raw` over LMTP, past Postfix and Rspamd; returns Dovecot's answers. Needs only the test of what LMTP does."""
    message = base64.b64encode(raw).decode()
    return host.check_output("echo %s | base64 -d | python3 -c %s %s %s", message, LMTP, sender, recipient)


def mailbox(model: dict[str, Any], **wanted: object) -> str:
    """The address of the first enabled mailbox whose keys equal `wanted`; lists match when they contain the value."""

    def fits(box: dict[str, Any]) -> bool:
        return all(value in box[key] if isinstance(box[key], list) else box[key] == value for key, value in wanted.items())

    found = [box["address"] for box in model["mailboxes"] if box["enabled"] and box["password"] and fits(box)]
    assert found, f"the lab's inventory has no mailbox with {wanted}"
    return str(found[0])


def plain_mailboxes(model: dict[str, Any]) -> list[str]:
    """Mailboxes with nothing switched off."""
    return [
        box["address"]
        for box in model["mailboxes"]
        if box["enabled"] and box["password"] and not box["denied_protocols"] and box["junk_filing"]
    ]


@contextlib.contextmanager
def imap(mail: correspondent.MailHost, login: str, password: str) -> Iterator[imaplib.IMAP4_SSL]:
    """An IMAP session that leaves no socket behind, whatever happens; a refused login raises imaplib.IMAP4.error."""
    session = correspondent._ImapAt(mail.hostname, mail.ipv4, mail.tls)
    try:
        session.login(login, password)
        yield session
        session.logout()
    finally:
        with contextlib.suppress(OSError):
            session.shutdown()


def search(session: imaplib.IMAP4, folder: str, header: str, value: str) -> list[bytes]:
    """Numbers of the messages in `folder` whose header contains `value`; the folder stays selected."""
    assert session.select(f'"{folder}"')[0] == "OK", folder
    return list(session.search(None, "HEADER", header, f'"{value}"')[1][0].split())


class ManageSieve:
    """A ManageSieve client (RFC 5804), as small as the tests allow. A refusal is the answer "NO …", not an exception."""

    def __init__(self, mail: correspondent.MailHost, *, starttls: bool = True) -> None:
        self._socket = mail.socket(4190)
        self._file = self._socket.makefile("rb")
        self.capabilities = self._answer()
        if starttls:
            self.command("STARTTLS")
            self._socket = mail.tls.wrap_socket(self._socket, server_hostname=mail.hostname)
            self._file = self._socket.makefile("rb")
            self.capabilities = self._answer()

    def __enter__(self) -> ManageSieve:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def _answer(self) -> str:
        """Everything up to and including OK, NO or BYE; the text of a literal follows its line."""
        answer = ""
        while True:
            line = self._file.readline().decode()
            answer += line
            if line.endswith("}\r\n"):
                answer += self._file.read(int(line[line.rindex("{") + 1 : -3])).decode()
                answer += self._file.readline().decode()
            if not line or line.startswith(("OK", "NO", "BYE")):
                return answer

    def command(self, text: str) -> str:
        """Send one command and return its whole answer."""
        self._socket.sendall(text.encode() + b"\r\n")
        return self._answer()

    def login(self, login: str, password: str) -> str:
        token = base64.b64encode(f"\0{login}\0{password}".encode()).decode()
        return self.command(f'AUTHENTICATE "PLAIN" "{token}"')

    def put(self, name: str, script: str) -> str:
        """Store a script; the answer tells whether it compiles."""
        return self.command(f'PUTSCRIPT "{name}" {{{len(script.encode())}+}}\r\n{script}')

    def use(self, script: str) -> None:
        """Make this the user's active script."""
        answer = self.put("test", script)
        assert answer.startswith("OK"), answer
        assert self.command('SETACTIVE "test"').startswith("OK")


@contextlib.contextmanager
def sieve(mail: correspondent.MailHost, login: str, password: str) -> Iterator[ManageSieve]:
    """A logged-in ManageSieve session. Scripts it activates by `use` are gone afterwards."""
    with ManageSieve(mail) as session:
        answer = session.login(login, password)
        assert answer.startswith("OK"), answer
        yield session
        session.command('SETACTIVE ""')
        session.command('DELETESCRIPT "test"')


def tls_versions(mail: correspondent.MailHost, port: int) -> set[str]:
    """Which TLS versions an implicit-TLS port accepts."""
    accepted = set()
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.minimum_version = version
        try:
            with mail.socket(port) as plain, context.wrap_socket(plain) as session:
                accepted.add(str(session.version()))
        except (ssl.SSLError, ConnectionError):
            continue
    return accepted
