# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""DKIM keys as a module of Ansible makes them and tells of them: alone (dkim_keys), or along with the mail data (mail_directory)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import dkim_life, dkim_state
from .errors import Invalid
from .plan import rows_of

try:
    from . import dkim

    MISSING = ""
except ImportError as error:
    # On a bare host in check mode the package is not there yet, and neither is any key.
    MISSING = f"python3-cryptography is needed on this host: {error}"

__all__ = ["key_step"]


@contextlib.contextmanager
def key_step(options: Mapping[str, Any], path: Path, *, check_mode: bool = False) -> Iterator[Callable[[], dict[str, Any]]]:
    """Begin to make the keys that are missing, on other cores, while the caller does something else; yields what makes them so.

    `options` are those of dkim_keys, of which `keys` is needed. What is yielded writes the keys and returns what is told of them.
    Both raise Invalid, LockedError, OSError.
    """
    rows = rows_of(options["keys"], list)
    if MISSING:
        if not check_mode:
            raise Invalid(MISSING)
        yield lambda: _to_come(rows)
        return
    revoked, age = options.get("revoke") or None, options.get("rotation_age") or None
    rotation = dkim.Rotation(age, options.get("rotate", False), frozenset(options.get("rotate_domains", ())) or None, revoked)
    owner, group = options.get("owner", "root"), options.get("group", "_rspamd")
    now = int(time.time())
    foreseen = dkim.apply(rows, path, owner, group, rotation=rotation, now=now, check_mode=True)
    with dkim.in_the_making({} if check_mode else foreseen.missing) as made:

        def make() -> dict[str, Any]:
            done = dkim.apply(rows, path, owner, group, rotation=rotation, now=now, check_mode=check_mode, make=made)
            return _told(done, dkim_state.seal_digest(path))

        yield make


def _told(done: dkim.Done, digest: str) -> dict[str, Any]:
    # Those that are still to be made have no record yet.
    prepared = sorted(key.name for key in done.keys if key.state == "prepared" and key.name in {*done.plan.added, *done.plan.changed})
    records = [{"name": row["name"], "type": "TXT", "value": row["value"]} for row in dkim_life.published(done.keys) if row["value"]]
    return {
        **done.plan.names(),
        "changed": done.changed,
        "prepared": prepared,
        "made": sorted(key.name for key in done.keys if key.file in done.missing),
        "records": records,
        "zone": [dkim_life.zone_line(row["name"], row["value"]) for row in records],
        "digest": digest,
        "diff": {"prepared": "".join(f"{line}\n" for line in done.plan.lines())},
    }


def _to_come(rows: list[Any]) -> dict[str, Any]:
    names = sorted(f"{row.get('selector') or row.get('algorithm')}._domainkey.{row.get('domain')}" for row in rows)
    return {
        "changed": bool(names),
        "added": names,
        "changed_names": [],
        "prepared": names,
        "made": names,
        "removed": [],
        "records": [],
        "zone": [],
        "digest": "",
        "diff": {"prepared": "".join(f"+ {name}\n" for name in names)},
    }
