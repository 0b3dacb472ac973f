# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Seals: digests of what a task asked for, kept on the host beside what it made.

While what it made is untouched (see `host_facts`), a task that asks for the same again has nothing to do there, and its action
plugin, which computes the seal anew, saves the round trip.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["code_version", "seal", "secret_seal", "slow_digest"]


def code_version(project: Path) -> str:
    """Digest of the code that carries requests out: what another version made is compared anew."""
    digest = hashlib.sha256()
    for path in sorted([*(project / "module_utils" / "mailwright").glob("*.py"), *(project / "library").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def seal(request: object, code: str = "") -> str:
    """SHA-256 of a request of JSON types; `code` stands for the version of the program that carries it out."""
    return hashlib.sha256(_canonical(request, code)).hexdigest()


def secret_seal(request: object, salt: str, code: str = "") -> str:
    """The same for a request with passwords in it."""
    return slow_digest(_canonical(request, code), salt)


def slow_digest(data: bytes, salt: str) -> str:
    """scrypt (RFC 7914, 64 MiB) with a salt in hexadecimal: tells passwords no sooner than their hashes do (hashing.py)."""
    return hashlib.scrypt(data, salt=bytes.fromhex(salt), n=2**16, r=8, p=1, maxmem=2**27).hex()


def _canonical(request: object, code: str) -> bytes:
    return json.dumps([code, request], sort_keys=True, separators=(",", ":")).encode()
