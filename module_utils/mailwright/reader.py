# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Reads mappings of the inventory by their schema, remembers where each value stands, and notes every problem.

Nothing here reads files or knows Ansible. The caller passes two functions: `resolve` makes a plain value of one from the
inventory (references, vaults; raises `Invalid`), `locate` names the FILE:LINE of one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from . import names, schema
from .errors import Invalid, Problem, show
from .schema import Key

__all__ = ["BROKEN", "At", "Plain", "Reader", "Report", "kind", "suggest", "unknown"]

# Dovecot and the file system count in signed 64 bits.
SIZE_CEILING: Final = 2**63
_UNITS: Final[Mapping[str, int]] = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# Whatever YAML can hold.
Plain: TypeAlias = Any
BROKEN: Final = object()


class At:
    """Where a value stands: enough to say its path and its line, computed only for a problem."""

    __slots__ = ("key", "name", "parent", "value", "where")

    def __init__(self, value: object, name: str = "", parent: At | None = None, key: object = None, where: str = "") -> None:
        self.value = value
        self.name = name
        self.parent = parent
        self.key = key
        self.where = where

    def path(self) -> str:
        parts: list[str] = []
        at: At | None = self
        while at is not None:
            parts.append(at.name)
            at = at.parent
        text = ""
        for part in reversed(parts):
            text += part if not text or part.startswith("[") or not part else f".{part}"
        return text

    def place(self, locate: Callable[[object], str | None]) -> str:
        at: At | None = self
        while at is not None:
            key = at.key
            if key is None and at.parent is not None and isinstance(at.parent.value, Mapping):
                # true, false and null carry no line; the key beside them does.
                key = next((name for name in at.parent.value if name == at.name), None)
            found = at.where or locate(at.value) or locate(key)
            if found:
                return found
            at = at.parent
        return ""

    def child(self, name: str, value: object, key: object = None) -> At:
        return At(value, name, self, key)

    def item(self, name: str) -> At:
        """The value of a key of the mapping that stands here."""
        return At(self.value.get(name) if isinstance(self.value, Mapping) else None, name, self)

    def become(self, value: object) -> None:
        """Go on with what a reference stands for; the reference still tells the line if that has none."""
        if value is not self.value:
            self.key, self.value = (self.value if self.key is None else self.key), value


@dataclass
class Report:
    """What was found wrong, in the order of the inventory."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def suggest(word: str, known: Iterable[str]) -> str:
    """A cure for a misspelt name, or the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else ""


