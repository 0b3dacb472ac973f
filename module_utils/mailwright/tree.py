# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes one service's files equal to a rendered tree as one transaction: the target side of `config_tree`.

compare → stage and check in a private mount namespace → journal → swap → activate → probe → manifest, or back to what
was. A tree's state directory holds:

- `manifest.json`: `files` {path: what was there before Mailwright}, `directories` it made, and as of the last
  activation whose probes all answered `proven` {path: fingerprint} and `watched` {path: fingerprint}
- `originals/`: the contents that `files` refers to
- `journal/`: what a transaction has replaced; exists only during one, or after one that was killed
- `previous/`: the journal of the last transaction that succeeded
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import functools
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .files import fsync_directory, host_lock, link_atomic, make_directory, remove_file, write_atomic

STATE_DIRECTORY = Path("/var/lib/mailwright/trees")
SYSTEMD_DIRECTORY = "/etc/systemd/system/"
COMMAND_TIMEOUT = 180.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "SYSTEMD_COLORS": "0",
}
OUTPUT_LIMIT = 4000
STRENGTH = {"enable": 1, "reload": 2, "restart": 3}


class TreeError(Exception):
    """The tree could not be made live; the message says which part failed and what the host serves now."""


class Attribute(NamedTuple):
    """Owner and mode of the files whose path matches `path`; of directories where it ends in a slash."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False


class Unit(NamedTuple):
    """A systemd unit to be enabled and active; `process` is the unit whose state tells the truth."""

    name: str
    process: str
    action: str = "reload"
    restart_on: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("*",)


class Watch(NamedTuple):
    """A file of others whose new content needs the units' action, or the one named here."""

    path: str
    action: str | None = None


class Probe(NamedTuple):
    """What must answer after an activation: a TCP port, a Unix socket or a command."""

    port: int | None = None
    host: str = "127.0.0.1"
    tls: bool = False
    socket: str | None = None
    command: tuple[str, ...] = ()
    send: str | None = None
    expect: str | None = None

    def __str__(self) -> str:
        if self.command:
            return f"command {' '.join(self.command)!r}"
        return f"socket {self.socket}" if self.socket else f"port {self.port} on {self.host}"


@dataclass(frozen=True)
class Tree:
    """Everything one `config_tree` task asks for; `files` is {absolute path: text}."""

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


@dataclass
class Result:
    """What was, or in check mode would be, done. `units` is {name: enable, start, reload or restart}."""

    changed: bool = False
    changed_paths: list[str] = field(default_factory=list)
    removed_paths: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Entry(NamedTuple):
    """One name in the file system: `kind` is absent, file, link, directory or other."""

    kind: str
    data: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""


class Wanted(NamedTuple):
    """One file as rendered; `uid` or `gid` is None while the package that makes the account is missing."""

    data: bytes
    attribute: Attribute
    uid: int | None
    gid: int | None

    @property
    def fingerprint(self) -> str:
        """Of content, owner and mode."""
        a = self.attribute
        return hashlib.sha256(f"{a.owner}:{a.group} {a.mode:04o}\n".encode() + self.data).hexdigest()

    def is_live(self, live: Entry) -> bool:
        """Whether `live` is this file exactly."""
        return live == Entry("file", self.data, self.attribute.mode, -1 if self.uid is None else self.uid, self.gid or 0)


ABSENT = Entry("absent")


# --- what is asked for ------------------------------------------------------------------------------------------------


def parse(parameters: Mapping[str, Any]) -> Tree:
    """The module's parameters as a Tree. Raises TreeError with every fault found."""
    faults: list[str] = []
    files: dict[str, str] = json.loads(parameters["files"])
    for path in [*files, *parameters["directories"]]:
        if not path.startswith("/") or path != os.path.normpath(path) or "\0" in path:
            faults.append(f"{path!r} is not a plain absolute path")
    attributes = []
    for given in parameters["attributes"]:
        try:
            mode = int(given["mode"], 8)
        except ValueError:
            faults.append(f"attributes: {given['path']}: mode {given['mode']!r} is not an octal number in quotes")
            continue
        if not 0 <= mode <= 0o7777:
            faults.append(f"attributes: {given['path']}: mode {given['mode']!r} is out of range")
        attributes.append(Attribute(given["path"], given["owner"], given["group"], mode, given["secret"]))
    probes = []
    for given in parameters["probe"]:
        probe = Probe(
            given["port"],
            given["host"],
            given["tls"],
            given["socket"],
            tuple(given["command"] or ()),
            given["send"],
            given["expect"],
        )
        if sum((probe.port is not None, probe.socket is not None, bool(probe.command))) != 1:
            faults.append("probe: each entry has exactly one of port, socket and command")
        if probe.expect is not None:
            try:
                re.compile(probe.expect)
            except re.error as error:
                faults.append(f"probe: {probe}: expect {probe.expect!r}: {error}")
        probes.append(probe)
    for key in ("check", "apply"):
        if not all(parameters[key]):
            faults.append(f"{key}: a command is empty")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", parameters["name"]):
        faults.append(f"name {parameters['name']!r} is not of a-z, 0-9, _ and -")
    if faults:
        raise TreeError("; ".join(faults))
    return Tree(
        name=parameters["name"],
        files=files,
        directories=parameters["directories"],
        attributes=attributes,
        check=parameters["check"],
        apply=parameters["apply"],
        units=[
            Unit(u["name"], u["process"] or u["name"], u["action"], tuple(u["restart_on"]), tuple(u["paths"] or ["*"]))
            for u in parameters["units"]
        ],
        watch=[Watch(w["path"], w["action"]) for w in parameters["watch"]],
        probe=probes,
        probe_timeout=parameters["probe_timeout"],
    )


