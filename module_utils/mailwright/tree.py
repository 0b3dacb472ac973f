# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What one `config_tree` task asks for: a rendered tree, its attributes, checks, units and probes (made live by transaction.py)."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .probes import Probe
from .units import Unit, matches


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
    needs: Sequence[str] = ()
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
    for unit in parameters["units"]:
        try:
            re.compile(unit["refusal"] or "")
        except re.error as error:
            faults.append(f"units: {unit['name']}: refusal {unit['refusal']!r}: {error}")
    commands = {key: [[str(word) for word in command] for command in parameters[key]] for key in ("check", "apply")}
    faults += [f"{key}: a command is empty" for key, given in commands.items() if not all(given)]
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", parameters["name"]):
        faults.append(f"name {parameters['name']!r} is not of a-z, 0-9, _ and -")
    if faults:
        raise TreeError("; ".join(faults))
    units = [
        Unit(u["name"], u["process"] or u["name"], u["action"], tuple(u["restart_on"]), tuple(u["paths"] or ("*",)), u["refusal"])
        for u in parameters["units"]
    ]
    return Tree(
        name=parameters["name"],
        files=files,
        directories=parameters["directories"],
        needs=parameters.get("needs", ()),
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
