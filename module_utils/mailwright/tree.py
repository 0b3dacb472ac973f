# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes one service's files equal to a rendered tree, as one transaction: the target side of `config_tree`.

Compare → stage and check → journal → swap → activate → probe → manifest, or back to what was. A tree's state directory
holds:

- `manifest.json`: `files` {path: what was there before Mailwright}, `directories` it made, and as of the last activation
  whose probes all answered `proven` {path: fingerprint}, `watched` {path: fingerprint}, and the `request` and `seal` it was made by
- `originals/`: the contents that `files` refers to
- `journal/`: what a transaction has replaced; exists only during one, or after one that was killed
- `previous/`: the journal of the last transaction that succeeded
"""

from __future__ import annotations

import contextlib
import functools
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from .commands import find_command, run, shorten
from .files import LOCK_PATH, fsync_directory, host_lock, link_atomic, make_directory, remove_file, write_atomic
from .probes import Probe, attempt
from .stage import InStage, check_staged
from .units import (
    SYSTEMD_DIRECTORY,
    State,
    Unit,
    UnitError,
    first_inactive,
    is_active,
    log_lines,
    matches,
    needs_enabling,
    plan_unit,
    systemctl,
    take_up,
    unit_states,
)

STATE_DIRECTORY = Path("/var/lib/mailwright/trees")


class TreeError(Exception):
    """The tree could not be made live; the message says which part failed and what the host serves now."""


class Attribute(NamedTuple):
    """Owner and mode of the files whose path matches the glob `path`, or of directories where it ends in a slash."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False

    def __str__(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"


class Watch(NamedTuple):
    """Files of others (path or glob) whose new content needs the units' own action, or the one named here."""

    path: str
    action: str | None = None


@dataclass(frozen=True)
class Tree:
    """Everything one `config_tree` task asks for; `files` is {absolute path: text}, times are seconds."""

    name: str
    files: Mapping[str, str]
    directories: Sequence[str] = ()
    attributes: Sequence[Attribute] = ()
    check: Sequence[Sequence[str]] = ()
    apply: Sequence[Sequence[str]] = ()
    units: Sequence[Unit] = ()
    watch: Sequence[Watch] = ()
    probe: Sequence[Probe] = ()
    probe_timeout: float = 10.0
    settle: float = 1.0
    # What this was parsed from, without the files, and the caller's digest of all of it.
    request: Mapping[str, Any] = field(default_factory=dict)
    seal: str = ""


@dataclass
class Result:
    """What was done, or in check mode would be. `units` is {name: enable, start, reload or restart}."""

    changed: bool = False
    changed_paths: list[str] = field(default_factory=list)
    removed_paths: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Entry(NamedTuple):
    """What has a name in the file system: `kind` is absent, file, link, directory or other."""

    kind: str
    data: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""


ABSENT = Entry("absent")


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


# --- what is asked for ---


def parse(parameters: Mapping[str, Any]) -> Tree:
    """The module's parameters as a Tree. Raises TreeError with every fault found."""
    faults: list[str] = []
    files: dict[str, str] = json.loads(parameters["files"])
    for path in [*files, *parameters["directories"]]:
        if not path.startswith("/") or path != os.path.normpath(path) or "\0" in path:
            faults.append(f"{path!r} is not a plain absolute path")
    attributes = []
    for given in parameters["attributes"]:
        if re.fullmatch(r"[0-7]{3,4}", given["mode"]):
            attributes.append(Attribute(given["path"], given["owner"], given["group"], int(given["mode"], 8), given["secret"]))
        else:
            faults.append(f"attributes: {given['path']}: mode {given['mode']!r} is not an octal number in quotes")
    probes = []
    for given in parameters["probe"]:
        if sum(given[key] is not None for key in ("port", "socket", "command")) != 1:
            faults.append("probe: an entry has not exactly one of port, socket and command")
        probes.append(Probe(**{**given, "command": tuple(given["command"] or ())}))
        try:
            re.compile(given["expect"] or "")
        except re.error as error:
            faults.append(f"probe: {probes[-1]}: expect {given['expect']!r}: {error}")
    commands = {key: [[str(word) for word in command] for command in parameters[key]] for key in ("check", "apply")}
    faults += [f"{key}: a command is empty" for key, given in commands.items() if not all(given)]
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", parameters["name"]):
        faults.append(f"name {parameters['name']!r} is not of a-z, 0-9, _ and -")
    if faults:
        raise TreeError("; ".join(faults))
    units = [
        Unit(u["name"], u["process"] or u["name"], u["action"], tuple(u["restart_on"]), tuple(u["paths"] or ("*",)))
        for u in parameters["units"]
    ]
    return Tree(
        name=parameters["name"],
        files=files,
        directories=parameters["directories"],
        attributes=attributes,
        **commands,
        units=units,
        watch=[Watch(**given) for given in parameters["watch"]],
        probe=probes,
        probe_timeout=parameters["probe_timeout"],
        settle=parameters["settle"],
        request={key: value for key, value in parameters.items() if key not in ("files", "seal")},
        seal=parameters.get("seal") or "",
    )


def attribute_of(path: str, attributes: Iterable[Attribute]) -> Attribute:
    """The first entry whose glob matches `path`, else the default; `path` of a directory ends in a slash."""
    for attribute in attributes:
        if attribute.path.endswith("/") == path.endswith("/") and matches(path, [attribute.path]):
            return attribute
    return Attribute(path, mode=0o755 if path.endswith("/") else 0o644)


def account_of(attribute: Attribute) -> tuple[int | None, int | None]:
    """The user's and the group's number, None where the account does not exist (yet)."""
    uid = gid = None
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(attribute.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(attribute.group).gr_gid
    return uid, gid


def wanted_files(tree: Tree) -> dict[str, Wanted]:
    """{path: rendered file with its attributes}, accounts looked up on this host."""
    attributes = {path: attribute_of(path, tree.attributes) for path in sorted(tree.files)}
    return {path: Wanted(tree.files[path].encode(), a, *account_of(a)) for path, a in attributes.items()}


# --- what is live, and what was ---


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
        write_atomic(path, entry.data, mode=entry.mode, uid=entry.uid, gid=entry.gid)


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


def watch_fingerprint(pattern: str) -> str:
    """Of names and contents of the files that match, and of the files below directories that match."""
    digest = hashlib.sha256()
    for path in sorted(Path("/").glob(pattern.lstrip("/"))):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                digest.update(f"{file}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


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


# --- comparing ---


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


# --- asking again ---


def standing(trees: Path = STATE_DIRECTORY) -> dict[str, str]:
    """{name: seal} of the trees that are as their last transaction left them: files, owners, watched files and units."""
    kept: dict[str, tuple[Tree, dict[str, Any]]] = {}
    for state in sorted(trees.glob("*")):
        # What cannot be read back is for the transaction to complain of.
        with contextlib.suppress(TreeError, OSError, ValueError, KeyError, TypeError):
            manifest = read_manifest(state)
            if manifest["seal"] and not read_journal(state)["entries"]:
                files = {path: Path(path).read_bytes().decode() for path in manifest["proven"]}
                kept[state.name] = parse({**manifest["request"], "files": json.dumps(files), "seal": manifest["seal"]}), manifest
    found = {}
    states = unit_states([unit for tree, _ in kept.values() for unit in tree.units])
    for name, (tree, manifest) in kept.items():
        with contextlib.suppress(TreeError, OSError):
            wanted = wanted_files(tree)
            plan = make_plan(tree, wanted, manifest, trees / name, states)
            if not result_of(tree, wanted, plan).changed and not plan.missing and not plan.watch_actions:
                found[name] = tree.seal
    return found


# --- telling ---


def describe(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> list[dict[str, str]]:
    """The plan as Ansible's diff, contents of secret files left out."""
    diff = []
    for path, live in plan.writes.items():
        attribute = wanted[path].attribute
        diff += diff_entries(path, live, wanted[path].entry, attribute.secret)
        if live.kind == "file" and describe_owner(live) != str(attribute):
            diff.append(diff_texts(f"{path} (owner and mode)", f"{describe_owner(live)}\n", f"{attribute}\n"))
    for path, live in plan.removals.items():
        # Whether it was secret is not recorded; what not everybody may read might be.
        secret = attribute_of(path, tree.attributes).secret or not live.mode & 0o004
        diff += diff_entries(path, live, plan.restored[path], secret)
    if plan.directories:
        diff.append(diff_texts("directories", "", "".join(f"{path}\n" for path in plan.directories)))
    if plan.actions:
        diff.append(diff_texts("units", "", "".join(f"{action} {name}\n" for name, action in plan.actions.items())))
    return diff


def diff_entries(path: str, before: Entry, after: Entry, secret: bool) -> list[dict[str, str]]:
    """One file's part of the diff, none where the contents are the same."""
    if (before.kind, before.data, before.target) == (after.kind, after.data, after.target):
        return []

    def show(entry: Entry, hidden: str) -> str:
        if entry.kind == "absent":
            return ""
        if entry.kind == "link":
            return f"(symbolic link to {entry.target})\n"
        return hidden if secret else entry.data.decode(errors="replace")

    return [diff_texts(path, show(before, "(secret, as it was)\n"), show(after, "(secret, different)\n"))]


def diff_texts(header: str, before: str, after: str) -> dict[str, str]:
    """One part of Ansible's diff."""
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def describe_owner(live: Entry) -> str:
    """Like an Attribute; numbers where there is no name."""
    user, group = str(live.uid), str(live.gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(live.uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(live.gid).gr_name
    return f"{user}:{group} {live.mode:04o}"


def secret_words(wanted: Mapping[str, Wanted], plan: Plan) -> list[str]:
    """What secret files, new and live, hold that no message may: all of a line but its key, words from 6 characters."""
    words: set[str] = set()
    for path, want in wanted.items():
        if not want.attribute.secret:
            continue
        live = plan.writes.get(path, ABSENT)
        for line in (want.data + b"\n" + live.data).decode(errors="replace").splitlines():
            found = [word for word in re.split(r"[\s\"'=;,{}<>]+", line) if word]
            if found and not found[0].startswith("#"):
                words.update(word for word in found[len(found) > 1 :] if len(word) >= 6)
    return sorted(words, key=len, reverse=True)


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets."""
    for word in secrets:
        text = text.replace(word, "********")
    return text


# --- the transaction ---


def transact(tree: Tree, *, check_mode: bool = False, state: Path | None = None, lock: Path = LOCK_PATH) -> Result:
    """Make the host equal to the tree and its units run on it, or leave both as they were and raise TreeError.

    In check mode say what would be done, and write nothing. Raises LockedError while another run is at work.
    """
    state = state or STATE_DIRECTORY / tree.name
    try:
        if check_mode:
            return rehearse(tree, state)
        with host_lock(path=lock):
            return perform(tree, state)
    except UnitError as error:
        raise TreeError(str(error)) from error
    except OSError as error:
        raise TreeError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def rehearse(tree: Tree, state: Path) -> Result:
    """The plan, and the checks that can run before the service's packages are there."""
    wanted = wanted_files(tree)
    plan = make_plan(tree, wanted, read_manifest(state), state)
    result = result_of(tree, wanted, plan)
    absent = [directory for directory in tree.directories if not Path(directory).is_dir()]
    runnable = []
    for command in tree.check if plan.pending else ():
        if absent:
            result.notes.append(f"not run: {' '.join(command)}: {absent[0]} does not exist yet")
        elif not find_command(command[0]):
            result.notes.append(f"not run: {' '.join(command)}: {command[0]} is not installed yet")
        else:
            runnable.append(command)
    check(replace(tree, check=runnable), wanted, plan)
    return result


def perform(tree: Tree, state: Path) -> Result:
    """The whole of it; the caller holds the host's lock."""
    wanted = wanted_files(tree)
    manifest, journal = read_manifest(state), read_journal(state)
    plan = make_plan(tree, wanted, manifest, state)
    result = result_of(tree, wanted, plan)
    if plan.missing:
        raise TreeError("; ".join(plan.missing))
    if not result.changed and not journal["entries"]:
        if set(manifest["files"]) != set(wanted) or manifest["watched"] != plan.watched or manifest["seal"] != tree.seal:
            record_proof(tree, state, wanted, plan)
        return result
    words = secret_words(wanted, plan)
    made: list[str] = []
    try:
        if plan.pending and tree.check:
            made = prepare_check(tree)
            check(tree, wanted, plan)
    except (TreeError, OSError) as error:
        remove_empty(made)
        note = "Nothing was changed."
        if journal["entries"]:
            note = f"An earlier run was interrupted; {roll_back(tree, state, journal, plan)}"
        raise TreeError(hide(f"{error}\n{note}", words)) from None
    started = time.time()
    try:
        journal = open_journal(state, journal, manifest, plan, made)
        swap(tree, wanted, manifest, plan, state, journal)
        activate(tree, plan)
        prove(tree, plan)
    except (TreeError, UnitError, OSError) as error:
        log = log_lines(tree.units, started)
        parts = [str(error), f"Last log lines:\n{log}" if log else "", roll_back(tree, state, journal, plan)]
        raise TreeError(hide("\n".join(part for part in parts if part), words)) from None
    record_proof(tree, state, wanted, plan)
    return result


def result_of(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> Result:
    """What the caller is told of a plan that succeeds."""
    return Result(
        changed=bool(plan.pending or plan.removals or plan.directories or plan.actions),
        changed_paths=list(plan.writes),
        removed_paths=list(plan.removals),
        units=dict(plan.actions),
        diff=describe(tree, wanted, plan),
    )


def prepare_check(tree: Tree) -> list[str]:
    """Make what a check needs; the directories that were made. Raises TreeError, OSError."""
    for command in tree.check:
        if not find_command(command[0]):
            raise TreeError(f"check {' '.join(command)!r}: the command is not installed")
    return [made for directory in tree.directories for made in put_directory(directory, tree)]


def check(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Run the checks on the staged files. Raises TreeError, secrets left out."""

    def arrange(in_stage: InStage) -> None:
        for path in plan.directories:
            if in_stage(path):
                put_directory(path, tree)
        for path, entry in plan.restored.items():
            if in_stage(path):
                put_entry(Path(path), entry)
        for path in plan.writes:
            if in_stage(path):
                put_entry(Path(path), wanted[path].entry)

    if tree.check:
        faults = check_staged(tree.directories, arrange, tree.check)
        if faults:
            raise TreeError(hide("\n".join(faults), secret_words(wanted, plan)))


def put_directory(path: str, tree: Tree) -> list[str]:
    """Make the directory and its parents, or correct it, as `attributes` say; those that were missing. Raises OSError."""
    missing = [str(parent) for parent in reversed([Path(path), *Path(path).parents]) if not parent.exists()]
    for directory in missing or [path]:
        attribute = attribute_of(directory.rstrip("/") + "/", tree.attributes)
        if missing or attribute in tree.attributes:
            uid, gid = account_of(attribute)
            make_directory(Path(os.path.realpath(directory)), mode=attribute.mode, uid=uid or 0, gid=gid or 0)
    return missing


def remove_empty(directories: Iterable[str]) -> None:
    """Remove the directories that are empty, deepest first."""
    for directory in sorted(directories, key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


def open_journal(state: Path, earlier: dict[str, Any], manifest: Mapping[str, Any], plan: Plan, made: Iterable[str]) -> dict[str, Any]:
    """Write down what is about to be replaced; what an interrupted run wrote down wins, being nearer to what was proven.

    Where no file changes there is nothing to go back to and no journal. Raises OSError.
    """
    replaced = plan.writes | plan.removals
    if not replaced and not earlier["entries"]:
        return earlier
    directory = state / "journal"
    make_directory(state, mode=0o700)
    make_directory(directory, mode=0o700)
    absent = {path for path in plan.directories if not Path(path).exists()}
    units = {n: {"active": is_active(s), "enabled": not needs_enabling(s)} for n, s in plan.states.items()}
    journal = {
        "entries": {path: store_entry(directory, live) for path, live in replaced.items()} | earlier["entries"],
        "directories": sorted(absent | {*made} | {*earlier["directories"]}),
        "manifest": earlier["manifest"] or manifest,
        "units": units | earlier["units"],
    }
    write_json(directory / "journal.json", journal)
    return journal


def swap(
    tree: Tree,
    wanted: Mapping[str, Wanted],
    manifest: Mapping[str, Any],
    plan: Plan,
    state: Path,
    journal: Mapping[str, Any],
) -> None:
    """Put the new files in place, having recorded that they are ours. Raises OSError."""
    make_directory(state, mode=0o700)
    make_directory(state / "originals", mode=0o700)
    files = dict(manifest["files"])
    for path in wanted:
        if path not in files:
            # What equals the rendered file already was ours before the manifest was lost.
            files[path] = store_entry(state / "originals", plan.writes.get(path, ABSENT))
    directories = sorted({*manifest["directories"], *journal["directories"]})
    write_json(state / "manifest.json", {**manifest, "files": files, "directories": directories})
    for path in plan.directories:
        put_directory(path, tree)
    for path in plan.writes:
        put_entry(Path(path), wanted[path].entry)
    for path, before in plan.restored.items():
        put_entry(Path(path), before)
    remove_empty(d for d in directories if not any(path.startswith(f"{d}/") for path in wanted))


def record_proof(tree: Tree, state: Path, wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Record the tree as live and answering, and keep the journal as the previous generation. Raises OSError."""
    make_directory(state, mode=0o700)
    current = read_manifest(state)
    files = {path: current["files"].get(path, {"kind": "absent"}) for path in wanted}
    manifest = {
        "files": files,
        "directories": [d for d in current["directories"] if any(path.startswith(f"{d}/") for path in wanted)],
        "proven": {path: want.fingerprint for path, want in wanted.items()},
        "watched": plan.watched,
        "request": tree.request,
        "seal": tree.seal,
    }
    write_json(state / "manifest.json", manifest)
    used = {stored.get("blob") for stored in files.values()}
    for blob in (state / "originals").glob("*"):
        if blob.name not in used:
            blob.unlink()
    if (state / "journal").is_dir():
        shutil.rmtree(state / "previous", ignore_errors=True)
        (state / "journal").rename(state / "previous")
        fsync_directory(state)


# --- activation and proof ---


def activate(tree: Tree, plan: Plan) -> None:
    """Have the units take the new files up. Raises TreeError, UnitError."""
    if any(path.startswith(SYSTEMD_DIRECTORY) for path in plan.pending) or any(
        state.get("NeedDaemonReload") == "yes" for state in plan.states.values()
    ):
        systemctl("daemon-reload")
    if plan.pending:
        run_apply(tree)
    # Units may have come into being just now.
    states = unit_states(tree.units) if plan.actions else {}
    for unit in tree.units:
        if unit.name in plan.actions:
            take_up(unit, plan.actions[unit.name], states)


def run_apply(tree: Tree) -> None:
    """Run the apply commands. Raises TreeError at the first that fails."""
    for command in tree.apply:
        status, output = run(command)
        if status:
            raise TreeError(f"apply {' '.join(command)!r} failed ({status}): {shorten(output)}")


def prove(tree: Tree, plan: Plan) -> None:
    """Wait until every probe succeeds and every unit is active, together for at most probe_timeout. Raises TreeError.

    A reload returns before the daemon has read its files, and until then the old configuration answers; a simple service is
    active from its start, also when it fails over its files a moment later: both get the time to settle.
    """
    if not plan.actions and not plan.pending:
        return
    settled = time.monotonic() + tree.settle
    if "reload" in plan.actions.values() and tree.probe:
        time.sleep(tree.settle)  # as above: nothing says that the new configuration answers
    until = time.monotonic() + tree.probe_timeout
    for probe in tree.probe:
        wait_for(functools.partial(attempt, probe, until), tree, until)
    changed = [unit for unit in tree.units if unit.name in plan.actions]
    if any(state.get("Type") in ("simple", "exec") for state in unit_states(changed).values()):
        time.sleep(max(settled - time.monotonic(), 0))  # as above
    wait_for(lambda: first_inactive(unit_states(tree.units)), tree, until)


def wait_for(complaint_of: Callable[[], str | None], tree: Tree, until: float) -> None:
    """Repeat until there is no complaint. Raises TreeError with the last one at `until`, or once a unit has failed."""
    pause = 0.05
    while complaint := complaint_of():
        dead = [name for name, found in unit_states(tree.units).items() if found.get("ActiveState") == "failed"]
        if dead:
            raise TreeError(f"unit {', '.join(dead)} failed; {complaint}")
        if time.monotonic() + pause >= until:
            raise TreeError(f"{complaint} (tried for {tree.probe_timeout:g} s)")
        time.sleep(pause)  # between two probes
        pause = min(pause * 2, 0.5)


# --- the way back ---


def roll_back(tree: Tree, state: Path, journal: Mapping[str, Any], plan: Plan) -> str:
    """Put everything the journal names back and have the units take it up; a sentence about how that went.

    On a tree that was never proven, units go back to how they were found, too.
    """
    if not journal["entries"]:
        return "No file was changed."
    proven = bool(journal["manifest"]["proven"])
    known = {unit: journal["units"][unit.name] for unit in tree.units if unit.name in journal["units"]}
    faults = []

    def try_to(step: Callable[[], None]) -> None:
        try:
            step()
        except (TreeError, UnitError, OSError) as error:
            faults.append(str(error))

    # Before their unit files go.
    for unit, before in known.items():
        if unit.name in plan.actions and not proven:
            if not before["active"]:
                try_to(functools.partial(systemctl, "stop", unit.name))
                # Whatever it says: a unit that has not failed is as good.
                run(["systemctl", "reset-failed", "--", unit.name])
            if not before["enabled"]:
                try_to(functools.partial(systemctl, "disable", unit.name))
    for path, stored in journal["entries"].items():
        try_to(functools.partial(restore, Path(path), state / "journal", stored))
    remove_empty(journal["directories"])
    if any(path.startswith(SYSTEMD_DIRECTORY) for path in journal["entries"]):
        try_to(functools.partial(systemctl, "daemon-reload"))
    if proven:
        try_to(functools.partial(run_apply, tree))
    for unit, before in known.items():
        if unit.name in plan.actions and (proven or before["active"]):
            try_to(functools.partial(return_to, unit, plan.actions[unit.name]))
    if faults:
        # The journal stays, so that the next run knows.
        return f"The previous configuration could not be made live again: {'; '.join(faults)}"
    write_json(state / "manifest.json", journal["manifest"])
    shutil.rmtree(state / "journal")
    fsync_directory(state)
    if not proven:
        return "The previous configuration is back; Mailwright never had this one live."
    try_to(functools.partial(prove, tree, plan))
    # A probe can be about what is new.
    return "The previous configuration is back" + (f", but: {faults[0]}" if faults else " and answers.")


def restore(path: Path, blobs: Path, stored: Mapping[str, Any]) -> None:
    """Put one file of the journal back. Raises OSError."""
    put_entry(path, load_entry(blobs, stored))


def return_to(unit: Unit, action: str) -> None:
    """Have a unit take the previous files up again. Raises UnitError."""
    states = unit_states([unit])
    down = any(not is_active(found) for found in states.values())
    take_up(unit, "start" if down else "reload" if action == "reload" else "restart", states)
