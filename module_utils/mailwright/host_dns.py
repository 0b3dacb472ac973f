# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What of the DNS records only the host knows, and what it published last. Files: /var/lib/mailwright/dns (root, 0700)."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from . import dkim_life, dkim_state
from .commands import run
from .files import make_directory, write_atomic
from .records import Known

__all__ = ["STATE", "known", "known_as_json", "remember", "remembered", "standing"]

DKIM: Final = Path("/var/lib/mailwright/dkim")
TLS: Final = Path("/var/lib/mailwright/tls")
STATE: Final = Path("/var/lib/mailwright/dns/published.json")


def known(dkim_path: Path = DKIM, tls_path: Path = TLS) -> Known:
    """Keys, certificates and addresses as they are. Raises OSError, ValueError."""
    # Here: host_facts needs this file on hosts without python3-cryptography.
    from . import certificate, dkim

    digests = certificate.tlsa_digests(tls_path) if tls_path.is_dir() else {}
    return Known(dkim.published(dkim_path), digests, _addresses())


def known_as_json(found: Known) -> dict[str, Any]:
    """The same as JSON types."""
    return {"dkim": list(found.dkim or ()), "tlsa": dict(found.tlsa or {}), "addresses": list(found.addresses or ())}


def _addresses() -> list[str]:
    """Addresses that the whole Internet can reach: neither private nor for a while only (RFC 8981)."""
    status, output = run(["ip", "-json", "address", "show", "scope", "global"])
    entries = [entry for link in (json.loads(output) if status == 0 else ()) for entry in link.get("addr_info", ())]
    # Links without such an address leave an empty entry.
    kept = (entry["local"] for entry in entries if "local" in entry and not entry.get("temporary") and not entry.get("deprecated"))
    found = [address for address in kept if ipaddress.ip_address(address).is_global]
    return sorted(found, key=lambda address: (":" in address, address))


def _watched(dkim_path: Path, tls_path: Path) -> str:
    """Digest of what `known` is made from; much cheaper than reading keys and certificates."""
    digest = hashlib.sha256()
    state = dkim_state.read(dkim_path)
    for row in dkim_life.published(state.keys) if state is not None else ():
        digest.update(f"{row['name']} {row['value']}\n".encode())
    # Beside the certificates: what is known of keys to come and keys that were.
    for path in sorted([*tls_path.glob("*/fullchain.pem"), *tls_path.glob("*.json"), tls_path / "provisional"]):
        with suppress(OSError):
            content = path.read_bytes()
            digest.update(f"{path} {hashlib.sha256(content).hexdigest()} {_is_over(content)}\n".encode())
    return digest.hexdigest()


def _is_over(content: bytes) -> bool:
    """Whether the time of a former key has passed: its record goes without any file having changed."""
    with suppress(ValueError, TypeError, KeyError):
        return dt.datetime.fromisoformat(json.loads(content)["until"]) <= dt.datetime.now(dt.UTC)
    return False


def remember(seal: str, zones: list[str], *, complete: bool, state: Path = STATE, dkim_path: Path = DKIM, tls_path: Path = TLS) -> None:
    """Keep what was published; `complete`: with nothing left to do."""
    make_directory(state.parent, mode=0o700)
    document = {"seal": seal if complete else "", "watched": _watched(dkim_path, tls_path), "zones": zones}
    write_atomic(state, json.dumps(document).encode(), mode=0o600)


def remembered(state: Path = STATE) -> Mapping[str, Any]:
    """The last time; empty where there was none."""
    try:
        found = json.loads(state.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def standing(state: Path = STATE, dkim_path: Path = DKIM, tls_path: Path = TLS) -> str:
    """The seal of what was published, while keys and certificates are the same; empty otherwise."""
    found = remembered(state)
    seal = found.get("seal")
    return seal if isinstance(seal, str) and seal and found.get("watched") == _watched(dkim_path, tls_path) else ""
