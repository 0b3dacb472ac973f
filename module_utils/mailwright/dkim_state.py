# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What a host remembers of its DKIM keys, and what it tells the filter; without the keys themselves, which are dkim.py's.

`state.json` (root only) holds the keys with their states (dkim_life.py), the SHA-256 of every key file, since reading a thousand RSA keys
takes a minute, and that of the signing set the filter was last seen to use. `signing.conf` is that set as Rspamd includes it,
`sealing.conf` the one for ARC.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from . import dkim_life
from .errors import Invalid
from .files import directory_digest, write_atomic

__all__ = ["SEALING", "SIGNING", "STATE", "State", "is_pending", "read", "seal_digest", "sealing_text", "signing_text", "write"]

STATE: Final = "state.json"
SIGNING: Final = "signing.conf"
SEALING: Final = "sealing.conf"
VERSION: Final = 1


@dataclass
class State:
    """`files`: {name: SHA-256}. `loaded`: the SHA-256 of the signing set that the filter uses, as far as it is known."""

    keys: list[dkim_life.Key] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    loaded: str = ""


def read(path: Path) -> State | None:
    """The state below the directory `path`; None where there is none. Raises Invalid where it cannot be read, OSError."""
    try:
        text = (path / STATE).read_text()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise Invalid(f"{path / STATE}: written by a newer version of Mailwright", "run that one")
        return State(dkim_life.load_keys(found["keys"]), dict(found["files"]), str(found["loaded"]))
    except (ValueError, KeyError, TypeError) as error:
        # To begin anew would mean to forget which keys were proven.
        raise Invalid(
            f"{path / STATE} is damaged ({error})", "restore it, or remove it: the keys there are will count as signing"
        ) from None


def write(path: Path, state: State) -> bool:
    """Write the state down; true where it is another one."""
    text = json.dumps(
        {"version": VERSION, "keys": [asdict(key) for key in state.keys], "files": state.files, "loaded": state.loaded}, indent=1
    )
    try:
        if (path / STATE).read_text() == text:
            return False
    except FileNotFoundError:
        pass
    write_atomic(path / STATE, text.encode(), mode=0o600)
    return True


def sealing_text(path: Path, keys: Iterable[dkim_life.Key]) -> str:
    """The same for ARC, which knows RSA only (RFC 8617, 4.1.3) and seals once: the newest key of a domain."""
    newest: dict[str, dkim_life.Key] = {}
    for key in keys:
        if key.state == "signing" and key.algorithm == "rsa" and (key.domain not in newest or newest[key.domain].made < key.made):
            newest[key.domain] = key
    return signing_text(path, newest.values())


def signing_text(path: Path, keys: Iterable[dkim_life.Key]) -> str:
    """The contents of Rspamd's `domain { }` (UCL). Names were checked when the keys came to be: labels and dots."""
    lines = []
    for domain, mine in dkim_life.signing(keys).items():
        lines.append(f'"{domain}" {{\n  selectors [')
        lines += [f'    {{ selector = "{key.selector}"; path = "{path / key.file}"; }},' for key in mine]
        lines.append("  ]\n}")
    return "".join(f"{line}\n" for line in lines)


def signing_digest(path: Path, keys: Iterable[dkim_life.Key]) -> str:
    """SHA-256 of the signing set."""
    return hashlib.sha256(signing_text(path, keys).encode()).hexdigest()


def is_pending(path: Path, now: float | None = None) -> bool:
    """Whether a run has anything to ask, to switch, to tell the filter or to remove. Raises Invalid, OSError."""
    state = read(path)
    return state is not None and (
        dkim_life.is_due(state.keys, int(time.time() if now is None else now)) or state.loaded != signing_digest(path, state.keys)
    )


def seal_digest(path: Path, now: float | None = None) -> str:
    """Digest of what `dkim_keys` makes; empty where it has to look again: without a state, or when a key's time is over."""
    try:
        state = read(path)
    except Invalid:
        return ""
    if state is None or dkim_life.expire(state.keys, int(time.time() if now is None else now))[1]:
        return ""
    return directory_digest(path, "*.key")
