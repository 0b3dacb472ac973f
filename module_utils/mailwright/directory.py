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
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import dkim_state
from .archive import Archive, end_sessions
from .contents import CONTENTS, compare
from .daemons import await_dovecot, drain_queue, postmap, reload_postfix
from .errors import ActivationError, Invalid
from .files import TEMPORARY_PREFIX, fsync_directory, host_lock, make_directory, remove_file, write_atomic
from .layout import DENY, DOMAINS, ORDER, OWNERS, PASSWORDS, PATTERNS, RELAY_DOMAINS, USERS, group_id, group_of, is_database, mode_of
from .passwd_file import parse_names
from .plan import Plan
from .transition import Step, domain_kinds, moves_from_mailboxes, moves_to_patterns, transition

__all__ = ["KEEP", "RETENTION", "Activation", "Directory", "Limit", "Staged", "describe"]

ROOT: Final = Path("/var/lib/mailwright")
# Generations kept beside the live one.
KEEP: Final = 10
# Days for which the archive keeps mail.
RETENTION: Final = 30
# Names on one line of a report.
SHOWN: Final = 10

Names = dict[str, list[str]]


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
        await_dovecot: Callable[[str], None] = await_dovecot,
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
                        self.next / name, different[name].encode(), mode=mode_of(name), uid=_root(), gid=self._group_id(group_of(name))
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
                return dkim_state.seal_digest(self.root / "dkim")
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
            plans = compare(lambda name: _text(self._generation(numbers[-1]) / name), lambda name: _text(source / name))
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
        for directory in (self.root / "postfix", self.root / "dovecot", self.store):
            for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
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
        self._await_dovecot("")
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
            if is_database(name):
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
                write_atomic(target / name, b"", mode=mode_of(name), uid=_root(), gid=self._group_id(group_of(name)))
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
        steps = transition(current, wanted, suspect, interrupted=rebuild)
        moves = moves_to_patterns(current, wanted)
        moved = moves_from_mailboxes(current, wanted)
        before, after = domain_kinds(current), domain_kinds(wanted)
        new_kinds = [name for name, kind in after.items() if before.get(name) != kind]
        lists = max((index for index, step in enumerate(steps) if step.name in (DOMAINS, RELAY_DOMAINS)), default=None)
        reloaded = False
        for index, step in enumerate(steps):
            if step.name == USERS and step.text is None and moved:
                # It loses entries now, and all that are to replace them are there.
                self._drain_queue(moved)
            self._publish(step, generation)
            if step.name == USERS:
                added = parse_names(_text(self.root / USERS)) - parse_names(current.get(USERS, ""))
                # Postfix must not accept for whom Dovecot does not know yet; whom a killed run has added nobody can tell.
                if added or rebuild:
                    self._await_dovecot("" if rebuild else min(added))
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
        gid = self._group_id(group_of(step.name))
        try:
            before = path.stat()
        except FileNotFoundError:
            before = None
        if step.text is not None:
            write_atomic(path, step.text.encode(), mode=mode_of(step.name), uid=_root(), gid=gid)
        else:
            if not (generation / step.name).exists():
                # From a release that did not have this file yet.
                write_atomic(generation / step.name, b"", mode=mode_of(step.name), uid=_root(), gid=gid)
            _own(generation / step.name, gid, mode_of(step.name))
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
        if is_database(step.name):
            self._build(path, self.store / "postmap")
            _own(path.with_name(f"{path.name}.lmdb"), gid, mode_of(step.name))

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


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False
