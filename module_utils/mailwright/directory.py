# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Who has an address here: lookup tables of Postfix and passwd-files of Dovecot, staged by several modules and made live together.

Under the root (/var/lib/mailwright): `postfix/` and `dovecot/` hold what the daemons read; `directory/next/` what is staged;
`directory/generations/<n>/` complete sets of sources, the newest of which is meant to be live; `directory/live.json` which one was
made live last, and the state the files were left in.

A generation is committed by the rename of its directory. While the newest is not the one in live.json, a run was interrupted: the
next one makes the newest whole, and rebuilds every database, since any of them may be one step behind its source.

Going back is going forward: the files of an older generation become a new one, which goes live like any other.

Mail of mailboxes that left goes to the archive (archive.py) once the generation without them is live and their sessions have ended;
live.json names them until that is done. It comes back before a generation that has them goes live.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import grp
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .archive import Archive, end_sessions
from .errors import Invalid
from .files import TEMPORARY_PREFIX, directory_digest, fsync_directory, host_lock, make_directory, remove_file, write_atomic
from .hashing import Credential, resolve
from .maps import check_address, check_domain, check_key, check_targets, check_value, parse_map, parse_patterns, render_map, render_patterns
from .passwd_file import DENIABLE, User, parse_names, parse_users, render_names, render_users
from .plan import Plan, Row, keyed, make_plan

__all__ = [
    "KEEP",
    "MAPS",
    "RETENTION",
    "Activation",
    "ActivationError",
    "Directory",
    "Limit",
    "Staged",
    "describe",
    "stage_aliases",
    "stage_domains",
    "stage_mailboxes",
    "stage_maps",
    "transition",
]

ROOT: Final = Path("/var/lib/mailwright")
# Generations kept beside the live one.
KEEP: Final = 10
# Days for which the archive keeps mail.
RETENTION: Final = 30

DENY: Final = {protocol: f"dovecot/deny-{protocol}" for protocol in DENIABLE}
USERS: Final = "dovecot/users"
ALIASES: Final = "postfix/virtual_aliases"
PATTERNS: Final = "postfix/virtual_alias_patterns"
DOMAINS: Final = "postfix/virtual_domains"
RELAY_DOMAINS: Final = "postfix/relay_domains"
MAILBOXES: Final = "postfix/virtual_mailboxes"
# Logins at smarthosts; only root reads it, as smtp(8) does before it gives root up.
PASSWORDS: Final = "postfix/relay_passwords"
# The order in which entries appear: who is refused before who is accepted, users before addresses, addresses before domains.
# Entries disappear in the opposite order.
ORDER: Final = (
    *DENY.values(),
    USERS,
    "postfix/blocked_clients",
    "postfix/blocked_helos",
    "postfix/blocked_senders",
    "postfix/blocked_recipients",
    "postfix/relay_recipients",
    "postfix/recipient_access",
    "postfix/internal_recipients",
    "postfix/allowed_clients",
    "postfix/allowed_helos",
    "postfix/allowed_senders",
    "postfix/allowed_recipients",
    MAILBOXES,
    PATTERNS,
    ALIASES,
    "postfix/sender_logins",
    "postfix/tls_policies",
    PASSWORDS,
    "postfix/sender_transports",
    "postfix/forward_routes",
    "postfix/transports",
    "postfix/own_domains",
    RELAY_DOMAINS,
    DOMAINS,
)
# What mail_maps owns beside the passwords and patterns: all that no other list makes.
MAPS: Final = tuple(
    name.removeprefix("postfix/")
    for name in ORDER
    if name.startswith("postfix/") and name not in (MAILBOXES, PATTERNS, ALIASES, PASSWORDS, DOMAINS)
)
# Which module stages what.
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "mail_mailboxes": (*DENY.values(), USERS, MAILBOXES),
    "mail_aliases": (ALIASES,),
    "mail_maps": (*(f"postfix/{name}" for name in MAPS), PASSWORDS, PATTERNS),
    "mail_domains": (DOMAINS,),
}
PRESENT: Final = "OK"
# Names on one line of a report.
SHOWN: Final = 10
# Seconds that sessions with the old patterns get, when an address moves to a new pattern, and messages with a recipient that was a mailbox,
# when it becomes an alias.
DRAIN: Final = 30.0

Names = dict[str, list[str]]


class ActivationError(Exception):
    """A generation could not be made live; the message says what is live now."""


def _is_database(name: str) -> bool:
    return name.startswith("postfix/") and name != PATTERNS


def _mode(name: str) -> int:
    return 0o600 if name == PASSWORDS else 0o640


def _group(name: str) -> str:
    return name.partition("/")[0]


def group_id(name: str) -> int:
    """The group's number. Raises Invalid where its package is not installed."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Invalid(f"there is no group {name} on this host: its package is not installed") from None


def entries(name: str, text: str) -> dict[str, str]:
    """Lines of a file by what they are looked up by."""
    if name == PATTERNS:
        return {key: f"{key} {value}\n" for key, value in parse_patterns(text).items()}
    if _is_database(name):
        return {key: f"{key} {value}\n" for key, value in parse_map(text).items()}
    return {line.split(":", 1)[0]: f"{line}\n" for line in text.split("\n") if line.strip() and not line.startswith("#")}


@dataclass(frozen=True)
class Step:
    """One file to write: a text that holds old and new entries, or None for the generation's own file."""

    name: str
    text: str | None = None


