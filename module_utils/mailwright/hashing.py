# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Passwords on the host: clear text becomes an ARGON2ID hash once, and the hash stays as long as it verifies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from .errors import Invalid
from .proofs import Proofs

try:
    import argon2
except ImportError:  # a bare host in check mode
    argon2 = None  # type: ignore[assignment,unused-ignore]

__all__ = ["UNKNOWN", "Credential", "hash_password", "resolve", "verifies"]

SCHEME: Final = "{ARGON2ID}"
# Stands for a hash that check mode does not compute.
UNKNOWN: Final = SCHEME + "(new)"


@dataclass(frozen=True)
class Credential:
    """What the inventory says of one mailbox: clear text or a hash, and whether it owns the password (`always`) or seeds it."""

    password: str | None
    password_hash: str | None
    update: str


def _hasher() -> argon2.PasswordHasher:
    """What `doveadm pw -s ARGON2ID` makes: 64 MiB, three passes, one lane."""
    return argon2.PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1, hash_len=32, salt_len=16)


def hash_password(password: str) -> str:
    """`{ARGON2ID}$argon2id$…` with a fresh salt."""
    return SCHEME + _hasher().hash(password)


def verifies(stored: str, password: str) -> bool:
    """Whether `stored` is an ARGON2ID hash of this password with the parameters of today."""
    if not stored.startswith(SCHEME + "$argon2id$"):
        return False
    hasher = _hasher()
    text = stored[len(SCHEME) :]
    try:
        return hasher.verify(text, password) and not hasher.check_needs_rehash(text)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHash):
        return False


def resolve(
    wanted: Mapping[str, Credential], stored: Mapping[str, str], *, check_mode: bool = False, proofs: Proofs | None = None
) -> dict[str, str]:
    """The hash each name is to have. In check mode a new one is UNKNOWN, and a bare host's are taken to verify.

    What `proofs` know is not verified again, and they are brought up to date.
    Raises Invalid where a clear text has to be hashed and python3-argon2 is missing, or a name has neither text nor hash; OSError.
    """
    proven: set[str] = set()

    def one(name: str) -> str:
        credential = wanted[name]
        existing = stored.get(name, "")
        if existing and credential.update == "on_create":
            return existing
        if credential.password_hash is not None:
            return credential.password_hash
        if credential.password is None:
            raise Invalid(f"{name}: a password or a password_hash is needed")
        if name in proven:
            return existing
        if existing and ((check_mode and argon2 is None) or (argon2 is not None and verifies(existing, credential.password))):
            return existing
        if check_mode:
            return UNKNOWN
        if argon2 is None:
            raise Invalid("python3-argon2 is not installed on this host, and passwords have to be hashed")
        return hash_password(credential.password)

    clear = {
        name: credential.password
        for name, credential in wanted.items()
        if credential.password is not None and not (credential.update == "on_create" and stored.get(name))
    }
    if not clear:
        if proofs is not None and not check_mode:
            proofs.keep({})
        return {name: one(name) for name in wanted}
    if proofs is not None:
        proven = proofs.proven({name: (password, stored[name]) for name, password in clear.items() if stored.get(name)})
    # argon2 lets other threads run while it works; each takes 64 MiB.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(wanted, pool.map(one, wanted), strict=True))
    if proofs is not None and not check_mode:
        proofs.keep({name: (password, found[name]) for name, password in clear.items()})
    return found