def attribute_of(path: str, attributes: Iterable[Attribute]) -> Attribute:
    """The first entry whose glob matches `path`, or the default; a path with a slash at its end is a directory."""
    for attribute in attributes:
        if attribute.path.endswith("/") == path.endswith("/") and fnmatch.fnmatchcase(path, attribute.path):
            return attribute
    return Attribute(path, mode=0o755 if path.endswith("/") else 0o644)


def wanted_files(tree: Tree) -> dict[str, Wanted]:
    """Every rendered file with its attributes, accounts looked up on this host."""
    result = {}
    for path, text in sorted(tree.files.items()):
        attribute = attribute_of(path, tree.attributes)
        result[path] = Wanted(text.encode(), attribute, *account_of(attribute))
    return result


def account_of(attribute: Attribute) -> tuple[int | None, int | None]:
    """The user's and the group's number, None where the account does not exist (yet)."""
    uid = gid = None
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(attribute.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(attribute.group).gr_gid
    return uid, gid


# --- what is live -----------------------------------------------------------------------------------------------------


def read_entry(path: Path) -> Entry:
    """What has the name `path`, links not followed."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return Entry("link", target=str(path.readlink()))
        if stat.S_ISDIR(found.st_mode):
            return Entry("directory")
        if not stat.S_ISREG(found.st_mode):
            return Entry("other")
        return Entry("file", path.read_bytes(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    except FileNotFoundError:
        return ABSENT


def put_entry(path: Path, entry: Entry) -> None:
    """Make `path` what `entry` says. Raises OSError."""
    if entry.kind == "absent":
        remove_file(path)
    elif entry.kind == "link":
        link_atomic(path, entry.target)
    else:
        write_atomic(path, entry.data, mode=entry.mode, uid=entry.uid, gid=entry.gid)


def store_entry(directory: Path, entry: Entry) -> dict[str, Any]:
    """Describe `entry` for JSON, its content kept as a file of `directory`."""
    if entry.kind == "absent":
        return {"kind": "absent"}
    if entry.kind == "link":
        return {"kind": "link", "target": entry.target}
    blob = hashlib.sha256(entry.data).hexdigest()
    if not (directory / blob).exists():
        write_atomic(directory / blob, entry.data, mode=0o600)
    return {"kind": "file", "blob": blob, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid}


def load_entry(directory: Path, stored: Mapping[str, Any]) -> Entry:
    """The inverse of store_entry. Raises OSError."""
    if stored["kind"] == "absent":
        return ABSENT
    if stored["kind"] == "link":
        return Entry("link", target=stored["target"])
    return Entry("file", (directory / stored["blob"]).read_bytes(), stored["mode"], stored["uid"], stored["gid"])


def watch_fingerprint(pattern: str) -> str:
    """Of names and contents of the files that match; directories are read with all below them."""
    digest = hashlib.sha256()
    for path in sorted(Path("/").glob(pattern.lstrip("/"))):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                digest.update(f"{file}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_manifest(state: Path) -> dict[str, Any]:
    """The manifest, or an empty one. Raises TreeError where it cannot be read."""
    empty: dict[str, Any] = {"files": {}, "directories": [], "proven": {}, "watched": {}}
    try:
        found = json.loads((state / "manifest.json").read_bytes())
    except FileNotFoundError:
        return empty
    except ValueError as error:
        raise TreeError(f"{state / 'manifest.json'} is damaged ({error}); move it away and run again") from None
    empty.update(found)
    return empty


def write_manifest(state: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest durably."""
    write_atomic(state / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode(), mode=0o600)


def read_journal(state: Path) -> dict[str, Any]:
    """The journal of a transaction that was killed, or an empty one."""
    empty: dict[str, Any] = {"entries": {}, "directories": [], "manifest": None, "units": {}}
    with contextlib.suppress(FileNotFoundError):
        empty.update(json.loads((state / "journal" / "journal.json").read_bytes()))
    return empty


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """The difference between a tree and the host."""

    writes: dict[str, Entry] = field(default_factory=dict)  # path → live now
    removals: dict[str, Entry] = field(default_factory=dict)  # path → live now
    restored: dict[str, Entry] = field(default_factory=dict)  # removed path → what comes back
    directories: list[str] = field(default_factory=list)  # to be made or corrected
    pending: list[str] = field(default_factory=list)  # differs from what was last proven live
    watched: dict[str, str] = field(default_factory=dict)
    watch_actions: list[str | None] = field(default_factory=list)
    states: dict[str, dict[str, str]] = field(default_factory=dict)
    actions: dict[str, str] = field(default_factory=dict)


def compare(tree: Tree, wanted: Mapping[str, Wanted], manifest: Mapping[str, Any], state: Path) -> Plan:
    """Everything that differs. Raises TreeError where a directory or device has a file's name."""
    plan = Plan()
    faults = []
    proven = manifest["proven"]
    for path, want in wanted.items():
        try:
            live = read_entry(Path(path))
        except NotADirectoryError:
            faults.append(f"{path}: a parent of it is a file, not a directory")
            continue
        if live.kind in ("directory", "other"):
            what = "a directory" if live.kind == "directory" else "a socket, pipe or device"
            faults.append(f"{path} is {what} on this host, and a file is to be written there")
        elif not want.is_live(live):
            plan.writes[path] = live
        if path in plan.writes or proven.get(path) != want.fingerprint:
            plan.pending.append(path)
    for path, original in sorted(manifest["files"].items()):
        if path in wanted:
            continue
        live, before = read_entry(Path(path)), load_entry(state / "originals", original)
        if live.kind in ("file", "link", "absent") and live != before:
            plan.removals[path], plan.restored[path] = live, before
        if path in plan.removals or path in proven:
            plan.pending.append(path)
    if faults:
        raise TreeError("; ".join(faults))
    parents = {str(parent) for path in wanted for parent in Path(path).parents}
    for directory in sorted(parents):
        attribute = attribute_of(directory.rstrip("/") + "/", tree.attributes)
        uid, gid = account_of(attribute)
        try:
            found = Path(directory).stat()
        except FileNotFoundError:
            plan.directories.append(directory)
            continue
        if attribute in tree.attributes and (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (
            uid,
            gid,
            attribute.mode,
        ):
            plan.directories.append(directory)
    plan.watched = {watch.path: watch_fingerprint(watch.path) for watch in tree.watch}
    plan.watch_actions = [w.action for w in tree.watch if manifest["watched"].get(w.path) != plan.watched[w.path]]
    return plan


def plan_unit(
    unit: Unit,
    states: Mapping[str, Mapping[str, str]],
    pending: Iterable[str],
    watch_actions: Iterable[str | None],
    proven: bool,
) -> str | None:
    """What `unit` needs: start, restart, reload, enable or nothing. Pure.

    A unit never proven, or whose own unit file or drop-in changed, is restarted; one that cannot reload likewise.
    """
    own, process = states[unit.name], states[unit.process]
    if not is_active(own) or not is_active(process):
        return "start"
    touched = [path for path in pending if matches(path, unit.paths)]
    needs = {action or unit.action for action in watch_actions}
    if touched:
        needs.add("restart" if any(needs_restart(unit, path) for path in touched) else unit.action)
    if needs and not proven:
        needs.add("restart")
    if "reload" in needs and own.get("CanReload") == "no":
        needs.add("restart")
    if needs_enabling(own):
        needs.add("enable")
    return max(needs, key=STRENGTH.__getitem__, default=None)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the globs matches; `*` matches slashes too."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def needs_restart(unit: Unit, path: str) -> bool:
    """Whether a change of `path` is more than a reload can take up."""
    if matches(path, unit.restart_on):
        return True
    names = {name for full in (unit.name, unit.process) for name in (full, re.sub(r"@[^.]*\.", "@.", full))}
    return any(path == SYSTEMD_DIRECTORY + n or path.startswith(f"{SYSTEMD_DIRECTORY}{n}.d/") for n in names)


def is_active(state: Mapping[str, str]) -> bool:
    """Whether systemd calls the unit active."""
    return state.get("ActiveState") in ("active", "reloading", "refreshing")


def needs_enabling(state: Mapping[str, str]) -> bool:
    """Whether the unit would not come back after a boot; static and generated units have nothing to enable."""
    return state.get("UnitFileState") in ("disabled", "enabled-runtime", "", None)


def describe_changes(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> list[dict[str, str]]:
    """The diff, contents of secret files left out."""
    diff = []
    for path, live in plan.writes.items():
        want = wanted[path]
        diff += entry_diff(path, live, Entry("file", want.data, want.attribute.mode), want.attribute.secret)
        before, after = describe_owner(live), describe_wanted(want.attribute)
        if live.kind == "file" and before != after:
            header = f"{path} (owner and mode)"
            diff.append({"before": before, "after": after, "before_header": header, "after_header": header})
    for path, live in plan.removals.items():
        secret = attribute_of(path, tree.attributes).secret or bool(live.mode and not live.mode & 0o004)
        diff += entry_diff(path, live, plan.restored[path], secret)
    lines = {
        "directories": "".join(f"{path}\n" for path in plan.directories),
        "units": "".join(f"{action} {name}\n" for name, action in plan.actions.items()),
    }
    for header, after in lines.items():
        if after:
            diff.append({"before": "", "after": after, "before_header": header, "after_header": header})
    return diff


def entry_diff(path: str, before: Entry, after: Entry, secret: bool) -> list[dict[str, str]]:
    """One file's entry of the diff, none where the contents are the same."""
    if (before.kind, before.data, before.target) == (after.kind, after.data, after.target):
        return []
    texts = []
    for entry, hidden in ((before, "(secret, as it was)\n"), (after, "(secret, different)\n")):
        if entry.kind == "absent":
            texts.append("")
        elif entry.kind == "link":
            texts.append(f"(symbolic link to {entry.target})\n")
        else:
            texts.append(hidden if secret else entry.data.decode(errors="replace"))
    return [{"before": texts[0], "after": texts[1], "before_header": path, "after_header": path}]


def describe_owner(live: Entry) -> str:
    """`user:group mode` of a live file, numbers where there is no name."""
    user, group = str(live.uid), str(live.gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(live.uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(live.gid).gr_name
    return f"{user}:{group} {live.mode:04o}\n"


def describe_wanted(attribute: Attribute) -> str:
    """`user:group mode` as asked for."""
    return f"{attribute.owner}:{attribute.group} {attribute.mode:04o}\n"


# --- commands ---------------------------------------------------------------------------------------------------------


def run(command: Sequence[str], timeout: float = COMMAND_TIMEOUT) -> tuple[int, str]:
    """Run `command` without a shell or input; its status (124 after a timeout, 127 where it is missing) and output."""
    try:
        done = subprocess.run(  # noqa: S603 - an argument list, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return 124, (error.stdout or b"").decode(errors="replace") + f"no end after {timeout:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def find_command(name: str) -> str | None:
    """The command's path, None where it is missing."""
    return shutil.which(name, path=ENVIRONMENT["PATH"])


def unit_states(units: Iterable[Unit]) -> dict[str, dict[str, str]]:
    """{unit: properties} of every unit and process, by one `systemctl show`. Raises TreeError."""
    names = list(dict.fromkeys(name for unit in units for name in (unit.name, unit.process)))
    if not names:
        return {}
    properties = "LoadState,ActiveState,SubState,Result,UnitFileState,CanReload,NeedDaemonReload"
    status, output = run(["systemctl", "show", "--no-pager", f"--property={properties}", "--", *names])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.split("\n\n")]
    if status or len(blocks) != len(names):
        raise TreeError(f"systemctl cannot tell the state of {', '.join(names)}: {output or status}")
    return dict(zip(names, blocks, strict=True))


def secret_words(wanted: Iterable[Wanted]) -> list[str]:
    """The words of secret files that must not appear in messages: all of a line but its key, from 6 characters."""
    words: set[str] = set()
    for want in wanted:
        if not want.attribute.secret:
            continue
        for line in want.data.decode(errors="replace").splitlines():
            found = [w for w in re.split(r"[\s\"'=;,{}<>]+", line) if w]
            if found and not found[0].startswith("#"):
                words.update(w for w in found[len(found) > 1 :] if len(w) >= 6)
    return sorted(words, key=len, reverse=True)


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text`, shortened to its end, with the secrets replaced."""
    for word in secrets:
        text = text.replace(word, "********")
    return text if len(text) <= OUTPUT_LIMIT else "…" + text[-OUTPUT_LIMIT:]


# --- staging and checking ---------------------------------------------------------------------------------------------


def check_staged(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Run the check commands where `directories` look as they would after the swap.

    A child process in a mount namespace of its own sees in-memory copies in their place: nothing leaks out, and the
    kernel clears everything up however the process ends. Raises TreeError. See unshare(2), mount_namespaces(7).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as report:
                try:
                    enter_stage(tree, wanted, plan)
                    faults = []
                    for command in tree.check:
                        code, output = run(command)
                        if code:
                            faults.append(f"check {' '.join(command)!r} failed ({code}): {output}")
                    json.dump(faults, report)
                except OSError as error:
                    json.dump([f"the checks cannot be staged: {error}"], report)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    os.waitpid(child, 0)
    faults = json.loads(text) if text else ["the process that runs the checks died"]
    if faults:
        raise TreeError("\n".join(faults))


def enter_stage(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Leave the host's mount namespace and put changed copies in place of `directories`. Raises OSError."""
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int, what: str) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)} ({what})")

    # os.unshare is new in Python 3.12.
    call(libc.unshare(clone_newns), "unshare")
    call(libc.mount(b"none", b"/", None, ms_rec | ms_private, None), "mount /")
    roots = sorted({os.path.realpath(directory) for directory in tree.directories})
    roots = [root for root in roots if not any(root.startswith(f"{other}/") for other in roots)]
    for root in roots:
        held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        call(libc.mount(b"mailwright", os.fsencode(root), b"tmpfs", 0, b"mode=0700"), f"mount {root}")
        copy_directory(Path(f"/proc/self/fd/{held}"), Path(root))
        os.close(held)

    def in_stage(path: str) -> bool:
        parent = os.path.realpath(Path(path).parent)
        return any(parent == root or parent.startswith(f"{root}/") for root in roots)

    for path, entry in plan.restored.items():
        if in_stage(path):
            put_entry(Path(path), entry)
    for path in filter(in_stage, plan.directories):
        put_directory(path, tree)
    for path in filter(in_stage, plan.writes):
        want = wanted[path]
        write_atomic(Path(path), want.data, mode=want.attribute.mode, uid=want.uid or 0, gid=want.gid or 0)


def copy_directory(source: Path, target: Path) -> None:
    """Copy a directory's content with owners, modes, times and links; sockets, pipes and devices are left out."""
    for found in os.scandir(source):
        copy = target / found.name
        info = found.stat(follow_symlinks=False)
        if found.is_symlink():
            copy.symlink_to(Path(found.path).readlink())
        elif found.is_dir():
            copy.mkdir()
            copy_directory(Path(found.path), copy)
            continue
        elif found.is_file():
            shutil.copyfile(found.path, copy)
        else:
            continue
        os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)
        shutil.copystat(found.path, copy, follow_symlinks=False)
    info = source.stat()
    os.chown(target, info.st_uid, info.st_gid)
    shutil.copystat(source, target)


def put_directory(path: str, tree: Tree) -> bool:
    """Make or correct a directory as `attributes` say; true where it was made."""
    attribute = attribute_of(path.rstrip("/") + "/", tree.attributes)
    uid, gid = account_of(attribute)
    made = not Path(path).exists()
    make_directory(Path(os.path.realpath(path)), mode=attribute.mode, uid=uid or 0, gid=gid or 0)
    return made


# --- the transaction --------------------------------------------------------------------------------------------------


def transact(tree: Tree, *, check_mode: bool = False, state: Path | None = None, lock: Path | None = None) -> Result:
    """Make the host equal to the tree and its units run on it, or leave both as they were and raise TreeError.

    In check mode say what would be done; nothing is written. Raises LockedError while another run is at work.
    """
    state = state or STATE_DIRECTORY / tree.name
    with contextlib.ExitStack() as stack:
        if not check_mode:
            stack.enter_context(host_lock(path=lock) if lock else host_lock())
        try:
            return transact_locked(tree, check_mode, state)
        except OSError as error:
            raise TreeError(f"{error.filename or tree.name}: {error.strerror or error}") from error


def transact_locked(tree: Tree, check_mode: bool, state: Path) -> Result:
    """The body of transact."""
    wanted = wanted_files(tree)
    journal = read_journal(state)
    manifest = read_manifest(state)
    plan = compare(tree, wanted, manifest, state)
    plan.states = unit_states(tree.units)
    proven = bool(manifest["proven"])
    for unit in tree.units:
        action = plan_unit(unit, plan.states, plan.pending, plan.watch_actions, proven)
        if action:
            plan.actions[unit.name] = action
    faults = missing_accounts(wanted)
    result = Result(
        changed=bool(plan.writes or plan.removals or plan.directories or plan.actions or plan.pending),
        changed_paths=list(plan.writes),
        removed_paths=list(plan.removals),
        units=dict(plan.actions),
        diff=describe_changes(tree, wanted, plan),
    )
    if check_mode:
        if plan.pending:
            runnable = replace_checks(tree, result.notes)
            if runnable.check:
                guarded(lambda: check_staged(runnable, wanted, plan), wanted)
        return result
    if faults:
        raise TreeError("; ".join(faults))
    watch_is_new = manifest["watched"] != plan.watched
    if not result.changed and not journal["entries"]:
        if watch_is_new or set(manifest["files"]) != set(wanted):
            record_proof(state, manifest, wanted, plan)
        return result
    made: list[str] = []
    try:
        if plan.pending and tree.check:
            for directory in tree.directories:
                if not Path(directory).is_dir() and put_directory(directory, tree):
                    made.append(directory)
            for command in tree.check:
                if not find_command(command[0]):
                    raise TreeError(f"check {' '.join(command)!r}: command not found")
            guarded(lambda: check_staged(tree, wanted, plan), wanted)
    except TreeError as error:
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if journal["entries"]:
            note = roll_back(tree, state, journal, plan)
            raise TreeError(f"{error}\nAn earlier run was interrupted; {note}") from None
        raise TreeError(f"{error}\nNothing was changed.") from None
    journal = open_journal(state, journal, manifest, plan, [*made, *plan.directories])
    started = time.time()
    try:
        swap(tree, wanted, manifest, plan, state, journal)
        activate(tree, plan)
        prove(tree, plan)
    except (TreeError, OSError) as error:
        words = secret_words(wanted.values())
        log = journal_lines(tree, started)
        note = roll_back(tree, state, journal, plan)
        raise TreeError("\n".join(part for part in (hide(str(error), words), hide(log, words), note) if part)) from None
    record_proof(state, manifest, wanted, plan)
    return result


def guarded(check: Callable[[], None], wanted: Mapping[str, Wanted]) -> None:
    """Run `check`, secrets taken out of its error."""
    try:
        check()
    except TreeError as error:
        raise TreeError(hide(str(error), secret_words(wanted.values()))) from None


def missing_accounts(wanted: Mapping[str, Wanted]) -> list[str]:
    """A sentence for each owner or group that does not exist."""
    faults = {f"user {w.attribute.owner} does not exist" for w in wanted.values() if w.uid is None}
    faults |= {f"group {w.attribute.group} does not exist" for w in wanted.values() if w.gid is None}
    return sorted(faults)


def replace_checks(tree: Tree, notes: list[str]) -> Tree:
    """For check mode: the tree with the checks that can run on this host; what is left out is noted."""
    absent = [d for d in tree.directories if not Path(d).is_dir()]
    kept = []
    for command in tree.check:
        if absent:
            notes.append(f"not run: {' '.join(command)}: {absent[0]} does not exist yet")
        elif not find_command(command[0]):
            notes.append(f"not run: {' '.join(command)}: {command[0]} is not installed yet")
        else:
            kept.append(command)
    return Tree(**{**vars(tree), "check": kept})


def open_journal(
    state: Path, old: Mapping[str, Any], manifest: Mapping[str, Any], plan: Plan, directories: Iterable[str]
) -> dict[str, Any]:
    """Write down what is about to be replaced; an earlier journal wins, as it is nearer to what was proven."""
    directory = state / "journal"
    for path in (state, directory):
        make_directory(path, mode=0o700)
    entries = {path: store_entry(directory, live) for path, live in (plan.writes | plan.removals).items()}
    units = {name: {"active": is_active(found), "enabled": not needs_enabling(found)} for name, found in plan.states.items()}
    absent = [d for d in directories if not Path(d).exists()]
    journal = {
        "entries": entries | old["entries"],
        "directories": sorted({*absent, *old["directories"]}),
        "manifest": old["manifest"] or manifest,
        "units": units | old["units"],
    }
    write_atomic(directory / "journal.json", json.dumps(journal).encode(), mode=0o600)
    return journal


def swap(
    tree: Tree,
    wanted: Mapping[str, Wanted],
    manifest: Mapping[str, Any],
    plan: Plan,
    state: Path,
    journal: Mapping[str, Any],
) -> None:
    """Put the new files in place, ownership of them recorded first."""
    originals = state / "originals"
    make_directory(originals, mode=0o700)
    files = dict(manifest["files"])
    for path in wanted:
        if path not in files:
            # What is already equal was ours before the manifest was lost.
            live = plan.writes.get(path, ABSENT)
            files[path] = store_entry(originals, live)
    directories = sorted({*manifest["directories"], *journal["directories"]})
    write_manifest(state, {**manifest, "files": files, "directories": directories})
    for path in plan.directories:
        put_directory(path, tree)
    for path in plan.writes:
        want = wanted[path]
        write_atomic(Path(path), want.data, mode=want.attribute.mode, uid=want.uid or 0, gid=want.gid or 0)
    for path, before in plan.restored.items():
        put_entry(Path(path), before)
    remove_empty(d for d in directories if not any(p.startswith(f"{d}/") for p in wanted))


def remove_empty(directories: Iterable[str]) -> None:
    """Remove the directories that are empty, deepest first."""
    for directory in sorted(directories, key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


def record_proof(state: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Record the tree as live and answering, and keep the journal as the previous generation."""
    make_directory(state, mode=0o700)
    current = read_manifest(state)
    files = {path: current["files"].get(path, {"kind": "absent"}) for path in wanted}
    kept = [d for d in current["directories"] if Path(d).is_dir() and any(p.startswith(f"{d}/") for p in wanted)]
    proven = {path: want.fingerprint for path, want in wanted.items()}
    write_manifest(state, {"files": files, "directories": kept, "proven": proven, "watched": plan.watched})
    blobs = {stored["blob"] for stored in files.values() if stored["kind"] == "file"}
    originals = state / "originals"
    for blob in originals.iterdir() if originals.is_dir() else ():
        if blob.name not in blobs:
            blob.unlink()
    if (state / "journal" / "journal.json").exists():
        shutil.rmtree(state / "previous", ignore_errors=True)
        (state / "journal").rename(state / "previous")
        fsync_directory(state)


# --- activation and proof ---------------------------------------------------------------------------------------------


def systemctl(verb: str, unit: str) -> None:
    """One systemctl job, waited for. Raises TreeError with its output."""
    status, output = run(["systemctl", verb, "--", unit])
    if status:
        raise TreeError(f"systemctl {verb} {unit} failed ({status}): {output}")


def reload_manager() -> None:
    """systemctl daemon-reload. Raises TreeError."""
    status, output = run(["systemctl", "daemon-reload"])
    if status:
        raise TreeError(f"systemctl daemon-reload failed ({status}): {output}")


def activate(tree: Tree, plan: Plan) -> None:
    """Have the units take the new files up. Raises TreeError."""
    if any(path.startswith(SYSTEMD_DIRECTORY) for path in plan.pending) or any(
        found.get("NeedDaemonReload") == "yes" for found in plan.states.values()
    ):
        reload_manager()
    if plan.pending:
        for command in tree.apply:
            status, output = run(command)
            if status:
                raise TreeError(f"apply {' '.join(command)!r} failed ({status}): {output}")
    for unit in tree.units:
        action, own, process = plan.actions.get(unit.name), plan.states[unit.name], plan.states[unit.process]
        if not action:
            continue
        if needs_enabling(own):
            systemctl("enable", unit.name)
        if action == "start":
            for name in {unit.name, unit.process}:
                if plan.states[name].get("ActiveState") == "failed":
                    run(["systemctl", "reset-failed", "--", name])
            # Starting an active unit would do nothing for its dead process.
            systemctl("restart" if is_active(own) and not is_active(process) else "start", unit.name)
        elif action in ("reload", "restart"):
            systemctl(action, unit.name)


def prove(tree: Tree, plan: Plan) -> None:
    """Wait until every probe succeeds and every unit is active, together for at most probe_timeout. Raises TreeError.

    A reload returns before the daemon has read its files, and a simple service is active before it has failed: hence
    probes first, then the units' state.
    """
    if not plan.actions and not plan.pending:
        return
    until = time.monotonic() + tree.probe_timeout
    for probe in tree.probe:
        wait_for(functools.partial(attempt, probe, until), tree, until)
    wait_for(lambda: inactive_unit(tree), tree, until)


def wait_for(attempt_once: Callable[[], str | None], tree: Tree, until: float) -> None:
    """Repeat until there is no complaint. Raises TreeError with the last one at `until`, or once a unit has failed."""
    pause = 0.05
    while True:
        complaint = attempt_once()
        if complaint is None:
            return
        dead = [n for n, found in unit_states(tree.units).items() if found.get("ActiveState") == "failed"]
        if dead:
            raise TreeError(f"unit {', '.join(dead)} failed; {complaint}")
        if time.monotonic() + pause >= until:
            raise TreeError(f"{complaint} (within {tree.probe_timeout:g} s)")
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


def inactive_unit(tree: Tree) -> str | None:
    """A complaint where a unit is not active."""
    for name, found in unit_states(tree.units).items():
        if not is_active(found):
            return f"unit {name} is {found.get('ActiveState')} ({found.get('SubState')}, {found.get('LoadState')})"
    return None


def attempt(probe: Probe, until: float) -> str | None:
    """Try `probe` once, at most until that moment; None when it succeeded, else the complaint."""
    seconds = max(until - time.monotonic(), 0.2)
    if probe.command:
        status, output = run(probe.command, timeout=seconds)
        if status:
            return f"probe {probe} failed ({status}): {output}"
    else:
        try:
            output = talk(probe, min(seconds, 5.0))
        except OSError as error:
            return f"probe {probe} failed: {error}"
    if probe.expect is not None and not re.search(probe.expect, output, re.MULTILINE):
        return f"probe {probe} answered {output.strip()!r}, which does not match {probe.expect!r}"
    return None


def talk(probe: Probe, seconds: float) -> str:
    """Connect, send, and read until `expect` matches, the peer ends or time is up. Raises OSError."""
    until = time.monotonic() + seconds
    if probe.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.connect(probe.socket)
            stack.pop_all()
    else:
        connection = socket.create_connection((probe.host, probe.port or 0), seconds)
    with connection:
        if probe.tls:
            # The certificate may be self-signed or for another name; that the port talks TLS is the question.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        received = b""
        with connection:
            if probe.send:
                connection.sendall(probe.send.encode())
            while probe.expect and not re.search(probe.expect, received.decode(errors="replace"), re.MULTILINE):
                connection.settimeout(max(until - time.monotonic(), 0.05))
                try:
                    block = connection.recv(4096)
                except TimeoutError:
                    break
                if not block or len(received) > 65536:
                    break
                received += block
    return received.decode(errors="replace")


def journal_lines(tree: Tree, since: float) -> str:
    """The last lines the units logged since then."""
    names = list(dict.fromkeys(name for unit in tree.units for name in (unit.name, unit.process)))
    if not names:
        return ""
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=15", f"--since=@{int(since)}"]
    status, output = run([*command, *(f"--unit={name}" for name in names)])
    return f"Last log lines:\n{output}" if output and not status else ""


def roll_back(tree: Tree, state: Path, journal: Mapping[str, Any], plan: Plan) -> str:
    """Put everything the journal names back and have the units take it up; a sentence about how that went.

    Units that had never run on a proven tree go back to how they were found: stopped, disabled.
    """
    faults = []
    blobs = state / "journal"
    proven = bool(journal["manifest"] and journal["manifest"]["proven"])
    for path, stored in journal["entries"].items():
        try:
            put_entry(Path(path), load_entry(blobs, stored))
        except OSError as error:
            faults.append(f"{path}: {error}")
    remove_empty(journal["directories"])
    try:
        if any(path.startswith(SYSTEMD_DIRECTORY) for path in journal["entries"]):
            reload_manager()
        if proven:
            for command in tree.apply:
                status, output = run(command)
                if status:
                    faults.append(f"apply {' '.join(command)!r}: {output}")
        faults += [fault for unit in tree.units for fault in roll_back_unit(unit, plan, journal, proven)]
        if proven and not faults:
            prove(tree, plan)
    except TreeError as error:
        faults.append(str(error))
    if faults:
        # The journal stays, so that the next run tries again.
        return "the previous files could not be made live again: " + "; ".join(faults)
    if journal["manifest"]:
        write_manifest(state, journal["manifest"])
    shutil.rmtree(blobs)
    fsync_directory(state)
    return "the previous configuration is back" + (" and answers." if proven else "; it was never live through Mailwright.")


def roll_back_unit(unit: Unit, plan: Plan, journal: Mapping[str, Any], proven: bool) -> list[str]:
    """Return one unit to the state it had; faults."""
    action = plan.actions.get(unit.name)
    before = journal["units"].get(unit.name, {"active": True, "enabled": True})
    if not action:
        return []
    try:
        if proven or before["active"]:
            now = unit_states([unit])
            down = not all(is_active(found) for found in now.values())
            run(["systemctl", "reset-failed", "--", unit.name, unit.process])
            systemctl("restart" if down or action != "reload" else "reload", unit.name)
        else:
            systemctl("stop", unit.name)
        if not before["enabled"] and not proven:
            systemctl("disable", unit.name)
    except TreeError as error:
        return [str(error)]
    return []
