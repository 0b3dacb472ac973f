# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Names in the file system and what has them: files, links, or nothing; read, made so, and kept for the way back."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import link_atomic, remove_file, write_atomic


class Entry(NamedTuple):
    """What has a name in the file system: `kind` is absent, file, link, directory or other."""

    kind: str
    data: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""


ABSENT = Entry("absent")
# Seconds. Postfix takes a file that was modified a moment ago for one that is still being written, and waits for up to two seconds in
# each command and daemon that reads it (dict_load_file_xt() of its source: "pausing to let it cool down").
SETTLED = 3.0


def read_entry(path: Path) -> Entry:
    """What has the name `path`, links not followed. Raises OSError."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return Entry("link", target=str(path.readlink()))
        if stat.S_ISREG(found.st_mode):
            return Entry("file", path.read_bytes(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        return Entry("directory" if stat.S_ISDIR(found.st_mode) else "other")
    except FileNotFoundError:
        return ABSENT


def put_entry(path: Path, entry: Entry) -> None:
    """Make `path` what `entry` says. Raises OSError."""
    if entry.kind == "absent":
        with contextlib.suppress(NotADirectoryError):
            remove_file(path)
    elif entry.kind == "link":
        link_atomic(path, entry.target)
    else:
        write_atomic(path, entry.data, mode=entry.mode, uid=entry.uid, gid=entry.gid, age=SETTLED)


def store_entry(directory: Path, entry: Entry) -> dict[str, Any]:
    """Describe `entry` for JSON, its content kept as a file of `directory`. Raises OSError."""
    if entry.kind != "file":
        return {"kind": entry.kind, "target": entry.target}
    blob = hashlib.sha256(entry.data).hexdigest()
    if not (directory / blob).exists():
        write_atomic(directory / blob, entry.data, mode=0o600)
    return {"kind": "file", "blob": blob, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid}


def load_entry(directory: Path, stored: Mapping[str, Any]) -> Entry:
    """The inverse of store_entry. Raises OSError."""
    if stored["kind"] != "file":
        return Entry(stored["kind"], target=stored.get("target", ""))
    return Entry("file", (directory / stored["blob"]).read_bytes(), stored["mode"], stored["uid"], stored["gid"])