def transition(current: Mapping[str, str], wanted: Mapping[str, str], suspect: Collection[str] = ()) -> list[Step]:
    """Steps from one set of files to another, so that an address valid in both is valid after every step.

    An address may move from any table to any other, so tables first grow to old and new entries, and shrink when all have grown.
    Aliases change at once in the middle: old and new ones together could form a loop. `suspect` files are written even if equal.
    """
    grow: list[Step] = []
    shrink: list[Step] = []
    for name in ORDER:
        old = current.get(name)
        if old == wanted[name]:
            if name in suspect:
                grow.append(Step(name))
            continue
        if old is None:
            grow.append(Step(name))
            continue
        before, after = entries(name, old), entries(name, wanted[name])
        gone = [line for key, line in before.items() if key not in after]
        if name == ALIASES or not gone:
            grow.append(Step(name))
            continue
        if name in suspect or any(before.get(key) != line for key, line in after.items()):
            grow.append(Step(name, wanted[name] + "".join(gone)))
        shrink.append(Step(name))
    return grow + shrink[::-1]


def postmap(source: Path, configuration: Path) -> None:
    """Rebuild the database of `source` in place: one lmdb transaction. Owner and mode become the source's (postmap(1)).

    `configuration` is a directory with an empty main.cf: the tables must not depend on a configuration that is written later.
    """
    done = subprocess.run(  # noqa: S603 -- fixed program, path of our own
        ["/usr/sbin/postmap", "-c", str(configuration), f"lmdb:{source}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ActivationError(f"postmap {source}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def reload_postfix(drain: bool) -> bool:
    """Tell a running Postfix what no daemon notices by itself: a new pcre file, a new domain; true where one runs.

    A daemon ends after the session it is in. With `drain`, return when those with the old patterns have ended, or after DRAIN seconds.
    """
    master = postfix_master()
    if not master:
        return False
    old = _readers_of_patterns(master) if drain else set()
    done = subprocess.run(["/usr/sbin/postfix", "reload"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ActivationError(f"postfix reload: {done.stderr.strip()}")
    until = time.monotonic() + DRAIN
    while old & _readers_of_patterns(master) and time.monotonic() < until:
        time.sleep(0.1)  # between two looks: a process that is no child of ours tells nobody when it ends
    return True


def postfix_master() -> str:
    """The process number of a running Postfix, or empty."""
    file = Path("/var/spool/postfix/pid/master.pid")
    if not Path("/etc/postfix/main.cf").exists() or not file.exists():
        return ""
    if subprocess.run(["/usr/sbin/postfix", "status"], capture_output=True, check=False).returncode:
        return ""
    return file.read_text().strip()


def drain_queue(addresses: Collection[str], spool: Path = Path("/var/spool/postfix")) -> None:
    """Return when no message under way has one of these recipients, or after DRAIN seconds.

    cleanup(8) has looked for an alias when it got the recipient, long before the delivery. What is being received now may have them,
    too: a file of the incoming queue is executable when it is complete. A deferred message looks for aliases again when it is requeued.
    """
    if not postfix_master():
        return

    def incomplete() -> set[str]:
        found = set()
        for path in (spool / "incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not path.stat().st_mode & 0o100:
                    found.add(path.name)
        return found

    receiving = incomplete()
    until = time.monotonic() + DRAIN
    while time.monotonic() < until:
        receiving &= incomplete()
        queue = subprocess.run(["/usr/sbin/postqueue", "-j"], capture_output=True, text=True, check=False).stdout
        rows = [json.loads(line) for line in queue.splitlines()]
        rows = [row for row in rows if any(recipient["address"].lower() in addresses for recipient in row["recipients"])]
        waiting = [row["queue_id"] for row in rows if row["queue_name"] == "deferred"]
        if waiting:
            names = "".join(f"{name}\n" for name in waiting)
            subprocess.run(["/usr/sbin/postsuper", "-r", "-", "deferred"], input=names, capture_output=True, text=True, check=False)
        if not receiving and not [row for row in rows if row["queue_name"] != "hold"]:
            return
        time.sleep(0.05)  # between two looks: Postfix tells nobody when a message has left


def await_dovecot(running: Path = Path("/run/dovecot/master.pid")) -> None:
    """Return when Dovecot looks at its passwd-files again: it does so once in each second of the clock."""
    if running.exists():
        time.sleep(1.01 - time.time() % 1)  # the condition is the clock's next second


def _readers_of_patterns(master: str) -> set[str]:
    """Process numbers of the daemons that hold aliases: children of master, see proc(5)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if rest.split()[1] == master and name in ("smtpd", "cleanup", "verify", "proxymap"):
                found.add(path.parent.name)
    return found


def _moves_from_mailboxes(current: Mapping[str, str], wanted: Mapping[str, str]) -> set[str]:
    """Mailboxes that become aliases, or are left to a catch-all or a pattern, or whose domain is relayed now."""
    gone = parse_names(current.get(USERS, "")) - parse_names(wanted[USERS])
    if not gone:
        return set()
    aliases, relayed = parse_map(wanted[ALIASES]), parse_map(wanted[RELAY_DOMAINS])
    patterns = [re.compile(key[1:-1], re.IGNORECASE) for key in parse_patterns(wanted[PATTERNS])]
    return {
        address
        for address in gone
        if address in aliases
        or address[address.index("@") :] in aliases
        or address[address.index("@") + 1 :] in relayed
        or any(pattern.match(address) for pattern in patterns)
    }


def _moves_to_patterns(current: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether an address that had an entry of its own will be matched by a new pattern only."""
    old, new = (parse_patterns(texts.get(PATTERNS, "")) for texts in (current, wanted))
    added = [re.compile(key[1:-1], re.IGNORECASE) for key in new if key not in old]
    if not added:
        return False
    gone = [key for name in (ALIASES, MAILBOXES) for key in parse_map(current.get(name, "")).keys() - parse_map(wanted[name]).keys()]
    return any(key.startswith("@") or any(pattern.match(key) for pattern in added) for key in gone)


@dataclass
class Staged:
    """What a module found; `rewritten` are files whose text differs although no row does (edited by hand, another release)."""

    plan: Plan
    secret: tuple[str, ...] = ()
    rewritten: list[str] = field(default_factory=list)
    digest: str = ""
    consequences: dict[str, list[str]] = field(default_factory=dict)

    def result(self, *, lines: bool = True) -> dict[str, Any]:
        """A module's result. Names only; the lines of the diff, where they are wanted, have secrets masked."""
        told = self.plan.lines(self.secret) + [f"~ {name}: rewritten" for name in self.rewritten] if lines else []
        return {
            **self.plan.names(),
            "unchanged": self.plan.unchanged,
            "rewritten": self.rewritten,
            "digest": self.digest,
            **self.consequences,
            "changed": bool(self.plan or self.rewritten),
            "diff": {"prepared": "".join(f"{line}\n" for line in told)},
        }


@dataclass
class Activation:
    """What mail_activate did, or in check mode would do."""

    changed: bool = False
    generation: int = 0
    kept: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    reload: list[str] = field(default_factory=list)
    archived: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    summary: dict[str, Names] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def result(self, *, lines: bool = True) -> dict[str, Any]:
        """The module's result; where nothing was staged the diff lists the files that were put right."""
        told = (self.lines or [f"~ {name}" for name in self.files]) if lines else []
        return {
            "changed": self.changed,
            "generation": self.generation,
            "kept": self.kept,
            "files": self.files,
            "reload": self.reload,
            "archived": self.archived,
            "restored": self.restored,
            "summary": self.summary,
            "diff": {"prepared": "".join(f"{line}\n" for line in told)},
        }


def describe(row: Mapping[str, Any], live: int) -> str:
    """A generation of the history on one line, for people."""
    changes = []
    for label, names in sorted(row["summary"].items()):
        parts = [label.removeprefix("mail_")]
        for sign, key in (("+", "added"), ("~", "changed_names"), ("-", "removed")):
            if found := names[key]:
                parts.append(f"{sign} {', '.join(found[:SHOWN])}" + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""))
        changes.append(" ".join(parts))
    marks = [*(["live"] if row["generation"] == live else []), *([f"again as {row['copy_of']}"] if row.get("copy_of") else [])]
    head = f"generation {row['generation']}, {row['time'].replace('T', ' ')}" + (f" ({', '.join(marks)})" if marks else "")
    return f"{head}: {'; '.join(changes) or 'no change of names'}"


@dataclass(frozen=True)
class Limit:
    """How much one run may remove: `number`, or `percent` of what there is, whichever is more, but never everything."""

    number: int
    percent: int
    allowed: bool = False

    def check(self, what: str, plan: Plan) -> None:
        """Raises Invalid where `plan` removes more of `what` than that."""
        gone, there = len(plan.removed), len(plan.removed) + len(plan.changed) + plan.unchanged
        if self.allowed or not gone or (plan.desired and gone <= max(self.number, there * self.percent // 100)):
            return
        shown = ", ".join(plan.removed[:SHOWN]) + (", …" if gone > SHOWN else "")
        allowed = f"one run may remove {self.number}, or {self.percent} %" if plan.desired else "one run may not remove all"
        raise Invalid(
            f"this run would remove {gone} of {there} {what} ({shown}); {allowed}. Nothing of the mail data was changed",
            "if it is meant, run again with -e directory_removals_allowed=true",
        )


class Directory:
    """The files under one root. `build` makes a database of a source, `reload` tells Postfix of new patterns, and so on."""

    def __init__(
        self,
        root: Path = ROOT,
        *,
        build: Callable[[Path, Path], None] = postmap,
        reload: Callable[[bool], bool] = reload_postfix,
        lock: Callable[[], contextlib.AbstractContextManager[None]] = host_lock,
        group: Callable[[str], int] = group_id,
        archive: Archive | None = None,
        end: Callable[[Collection[str]], None] = end_sessions,
        drain: Callable[[Collection[str]], None] = drain_queue,
        await_dovecot: Callable[[], None] = await_dovecot,
    ) -> None:
        self.root = root
        self.store = root / "directory"
        self.next = self.store / "next"
        self.generations = self.store / "generations"
        self._build = build
        self._reload = reload
        self._lock = lock
        self._group_id = group
        self.archive = archive or Archive()
        self._end_sessions = end
        self._drain_queue = drain
        self._await_dovecot = await_dovecot

    # -- reading

    def numbers(self) -> list[int]:
        """Numbers of the generations on disk, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(name) for name in os.listdir(self.generations) if name.isdigit())  # noqa: PTH208 -- names only
        return []

    def live(self) -> int:
        """Number of the generation made live last, 0 before the first."""
        return int(self._state().get("generation", 0))

    def history(self) -> list[dict[str, Any]]:
        """What each kept generation changed and when, newest first, for a rollback to choose from."""
        return [json.loads((self._generation(number) / "generation.json").read_text()) for number in reversed(self.numbers())]

    def read(self, name: str) -> str:
        """A file as it is, or as an interrupted run will leave it; empty where there is none."""
        return _text((self._generation(self.numbers()[-1]) if self._pending() else self.root) / name)

    def _generation(self, number: int) -> Path:
        return self.generations / f"{number:08d}"

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.store / "live.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _staged(self) -> list[str]:
        return [name for name in ORDER if (self.next / name).exists()]

    # -- staging

    def stage(self, label: str, texts: Mapping[str, str], plan: Plan, secret: tuple[str, ...] = (), *, check_mode: bool = False) -> Staged:
        """Put the texts that differ from what is (to be) live under `next`; what an earlier run left there goes."""
        numbers = self.numbers()
        newest = self._generation(numbers[-1]) if numbers else None
        bases = [*([] if self._pending() else [self.root]), *([newest] if newest else [])]
        different = {name: text for name, text in texts.items() if not all(_has(base / name, text) for base in bases)}
        staged = Staged(plan, secret, digest=_digest(texts))
        if not plan and newest:
            staged.rewritten = [name for name, text in different.items() if text != self.read(name)]
        stale = [name for name in texts if (self.next / name).exists()]
        if check_mode or not (different or stale):
            return staged
        with self._lock():
            self._make_directories()
            for name in texts:
                if name in different:
                    write_atomic(
                        self.next / name, different[name].encode(), mode=_mode(name), uid=_root(), gid=self._group_id(_group(name))
                    )
                else:
                    remove_file(self.next / name)
            summary = self.next / f"{label}.json"
            if plan:
                content = {**plan.names(), "lines": plan.lines(secret)}
                write_atomic(summary, json.dumps(content, ensure_ascii=False).encode(), mode=0o600)
            else:
                remove_file(summary)
        return staged

    def _make_directories(self) -> None:
        make_directory(self.root, mode=0o755)
        make_directory(self.store, mode=0o700)
        for path in (self.next, self.generations, *(self.next / group for group in ("postfix", "dovecot"))):
            make_directory(path, mode=0o700)
        for group in ("postfix", "dovecot"):
            make_directory(self.root / group, mode=0o750, uid=_root(), gid=self._group_id(group))
        if make_directory(self.store / "postmap", mode=0o700):
            write_atomic(self.store / "postmap" / "main.cf", b"", mode=0o600)

    # -- seals

    def standing(self) -> dict[str, Any]:
        """`{salt, lists: {module: {seal, digest}}}` (seal.py) of the lists whose files are live, and as those modules made them."""
        recorded = self._seals()
        lists = recorded["lists"] if not self._work() and not self._unfinished() else {}
        return {
            **recorded,
            "lists": {label: kept for label, kept in lists.items() if kept["digest"] and kept["digest"] == self._live_digest(label)},
        }

    def _seals(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = json.loads((self.store / "seals.json").read_text())
            return {"salt": str(found["salt"]), "lists": dict(found["lists"])}
        return {"salt": "", "lists": {}}

    def _live_digest(self, label: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            if label == "dkim_keys":
                return directory_digest(self.root / "dkim", "*.key")
            return _digest({name: (self.root / name).read_text() for name in OWNERS[label]})
        return ""

    def keep_seals(self, salt: str, seals: Mapping[str, Mapping[str, str]]) -> None:
        """Record `{module: {seal, digest}}` of those lists that are live: another run may have been faster. Raises OSError."""
        lists = {label: dict(kept) for label, kept in seals.items() if kept["digest"] == self._live_digest(label)}
        recorded = {"salt": salt, "lists": lists}
        if recorded != self._seals():
            write_atomic(self.store / "seals.json", json.dumps(recorded).encode(), mode=0o600)

    # -- activation

    def activate(
        self, *, keep: int = KEEP, days: int = RETENTION, expected: Mapping[str, str] | None = None, check_mode: bool = False
    ) -> Activation:
        """Make everything staged live, keep `keep` generations beside it, and removed mailboxes' mail for `days`.

        `expected` are the digests of the lists the caller has staged: what goes live must be these, not another run's.
        Nothing staged, nothing broken: nothing done, no process started.
        Raises ActivationError when that fails, after the former generation was made live again; OSError, LockedError, Invalid.
        """
        expected = expected or {}
        if not self._work() and not self._unfinished() and (check_mode or self._is_coming(expected)):
            return self._unchanged()
        if check_mode:
            return Activation(changed=True, generation=self.live(), kept=self.numbers(), files=self._work(), **self._summaries())
        with self._lock():
            self._make_directories()
            if not self._is_coming(expected):
                raise Invalid("another run changed the mail data at the same time", "run again; nothing of this run's went live")
            if not self._work() and not self._unfinished():
                return self._unchanged()
            return self._go_live(self._summaries(), keep, days)

    def roll_back(self, wanted: int | None = None, *, keep: int = KEEP, days: int = RETENTION, check_mode: bool = False) -> Activation:
        """Make a generation live again, by default the one before the newest; what is staged is dropped. Raises as `activate` does."""
        with contextlib.nullcontext() if check_mode else self._lock():
            numbers = self.numbers()
            if len(numbers) < 2 and wanted is None:
                raise Invalid("there is no former generation on this host")
            number = numbers[-2] if wanted is None else wanted
            if number not in numbers:
                raise Invalid(f"there is no generation {number} on this host", f"there are {', '.join(map(str, numbers))}")
            source = self._verified(number)
            plans = _compare(lambda name: _text(self._generation(numbers[-1]) / name), lambda name: _text(source / name))
            summaries: dict[str, Any] = {
                "summary": {label: plan.names() for label, plan in plans.items() if plan},
                "lines": [line for label, plan in plans.items() for line in plan.lines(CONTENTS[label][1])],
            }
            if check_mode:
                return Activation(changed=bool(summaries["lines"]), generation=numbers[-1], kept=numbers, **summaries)
            self._make_directories()
            shutil.rmtree(self.next)
            if number == numbers[-1] and not self._work() and not self._unfinished():
                return self._unchanged()
            return self._go_live(summaries, keep, days, number if number != numbers[-1] else None)

    def _verified(self, number: int) -> Path:
        """The generation's directory, if its files are what was committed."""
        source = self._generation(number)
        digests = json.loads((source / "generation.json").read_text())["files"]
        for name, digest in digests.items():
            if hashlib.sha256((source / name).read_bytes()).hexdigest() != digest:
                raise Invalid(f"generation {number} is damaged: {name} is not what was live", "choose another one")
        return source

    def _go_live(self, summaries: Mapping[str, Any], keep: int, days: int, copy_of: int | None = None) -> Activation:
        # Left by a run that was killed while it wrote.
        for group in ("postfix", "dovecot"):
            for path in (self.root / group).glob(f"{TEMPORARY_PREFIX}*"):
                path.unlink()
        pending = self._pending()
        number = self._commit(summaries["summary"], copy_of)
        former = self._state().get("generation")
        ever = self._ever(former)
        try:
            users = parse_names(_text(self._generation(number) / USERS))
            restored = [address for address in sorted(self.archive.addresses() & users) if self.archive.restore(address)]
            done = self._apply(number, ever, rebuild=pending)
        except (ActivationError, OSError, Invalid) as error:
            raise ActivationError(f"{error}; {self._restore(former, number, ever, days)}") from error
        self._prune(number, keep)
        try:
            done.archived = self._put_aside(days)
        except OSError as error:
            raise ActivationError(f"the new state is live, but not all mail of removed mailboxes is archived: {error}") from error
        done.summary, done.lines, done.restored = summaries["summary"], summaries["lines"], restored
        done.kept = self.numbers()
        return done

    def _is_coming(self, expected: Mapping[str, str]) -> bool:
        """Whether the next commit takes the lists with these digests."""
        numbers = self.numbers()
        base = self._generation(numbers[-1]) if numbers else self.root

        def text(name: str) -> str:
            return _text((self.next if (self.next / name).exists() else base) / name)

        return all(expected[label] == _digest({name: text(name) for name in names}) for label, names in OWNERS.items() if label in expected)

    def _ever(self, former: int | None) -> set[str]:
        """Mailboxes that were live, or half live where a run was killed; none where none can have left."""
        files = [self._generation(number) / USERS for number in self.numbers() if former is None or number >= former]
        # An unchanged file is the same in all.
        if len({file.stat().st_ino for file in files}) < 2:
            return set()
        return {name for file in files for name in parse_names(_text(file))}

    def _strays(self) -> list[str]:
        """Mailboxes with mail on the wrong side: back in the archive's reach, or delivered while they were being removed."""
        archived = self.archive.addresses()
        users = parse_names(self.read(USERS)) if archived else set()
        return sorted(address for address in archived if address in users or self.archive.has_mail(address))

    def _unfinished(self) -> bool:
        state = self._state()
        return bool(state.get("departed") or state.get("denied") or self._strays())

    def _put_aside(self, days: int) -> list[str]:
        """End the sessions of who was removed or denied, and archive the mail of the removed; who had any."""
        state = self._state()
        users = parse_names(self.read(USERS))
        departed = sorted({*state["departed"], *self._strays()} - users)
        if not departed and not state["denied"]:
            return []
        # Not before it refuses a new login.
        self._await_dovecot()
        self._end_sessions([*departed, *state["denied"]])
        archived = [address for address in departed if self.archive.store(address, days)]
        self._write_state({**state, "departed": [], "denied": []})
        return archived

    def _unchanged(self) -> Activation:
        return Activation(generation=self.live(), kept=self.numbers())

    def _pending(self) -> bool:
        numbers = self.numbers()
        return bool(numbers) and numbers[-1] != self._state().get("generation")

    def _work(self) -> list[str]:
        """Files that are staged, missing, not what was left, or in question after an interrupted run."""
        state = self._state()
        if not self.numbers() or self._pending():
            return list(ORDER)
        left = state.get("files", {})
        return [name for name in ORDER if (self.next / name).exists() or self._signature(name) != left.get(name)]

    def _signature(self, name: str) -> list[list[int]] | None:
        """What changes when somebody else touches the file or its database."""
        try:
            found = [(self.root / name).lstat()]
            if _is_database(name):
                found.append((self.root / f"{name}.lmdb").lstat())
        except FileNotFoundError:
            return None
        return [[s.st_ino, s.st_size, s.st_mtime_ns, s.st_mode, s.st_uid, s.st_gid] for s in found]

    def _summaries(self) -> dict[str, Any]:
        summary: dict[str, Names] = {}
        lines: list[str] = []
        for path in sorted(self.next.glob("*.json")):
            content = json.loads(path.read_text())
            lines.extend(content.pop("lines"))
            summary[path.stem] = content
        return {"summary": summary, "lines": lines}

    def _commit(self, summary: Mapping[str, Names], copy_of: int | None = None) -> int:
        """A complete set of sources as the newest generation, and nothing staged any more; or the newest one where nothing was.

        The sources are those staged over the newest generation's, or those of the generation `copy_of`.
        """
        numbers = self.numbers()
        staged = self._staged()
        if numbers and not staged and copy_of is None:
            return numbers[-1]
        base = self._generation(copy_of or numbers[-1]) if numbers else self.root
        number = numbers[-1] + 1 if numbers else 1
        for stale in self.generations.glob(".new-*"):
            shutil.rmtree(stale)
        target = self.generations / f".new-{number}"
        for path in (target, target / "postfix", target / "dovecot"):
            make_directory(path, mode=0o700)
        digests = {}
        for name in ORDER:
            source = (self.next if name in staged else base) / name
            try:
                os.link(source, target / name, follow_symlinks=False)
            except FileNotFoundError:
                write_atomic(target / name, b"", mode=_mode(name), uid=_root(), gid=self._group_id(_group(name)))
            digests[name] = hashlib.sha256((target / name).read_bytes()).hexdigest()
        content = {
            "generation": number,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "copy_of": copy_of,
            "summary": summary,
            "files": digests,
        }
        write_atomic(target / "generation.json", json.dumps(content, ensure_ascii=False).encode(), mode=0o600)
        for group in ("postfix", "dovecot"):
            fsync_directory(target / group)
        fsync_directory(target)
        target.rename(self._generation(number))
        fsync_directory(self.generations)
        if self.next.exists():
            shutil.rmtree(self.next)
        return number

    def _apply(self, number: int, ever: Collection[str], *, rebuild: bool) -> Activation:
        """Bring the files to a generation; note who of the mailboxes `ever` live it leaves out, and whom it denies."""
        generation = self._generation(number)
        wanted = {name: _text(generation / name) for name in ORDER}
        current = {name: (self.root / name).read_text() for name in ORDER if (self.root / name).exists()}
        state = self._state()
        left = state.get("files", {})
        suspect = [name for name in ORDER if rebuild or self._signature(name) != left.get(name)]
        steps = transition(current, wanted, suspect)
        moves = _moves_to_patterns(current, wanted)
        moved = _moves_from_mailboxes(current, wanted)
        before, after = _domain_kinds(current), _domain_kinds(wanted)
        new_kinds = [name for name, kind in after.items() if before.get(name) != kind]
        lists = max((index for index, step in enumerate(steps) if step.name in (DOMAINS, RELAY_DOMAINS)), default=None)
        reloaded = False
        for index, step in enumerate(steps):
            if step.name == USERS and step.text is None and moved:
                # It loses entries now, and all that are to replace them are there.
                self._drain_queue(moved)
            self._publish(step, generation)
            if step.name == USERS and parse_names(_text(self.root / USERS)) - parse_names(current.get(USERS, "")):
                # Postfix must not accept for whom Dovecot does not know yet.
                self._await_dovecot()
            if step.name == PATTERNS and PATTERNS in current and (rebuild or current[PATTERNS] != wanted[PATTERNS]):
                reloaded = self._reload(moves) or reloaded
            # Daemons remember of an address what kind of domain it is in: 554 to somebody who was told so before. One that was local
            # and is relayed now would be looked for among the mailboxes, which are still there.
            if index == lists and DOMAINS in current and (rebuild or new_kinds):
                reloaded = self._reload(any(name in before for name in new_kinds)) or reloaded
        former = self._generation(state.get("generation", number))
        denied = {address for name in DENY.values() for address in parse_names(wanted[name]) - parse_names(_text(former / name))}
        users = parse_names(wanted[USERS])
        self._write_state(
            {
                "generation": number,
                "files": {name: self._signature(name) for name in ORDER},
                "departed": sorted({*state.get("departed", ()), *ever} - users),
                "denied": sorted({*state.get("denied", ()), *denied} & users),
            }
        )
        return Activation(
            changed=True,
            generation=number,
            files=[name for name in ORDER if name in {step.name for step in steps}],
            reload=["postfix"] if reloaded else [],
        )

    def _publish(self, step: Step, generation: Path) -> None:
        """One file live, by a rename, and its database after it."""
        path = self.root / step.name
        gid = self._group_id(_group(step.name))
        try:
            before = path.stat()
        except FileNotFoundError:
            before = None
        if step.text is not None:
            write_atomic(path, step.text.encode(), mode=_mode(step.name), uid=_root(), gid=gid)
        else:
            if not (generation / step.name).exists():
                # From a release that did not have this file yet.
                write_atomic(generation / step.name, b"", mode=_mode(step.name), uid=_root(), gid=gid)
            _own(generation / step.name, gid, _mode(step.name))
            if before is None or not path.samefile(generation / step.name):
                temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
                temporary.unlink(missing_ok=True)
                os.link(generation / step.name, temporary)
                temporary.rename(path)
                fsync_directory(path.parent)
        after = path.stat()
        # Dovecot compares size and whole seconds. (Postfix warns of a source younger than its database.)
        if path.parent.name == "dovecot" and before and before.st_ino != after.st_ino and int(after.st_mtime) <= int(before.st_mtime):
            os.utime(path, (after.st_atime, int(before.st_mtime) + 1))
        if _is_database(step.name):
            self._build(path, self.store / "postmap")
            _own(path.with_name(f"{path.name}.lmdb"), gid, _mode(step.name))

    def _restore(self, former: int | None, failed: int, ever: Collection[str], days: int) -> str:
        """Back to the former generation; says what is live now."""
        if former is None or former == failed or not self._generation(former).exists():
            return "the next run tries again"
        try:
            self._apply(former, ever, rebuild=True)
            shutil.rmtree(self._generation(failed))
            self._put_aside(days)
        except (ActivationError, OSError, Invalid) as error:
            return f"nor could the former state be restored ({error}); the next run tries again"
        return "the former state is live again"

    def _prune(self, live: int, keep: int) -> None:
        for number in self.numbers()[: -keep - 1]:
            if number != live:
                shutil.rmtree(self._generation(number))

    def _write_state(self, state: Mapping[str, Any]) -> None:
        write_atomic(self.store / "live.json", json.dumps(state).encode(), mode=0o600)


def _root() -> int:
    """The owner of what is written: root, or in a test whoever runs it."""
    return 0 if os.geteuid() == 0 else -1


def _own(path: Path, gid: int, mode: int) -> None:
    """Owner root, that group and mode."""
    found = path.stat()
    if found.st_gid != gid or (os.geteuid() == 0 and found.st_uid != 0):
        os.chown(path, _root(), gid)
    if found.st_mode & 0o7777 != mode:
        path.chmod(mode)


def _digest(texts: Mapping[str, str]) -> str:
    shown = dict(texts)
    if secret := shown.get(PASSWORDS):
        # Passwords in clear: the digest, which gets about, must not tell them to whoever tries words.
        shown[PASSWORDS] = hashlib.scrypt(secret.encode(), salt=PASSWORDS.encode(), n=2**14, r=8, p=1, maxmem=2**25).hex()
    return hashlib.sha256(json.dumps(sorted(shown.items())).encode()).hexdigest()


def _text(path: Path) -> str:
    """Empty where there is no file."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _differs(path: Path, text: str) -> bool:
    """Whether the file is there and says something else."""
    return path.exists() and not _has(path, text)


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False


# -- files → rows, by the module that writes them

Read = Callable[[str], str]


def _domain_kinds(texts: Mapping[str, str]) -> dict[str, str]:
    """Every domain and the list it is in; the local one counts."""
    return {name: kind for kind in (RELAY_DOMAINS, DOMAINS) for name in parse_map(texts.get(kind, ""))}


def _domain_rows(read: Read) -> Mapping[str, Row]:
    return {name: {} for name in parse_map(read(DOMAINS))}


def _alias_rows(read: Read) -> Mapping[str, Row]:
    return _rows("to", parse_map(read(ALIASES)))


def _map_rows(read: Read) -> Mapping[str, Row]:
    rows = {f"{name} {key}": {"value": value} for name in MAPS for key, value in parse_map(read(f"postfix/{name}")).items()}
    # The field's name says whether its value is shown.
    rows.update({f"relay_passwords {key}": {"password": value} for key, value in parse_map(read(PASSWORDS)).items()})
    return {**rows, **{f"alias_patterns {key}": {"value": value} for key, value in parse_patterns(read(PATTERNS)).items()}}


def _mailbox_rows(read: Read) -> Mapping[str, Row]:
    denied = {protocol: parse_names(read(name)) for protocol, name in DENY.items()}
    users = parse_users(read(USERS))
    return {address: _shown(user, {p for p in DENIABLE if address in denied[p]}) for address, user in users.items()}


# label → its rows, and which of their fields are secret
CONTENTS: Final[Mapping[str, tuple[Callable[[Read], Mapping[str, Row]], tuple[str, ...]]]] = {
    "mail_domains": (_domain_rows, ()),
    "mail_mailboxes": (_mailbox_rows, ("password",)),
    "mail_aliases": (_alias_rows, ()),
    "mail_maps": (_map_rows, ("password",)),
}


def _compare(current: Read, desired: Read) -> dict[str, Plan]:
    return {label: make_plan(rows(current), rows(desired)) for label, (rows, _) in CONTENTS.items()}


# -- rows of the inventory → files


def stage_domains(directory: Directory, rows: Iterable[Any], limit: Limit | None = None, *, check_mode: bool = False) -> Staged:
    """`[{name}]` → virtual_domains. Raises Invalid, LockedError, OSError, as the others below do."""
    desired = keyed("domains", rows, "name", ("name",), lambda row: check_domain(row["name"]))
    plan = make_plan(_domain_rows(directory.read), {name: {} for name in desired})
    if limit:
        limit.check("domains", plan)
    staged = directory.stage("mail_domains", {DOMAINS: render_map(dict.fromkeys(desired, PRESENT))}, plan, check_mode=check_mode)
    staged.consequences["to_reload"] = ["postfix"] if plan.added and (directory.root / DOMAINS).exists() else []
    return staged


def stage_aliases(directory: Directory, rows: Iterable[Any], *, check_mode: bool = False) -> Staged:
    """`[{address, to}]` → virtual_aliases; `@example.org` is a catch-all (virtual(5))."""

    def read(row: dict[str, Any]) -> str:
        address = row["address"]
        if address.startswith("@"):
            check_domain(address[1:])
        else:
            check_address(address)
        return check_targets(row["to"])

    desired = keyed("aliases", rows, "address", ("address", "to"), read)
    plan = make_plan(_alias_rows(directory.read), _rows("to", desired))
    return directory.stage("mail_aliases", {ALIASES: render_map(desired)}, plan, check_mode=check_mode)


def stage_maps(
    directory: Directory, maps: Mapping[str, Any], patterns: Iterable[Any], passwords: Iterable[Any] = (), *, check_mode: bool = False
) -> Staged:
    """`{name: [{key, value}]}` → the tables of MAPS, `[{pattern, to}]` → virtual_alias_patterns, `[{key, value}]` → relay_passwords.

    A table not given is empty.
    """
    if unknown := sorted(set(maps) - set(MAPS)):
        raise Invalid(f"maps: {', '.join(unknown)}: known are {', '.join(MAPS)}")
    texts = {}
    tables = [*((f"maps.{name}", f"postfix/{name}", maps.get(name) or []) for name in MAPS), ("passwords", PASSWORDS, passwords)]
    for what, name, rows in tables:
        texts[name] = render_map(keyed(what, rows, "key", ("key", "value"), _secret_entry if name == PASSWORDS else _entry))
    pairs = keyed("alias_patterns", patterns, "pattern", ("pattern", "to"), lambda row: (row["pattern"], check_targets(row["to"])))
    texts[PATTERNS] = render_patterns(list(pairs.values()))
    plan = make_plan(_map_rows(directory.read), _map_rows(texts.__getitem__))
    staged = directory.stage("mail_maps", texts, plan, ("password",), check_mode=check_mode)
    new_domains = parse_map(texts[RELAY_DOMAINS]).keys() - parse_map(directory.read(RELAY_DOMAINS)).keys()
    reload = _differs(directory.root / PATTERNS, texts[PATTERNS]) or (new_domains and (directory.root / RELAY_DOMAINS).exists())
    staged.consequences["to_reload"] = ["postfix"] if reload else []
    return staged


def _entry(row: dict[str, Any]) -> str:
    check_key(row["key"])
    return check_value(row["value"])


def _secret_entry(row: dict[str, Any]) -> str:
    check_key(row["key"])
    try:
        return check_value(row["value"])
    except Invalid:
        raise Invalid("value: cannot be a value of a lookup table") from None


def stage_mailboxes(
    directory: Directory, rows: Iterable[Any], version: str, limit: Limit | None = None, *, check_mode: bool = False
) -> Staged:
    """Rows of docs/architecture.md → users, deny files, virtual_mailboxes. Disabled mailboxes stay known, refused for every protocol."""
    desired = keyed("mailboxes", rows, "address", _MAILBOX, _mailbox)
    current = parse_users(directory.read(USERS))
    hashes = resolve(
        {address: wanted.credential for address, wanted in desired.items()},
        {address: user.password for address, user in current.items()},
        check_mode=check_mode,
    )
    users = {address: User(hashes[address], wanted.quota, wanted.junk_filing) for address, wanted in desired.items()}
    texts = {
        USERS: render_users(users, version),
        MAILBOXES: render_map(dict.fromkeys(users, PRESENT)),
        **{DENY[p]: render_names(address for address, wanted in desired.items() if p in wanted.denied) for p in DENIABLE},
    }
    plan = make_plan(
        _mailbox_rows(directory.read),
        {address: _shown(user, desired[address].denied) for address, user in users.items()},
    )
    if limit:
        limit.check("mailboxes", plan)
    staged = directory.stage("mail_mailboxes", texts, plan, ("password",), check_mode=check_mode)
    staged.consequences["to_archive"] = [address for address in plan.removed if directory.archive.has_mail(address)]
    staged.consequences["to_restore"] = sorted(directory.archive.addresses() & users.keys())
    return staged


@dataclass(frozen=True)
class _Wanted:
    credential: Credential
    quota: int
    junk_filing: bool
    denied: frozenset[str]


_MAILBOX: Final = ("address", "password", "password_hash", "password_update", "quota_bytes", "denied_protocols", "enabled", "junk_filing")


def _mailbox(row: dict[str, Any]) -> _Wanted:
    check_address(row["address"])
    for key in ("password", "password_hash"):
        if row[key] is not None and (not isinstance(row[key], str) or not row[key]):
            raise Invalid(f"{key}: a text or null is expected")
    if row["password_update"] not in ("always", "on_create"):
        raise Invalid("password_update: always or on_create is expected")
    if type(row["quota_bytes"]) is not int or row["quota_bytes"] < 0:
        raise Invalid("quota_bytes: a number of bytes is expected, 0 for no limit")
    for key in ("enabled", "junk_filing"):
        if type(row[key]) is not bool:
            raise Invalid(f"{key}: true or false is expected")
    denied = row["denied_protocols"]
    if not isinstance(denied, list) or not set(denied) <= set(DENIABLE):
        raise Invalid(f"denied_protocols: a list out of {', '.join(DENIABLE)} is expected")
    return _Wanted(
        credential=Credential(row["password"], row["password_hash"], row["password_update"]),
        quota=row["quota_bytes"],
        junk_filing=row["junk_filing"],
        denied=frozenset(denied if row["enabled"] else DENIABLE),
    )


def _shown(user: User, denied: Collection[str]) -> dict[str, str]:
    return {
        "password": user.password,
        "quota": f"{user.quota} bytes" if user.quota else "unlimited",
        "denied": " ".join(sorted(denied)),
        "junk_filing": "yes" if user.junk_filing else "no",
    }


def _rows(field_name: str, values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {field_name: value} for name, value in values.items()}
