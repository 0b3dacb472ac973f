# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Proves prepared DKIM keys, and has the filter sign with those that are published; the other half of dkim.py.

Killed anywhere it is made whole by the next run: the state says what is to sign, `signing.conf` follows it, the filter follows that, and
only when it is seen to have done so the time of retired keys begins to run.
"""

from __future__ import annotations

import contextlib
import grp
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import dkim_life, dkim_proof, dkim_state
from .authority import Client
from .commands import run, shorten
from .dkim_life import Found, Key, zone_line
from .dkim_state import State
from .errors import Invalid
from .files import host_lock, write_atomic
from .plan import Plan, make_plan
from .units import UnitError, systemctl

__all__ = ["Done", "Filter", "Switch"]

INCLUDED_BY: Final = Path("/etc/rspamd/local.d/dkim_signing.conf")
UNIT: Final = "rspamd.service"
# Where Postfix gives its mail to Rspamd, see the role rspamd.
MILTER_PORT: Final = 11332
# Its workers finish what they are at; no task takes longer than a minute.
PATIENCE: Final = 90.0


class Filter:
    """Rspamd, which reads the signing set when it starts and when it is reloaded."""

    def __init__(self, included_by: Path = INCLUDED_BY) -> None:
        self.included_by = included_by

    def take_up(self, path: Path) -> bool:
        """Reload Rspamd if it runs; true where nothing signs with another set any more. Raises UnitError."""
        main = self._main()
        if not main:
            return True
        try:
            includes = str(path) in self.included_by.read_text()
        except FileNotFoundError:
            includes = False
        if not includes:
            # Before the first run of this version has configured it.
            return False
        status, output = run(["runuser", "-u", "_rspamd", "--", "rspamadm", "configtest"])
        if status:
            raise UnitError(f"Rspamd would not start with its configuration, it goes on with the former keys: {shorten(output)}")
        before = self._children(main)
        systemctl("reload", UNIT)
        end = time.monotonic() + PATIENCE
        while self._main() == main and _at_work(before, self._children(main)):
            if time.monotonic() > end:
                return False
            time.sleep(0.2)  # until the workers with the former set are through: nothing announces it
        return True

    def _main(self) -> str:
        status, output = run(["systemctl", "show", "--property=MainPID", "--value", UNIT])
        return "" if status or output == "0" else output

    def _children(self, main: str) -> set[str]:
        with contextlib.suppress(OSError):
            return set(Path(f"/proc/{main}/task/{main}/children").read_text().split())
        return set()


def _at_work(before: set[str], now: set[str]) -> bool:
    """Whether workers from before the reload take or hold connections: new ones come once these were told to take no more."""
    return now <= before or bool(_in_use(before & now))


def _in_use(workers: Iterable[str]) -> set[str]:
    """Those that Postfix is connected to. The others do nothing more, though Rspamd 3.12 ends them late (rspamd/rspamd#4941)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            # proc(5): local address, state (1 is established), inode.
            inodes |= {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{MILTER_PORT:04X}") and row[3] == "01"}
    return {worker for worker in workers if inodes & _links(Path(f"/proc/{worker}/fd"))}


def _links(directory: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in directory.iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


@dataclass
class Done:
    """What run found or did. `missing` are texts for people."""

    plan: Plan
    changed: bool = False
    keys: list[Key] = field(default_factory=list)
    signing: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Switch:
    """The keys below one directory and the filter that uses them."""

    def __init__(
        self,
        path: Path,
        group: str,
        queue_lifetime: int,
        *,
        timeout: float = 2.0,
        client: Client | None = None,
        user: Filter | None = None,
        clock: Callable[[], float] = time.time,
        lock: Callable[[], AbstractContextManager[None]] = host_lock,
    ) -> None:
        self.path = path
        self.group = group
        self.hold = queue_lifetime + dkim_life.MARGIN
        self.client = client or Client(timeout=timeout)
        self.user = user or Filter()
        self.clock = clock
        self.lock = lock

    def run(self, *, check_mode: bool = False, announced: Iterable[str] = (), unpublished: Iterable[str] = ()) -> Done:
        """Ask, switch, and tell the filter. Raises Invalid, LockedError, OSError, UnitError (then the former keys sign).

        `announced`, in check mode: names of records that a run would make and publish before it came here. `unpublished`: names of records
        that nobody can have published yet.
        """
        state = dkim_state.read(self.path)
        if state is None:
            return Done(make_plan({}, {}))
        asked = [key for key in state.keys if key.state in ("prepared", "published")]
        new = frozenset(unpublished)
        proofs = dkim_proof.ask([key for key in asked if key.name not in new], self.client)
        proofs |= {key.name: (Found(proven=False), []) for key in asked if key.name in new}
        if check_mode:
            proofs |= {key.name: (Found(proven=True), []) for key in asked if key.name in set(announced)}
            moved = dkim_life.advance(state.keys, dkim_proof.verdicts(asked, proofs, state.keys), self._now())
            others = {key.name for key in asked} | {key.name for key in state.keys if key.state == "signing"}
            return self._done(state, moved, proofs, sorted(set(announced) - others))
        # Nobody waits for name servers behind this lock.
        with self.lock():
            state = dkim_state.read(self.path)
            if state is None:
                raise Invalid("the state of the keys was removed meanwhile", "run again")
            moved = dkim_life.advance(state.keys, dkim_proof.verdicts(asked, proofs, state.keys), self._now())
            done = self._done(state, moved, proofs)
            state.keys = moved
            dkim_state.write(self.path, state)
            done.changed = self._write_signing(moved) or done.changed
            self._tell(state)
            dkim_state.write(self.path, state)
            done.keys = state.keys
        return done

    def _now(self) -> int:
        return int(self.clock())

    def _write_signing(self, keys: list[Key]) -> bool:
        texts = {
            self.path / dkim_state.SIGNING: dkim_state.signing_text(self.path, keys),
            self.path / dkim_state.SEALING: dkim_state.sealing_text(self.path, keys),
        }
        different = {file: text for file, text in texts.items() if not file.exists() or file.read_text() != text}
        if different:
            try:
                gid = grp.getgrnam(self.group).gr_gid
            except KeyError:
                raise Invalid(f"{self.group}: its package is not installed") from None
            for file, text in different.items():
                write_atomic(file, text.encode(), mode=0o640, gid=gid)
        return bool(different)

    def _tell(self, state: State) -> None:
        digest = dkim_state.signing_digest(self.path, state.keys)
        if state.loaded != digest and self.user.take_up(self.path):
            state.loaded = digest
        if state.loaded == digest:
            state.keys = dkim_life.begin_hold(state.keys, self._now(), self.hold)

    def _done(self, state: State, moved: list[Key], proofs: dict[str, tuple[Found, list[str]]], unmade: Sequence[str] = ()) -> Done:
        former = {key.name: key.state for key in state.keys}
        after = {key.name: key.state for key in moved} | dict.fromkeys(unmade, "signing")
        plan = make_plan(
            {name: {"state": state} for name, state in former.items()}, {name: {"state": state} for name, state in after.items()}
        )
        done = Done(plan, bool(plan), moved, signing=list(unmade))
        for key in moved:
            if key.state != former[key.name]:
                (done.signing if key.state == "signing" else done.retired if key.state == "retired" else []).append(key.name)
            if key.state == "prepared" and key.name in proofs:
                done.missing += [zone_line(key.name, key.record), *(f"  {line}" for line in proofs[key.name][1])]
        return done

    def outlook(self, done: Done, rotation_age: int = 0) -> list[str]:
        """A line for each key: what it is and what comes next."""
        keys = sorted(done.keys, key=lambda key: (key.domain, key.made, key.selector))
        return [dkim_life.outlook(key, rotation_age) for key in keys]
