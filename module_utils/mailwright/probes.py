# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Questions put to a service that only a working one answers."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from typing import NamedTuple

from .commands import run, shorten

ANSWER_TIMEOUT = 5.0
ANSWER_LIMIT = 65536


class Probe(NamedTuple):
    """A TCP port, a Unix socket or a command that must answer; `expect` is a regular expression, lines separate."""

    port: int | None = None
    host: str = "127.0.0.1"
    tls: bool = False
    socket: str | None = None
    command: tuple[str, ...] = ()
    send: str | None = None
    expect: str | None = None

    def __str__(self) -> str:
        if self.command:
            return f"command {' '.join(self.command)!r}"
        return f"socket {self.socket}" if self.socket else f"port {self.port} on {self.host}"


def attempt(probe: Probe, until: float) -> str | None:
    """Try once, at most until that moment of the monotonic clock; None where it succeeded, else the complaint."""
    seconds = max(until - time.monotonic(), 0.2)
    if probe.command:
        status, output = run(probe.command, timeout=seconds)
        if status:
            return f"probe {probe} failed ({status}): {shorten(output)}"
    else:
        try:
            output = talk(probe, min(seconds, ANSWER_TIMEOUT))
        except OSError as error:
            return f"probe {probe} failed: {error}"
    if not answers(probe, output):
        return f"probe {probe} answered {output.strip()[:500]!r}, which does not match {probe.expect!r}"
    return None


def answers(probe: Probe, output: str) -> bool:
    """Whether this is what the probe expects."""
    return probe.expect is None or re.search(probe.expect, output, re.MULTILINE) is not None


def talk(probe: Probe, seconds: float) -> str:
    """Connect, send, and read until the answer is right, the peer ends or time is up. Raises OSError."""
    until = time.monotonic() + seconds
    received = b""
    with contextlib.ExitStack() as stack:
        if probe.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(seconds)
            connection.connect(probe.socket)
        else:
            connection = stack.enter_context(socket.create_connection((probe.host, probe.port or 0), seconds))
        if probe.tls:
            # The certificate may be self-signed or for another name; the question is whether the port talks TLS.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = stack.enter_context(context.wrap_socket(connection))
        if probe.send:
            connection.sendall(probe.send.encode())
        while not answers(probe, received.decode(errors="replace")) and len(received) < ANSWER_LIMIT:
            connection.settimeout(max(until - time.monotonic(), 0.05))
            with contextlib.suppress(TimeoutError):
                block = connection.recv(4096)
                if block:
                    received += block
                    continue
            break
    return received.decode(errors="replace")
