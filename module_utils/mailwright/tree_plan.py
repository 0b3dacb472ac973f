# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""The difference between a tree and the host it is for; nothing is written here."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .entries import ABSENT, Entry, load_entry, read_entry
from .tree import Attribute, Tree, TreeError, account_of, attribute_of
from .units import State, plan_unit, unit_states


class Wanted(NamedTuple):
    """One file as rendered; `uid` or `gid` is None while the package that makes the account is missing."""

    data: bytes
    attribute: Attribute
    uid: int | None
    gid: int | None

    @property
    def fingerprint(self) -> str:
        """Of content, owner and mode."""
        return hashlib.sha256(f"{self.attribute}\n".encode() + self.data).hexdigest()

    @property
    def entry(self) -> Entry:
        """As it is to be live; an account that does not exist becomes root."""
        return Entry("file", self.data, self.attribute.mode, self.uid or 0, self.gid or 0)

    def is_live(self, live: Entry) -> bool:
        """Whether `live` is this file exactly."""
        return self.uid is not None and self.gid is not None and live == self.entry


@dataclass
class Plan:
    """The difference between a tree and the host."""

    writes: dict[str, Entry] = field(default_factory=dict)  # path → what is live
    removals: dict[str, Entry] = field(default_factory=dict)  # path → what is live
    restored: dict[str, Entry] = field(default_factory=dict)  # removed path → what was there before Mailwright
    directories: list[str] = field(default_factory=list)  # to be made or corrected
    pending: list[str] = field(default_factory=list)  # differ from what was last proven live
    watched: dict[str, str] = field(default_factory=dict)
    watch_actions: list[str | None] = field(default_factory=list)
    states: Mapping[str, State] = field(default_factory=dict)
    actions: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # sentences about accounts


def wanted_files(tree: Tree) -> dict[str, Wanted]:
    """{path: rendered file with its attributes}, accounts looked up on this host."""
    attributes = {path: attribute_of(path, tree.attributes) for path in sorted(tree.files)}
    return {path: Wanted(tree.files[path].encode(), a, *account_of(a)) for path, a in attributes.items()}


def watch_fingerprint(pattern: str) -> str:
    """Of names and contents of the files that match, and of the files below directories that match."""
    digest = hashlib.sha256()
    for path in sorted(Path("/").glob(pattern.lstrip("/"))):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                digest.update(f"{file}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def make_plan(
    tree: Tree, wanted: Mapping[str, Wanted], manifest: Mapping[str, Any], state: Path, states: Mapping[str, State] | None = None
) -> Plan:
    """Everything that differs, nothing written; `states` of the units where they are known. Raises TreeError, UnitError, OSError."""
    plan = Plan()
    compare_files(plan, wanted, manifest, state)
    compare_directories(plan, tree, wanted)
    plan.watched = {watch.path: watch_fingerprint(watch.path) for watch in tree.watch}
    plan.watch_actions = [w.action for w in tree.watch if manifest["watched"].get(w.path) != plan.watched[w.path]]
    plan.states = unit_states(tree.units) if states is None else states
    proven = bool(manifest["proven"])
    for unit in tree.units:
        action = plan_unit(unit, plan.states, plan.pending, plan.watch_actions, proven)
        if action:
            plan.actions[unit.name] = action
    return plan


def compare_files(plan: Plan, wanted: Mapping[str, Wanted], manifest: Mapping[str, Any], state: Path) -> None:
    """Fill in writes, removals and what is pending. Raises TreeError where a name is taken by something else."""
    faults = []
    for path, want in wanted.items():
        try:
            live = read_entry(Path(path))
        except NotADirectoryError:
            faults.append(f"{path}: the directory it is to be in is a file on this host")
            continue
        if live.kind in ("directory", "other"):
            what = "a directory" if live.kind == "directory" else "a socket, pipe or device"
            faults.append(f"{path} is {what} on this host, and a file is to be written there")
        elif not want.is_live(live):
            plan.writes[path] = live
        if path in plan.writes or manifest["proven"].get(path) != want.fingerprint:
            plan.pending.append(path)
    if faults:
        raise TreeError("; ".join(faults))
    for path in sorted(set(manifest["files"]) - set(wanted)):
        before = load_entry(state / "originals", manifest["files"][path])
        live = ABSENT
        with contextlib.suppress(NotADirectoryError):
            live = read_entry(Path(path))
        if live.kind in ("file", "link", "absent") and live != before:
            plan.removals[path], plan.restored[path] = live, before
        if path in plan.removals or path in manifest["proven"]:
            plan.pending.append(path)


def compare_directories(plan: Plan, tree: Tree, wanted: Mapping[str, Wanted]) -> None:
    """Fill in the directories above the files that are missing or not as `attributes` say, and missing accounts."""
    attributes = {want.attribute for want in wanted.values()}
    for directory in sorted({str(parent) for path in wanted for parent in Path(path).parents}):
        attribute = attribute_of(directory.rstrip("/") + "/", tree.attributes)
        attributes.add(attribute)
        try:
            found = Path(directory).stat()
        except FileNotFoundError:
            plan.directories.append(directory)
            continue
        live = (found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode)
        if attribute in tree.attributes and live != (account_of(attribute), attribute.mode):
            plan.directories.append(directory)
    accounts = {attribute: account_of(attribute) for attribute in attributes}
    missing = {f"user {a.owner!r} does not exist on this host" for a, (uid, _) in accounts.items() if uid is None}
    missing |= {f"group {a.group!r} does not exist on this host" for a, (_, gid) in accounts.items() if gid is None}
    plan.missing = sorted(missing)