def kind(value: object) -> str:
    for kinds, name in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "text"),
        (Mapping, "a mapping"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return name
    if value is None:
        return "nothing"
    name = type(value).__name__.lower()
    if "date" in name:
        return "a date"
    return "a vaulted value" if "encrypted" in name else f"a {name}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    cure = "put it in quotes" if isinstance(value, bool | int | float) or "date" in type(value).__name__.lower() else ""
    raise Invalid(f"got {kind(value)}, text is needed", cure)


def _size(value: object) -> int:
    text = _text(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    match = re.fullmatch(r"([0-9]{1,19})([A-Za-z]*)", text, re.ASCII)
    if match is None or match[2] not in _UNITS:
        cure = f"write {match[1]}{match[2][0].upper()}" if match and match[2][:1].upper() in _UNITS else "such as 500M"
        raise Invalid("not a size: a whole number and one of the units K, M, G, T is needed", cure)
    octets = int(match[1]) * _UNITS[match[2]]
    if octets == 0:
        raise Invalid("zero", "no limit is written unlimited where it is possible")
    if octets >= SIZE_CEILING:
        raise Invalid("more than 8 EiB")
    return octets


def _quota(value: object) -> int:
    """Octets; 0 is unlimited."""
    if value == "unlimited":
        return 0
    if value == 0 and not isinstance(value, bool):
        raise Invalid("zero", "no limit is written unlimited")
    return _size(value)


def _duration(value: object) -> int:
    text = _text(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    if re.fullmatch(r"[0-9]{1,9}[smhdw]( *[0-9]{1,9}[smhdw])*", text, re.ASCII) is None:
        raise Invalid("not a time: whole numbers, each with s, m, h, d or w, are needed", "such as 5d or 1d 12h")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if seconds == 0:
        raise Invalid("zero")
    # Postfix keeps times in a signed int.
    if seconds >= 2**31:
        raise Invalid("longer than 68 years")
    return seconds


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, true or false is needed", "write it without quotes" if isinstance(value, str) else "")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, a whole number is needed")
    return int(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, a number is needed")
    number = float(value)
    if not -1000 <= number <= 1000:
        raise Invalid("not between -1000 and 1000")
    return number


def _destination(value: object) -> str:
    text = _text(value)
    if text == "*":
        raise Invalid("'*' would route mail for everybody, our own domains included, to one place", "name the destinations")
    if "@" in text:
        return names.target(text).lower()
    return f".{names.domain(text[1:])}" if text.startswith(".") else names.domain(text)


def _sender(value: object) -> str:
    text = _text(value)
    return names.target(text).lower() if "@" in text else names.domain(text)


def _access_address(value: object) -> str:
    text = _text(value)
    return names.target(text).lower() if "@" in text else names.access_name(text)


def _policy_destination(value: object) -> str:
    text = _text(value)
    match = re.fullmatch(r"(\[[^\[\]]*\])(?::([0-9]{1,6}))?", text)
    if match is None:
        return f".{names.domain(text[1:])}" if text.startswith(".") else names.next_hop(text)
    port = f":{_port(int(match[2]))}" if match[2] else ""
    return names.next_hop(match[1]) + port


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise Invalid("not a port from 1 to 65535")
    return port


def _match(value: object) -> str:
    text = _text(value)
    if text in ("hostname", "nexthop", "dot-nexthop"):
        return text
    return f".{names.domain(text[1:])}" if text.startswith(".") else names.host(text)


def _alias_name(value: object) -> str:
    text = _text(value)
    return names.address(text) if "@" in text else names.local_part(text)


_PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "access_address": _access_address,
    "access_client": lambda value: names.client(_text(value)),
    "access_name": lambda value: names.access_name(_text(value)),
    "address": lambda value: names.target(_text(value)),
    "alias_name": _alias_name,
    "boolean": _boolean,
    "destination": _destination,
    "domain": _text,  # read by the caller, which knows allow_confusable
    "duration": _duration,
    "host": lambda value: names.host(_text(value)),
    "integer": _integer,
    "local_part": lambda value: names.local_part(_text(value)),
    "match": _match,
    "network": lambda value: names.network(_text(value)),
    "next_hop": lambda value: names.next_hop(_text(value)),
    "number": _number,
    "pattern": lambda value: names.address_pattern(_text(value)),
    "policy_destination": _policy_destination,
    "quota": _quota,
    "reply": lambda value: names.reply(_text(value)),
    "secret": _text,
    "selector": lambda value: names.selector(_text(value)),
    "sender": _sender,
    "size": _size,
    "target": _text,  # read by the caller, which knows the domain
    "text": _text,
}


class Reader:
    """Reads mappings by a schema and notes every problem."""

    def __init__(
        self,
        resolve: Callable[[object], Plain] = lambda value: value,
        locate: Callable[[object], str | None] = lambda value: None,
    ) -> None:
        self.resolve = resolve
        self.locate = locate
        self.report = Report()

    def refuse(self, at: At, reason: str, cure: str = "", value: object = BROKEN, secret: bool = False) -> None:
        value = at.value if value is BROKEN else value
        if secret:
            shown = "***"
        elif isinstance(value, str | int | float) or "date" in type(value).__name__.lower():
            shown = show(value if isinstance(value, bool | int | float) else str(value))
        else:
            # A container may hold a secret.
            shown = ""
        self.report.problems.append(Problem(at.place(self.locate), at.path(), shown, reason, cure))

    def mapping(self, raw: object, keys: Mapping[str, Key], at: At) -> dict[str, Any] | None:
        """The values of `keys`, defaults filled in; BROKEN for a required one that is missing or wrong; None for no mapping."""
        raw = self.plain(raw, at)
        if raw is BROKEN:
            return None
        at.become(raw)
        if not isinstance(raw, Mapping):
            self.refuse(at, f"got {kind(raw)}, a mapping with the keys {', '.join(keys)} is needed")
            return None
        values: dict[str, Any] = {}
        for name, value in raw.items():
            key = keys.get(name) if isinstance(name, str) else None
            if key is None:
                self.refuse(At(None, show(str(name)), at, name), *unknown(name, keys))
                continue
            if value is None:
                continue
            child = At(value, str(name), at)
            parsed = self.value(key, value, child)
            if parsed is not BROKEN:
                values[str(name)] = parsed
        for name, key in keys.items():
            if name in values:
                continue
            if key.required and raw.get(name) is None:
                self.refuse(at, f"required key {name} is missing", value=None)
            values[name] = BROKEN if key.required else self.default(key)
        return values

    def default(self, key: Key) -> Plain:
        if key.type == "mapping" and key.keys is not None:
            return {name: inner.default for name, inner in key.keys.items()}
        if key.default is None or isinstance(key.default, bool):
            return key.default
        return self.value(key, key.default, At(key.default))

    def plain(self, raw: object, at: At, key: Key | None = None) -> Plain:
        """The value without references and vaults; containers as they are."""
        secret = key is not None and key.secret
        try:
            if key is not None and key.literal:
                return str(raw) if isinstance(raw, str) else raw
            return self.resolve(raw)
        except Invalid as error:
            self.refuse(at, error.reason, error.cure, secret=secret)
        return BROKEN

    def value(self, key: Key, raw: object, at: At) -> Plain:
        value = self.plain(raw, at, key)
        if value is BROKEN:
            return value
        try:
            if key.type == "choice":
                return _choice(value, key)
            if key.type == "spam":
                return self.spam(value, at)
            if key.type == "mapping":
                return self.mapping(value, key.keys or {}, at) or BROKEN
            if key.type == "list":
                return self.items(key, value, at)
            return _PARSERS[key.type](value)
        except Invalid as error:
            # What the reference stands for says more than the reference.
            self.refuse(at, error.reason, error.cure, value=value, secret=key.secret)
        return BROKEN

    def items(self, key: Key, value: object, at: At) -> Plain:
        if key is schema.DOMAIN["dkim"] and isinstance(value, bool):
            return None if value else []
        if not isinstance(value, list | tuple):
            cure = f"write [{value}]" if isinstance(value, str) and key.of and "{" not in value else ""
            raise Invalid(f"got {kind(value)}, a list is needed", cure if key.of != "secret" else "")
        at.become(value)
        entries: list[tuple[At, Any]] = []
        for index, raw in enumerate(value):
            child = At(raw, f"[{index}]", at)
            if key.keys is not None:
                parsed: Any = self.mapping(raw, key.keys, child)
            elif raw is None:
                self.refuse(child, "empty entry", "remove it")
                continue
            else:
                parsed = self.value(Key(key.of, "", literal=key.of == "local_part"), raw, child)
            if parsed is not None and parsed is not BROKEN:
                entries.append((child, parsed))
        return entries

    def spam(self, value: object, at: At) -> dict[str, float] | object:
        if isinstance(value, str):
            preset = schema.SPAM_PRESETS.get(value)
            if preset is None:
                raise Invalid(f"no such preset; there are {', '.join(schema.SPAM_PRESETS)}", suggest(value, schema.SPAM_PRESETS))
            return dict(preset)
        scores = self.mapping(value, schema.SPAM_SCORES, at)
        if scores is None or BROKEN in scores.values():
            return BROKEN
        if not scores["greylist"] <= scores["junk"] <= scores["reject"]:
            self.refuse(at, "the scores must rise: greylist, junk, reject")
            return BROKEN
        return scores


def _choice(value: object, key: Key) -> str:
    text = _text(value)
    if text not in key.choices:
        raise Invalid(f"not one of {', '.join(choice or repr('') for choice in key.choices)}", suggest(text, key.choices))
    return text


def unknown(name: object, keys: Iterable[str]) -> tuple[str, str]:
    if not isinstance(name, str):
        return f"the key is {kind(name)}, text is needed", "put it in quotes"
    keys = list(keys)
    return "unknown key", suggest(name, keys) or f"the keys are {', '.join(keys)}"
