# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Variables that belong to Mailwright by their name: misspelt ones, and the roles' own by their argument_specs.

Ansible checks an argument_specs only when the role runs, on the host; it does not see a misspelt name at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from .errors import Invalid, show
from .overrides import VARIABLES, broken, settings
from .reader import BROKEN, At, Plain, Reader, kind, suggest, unknown
from .schema import SHARED

__all__ = ["check_variables", "overridden"]

# What only exists once hosts were contacted, or once this check is done.
_LATER: Final = re.compile(r"\b(ansible_\w+|hostvars|mail)\b")
_SECRET: Final = re.compile(r"password|secret|token|private_key$")
# What may be the name of a native setting, and of a file.
_NAME: Final = re.compile(r"[^\s\x00-\x1f]+")
_TABLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Set by Mailwright itself.
_INTERNAL: Final = frozenset({"mail_file_header"})

Options = Mapping[str, Mapping[str, Any]]


def check_variables(reader: Reader, variables: Mapping[str, Any], roles: Mapping[str, Options], where: str = "") -> None:
    """Check the names that begin with `mail_` or a role's name, and the values of the roles' variables.

    `roles` has the options of each role's argument_specs, all entry points together.
    """
    known: dict[str, Any] = {**dict.fromkeys(SHARED), **dict.fromkeys(_INTERNAL)}
    for options in roles.values():
        known |= {name: spec for name, spec in options.items() if name not in known}
    prefixes = ("mail_", *(f"{role}_" for role in roles))
    root = At(variables, "", None, None, where)
    for name in variables:
        if not name.startswith(prefixes):
            continue
        spec = known.get(name, BROKEN)
        if spec is BROKEN:
            prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
            rest = [other.removeprefix(prefix) for other in known if other.startswith(prefix)]
            near = suggest(name.removeprefix(prefix), rest).replace("mean ", f"mean {prefix}")
            reader.refuse(
                root.item(name),
                "unknown variable",
                near or f"names that begin with {prefix} are Mailwright's; if it is your own, rename it",
                value=None,
            )
        elif isinstance(spec, Mapping) and variables[name] is not None:
            _value(reader, spec, root.item(name))
    if not reader.report.problems:
        _dnsbl(reader, variables, known, root)
        _promises(reader, variables, root)


def _promises(reader: Reader, variables: Mapping[str, Any], root: At) -> None:
    """O1: an override has the last word, but what it breaks is named; what would harm others is refused."""
    for name in VARIABLES:
        at = root.item(name)
        try:
            found = list(settings(name, reader.resolve(at.value)))
        except Invalid:
            # Of a host's facts, known later.
            continue
        for setting in found:
            wrong = _TABLE if name == "postfix_tables" else _NAME
            bad = next((part for part in setting.path if not wrong.fullmatch(part)), None)
            if bad is not None:
                reader.refuse(at, f"{show(bad)} is no name of a setting", value=None)
                continue
            promise = broken(setting)
            if promise and promise.refused:
                reader.refuse(at, f"{setting.label} breaks a promise: {promise.promise}", "take it out", value=None)
            elif promise:
                place = at.place(reader.locate)
                reader.report.warnings.append(f"{f'{place}: ' if place else ''}{name}: {setting.label} breaks a promise: {promise.promise}")


def overridden(reader: Reader, variables: Mapping[str, Any]) -> list[str]:
    """The native settings that the inventory puts above ours, as the plan lists them; values may be secrets."""
    names = []
    for name in VARIABLES:
        try:
            names += [setting.label for setting in settings(name, reader.resolve(variables.get(name)))]
        except Invalid:
            names.append(f"{name}: known on the host only")
    return names


def _dnsbl(reader: Reader, variables: Mapping[str, Any], known: Options, root: At) -> None:
    """I7: a list that has gone mad lists everybody, so two must agree before a client is turned away."""
    weights: dict[str, int] = {}
    values = {}
    for name in ("postfix_dnsbl_sites", "postfix_dnsbl_threshold"):
        values[name] = variables.get(name, known.get(name, {}).get("default"))
    try:
        threshold = reader.resolve(values["postfix_dnsbl_threshold"])
        for index, site in enumerate(reader.resolve(values["postfix_dnsbl_sites"]) or ()):
            name = reader.resolve(site["name"]).lower()
            weights[name] = weights.get(name, 0) + max(0, reader.resolve(site.get("weight", 1)))
            if weights[name] >= threshold:
                reader.refuse(
                    root.item("postfix_dnsbl_sites").child(f"[{index}]", site),
                    f"{name} alone would turn everybody away if it failed: it gives {weights[name]} points, {threshold} are enough",
                    "give it less weight, or raise postfix_dnsbl_threshold",
                    value=None,
                )
    except Invalid:
        # Of a host's facts, known later.
        return


def _is_secret(name: str, spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("no_log")) or (spec.get("type", "str") == "str" and _SECRET.search(name) is not None)


def _value(reader: Reader, spec: Mapping[str, Any], at: At) -> None:
    secret = _is_secret(at.name, spec)
    raw = at.value
    try:
        value = reader.resolve(raw)
        at.become(value)
        _typed(reader, spec, value, at)
    except Invalid as error:
        if isinstance(raw, str) and "{{" in raw and _LATER.search(raw):
            return
        reader.refuse(at, error.reason, error.cure, secret=secret)


def _typed(reader: Reader, spec: Mapping[str, Any], value: Plain, at: At) -> None:
    wanted = spec.get("type", "str")
    if wanted in ("str", "path"):
        if not isinstance(value, str):
            raise Invalid(f"got {kind(value)}, text is needed", "put it in quotes" if isinstance(value, int | float) else "")
    elif wanted == "bool":
        if not isinstance(value, bool):
            raise Invalid(f"got {kind(value)}, true or false is needed", "write it without quotes" if isinstance(value, str) else "")
    elif wanted == "int":
        if not isinstance(value, int) or isinstance(value, bool):
            raise Invalid(f"got {kind(value)}, a whole number is needed")
    elif wanted == "float":
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Invalid(f"got {kind(value)}, a number is needed")
    elif wanted == "list":
        _list(reader, spec, value, at)
    elif wanted == "dict":
        _dict(reader, spec, value, at)
    choices = spec.get("choices")
    if choices and wanted not in ("list", "dict") and value not in choices:
        near = suggest(value, [choice for choice in choices if isinstance(choice, str)]) if isinstance(value, str) else ""
        raise Invalid(f"not one of {', '.join(map(str, choices))}", near)


def _list(reader: Reader, spec: Mapping[str, Any], value: Plain, at: At) -> None:
    if not isinstance(value, list | tuple):
        raise Invalid(f"got {kind(value)}, a list is needed")
    element = {"type": spec.get("elements", "raw"), "options": spec.get("options"), "choices": spec.get("choices")}
    for index, raw in enumerate(value):
        _value(reader, element, At(raw, f"[{index}]", at))


def _dict(reader: Reader, spec: Mapping[str, Any], value: Plain, at: At) -> None:
    if not isinstance(value, Mapping):
        raise Invalid(f"got {kind(value)}, a mapping is needed")
    options: Options | None = spec.get("options")
    if not options:
        return
    for name in value:
        if name not in options:
            reader.refuse(At(None, str(name), at, name), *unknown(name, options))
        elif value[name] is not None:
            _value(reader, options[name], at.item(str(name)))
    for name, option in options.items():
        if option.get("required") and value.get(name) is None:
            reader.refuse(at, f"required key {name} is missing", value=None)
