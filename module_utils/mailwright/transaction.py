# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes one service's files equal to a rendered tree, as one transaction: the target side of `config_tree`.

Compare → stage and check → journal → swap → activate → probe → manifest (manifest.py), or back to what was.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .commands import find_command, run, shorten
from .entries import ABSENT, load_entry, put_entry, store_entry
from .files import LOCK_PATH, fsync_directory, host_lock, make_directory
from .manifest import STATE_DIRECTORY, read_journal, read_manifest, write_json
from .probes import attempt
from .stage import InStage, check_staged
from .tree import Tree, TreeError, account_of, attribute_of, parse
from .tree_diff import describe, hide, secret_words
from .tree_plan import Plan, Wanted, make_plan, wanted_files
from .units import (
    SYSTEMD_DIRECTORY,
    Unit,
    UnitError,
    first_inactive,
    first_restless,
    is_active,
    log_lines,
    needs_enabling,
    refusal_of,
    systemctl,
    take_up,
    unit_states,
)


@dataclass
class Result:
    """What was done, or in check mode would be. `units` is {name: enable, start, reload or restart}."""

    changed: bool = False
    changed_paths: list[str] = field(default_factory=list)
    removed_paths: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    diff: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    absent += [path for path in tree.needs if not Path(path).exists()]
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
        prove(tree, plan, started)
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
    states = {**plan.states, **unit_states([Unit(name, name) for name in departing(plan)])}
    units = {n: {"active": is_active(s), "enabled": not needs_enabling(s)} for n, s in states.items()}
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
    if leaving := departing(plan):
        # First: systemd would go on with a unit that has no file, and complain of a timer that has no service.
        run(["systemctl", "disable", "--now", "--quiet", "--", *leaving])
    for path in plan.directories:
        put_directory(path, tree)
    for path in plan.writes:
        put_entry(Path(path), wanted[path].entry)
    for path, before in plan.restored.items():
        put_entry(Path(path), before)


def departing(plan: Plan) -> list[str]:
    """The units whose files go away for good, and which are not asked for any more."""
    gone = [Path(path) for path, before in plan.restored.items() if before == ABSENT]
    return [path.name for path in gone if f"{path.parent}/" == SYSTEMD_DIRECTORY and path.name not in plan.states]


def record_proof(tree: Tree, state: Path, wanted: Mapping[str, Wanted], plan: Plan) -> None:
    """Record the tree as live and answering, and keep the journal as the previous generation. Raises OSError."""
    make_directory(state, mode=0o700)
    current = read_manifest(state)
    files = {path: current["files"].get(path, {"kind": "absent"}) for path in wanted}
    used = [d for d in current["directories"] if any(path.startswith(f"{d}/") for path in wanted)]
    # Not before: on the way back they would be missing.
    remove_empty({*current["directories"]}.difference(used))
    manifest = {
        "files": files,
        "directories": used,
        "proven": {path: want.fingerprint for path, want in wanted.items()},
        "watched": plan.watched,
        "request": tree.request,
        "seal": tree.seal,
    }
    write_json(state / "manifest.json", manifest)
    originals = {stored.get("blob") for stored in files.values()}
    for blob in (state / "originals").glob("*"):
        if blob.name not in originals:
            blob.unlink()
    if (state / "journal").is_dir():
        shutil.rmtree(state / "previous", ignore_errors=True)
        (state / "journal").rename(state / "previous")
        fsync_directory(state)


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


def prove(tree: Tree, plan: Plan, since: float) -> None:
    """Wait until every probe succeeds and every unit is active, together for at most probe_timeout. Raises TreeError.

    So it does where a unit's log says that it refused what it was told to take up after that moment (seconds since 1970).

    A reload returns before the daemon has read its files, and until then the old configuration answers; a simple service is
    active from its start, also when it fails over its files a moment later: both get the time to settle.
    """
    if not plan.actions and not plan.pending:
        return
    settled = time.monotonic() + tree.settle
    reloaded = [unit for unit in tree.units if plan.actions.get(unit.name) == "reload"]
    if reloaded and (tree.probe or any(unit.refusal for unit in reloaded)):
        time.sleep(tree.settle)  # as above: nothing says that the new configuration answers
    refusals = [complaint for unit in reloaded if (complaint := refusal_of(unit, since))]
    if refusals:
        raise TreeError(f"the new configuration is refused: {'; '.join(refusals)}")
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
    before = None
    while complaint := complaint_of():
        states = unit_states(tree.units)
        dead = [name for name, found in states.items() if found.get("ActiveState") == "failed"]
        if dead:
            raise TreeError(f"unit {', '.join(dead)} failed; {complaint}")
        before = before or states
        if restless := first_restless(before, states):
            raise TreeError(f"{restless}; {complaint}")
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
    for name in journal["units"].keys() - plan.states.keys():
        before = journal["units"][name]
        if before["enabled"]:
            try_to(functools.partial(systemctl, "enable", name))
        if before["active"]:
            try_to(functools.partial(systemctl, "start", name))
    since = time.time()
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
    try_to(functools.partial(prove, tree, plan, since))
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
