"""The machines of the lab as Python meets them: for the demo, the behaviour tests and the benchmarks.

Everything here runs inside the lab's network namespace; the lab is the one named by MAILWRIGHT_LAB.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import urllib.request
from pathlib import Path

import correspondent
from laboratory import machines

LAB = os.environ.get("MAILWRIGHT_LAB", "demo")
HOME = machines.home(LAB)
MAIL_IPV4, MAIL_IPV6 = "198.51.100.10", "2001:db8:25::10"


def run_on(machine: str, *argv: str, stdin: bytes | None = None) -> bytes:
    """What a command prints on a machine; CalledProcessError when it fails."""
    return subprocess.run(
        ["ssh", "-F", str(HOME / "ssh/config"), machine, _quoted(argv)], check=True, stdout=subprocess.PIPE, input=stdin
    ).stdout


def _quoted(argv: tuple[str, ...]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)


def run_on_world(*argv: str) -> bytes:
    """What a command prints on the world's machine."""
    return run_on("world", *argv)


def testinfra_url(machine: str) -> str:
    """The testinfra backend of a machine."""
    return f"ssh://{machine}?ssh_config={HOME / 'ssh/config'}"


def issuing_ca() -> Path:
    """The root that signs the certificates of the lab's ACME server, which makes itself a new one at each start."""
    context = ssl.create_default_context(cafile=str(HOME / "ca/ca.pem"))
    context.check_hostname = False  # by address: this process has no resolver; the CA is the lab's own
    with urllib.request.urlopen(f"https://{correspondent.WORLD}:15000/roots/0", context=context, timeout=30) as answer:
        pem = answer.read()
    path = HOME / "ca/acme-root.pem"
    path.write_bytes(pem)
    return path


def mail_host(hostname: str) -> correspondent.MailHost:
    """The mail host as its users meet it."""
    return correspondent.MailHost(hostname, MAIL_IPV4, MAIL_IPV6, issuing_ca())


def read_on_host(address: str, message_id: str) -> bytes:
    """A message from a mailbox, read with doveadm, as soon as it is there."""

    def look() -> bytes:
        found = run_on("mail", "doveadm", "fetch", "-u", address, "text", "HEADER", "Message-ID", message_id)
        return found.partition(b"text:\n")[2].removesuffix(b"\f\n")

    return correspondent.until(f"{message_id} in {address}", look, 90)


def world_mailbox(domain: str, user: str, message_id: str) -> bytes:
    """The raw message with this Message-ID from a mailbox of the world's own servers, as soon as it is there."""

    def look() -> bytes:
        # Only what lies in `new`: what is in `tmp` is not whole yet, and is gone in the next moment.
        try:
            names = run_on_world("grep", "-rlF", "--", message_id.strip("<>"), f"/var/mail/world/{domain}/{user}/new/").split()
        except subprocess.CalledProcessError:
            return b""
        return run_on_world("cat", names[0].decode()) if names else b""

    return correspondent.until(f"{message_id} in {user}@{domain}", look)
