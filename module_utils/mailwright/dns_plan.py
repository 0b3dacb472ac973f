# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What an update of one zone would change: the records expected, those there, and those that are ours to remove. Pure.

Ours is what a marker in the zone says: TXT records of `_mailwright.<zone>`, one for each name, `<host> <name> <type>:<digest> …`. So it
lasts as long as the zone, several hosts have theirs side by side, and a record that somebody changed is ours no more. A record that is
there already just as expected becomes ours.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .records import Record

__all__ = ["MARKER", "Change", "Present", "ZonePlan", "make_zone_plan", "marker_name", "read_marker"]

MARKER: Final = "_mailwright"
# Of the set of markers: an answer, like every message, has at most 65535 octets.
MARKER_LIMIT: Final = 60_000
# Types that records.py makes; what else a marker says is not ours.
_LINE: Final = re.compile(
    r"([a-z0-9.-]{1,253}) (@|[a-z0-9_*-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,126})((?: (?:A|AAAA|CAA|CNAME|MX|PTR|SRV|TLSA|TXT):[a-z2-7]{8})+)"
)
Key = tuple[str, str]
# Name, type, digest of the value.
Owned = tuple[str, str, str]


@dataclass(frozen=True)
class Present:
    """A set as the server has it: values as in `Record.value`."""

    ttl: int
    values: frozenset[str]


@dataclass(frozen=True, order=True)
class Change:
    name: str
    type: str
    value: str
    ttl: int


@dataclass
class ZonePlan:
    """What to delete, then what to add, and what is left alone because it belongs to somebody else."""

    zone: str
    delete: list[Change] = field(default_factory=list)
    add: list[Change] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    # What is ours afterwards.
    owned: set[Owned] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.delete or self.add)

    def lines(self) -> list[str]:
        """One line per record as in a zone file, with its sign in front; the markers go without saying."""
        name = marker_name(self.zone)
        rows = [("-", change) for change in self.delete] + [("+", change) for change in self.add]
        return [
            f"{sign} {change.name}. {change.ttl} {change.type} {_data(change)}"
            for sign, change in sorted(rows, key=lambda row: (row[1].name, row[1].type, row[0] == "+", row[1].value))
            if change.name != name
        ]


def _data(change: Change) -> str:
    return Record(change.name, change.type, change.value, change.ttl, "", "").data


def marker_name(zone: str) -> str:
    """Where the marker is."""
    return f"{MARKER}.{zone}"


def digest(value: str) -> str:
    """Tells a value from others that the same name and type may have."""
    return base64.b32encode(hashlib.sha256(value.encode(errors="backslashreplace")).digest())[:8].decode().lower()


def read_marker(zone: str, texts: Iterable[str]) -> dict[str, set[Owned]]:
    """Who owns what, by host; what cannot be read is nobody's."""
    found: dict[str, set[Owned]] = {}
    for text in texts:
        match = _LINE.fullmatch(text)
        if match is None:
            continue
        name = zone if match[2] == "@" else f"{match[2]}.{zone}"
        for word in match[3].split():
            kind, _, value = word.partition(":")
            found.setdefault(match[1], set()).add((name, kind, value))
    return found


def _marker(zone: str, host: str, owned: Iterable[Owned]) -> set[str]:
    by_name: dict[str, list[str]] = {}
    for name, kind, value in sorted(owned):
        by_name.setdefault(name, []).append(f"{kind}:{value}")
    return {f"{host} {'@' if name == zone else name.removesuffix(f'.{zone}')} {' '.join(words)}" for name, words in by_name.items()}


