"""Somebody out in the world: writes, sends, receives and judges mail.

The demo, the behaviour tests and the benchmarks correspond with the lab's mail host through this module. It runs in the lab's network
namespace (`lab.py exec -- …`), where the bridge's client addresses stand for the rest of the internet, and asks only the lab's DNS.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import imaplib
import secrets
import smtplib
import socket
import ssl
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import TypeVar

import authheaders
import dns.resolver

T = TypeVar("T")

WORLD = "198.51.100.2"
GOOD_MX = "198.51.100.21"  # mx.good.test: takes mail of the bridge's clients on port 587 and carries it to the recipient's MX


def until(what: str, probe: Callable[[], T], seconds: float = 60.0) -> T:
    """Return the first true result of `probe`, asking until `seconds` have passed; then raise TimeoutError naming `what`."""
    end = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not seen within {seconds:.0f} s")
        time.sleep(0.1)  # the interval of the poll, never a guess at how long something takes


def use_world_dns() -> None:
    """Make every dnspython user of this process (dkimpy, pyspf, authheaders) ask the lab's name server alone."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [WORLD]
    resolver.lifetime = 15.0
    dns.resolver.default_resolver = resolver


def write(sender: str, to: str, subject: str = "Hello", text: str = "", **headers: str) -> EmailMessage:
    """A complete, ordinary message with Date and Message-ID; `headers` with underscores for hyphens.

    Without `text` each has one of its own: greylisting knows a text again, whoever sends it.
    """
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = email.utils.formatdate(localtime=False)
    message["Message-ID"] = email.utils.make_msgid(domain=sender.rpartition("@")[2])
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(text or f"Good morning, this is about {secrets.token_hex(8)}.\n")
    return message


def send_from_world(message: EmailMessage, sender: str, *recipients: str) -> None:
    """Hand `message` to the world's own mail server, which signs it, looks up the MX and delivers over port 25."""
    with smtplib.SMTP(GOOD_MX, 587, local_hostname="client100.world.test", source_address=("198.51.100.100", 0)) as smtp:
        smtp.send_message(message, sender, list(recipients))


@dataclass
class Judgement:
    """What an independent receiver finds out about a raw message: `pass`, `fail`, `none`, … for each method."""

    spf: str
    dkim: str
    dmarc: str
    tls: str


def judge(raw: bytes) -> Judgement:
    """Verify SPF, DKIM and DMARC of a received message against the live DNS, with dkimpy, pyspf and authheaders as judges.

    The client and the TLS version come from the receiving server's own Received line; the envelope sender from its Return-Path.
    """
    message = email.message_from_bytes(raw, policy=email.policy.default)
    received = str(message["Received"])
    client = received.partition("[")[2].partition("]")[0].removeprefix("IPv6:")
    helo = received.split()[1]
    sender = str(message["Return-Path"]).strip("<> ")
    with warnings.catch_warnings():
        # pyspf calls dnspython by an old name.
        warnings.simplefilter("ignore", DeprecationWarning)
        result = authheaders.authenticate_message(
            raw,
            "judge.world.test",
            ip=client,
            mail_from=sender,
            helo=helo,
            spf=True,
            dkim=True,
            dmarc=True,
        )

    def found(method: str) -> str:
        return result.partition(f"{method}=")[2].split()[0].strip(";") if f"{method}=" in result else "none"

    tls = received.partition("using ")[2].split()[0] if "using TLS" in received else "none"
    return Judgement(found("spf"), found("dkim"), found("dmarc"), tls)


@dataclass
class MailHost:
    """The host under test, as its users meet it. `ca_file` is the CA of the certificates it serves."""

    hostname: str
    ipv4: str
    ipv6: str
    ca_file: Path
    source: str = "198.51.100.101"
    tls: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))

    def socket(self, port: int, *, ipv6: bool = False, source: str | None = None, timeout: float = 30.0) -> socket.socket:
        """A TCP connection from one of the bridge's client addresses."""
        address = self.ipv6 if ipv6 else self.ipv4
        return socket.create_connection((address, port), timeout, (source, 0) if source else None)

    def imap(self, login: str, password: str) -> imaplib.IMAP4_SSL:
        """A logged-in IMAP session over implicit TLS, the certificate verified against the host name."""
        session = _ImapAt(self.hostname, self.ipv4, self.tls)
        session.login(login, password)
        return session

    def submit(self, login: str, password: str, message: EmailMessage, sender: str | None = None, *recipients: str) -> None:
        """Send through submissions (465) as `login`; recipients default to the To header."""
        with _SmtpAt(self.hostname, self.ipv4, self.tls) as smtp:
            smtp.login(login, password)
            smtp.send_message(message, sender or str(message["From"]), list(recipients) or None)

    def find(self, login: str, password: str, message_id: str, folder: str = "INBOX", seconds: float = 60.0) -> bytes:
        """The raw message with this Message-ID, as soon as it lies in `folder`."""
        session = self.imap(login, password)

        def look() -> bytes:
            if session.select(folder, readonly=True)[0] != "OK":
                return b""
            hits = session.search(None, "HEADER", "Message-ID", message_id)[1][0].split()
            return session.fetch(hits[0].decode(), "(RFC822)")[1][0][1] if hits else b""  # type: ignore[index,return-value]

        try:
            return until(f"{message_id} in {folder} of {login}", look, seconds)
        finally:
            session.logout()


class _ImapAt(imaplib.IMAP4_SSL):
    """IMAP to a literal address, verified under the host name: the lab has no resolver in this process."""

    def __init__(self, hostname: str, address: str, tls: ssl.SSLContext) -> None:
        self._hostname = hostname
        super().__init__(address, 993, ssl_context=tls, timeout=30)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        plain = imaplib.IMAP4._create_socket(self, timeout)  # type: ignore[attr-defined]
        return self.ssl_context.wrap_socket(plain, server_hostname=self._hostname)


class _SmtpAt(smtplib.SMTP_SSL):
    """Submission to a literal address, verified under the host name."""

    def __init__(self, hostname: str, address: str, tls: ssl.SSLContext) -> None:
        self._hostname = hostname
        super().__init__(address, 465, local_hostname="client101.world.test", context=tls, timeout=30)

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        plain = socket.create_connection((host, port), timeout, self.source_address)
        return self.context.wrap_socket(plain, server_hostname=self._hostname)
