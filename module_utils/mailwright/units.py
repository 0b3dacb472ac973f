# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""systemd units: what state they are in, and what a change of their files asks of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .commands import run, shorten

SYSTEMD_DIRECTORY = "/etc/systemd/system/"
STRENGTH = {"enable": 1, "reload": 2, "restart": 3}
PROPERTIES = "Type,LoadState,ActiveState,SubState,UnitFileState,CanReload,NeedDaemonReload,NRestarts"
# So often a service may end right after its start until nobody waits for it any longer; systemd itself tries on for the burst of its unit.
ATTEMPTS = 5

State = Mapping[str, str]


class UnitError(Exception):
    """systemctl refused; the message has its output."""


class Unit(NamedTuple):
    """A unit to be enabled and active; `process` is the unit whose state tells the truth.

    A change of one of `paths` needs `action`, of one of `restart_on` a restart (globs, `*` matches slashes too). `refusal` is a
    regular expression for what it logs where it keeps its old configuration at a reload.
    """

    name: str
    process: str
    action: str = "reload"
    restart_on: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("*",)
    refusal: str | None = None


def plan_unit(
    unit: Unit, states: Mapping[str, State], pending: Iterable[str], watch_actions: Iterable[str | None], proven: bool
) -> str | None:
    """What `unit` needs after changes of the paths `pending`: start, restart, reload, enable or nothing. Pure.

    `watch_actions` has one entry per watched file that changed, None for the unit's own action. What was never `proven`,
    and a unit whose own file or drop-in changed, is restarted; so is a unit that cannot reload.
    """
    own, process = states[unit.name], states[unit.process]
    if not is_active(own) or not is_active(process):
        return "start"
    touched = [path for path in pending if matches(path, unit.paths)]
    needs = {action or unit.action for action in watch_actions}
    if touched:
        needs.add("restart" if any(needs_restart(unit, path) for path in touched) else unit.action)
    if needs and (not proven or ("reload" in needs and own.get("CanReload") == "no")):
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
    # x@y.service is also made of x@.service.
    names = {name for full in (unit.name, unit.process) for name in (full, re.sub(r"@[^.]*\.", "@.", full))}
    return any(path == SYSTEMD_DIRECTORY + n or path.startswith(f"{SYSTEMD_DIRECTORY}{n}.d/") for n in names)


def is_active(state: State) -> bool:
    """Whether systemd calls the unit active."""
    return state.get("ActiveState") in ("active", "reloading", "refreshing")


def needs_enabling(state: State) -> bool:
    """Whether the unit would not come back after a boot; static and generated ones have nothing to enable."""
    return state.get("UnitFileState", "") in ("disabled", "enabled-runtime", "")


def names_of(units: Iterable[Unit]) -> list[str]:
    """The units and their processes, each once."""
    return list(dict.fromkeys(name for unit in units for name in (unit.name, unit.process)))


def unit_states(units: Iterable[Unit]) -> dict[str, State]:
    """{unit: properties} of every unit and process, by one `systemctl show`. Raises UnitError."""
    names = names_of(units)
    if not names:
        return {}
    status, output = run(["systemctl", "show", "--no-pager", f"--property={PROPERTIES}", "--", *names])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.split("\n\n")]
    if status or len(blocks) != len(names):
        raise UnitError(f"systemctl cannot tell the state of {', '.join(names)}: {output or status}")
    return dict(zip(names, blocks, strict=True))


def first_inactive(states: Mapping[str, State]) -> str | None:
    """A sentence about the first unit that is not active, None where all are."""
    for name, state in states.items():
        if state.get("LoadState") == "not-found":
            return f"unit {name} does not exist"
        if not is_active(state):
            return f"unit {name} is {state.get('ActiveState')} ({state.get('SubState')})"
    return None


def systemctl(verb: str, *names: str) -> None:
    """One job, waited for. Raises UnitError with the output."""
    status, output = run(["systemctl", verb, "--", *names])
    if status:
        raise UnitError(f"systemctl {' '.join((verb, *names))} failed ({status}): {shorten(output)}")


def first_restless(before: Mapping[str, State], now: Mapping[str, State]) -> str | None:
    """A sentence about the first unit that systemd had to start again ATTEMPTS times since `before`, None where it had none."""
    for name, state in now.items():
        count, earlier = (int(found.get(name, {}).get("NRestarts") or 0) for found in (now, before))
        # A start by hand counts from zero again.
        if count - (earlier if count >= earlier else 0) >= ATTEMPTS and not is_active(state):
            return f"unit {name} ends right after its start, {ATTEMPTS} times in a row"
    return None


def take_up(unit: Unit, action: str, states: Mapping[str, State]) -> None:
    """Do what plan_unit said. Raises UnitError."""
    own, process = states[unit.name], states[unit.process]
    if needs_enabling(own):
        systemctl("enable", unit.name)
    if action == "start":
        failed = [name for name in names_of([unit]) if states[name].get("ActiveState") == "failed"]
        if failed:
            # Else a unit that failed too often is refused.
            systemctl("reset-failed", *failed)
        # Starting an active unit would do nothing for its dead process.
        action = "restart" if is_active(own) and not is_active(process) else "start"
    if action != "enable":
        systemctl(action, unit.name)


def refusal_of(unit: Unit, since: float) -> str | None:
    """What the unit logged since that time (seconds since 1970) that means a refused reload, None where nothing does."""
    if unit.refusal is None:
        return None
    # What was logged before now is in the journal after this.
    run(["journalctl", "--sync"])
    named = [f"--unit={name}" for name in names_of([unit])]
    _, output = run(["journalctl", "--no-pager", "--quiet", "--output=cat", f"--since=@{since:.6f}", *named])
    return next((f"unit {unit.name}: {line}" for line in output.splitlines() if re.search(unit.refusal, line)), None)


def log_lines(units: Iterable[Unit], since: float) -> str:
    """The last lines the units logged since that time (seconds since 1970), empty where there are none."""
    names = names_of(units)
    if not names:
        return ""
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=15", f"--since=@{int(since)}"]
    status, output = run([*command, *(f"--unit={name}" for name in names)])
    return "" if status else shorten(output)
