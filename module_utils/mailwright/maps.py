# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Sources of Postfix lookup tables: postmap(1) text for lmdb tables, pcre_table(5) for patterns. Both ways, and strict."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

from .errors import Invalid, show

__all__ = [
    "check_address",
    "check_domain",
    "check_key",
    "check_targets",
    "check_value",
    "parse_map",
    "parse_patterns",
    "pcre_line",
    "render_map",
    "render_patterns",
]

_DOMAIN: Final = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+"
_DOMAIN_TEXT: Final = re.compile(_DOMAIN, re.ASCII)
# Our own addresses: lower case, and nothing that a passwd-file, a map or a path reads as more than itself.
_ADDRESS: Final = re.compile(rf"[a-z0-9_][a-z0-9._+=-]*@{_DOMAIN}", re.ASCII)
# Where mail may go. Foreign local parts are as their owners write them.
_TARGET: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._+=&'~*?^-]*@{_DOMAIN}", re.ASCII)
# postmap(1): a key ends at white space; # in front makes a comment, a quote in front another syntax, a colon behind a warning.
_KEY: Final = re.compile(r"[!$-~](?:[!-~]*[!-9;-~])?", re.ASCII)
_VALUE: Final = re.compile(r"[!-~]+(?: [!-~]+)*", re.ASCII)
# Inline options could comment out or rewrite what follows.
_GROUP_OPTIONS: Final = re.compile(r"\(\?(?!:|=|!|<=|<!)|\(\*")


def check_domain(name: str) -> str:
    """An A-label domain in lower case, else Invalid."""
    if not _DOMAIN_TEXT.fullmatch(name):
        raise Invalid(f"{show(name)} is not a domain")
    return name


def check_address(address: str) -> str:
    """An address of ours, lower case, else Invalid."""
    if not _ADDRESS.fullmatch(address):
        raise Invalid(f"{show(address)} is not an address")
    return address


def check_targets(targets: object) -> str:
    """The right-hand side of a virtual(5) alias from a list of addresses, else Invalid."""
    if not isinstance(targets, (list, tuple)) or not targets:
        raise Invalid("to: a list of addresses is expected")
    for target in targets:
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise Invalid(f"to: {show(target)} is not an address")
    return ", ".join(targets)


def check_key(key: object) -> str:
    """A key that stays one key, in the lower case that postmap folds to, else Invalid."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key != key.lower():
        raise Invalid(f"{show(key)} cannot be a key of a lookup table")
    return key


def check_value(value: object) -> str:
    """A value that stays on its line, else Invalid."""
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise Invalid(f"{show(value)} cannot be a value of a lookup table")
    return value


def render_map(entries: Mapping[str, str]) -> str:
    """Source text for postmap(1), sorted. Raises Invalid where an entry would be read as anything but itself."""
    return "".join(f"{check_key(key)} {check_value(value)}\n" for key, value in sorted(entries.items()))


# One run asks the same texts again and again.
@functools.lru_cache(maxsize=64)
def parse_map(text: str) -> Mapping[str, str]:
    """Entries of a source as postmap(1) reads it: comments, continued lines, the first of two equal keys."""
    logical: list[str] = []
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace() and logical:
            logical[-1] += line
        else:
            logical.append(line)
    entries: dict[str, str] = {}
    for line in logical:
        key, *value = line.split(None, 1)
        entries.setdefault(key.lower(), " ".join(value).strip())
    return entries


def pcre_line(pattern: object, value: str) -> str:
    """One entry of pcre_table(5) that matches whole addresses only.

    Without flags, which toggle: patterns ignore case by default. `$` in the result would be a substitution.
    Raises Invalid where `pattern` is not a regular expression of its own or could reach beyond its place.
    """
    if not isinstance(pattern, str) or not pattern or not pattern.isascii() or not pattern.isprintable() or " " in pattern:
        raise Invalid(f"{show(pattern)} is not a pattern")
    if _GROUP_OPTIONS.search(pattern) or "\\Q" in pattern:
        raise Invalid(f"{show(pattern)}: options inside a pattern are not supported")
    try:
        # Python warns of what other dialects read differently.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, Warning) as error:
        raise Invalid(f"{show(pattern)} is not a regular expression: {error}") from error
    quoted = re.sub(r"\\.|/", lambda match: "\\/" if match[0] == "/" else match[0], pattern)
    return f"/^(?:{quoted})$/ {check_value(value).replace('$', '$$')}"


def render_patterns(entries: Sequence[tuple[str, str]]) -> str:
    """Text of a pcre table from (pattern, value), in the order given: the first match wins."""
    return "".join(f"{pcre_line(pattern, value)}\n" for pattern, value in entries)


def parse_patterns(text: str) -> dict[str, str]:
    """Entries of a pcre table of ours by their quoted pattern."""
    entries: dict[str, str] = {}
    for line in text.split("\n"):
        match = re.match(r"(/(?:\\.|[^/\\])*/\S*)\s+(.*)", line)
        if match:
            entries.setdefault(match[1], match[2])
    return entries
