# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Certificates by certbot (RFC 8555): what it holds, what it is asked for, and what its answer means."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .certificate import KEY_FILE, Pair, read_pair
from .commands import run
from .files import make_directory, write_atomic

TIMEOUT = 600
BUSY = "Another instance of Certbot is already running"
# Certbot's names of the two ways to prove a name.
AUTHENTICATORS = {"http-01": "webroot", "dns-01": "dns-rfc2136"}
# Not one name's fault: nothing more is asked for in this run.
_SERVER = re.compile(
    r"rateLimited|too many|Max retries exceeded|ConnectionError|Connection refused|Connection aborted|timed out|"
    r"Failed to establish a new connection|certificate verify failed|serverInternal|no end after|Unable to (?:reach|register)",
    re.IGNORECASE,
)
_PROBLEM = re.compile(r"^\s*(?:Domain|Identifier):\s*(\S+)\s*\n\s*Type:\s*(\S+)\s*\n\s*Detail:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class DnsUpdates:
    """A name server that takes updates (RFC 2136) of some zones, and the key for it (RFC 8945)."""

    zones: Sequence[str]
    server: str
    port: int
    key_name: str
    algorithm: str
    secret: str

    def serves(self, name: str) -> bool:
        """Whether a name lies in one of its zones; without zones it has all that no other has."""
        return not self.zones or any(name == zone or name.endswith(f".{zone}") for zone in self.zones)


@dataclass(frozen=True)
class Acme:
    """The ACME server, and how names are proved to it."""

    directory: str
    challenge: str = "http-01"
    ca_file: str = ""
    email: str = ""
    webroot: str = ""
    dns_updates: Sequence[DnsUpdates] = ()
    propagation: int = 60
    credentials: Path = Path("/etc/mailwright/acme-dns")
    reuse_key: bool = True
    # Names whose addresses were just published: in check mode, would be.
    announced: Sequence[str] = ()
    letsencrypt: Path = Path("/etc/letsencrypt")


def lineage(name: str) -> str:
    """Certbot's name of a certificate; people may have others of their own."""
    return "mailwright" if name == "default" else f"mailwright-{name}"


def issued(acme: Acme, name: str) -> Pair | None:
    """What certbot holds of a certificate."""
    return read_pair(acme.letsencrypt / "live" / lineage(name))


def setting(renewal: str, key: str) -> str | None:
    """A value of certbot's renewal/NAME.conf, e.g. the `server` it came from."""
    found = re.search(rf"^{re.escape(key)}\s*=\s*(.*?)\s*$", renewal, re.MULTILINE)
    return found[1] if found else None


def why_anew(acme: Acme, name: str) -> str:
    """Why certbot could not renew what it holds as it should, empty where it could."""
    try:
        renewal = (acme.letsencrypt / "renewal" / f"{lineage(name)}.conf").read_text()
    except OSError:
        return "certbot does not know how to renew the present one"
    server = setting(renewal, "server")
    if server != acme.directory:
        return f"the present one is from {server}"
    if setting(renewal, "authenticator") != AUTHENTICATORS[acme.challenge]:
        return f"names are now proved by {acme.challenge}"
    return ""


def has_address(name: str) -> bool:
    """Whether a host name has an address in the DNS at all; where the resolver fails it is taken to have one."""
    try:
        return bool(socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM))
    except socket.gaierror as error:
        return error.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
    except (OSError, UnicodeError):
        return True


@dataclass(frozen=True)
class Failure:
    """Why certbot got nothing: `names` are those it blames, with the server's reason; `server` says that others would fare no better."""

    text: str
    names: Mapping[str, str]
    server: bool = False


