"""TLS on every port of the mail host, as a client meets it: implicit, or after the protocol's own STARTTLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

import wire
from correspondent import MailHost
from cryptography import x509

# Port → service. 25, 587 and 4190 turn to TLS by STARTTLS.
PORTS = {25: "smtp", 443: "https", 465: "submissions", 587: "submission", 993: "imaps", 995: "pop3s", 4190: "sieve"}
STARTTLS = (25, 587)


@contextlib.contextmanager
def ready(mail: MailHost, port: int, *, ipv6: bool = False) -> Iterator[socket.socket]:
    """A connection on which the next word is TLS."""
    source = wire.STRANGER6 if ipv6 else wire.STRANGER4
    with socket.create_connection((mail.ipv6 if ipv6 else mail.ipv4, port), 60, (source, 0)) as plain:
        if port in STARTTLS:
            session = wire.Session(plain, mail)
            assert session.reply()[0] == 220
            session.hello()
            assert session.code("STARTTLS") == 220
        elif port == 4190:
            session = wire.Session(plain, mail)
            _until_ok(session)
            session.send(b"STARTTLS\r\n")
            _until_ok(session)
        yield plain


@contextlib.contextmanager
def handshake(
    mail: MailHost, port: int, context: ssl.SSLContext | None = None, *, ipv6: bool = False, name: str | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection to a port; the certificate is verified unless `context` says otherwise."""
    with (
        ready(mail, port, ipv6=ipv6) as plain,
        (context or mail.tls).wrap_socket(plain, server_hostname=name or mail.hostname) as secure,
    ):
        yield secure


def _until_ok(session: wire.Session) -> None:
    while not (line := session.line()).startswith("OK"):
        assert line, "the server closed the connection"


def certificate(mail: MailHost, port: int) -> x509.Certificate:
    """The certificate a port serves, whoever signed it."""
    with handshake(mail, port, anything()) as secure:
        der = secure.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


def anything() -> ssl.SSLContext:
    """A client that verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def old_client(minimum: ssl.TLSVersion, maximum: ssl.TLSVersion, ciphers: str = "ALL") -> ssl.SSLContext:
    """A client that knows only these versions and suites, and would take any of them."""
    context = anything()
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = minimum, maximum
    return context
