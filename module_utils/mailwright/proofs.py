# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Proof, without verifying each, that kept password hashes are those of the passwords in the inventory.

A proof is scrypt over all (address, password, hash) of a group, under a salt of its own. Who reads the file can test a guess at one
password only if he knows all the others of its group, and pays for it what testing it on the hash costs: the file tells no more than
the hashes do. There is one proof of everything, and one of each of about √n groups: where a password changed, the others of its
group are verified one by one, and no more.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from .files import make_directory, write_atomic
from .seal import slow_digest

__all__ = ["Proofs"]

# (password, hash) by address.
Known = Mapping[str, tuple[str, str]]
# So few are verified as fast.
FEW: Final = 4


@dataclass(frozen=True)
class _Proof:
    members: list[str]
    salt: str
    digest: str

    def holds(self, known: Known) -> bool:
        return all(name in known for name in self.members) and hmac.compare_digest(self.digest, _digest(self.members, self.salt, known))


def _digest(members: Iterable[str], salt: str, known: Known) -> str:
    return slow_digest(json.dumps([[name, *known[name]] for name in members]).encode(), salt)


def _prove(members: Collection[str], known: Known) -> _Proof:
    salt = secrets.token_hex(16)
    return _Proof(list(members), salt, _digest(members, salt, known))


class Proofs:
    """The file of proofs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: list[_Proof] = []
        self._unchanged: list[str] = []

    def proven(self, known: Known) -> set[str]:
        """The addresses whose password and hash are those of the last `keep`."""
        if len(known) <= FEW:
            return set()
        whole, *groups = self._read() or [_Proof([], "", "")]
        if whole.members and whole.holds(known):
            self._held, self._unchanged = groups, whole.members
            return set(whole.members)
        # scrypt lets other threads run; each takes 64 MiB.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            self._held = [group for group, holds in zip(groups, pool.map(lambda group: group.holds(known), groups), strict=True) if holds]
        return {name for group in self._held for name in group.members}

    def keep(self, known: Known) -> None:
        """Make proofs for the next time; what was just proven is not proven again. Raises OSError."""
        if len(known) <= FEW:
            self._path.unlink(missing_ok=True)
            return
        if self._unchanged and known.keys() == set(self._unchanged):
            return
        size = math.isqrt(len(known)) + 1
        groups = self._held
        if len(groups) > 2 * size + 4:
            # Each run that adds one makes one more.
            groups = []
        new = sorted(known.keys() - {name for group in groups for name in group.members})
        parts = [sorted(known), *(new[start : start + size] for start in range(0, len(new), size))]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            whole, *made = pool.map(lambda members: _prove(members, known), parts)
        make_directory(self._path.parent, mode=0o700)
        write_atomic(self._path, json.dumps([asdict(proof) for proof in (whole, *groups, *made)]).encode(), mode=0o600)

    def _read(self) -> list[_Proof]:
        try:
            return [_Proof(**entry) for entry in json.loads(self._path.read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            return []