def ask(acme: Acme, name: str, names: Sequence[str]) -> Failure | None:
    """Let certbot get a certificate for `names`; None when it did. Raises OSError."""
    authenticator, problem = _authenticator(acme, names)
    if problem:
        return Failure(problem, {})
    command = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--no-directory-hooks"]
    command += ["--email", acme.email] if acme.email else ["--register-unsafely-without-email"]
    command += ["--server", acme.directory, "--cert-name", lineage(name), *authenticator]
    command += ["--key-type", "ecdsa", "--elliptic-curve", "secp256r1"]
    # The decision is made: certbot is not to ask whether it is due, or whether the names may change.
    command += ["--force-renewal", "--renew-with-new-domains"]
    command += ["--reuse-key"] if acme.reuse_key else ["--no-reuse-key"]
    for one in names:
        command += ["--domain", one]
    environment = {"REQUESTS_CA_BUNDLE": acme.ca_file} if acme.ca_file else {}
    until = time.monotonic() + TIMEOUT
    while True:
        status, output = run(command, max(1.0, until - time.monotonic()), environment=environment)
        if status == 0:
            return None
        if BUSY not in output or time.monotonic() > until:
            return understand(output)
        time.sleep(2)  # another certbot holds the lock and tells nobody when it lets go


def change_key(acme: Acme, name: str, key: bytes) -> bytes | None:
    """Give what certbot holds another key, which it then takes along into the next certificate (--reuse-key); the key before.

    None where it holds nothing. Raises OSError.
    """
    file = acme.letsencrypt / "live" / lineage(name) / KEY_FILE
    if not file.exists():
        return None
    before = file.read_bytes()
    write_atomic(file.resolve(), key, mode=0o600)
    return before


def _authenticator(acme: Acme, names: Sequence[str]) -> tuple[list[str], str]:
    """Certbot's words for the way names are proved, or why there is none."""
    if acme.challenge == "http-01":
        return ["--webroot", "--webroot-path", acme.webroot], ""
    # The entry without zones comes last.
    every = sorted(acme.dns_updates, key=lambda updates: not updates.zones)
    fitting = [updates for updates in every if all(updates.serves(name) for name in names)]
    if not fitting:
        return [], f"no entry of mail_dns_updates has the zones of all of {', '.join(names)}, which dns-01 needs"
    file = write_credentials(acme.credentials, fitting[0])
    words = ["--authenticator", "dns-rfc2136", "--dns-rfc2136-credentials", str(file)]
    return [*words, "--dns-rfc2136-propagation-seconds", str(acme.propagation)], ""


def write_credentials(directory: Path, updates: DnsUpdates) -> Path:
    """The file certbot reads now and at each renewal, for root's eyes. Raises OSError."""
    try:
        # The plugin wants an address.
        server = socket.getaddrinfo(updates.server, updates.port, type=socket.SOCK_DGRAM)[0][4][0]
    except OSError:
        server = updates.server
    rows = {"server": server, "port": updates.port, "name": updates.key_name, "secret": updates.secret}
    rows["algorithm"] = updates.algorithm.upper()
    text = "".join(f'dns_rfc2136_{key} = "{value}"\n' for key, value in rows.items())
    make_directory(directory, mode=0o700)
    file = directory / f"{updates.key_name.rstrip('.')}.ini"
    if not file.exists() or file.read_text() != text or file.stat().st_mode & 0o077:
        write_atomic(file, text.encode(), mode=0o600)
    return file


def understand(output: str) -> Failure:
    """What certbot's output says of a failure."""
    idle = ("Saving debug log", "Ask for help", "See the logfile", "Hint: The Certificate Authority failed to")
    lines = [line.strip() for line in output.splitlines()]
    text = "\n".join(line for line in lines if line.strip("- ") and not line.startswith(idle))[-2000:]
    blamed = {name.lower(): f"{detail.strip()} ({kind})" for name, kind, detail in _PROBLEM.findall(output)}
    return Failure(text, blamed, not blamed and _SERVER.search(output) is not None)


def forget(acme: Acme, name: str) -> None:
    """Let certbot renew a certificate no more, and keep nothing of it."""
    if (acme.letsencrypt / "renewal" / f"{lineage(name)}.conf").exists():
        run(["certbot", "delete", "--non-interactive", "--no-directory-hooks", "--cert-name", lineage(name)])


def known(acme: Acme) -> Iterable[str]:
    """Names of our certificates that certbot renews."""
    for file in sorted((acme.letsencrypt / "renewal").glob("mailwright-*.conf")):
        yield file.stem.removeprefix("mailwright-")
