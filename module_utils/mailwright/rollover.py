# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Another key for the host's own certificate, and no moment in which its TLSA record (RFC 6698) is missing.

RFC 7671, 8.1: the digest of the next key is published beside the present one; once every name server of the zone has it and no cache
can have what was there before, the key is used; the digest of the former key stays until no cache can have it alone.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .certificate import NEXT_FILE, NEXT_KEY_FILE, RETIRED_FILE, CertificateError, PrivateKey, spki_digest
from .files import make_directory, remove_file, write_atomic

# For clocks that differ, and for answers on their way.
MARGIN = 2


class Heard(Protocol):
    """What one name server said; see authority.Answer."""

    @property
    def server(self) -> tuple[str, str]:
        """Name and address."""

    @property
    def status(self) -> str:
        """`ok`, or why there are no records."""

    @property
    def values(self) -> tuple[str, ...]:
        """The records."""

    @property
    def ttl(self) -> int:
        """How long caches keep them, in seconds."""


@dataclass(frozen=True)
class Next:
    """A key that waits for its record. `ttl` is the longest that was seen, `proved` when all name servers first had the record."""

    digest: str
    ttl: int = 0
    proved: dt.datetime | None = None

    @property
    def due(self) -> dt.datetime | None:
        """From when the key can be used."""
        return self.proved + dt.timedelta(seconds=self.ttl + MARGIN) if self.proved else None


def record(digest: str) -> str:
    """The TLSA record of a key."""
    return f"3 1 1 {digest}"


def prepare(path: Path) -> Next:
    """Make the next key, ECDSA P-256. Raises OSError."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    make_directory(path, mode=0o700)
    write_atomic(path / NEXT_KEY_FILE, pem, mode=0o600)
    waiting = Next(spki_digest(key))
    save(path, waiting)
    return waiting


def load(path: Path) -> Next | None:
    """The key that waits; None where there is none. Raises CertificateError for a damaged file."""
    try:
        found = json.loads((path / NEXT_FILE).read_text())
        proved = dt.datetime.fromisoformat(found["proved"]) if found["proved"] else None
        return Next(found["digest"], found["ttl"], proved)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CertificateError(f"{path / NEXT_FILE} is damaged ({error}); remove it and begin anew") from None


def save(path: Path, waiting: Next) -> None:
    """Remember how far it is. Raises OSError."""
    proved = waiting.proved.isoformat() if waiting.proved else None
    text = json.dumps({"digest": waiting.digest, "ttl": waiting.ttl, "proved": proved})
    write_atomic(path / NEXT_FILE, text.encode(), mode=0o600)


def load_key(path: Path) -> PrivateKey:
    """The next key. Raises CertificateError."""
    try:
        key = serialization.load_pem_private_key((path / NEXT_KEY_FILE).read_bytes(), password=None)
    except (OSError, ValueError):
        raise CertificateError(f"{path / NEXT_KEY_FILE} cannot be read; remove {path / NEXT_FILE} and begin anew") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path / NEXT_KEY_FILE} is of another kind than it was made")
    return key


def advance(waiting: Next, heard: Iterable[Heard], now: dt.datetime) -> tuple[Next, str]:
    """How far it is after what the name servers said, and what it waits for: empty when the key can be used."""
    reached = [answer for answer in heard if answer.status != "no route"]
    said = [answer for answer in reached if answer.status in ("ok", "empty", "nxdomain")]
    silent = [f"{answer.server[0]} ({answer.server[1]}): {answer.status}" for answer in reached if answer not in said]
    if silent or not said:
        # What was proved before may have been taken back: nobody can tell.
        return replace(waiting, proved=None), "every name server must answer: " + ("; ".join(silent) or "none can be reached")
    if not any(answer.values for answer in said):
        return waiting, ""  # no TLSA record anywhere: nobody compares the key with one
    ttl = max(waiting.ttl, *(answer.ttl for answer in said))
    wanted = record(waiting.digest)
    lacking = sorted(
        {f"{a.server[0]} ({a.server[1]})" for a in said if wanted not in (" ".join(value.lower().split()) for value in a.values)}
    )
    if lacking:
        return replace(waiting, ttl=ttl, proved=None), f"TLSA {wanted} is not yet on " + ", ".join(lacking)
    proved = replace(waiting, ttl=ttl, proved=waiting.proved or now)
    due = proved.due
    return proved, f"caches may have the records from before until {due:%Y-%m-%d %H:%M:%S} UTC" if due and now < due else ""


def retire(path: Path, digest: str, until: dt.datetime) -> None:
    """Keep the former key's record published until then. Raises OSError."""
    write_atomic(path / RETIRED_FILE, json.dumps({"digest": digest, "until": until.isoformat()}).encode(), mode=0o600)


def finish(path: Path) -> None:
    """The key is in use. Raises OSError."""
    remove_file(path / NEXT_FILE)
    remove_file(path / NEXT_KEY_FILE)
