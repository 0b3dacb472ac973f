# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""The steps from one set of tables and passwd-files to another, so that no address that stays is refused in between."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .layout import ALIASES, DOMAINS, MAILBOXES, ORDER, PATTERNS, RELAY_DOMAINS, USERS, is_database
from .maps import parse_map, parse_patterns
from .passwd_file import parse_names

__all__ = [
    "Step",
    "domain_kinds",
    "entries",
    "moves_from_mailboxes",
    "moves_to_patterns",
    "transition",
]


def entries(name: str, text: str) -> dict[str, str]:
    """Lines of a file by what they are looked up by."""
    if name == PATTERNS:
        return {key: f"{key} {value}\n" for key, value in parse_patterns(text).items()}
    if is_database(name):
        return {key: f"{key} {value}\n" for key, value in parse_map(text).items()}
    return {line.split(":", 1)[0]: f"{line}\n" for line in text.split("\n") if line.strip() and not line.startswith("#")}


def _different(name: str, *texts: str) -> list[str]:
    """Both texts without the lines that they share, where each line is an entry of its own: most of 100 000 stay as they are."""
    if name == PATTERNS or any("\n " in text or "\n\t" in text for text in texts):
        return list(texts)
    first, second = (text.split("\n") for text in texts)
    shared = set(first) & set(second)
    return ["\n".join(line for line in lines if line not in shared) for lines in (first, second)]


@dataclass(frozen=True)
class Step:
    """One file to write: a text that holds old and new entries, or None for the generation's own file."""

    name: str
    text: str | None = None


def transition(
    current: Mapping[str, str], wanted: Mapping[str, str], suspect: Collection[str] = (), *, interrupted: bool = False
) -> list[Step]:
    """Steps from one set of files to another, so that an address valid in both is valid after every step.

    An address may move from any table to any other, so tables first grow to old and new entries, and shrink when all have grown.
    Aliases change at once in the middle: old and new ones together could form a loop. `suspect` files are written even if equal.
    What an address is must not depend on two look-ups, one before a change and one after it: see `_settled`. After a run that was
    `interrupted`, a database may be one step behind its source: that of the aliases catches up first, or a step would be left out.
    """
    # Long before the aliases change: a process may be stopped between two look-ups.
    first: list[Step] = []
    grow: list[Step] = []
    shrink: list[Step] = []
    for name in ORDER:
        old = current.get(name)
        if old == wanted[name]:
            if name in suspect:
                grow.append(Step(name))
            continue
        if name == ALIASES:
            if interrupted and old is not None:
                first.append(Step(name, old))
            if settled := _settled(current, wanted):
                first.append(Step(name, (old or "") + "".join(f"{key} {value}\n" for key, value in sorted(settled.items()))))
        if old is None or name == ALIASES:
            grow.append(Step(name))
            continue
        before, after = (entries(name, text) for text in _different(name, old, wanted[name]))
        gone = [line for key, line in before.items() if key not in after]
        if not gone:
            grow.append(Step(name))
            continue
        if name in suspect or any(before.get(key) != line for key, line in after.items()):
            grow.append(Step(name, wanted[name] + "".join(gone)))
        shrink.append(Step(name))
    return first + grow + shrink[::-1]


def _settled(current: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Aliases that say what an address is now, for those that get an entry of their own while their catch-all comes, goes or changes.

    virtual(5) looks for the address and then for the catch-all. Between the two the former could be gone, or the latter come.
    """
    old, new = parse_map(current.get(ALIASES, "")), parse_map(wanted[ALIASES])
    changing = {key for key in old.keys() | new.keys() if key.startswith("@") and old.get(key) != new.get(key)}
    if not changing:
        return {}
    mailboxes = parse_map(current.get(MAILBOXES, ""))
    patterns = _compiled(parse_patterns(current.get(PATTERNS, "")))
    settled = {}
    for key in sorted(new.keys() - old.keys()):
        catch_all = key[key.index("@") :]
        if key != catch_all and catch_all in changing and not any(pattern.match(key) for pattern in patterns):
            if catch_all in old:
                settled[key] = old[catch_all]
            elif key in mailboxes:
                settled[key] = key
    return settled


def moves_from_mailboxes(current: Mapping[str, str], wanted: Mapping[str, str]) -> set[str]:
    """Mailboxes that become aliases, or are left to a catch-all or a pattern, or whose domain is relayed now."""
    gone = parse_names(current.get(USERS, "")) - parse_names(wanted[USERS])
    if not gone:
        return set()
    aliases, relayed = parse_map(wanted[ALIASES]), parse_map(wanted[RELAY_DOMAINS])
    patterns = _compiled(parse_patterns(wanted[PATTERNS]))
    return {
        address
        for address in gone
        if address in aliases
        or address[address.index("@") :] in aliases
        or address[address.index("@") + 1 :] in relayed
        or any(pattern.match(address) for pattern in patterns)
    }


def moves_to_patterns(current: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether an address that had an entry of its own will be matched by a new pattern only."""
    old, new = (parse_patterns(texts.get(PATTERNS, "")) for texts in (current, wanted))
    added = _compiled(key for key in new if key not in old)
    if not added:
        return False
    gone = [key for name in (ALIASES, MAILBOXES) for key in parse_map(current.get(name, "")).keys() - parse_map(wanted[name]).keys()]
    return any(key.startswith("@") or any(pattern.match(key) for pattern in added) for key in gone)


def _compiled(keys: Iterable[str]) -> list[re.Pattern[str]]:
    """Patterns of a pcre table, as Postfix matches them."""
    return [re.compile(key[1:-1], re.IGNORECASE) for key in keys]


def domain_kinds(texts: Mapping[str, str]) -> dict[str, str]:
    """Every domain and the list it is in; the local one counts."""
    return {name: kind for kind in (RELAY_DOMAINS, DOMAINS) for name in parse_map(texts.get(kind, ""))}