def make_zone_plan(zone: str, host: str, expected: Iterable[Record], present: Mapping[Key, Present]) -> ZonePlan:
    """Compare. `present` must hold every set that is expected or owned, an alias (CNAME) at each of these names, and the marker."""
    plan = ZonePlan(zone)
    marker = present.get((marker_name(zone), "TXT"), Present(0, frozenset()))
    owners = read_marker(zone, marker.values)
    before = owners.get(host, set())
    others = set().union(*(owned for owner, owned in owners.items() if owner != host))
    wanted: dict[Key, list[Record]] = {}
    for record in expected:
        wanted.setdefault((record.name, record.type), []).append(record)
    stale = {
        (key, value)
        for key, there in present.items()
        for value in there.values
        if (*key, digest(value)) in before and value not in {record.value for record in wanted.get(key, ())}
    }
    remaining = {key: {value for value in there.values if (key, value) not in stale} for key, there in present.items()}
    removed: set[tuple[Key, str]] = set(stale)
    for key, records in sorted(wanted.items()):
        foreign = {
            value
            for value in remaining.get(key, ())
            if value not in {record.value for record in records} and (*key, digest(value)) not in others
        }
        if reason := _conflict(key, records, foreign, remaining):
            plan.conflicts.append(reason)
            # Ours that are there stay ours, stale ones too: nothing is to be missing for the sake of what cannot be put there.
            removed -= {(k, v) for k, v in stale if k == key}
            plan.owned |= (
                {(*key, digest(value)) for value in present[key].values if (*key, digest(value)) in before} if key in present else set()
            )
            continue
        there = present.get(key)
        # A set has one TTL (RFC 2181, 5.2); that of a set with records of others is theirs.
        ttl = there.ttl if there and (foreign or others & {(*key, digest(v)) for v in there.values}) else records[0].ttl
        for record in records:
            plan.owned.add((*key, digest(record.value)))
            if there is not None and record.value in there.values:
                if there.ttl == ttl:
                    continue
                removed.add((key, record.value))
            plan.add.append(Change(*key, record.value, ttl))
    plan.delete = [Change(*key, value, present[key].ttl) for key, value in removed]
    _mark(plan, host, marker, {record.ttl for records in wanted.values() for record in records})
    plan.delete.sort()
    plan.add.sort()
    return plan


def _mark(plan: ZonePlan, host: str, marker: Present, ttls: set[int]) -> None:
    mine = {text for text in marker.values if (line := _LINE.fullmatch(text)) and line[1] == host}
    texts = _marker(plan.zone, host, plan.owned)
    size = sum(len(text) + 16 for text in (marker.values - mine) | texts)
    if size > MARKER_LIMIT:
        plan.delete, plan.add, plan.owned = [], [], set()
        plan.conflicts.append(
            f"{plan.zone}: the list of what is ours would have {size} octets, {MARKER_LIMIT} are possible; give some of its mail domains "
            "zones of their own"
        )
        return
    name = marker_name(plan.zone)
    plan.delete += [Change(name, "TXT", text, marker.ttl) for text in mine - texts]
    ttl = marker.ttl if marker.values else min(ttls, default=3600)
    plan.add += [Change(name, "TXT", text, ttl) for text in texts - mine]


def _conflict(key: Key, records: list[Record], foreign: set[str], remaining: Mapping[Key, set[str]]) -> str:
    """Why these cannot be put beside what others have there; empty where they can."""
    name, kind = key
    what = f"{name} {kind}"
    aliases = remaining.get((name, "CNAME"), set())
    if kind != "CNAME" and aliases:
        return f"{what}: the name is an alias of {min(aliases)}, which is not Mailwright's; remove that CNAME"
    if kind == "CNAME":
        other = sorted(other for (owner, other), values in remaining.items() if owner == name and other != "CNAME" and values)
        if other:
            return f"{what}: the name has records of others ({', '.join(other)}), an alias cannot stand beside them; remove them there"
    if kind == "TXT":
        # Only one record of its kind may be there; other texts at the name are no business of ours.
        tags = {_tag(record.value) for record in records}
        foreign = {value for value in foreign if _tag(value) in tags or name.split(".")[0].startswith("_") or "._domainkey." in name}
    elif records[0].shared:
        return ""
    if foreign:
        shown = min(foreign)
        shown = shown if len(shown) <= 60 else shown[:59] + "…"
        return f"{what}: there is {shown!r}, which is not Mailwright's; remove it there and run again"
    return ""


def _tag(text: str) -> str:
    return text.replace(";", " ").split(" ", 1)[0].lower()
