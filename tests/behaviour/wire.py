"""SMTP byte by byte: smtplib is too well-behaved for what these tests must say."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator

from correspondent import MailHost

# Clients of the bridge, strangers to the host. Each waits once for postscreen's greeting.
STRANGER4 = "198.51.100.110"
STRANGER6 = "2001:db8:25::110"


class Session:
    """One SMTP connection; commands are lines without CRLF, a reply is its code and its text."""

    def __init__(self, stream: socket.socket, target: MailHost) -> None:
        self._stream = stream
        self._target = target
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._stream.sendall(data)

    def line(self) -> str:
        """The next line; "" at the end of the connection."""
        while b"\r\n" not in self._buffer:
            try:
                data = self._stream.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest.decode()
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode()

    def reply(self) -> tuple[int, str]:
        """The next reply with all its lines; (0, "") at the end of the connection."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return (int(lines[0][:3]), "\n".join(line[4:] for line in lines)) if lines[0] else (0, "")

    def replies(self) -> list[int]:
        """The codes of all replies until the server closes the connection."""
        codes = []
        while code := self.reply()[0]:
            codes.append(code)
        return codes

    def command(self, command: str) -> tuple[int, str]:
        """Send a command, return its reply."""
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def code(self, command: str) -> int:
        """Send a command, return the reply's code."""
        return self.command(command)[0]

    def hello(self, name: str = "client.world.test") -> str:
        """EHLO; returns what the server offers."""
        code, text = self.command(f"EHLO {name}")
        assert code == 250, text
        return text

    def start_tls(self) -> None:
        """Turn to TLS at once, without a command; the certificate is verified."""
        self._stream = self._target.tls.wrap_socket(self._stream, server_hostname=self._target.hostname)

    def login(self, user: str, password: str) -> int:
        """AUTH PLAIN; returns the reply's code."""
        return self.code("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode())

    def rcpt(self, sender: str, *recipients: str) -> list[int]:
        """Codes of MAIL and each RCPT, up to the first that is refused."""
        codes = []
        for command in [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)]:
            codes.append(self.code(command))
            if codes[-1] >= 400:
                break
        return codes

    def data(self, text: str) -> int:
        """DATA with a message; returns the final reply's code."""
        assert self.code("DATA") == 354
        return self.code(text.replace("\n", "\r\n") + "\r\n.")


@contextlib.contextmanager
def connect(target: MailHost, port: int = 25, *, source: str = STRANGER4, timeout: float = 60.0) -> Iterator[Session]:
    """A connection from `source`, over IPv4 or IPv6 as that is; nothing is read or sent yet."""
    address = target.ipv6 if ":" in source else target.ipv4
    session = Session(socket.create_connection((address, port), timeout, (source, 0)), target)
    try:
        if port == 465:
            session.start_tls()
        yield session
    finally:
        session._stream.close()


@contextlib.contextmanager
def stranger(target: MailHost, *, source: str = STRANGER4, name: str = "client.world.test") -> Iterator[Session]:
    """A session on port 25 after EHLO."""
    with connect(target, source=source) as session:
        code, text = session.reply()
        assert code == 220, text
        session.hello(name)
        yield session


@contextlib.contextmanager
def submission(target: MailHost, port: int, user: str = "", password: str = "", *, timeout: float = 60.0) -> Iterator[Session]:
    """A session on 465 or 587 under TLS after EHLO, logged in if a user is given."""
    with connect(target, port, timeout=timeout) as session:
        code, text = session.reply()
        assert code == 220, text
        session.hello()
        if port == 587:
            assert session.code("STARTTLS") == 220
            session.start_tls()
            session.hello()
        if user:
            code = session.login(user, password)
            assert code == 235, f"login of {user}: {code}"
        yield session
