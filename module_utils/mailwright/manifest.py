# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What the state directory of a tree holds:

- `manifest.json`: `files` {path: what was there before Mailwright}, `directories` it made, and as of the last activation
  whose probes all answered `proven` {path: fingerprint}, `watched` {path: fingerprint}, and the `request` and `seal` it was made by
- `originals/`: the contents that `files` refers to
- `journal/`: what a transaction has replaced; exists only during one, or after one that was killed
- `previous/`: the journal of the last transaction that succeeded
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_atomic
from .tree import TreeError

STATE_DIRECTORY = Path("/var/lib/mailwright/trees")


def read_json(path: Path, empty: dict[str, Any]) -> dict[str, Any]:
    """The mapping in the file, laid over `empty`. Raises TreeError where it is damaged, OSError."""
    try:
        return {**empty, **json.loads(path.read_bytes())}
    except FileNotFoundError:
        return empty
    except ValueError as error:
        raise TreeError(f"{path} is damaged ({error}); move it away and run again") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write it durably, for root's eyes. Raises OSError."""
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True).encode(), mode=0o600)


def read_manifest(state: Path) -> dict[str, Any]:
    """The manifest, or an empty one. Raises TreeError, OSError."""
    return read_json(state / "manifest.json", {"files": {}, "directories": [], "proven": {}, "watched": {}, "request": {}, "seal": ""})


def read_journal(state: Path) -> dict[str, Any]:
    """The journal of a transaction that was killed, or an empty one. Raises TreeError, OSError."""
    return read_json(state / "journal" / "journal.json", {"entries": {}, "directories": [], "manifest": None, "units": {}})
