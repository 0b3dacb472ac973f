# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""The life of a DKIM key: prepared → published → signing → retired → removed. Pure; the files are dkim.py's, the questions dkim_proof.py's.

    prepared   made, its record is to be published; nothing is signed with it
    published  every authoritative server has answered exactly its record; waits until no cache can hold another answer
    signing    mail is signed with it
    retired    another key signs, or the domain needs none; the record stays for mail that is still on its way
    revoked    not to be trusted: the record says so by an empty `p=` (RFC 6376, 3.6.1), nothing is signed with it

A *slot* is what the inventory asks for: `rsa` and `ed25519` are places whose keys come and go, their selectors named by date; `=NAME`
is a key under a selector the inventory declares, which stays until another one is declared. A key without a slot is not asked for any
more; it signs until one that is takes over. Times are seconds since 1970.
"""

from __future__ import annotations

import datetime as dt
import itertools
import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .errors import Invalid

__all__ = [
    "LIVE",
    "MARGIN",
    "Found",
    "Key",
    "Need",
    "Want",
    "add",
    "advance",
    "begin_hold",
    "expire",
    "is_due",
    "load_keys",
    "outlook",
    "published",
    "reconcile",
    "retired",
    "revoke",
    "signing",
    "zone_line",
]

# In the course of things a key may sign, or will.
LIVE: Final = ("prepared", "published", "signing")
# What other servers may keep a message beyond our own queue life.
MARGIN: Final = 2 * 86400
# No cache keeps a record longer than a resolver lets it (Unbound, BIND: one day).
LONGEST_CACHED: Final = 86400
SHARED: Final = "shared"
UNCHANGING: Final = "a key does not change under its selector: choose another selector"


@dataclass(frozen=True)
class Key:
    """One key in one domain. `value` is its record, `kind` such as `rsa 2048`; domains that share a key have the same `file`."""

    domain: str
    selector: str
    kind: str
    value: str
    file: str
    slot: str | None
    state: str
    made: int
    since: int
    # Of a prepared key: when caches have forgotten what else its name had; null: as long as the record lives once it is there.
    # Of a retired or revoked one: when it goes; null: the filter may still use it.
    until: int | None
    # Mail is on its way that needs its record.
    has_signed: bool = False

    @property
    def name(self) -> str:
        """Where the record belongs."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def algorithm(self) -> str:
        return self.kind.partition(" ")[0]

    @property
    def record(self) -> str:
        """What the DNS is to have."""
        return f"v=DKIM1; k={self.algorithm}; p=" if self.state == "revoked" else self.value


@dataclass(frozen=True)
class Want:
    """A key the inventory asks for. Without a selector it is named by date."""

    domain: str
    selector: str | None
    algorithm: str
    bits: int | None
    shared: bool = False
    # The record of a key from the vault.
    given: str | None = None

    @property
    def slot(self) -> str:
        return self.algorithm if self.selector is None else f"={self.selector}"

    @property
    def kind(self) -> str | None:
        """What the key has to be; any size will do for one that is given."""
        return None if self.given is not None else self.algorithm if self.bits is None else f"{self.algorithm} {self.bits}"

    def file(self, selector: str) -> str:
        """Its key's file. No domain has one label, so that the two forms never meet."""
        return f"{SHARED if self.shared else self.domain}.{selector}.key"

    def fits(self, key: Key) -> bool:
        return self.algorithm == key.algorithm and self.kind in (None, key.kind) and self.file(key.selector) == key.file


@dataclass(frozen=True)
class Need:
    """A key to be put into `file`: made, or the one given. `replaces`: its selector has had another record."""

    want: Want
    selector: str
    replaces: bool = False

    @property
    def file(self) -> str:
        return self.want.file(self.selector)


@dataclass(frozen=True)
class Found:
    """What the authoritative servers say of one name. `other_ttl`: for how long caches may hold another record than the expected one."""

    proven: bool
    ttl: int = 0
    other_ttl: int = 0


def load_keys(rows: Iterable[Mapping[str, Any]]) -> list[Key]:
    """Keys as `asdict` makes them. Raises TypeError where the rows are not such."""
    return [Key(**row) for row in rows]


# -- what the inventory asks for


def reconcile(
    keys: Iterable[Key], wants: Collection[Want], now: int, *, rotate: Callable[[Key], bool] = lambda _: False, taken: Collection[str] = ()
) -> tuple[list[Key], list[Need]]:
    """Keys with their places in the inventory as it is now, and the keys that are to be made for it.

    `rotate` says of a key that signs whether a successor is due. `taken` are the names of key files that were in use once.
    Raises Invalid where a declared selector has a key of another kind.
    """
    slots: dict[str, dict[str, Want]] = {}
    for want in wants:
        slots.setdefault(want.domain, {})[want.slot] = want
    mine: dict[str, list[Key]] = {}
    for key in keys:
        mine.setdefault(key.domain, []).append(key)
    placed = {domain: _place(mine.get(domain, []), slots.get(domain, {}), now) for domain in mine.keys() | slots.keys()}
    used: dict[str, set[str]] = {
        domain: {key.selector for key in mine.get(domain, [])} | {want.selector or "" for want in slots.get(domain, {}).values()}
        for domain in placed
    }
    shared = _shared_selectors(slots, placed, used, now, rotate, taken)
    needs: list[Need] = []
    wrong: list[str] = []
    for domain, wanted in sorted(slots.items()):
        for want in wanted.values():
            here = [key for key in placed[domain] if key.slot == want.slot]
            newest = _newest(here)
            if want.selector is not None:
                if newest is not None and want.given is None and not want.fits(newest):
                    wrong.append(
                        f"{newest.name} is {_described(newest.kind, newest.file)}, not {_described(want.kind, want.file(''))}; {UNCHANGING}"
                    )
                revoked = any(key.state == "revoked" for key in here)
                if revoked or (newest is not None and want.given in (None, newest.value) and newest.file == want.file(newest.selector)):
                    continue
                selector = want.selector
            elif want.shared:
                selector = shared[want.slot]
                if newest is not None and newest.file == want.file(selector):
                    continue
            elif newest is not None and want.fits(newest) and not (newest.state == "signing" and rotate(newest)):
                continue
            else:
                selector = _free_selector(want, now, used[domain], taken)
            needs.append(Need(want, selector, replaces=any(key.selector == selector for key in here)))
            # What waited in its place is given up; and a selector has one record.
            placed[domain] = [
                left
                for key in placed[domain]
                if key.selector != selector
                for left in (_given_up(key, now) if key.slot == want.slot else [key])
            ]
    if wrong:
        raise Invalid("; ".join(wrong))
    return [key for domain in sorted(placed) for key in placed[domain]], needs


def _described(kind: str | None, file: str) -> str:
    return f"{kind}{' for all domains' if file.startswith(f'{SHARED}.') else ''}"


def _newest(keys: Iterable[Key]) -> Key | None:
    return max((key for key in keys if key.state in LIVE), key=lambda key: key.made, default=None)


def _place(keys: Sequence[Key], wanted: Mapping[str, Want], now: int) -> list[Key]:
    """The keys of one domain with their slots; those that never signed and are not asked for are dropped."""
    placed = []
    for key in keys:
        pinned = f"={key.selector}"
        slot = pinned if pinned in wanted else key.algorithm if key.algorithm in wanted and key.state in LIVE else None
        key = replace(key, slot=slot)
        if key.state == "retired" and slot is not None:
            key = _again(key, now)
        elif key.state == "signing" and not wanted:
            key = retired(key, now)
        placed += [key] if slot is not None else _given_up(key, now)
    # A key that was given up and is not gone yet is as good as a new one: its record is there.
    for slot, want in wanted.items():
        if want.selector is None and not any(key.slot == slot for key in placed):
            former = [key for key in placed if key.state == "retired" and want.fits(key)]
            # Who has got hold of one key of the host may have had others.
            if former and not any(key.state == "revoked" for key in placed):
                newest = max(former, key=lambda key: key.made)
                placed[placed.index(newest)] = replace(_again(newest, now), slot=slot)
    return placed


def _given_up(key: Key, now: int) -> list[Key]:
    """What is left of a key that would have signed: of one that never did, nothing."""
    if key.state not in ("prepared", "published"):
        return [key]
    return [retired(key, now)] if key.has_signed else []


def _again(key: Key, now: int) -> Key:
    return replace(key, state="prepared", since=now, until=0)


def retired(key: Key, now: int) -> Key:
    """Signs no more; when it goes is known once the filter is known to have let go of it (`begin_hold`)."""
    return replace(key, slot=None, state="retired", since=now, until=None)


def _shared_selectors(
    slots: Mapping[str, Mapping[str, Want]],
    placed: Mapping[str, Sequence[Key]],
    used: Mapping[str, set[str]],
    now: int,
    rotate: Callable[[Key], bool],
    taken: Collection[str],
) -> dict[str, str]:
    """{slot: selector} of the keys that domains share: those there are, or new ones for all of them at once."""
    found: dict[str, str] = {}
    for slot in sorted({want.slot for wanted in slots.values() for want in wanted.values() if want.shared and want.selector is None}):
        wants = [want for wanted in slots.values() for want in wanted.values() if want.shared and want.slot == slot]
        keys = [key for want in wants for key in placed[want.domain] if key.slot == slot and want.fits(key)]
        newest = _newest(keys)
        if newest is None or any(rotate(key) for key in keys if key.file == newest.file and key.state == "signing"):
            found[slot] = _free_selector(wants[0], now, set().union(*(used[want.domain] for want in wants)), taken)
        else:
            found[slot] = newest.selector
    return found


def _free_selector(want: Want, now: int, used: Collection[str], taken: Collection[str]) -> str:
    """Such as `rsa-20261121`, then `rsa-20261121b`."""
    day = f"{want.algorithm}-{dt.datetime.fromtimestamp(now, dt.UTC):%Y%m%d}"
    names = itertools.chain([day], (f"{day}{letter}" for letter in string.ascii_lowercase[1:]), (f"{day}z{n}" for n in itertools.count(1)))
    return next(name for name in names if name not in used and want.file(name) not in taken)


def add(keys: Iterable[Key], needs: Iterable[Need], made: Mapping[str, tuple[str, str]], now: int) -> list[Key]:
    """The keys and those that were needed; `made` is {file: (kind, record)} of what is in the files."""
    found = list(keys)
    latest: dict[str, int] = {}
    for key in found:
        latest[key.domain] = max(latest.get(key.domain, 0), key.made)
    for need in needs:
        kind, value = made[need.file]
        domain = need.want.domain
        # Later than what it follows, whatever the clock says.
        when = max(now, latest.get(domain, 0) + 1)
        key = Key(domain, need.selector, kind, value, need.file, need.want.slot, "prepared", when, now, None if need.replaces else 0)
        found.append(key)
    return found


# -- what the name servers say


def advance(keys: Iterable[Key], found: Mapping[str, Found], now: int) -> list[Key]:
    """The keys after what was found at their names: those that are proven sign, and those whose place they take are retired."""
    moved = [_advanced(key, found.get(key.name), now) if key.state in ("prepared", "published") else key for key in keys]
    by_domain: dict[str, list[Key]] = {}
    for key in moved:
        by_domain.setdefault(key.domain, []).append(key)
    return [retired(key, now) if _is_replaced(key, by_domain[key.domain]) else key for key in moved]


def _advanced(key: Key, found: Found | None, now: int) -> Key:
    if found is None:
        return key
    if not found.proven:
        if found.other_ttl:
            key = replace(key, until=max(key.until or 0, now + min(found.other_ttl, LONGEST_CACHED)))
        return key if key.state == "prepared" else replace(key, state="prepared", since=now)
    until = now + min(found.ttl, LONGEST_CACHED) if key.until is None else key.until
    if until <= now:
        return replace(key, state="signing", since=now, until=None, has_signed=True)
    return key if key.state == "published" else replace(key, state="published", since=now, until=until)


def _is_replaced(key: Key, domain: Sequence[Key]) -> bool:
    """Whether another key of the domain signs in the place of this one."""
    if key.state != "signing":
        return False
    if key.slot is not None:
        return any(other.slot == key.slot and other.state == "signing" and other.made > key.made for other in domain)
    asked = [other for other in domain if other.slot is not None and other.state in LIVE]
    # One of its kind, if there will be one.
    alike = [other for other in asked if other.algorithm == key.algorithm]
    return any(other.state == "signing" for other in alike or asked)


# -- the end


def begin_hold(keys: Iterable[Key], now: int, hold: int) -> list[Key]:
    """The filter signs with nothing but `signing`: from now on retired keys stay for `hold` seconds."""
    return [replace(key, until=now + hold) if key.state in ("retired", "revoked") and key.until is None else key for key in keys]


def expire(keys: Iterable[Key], now: int) -> tuple[list[Key], list[Key]]:
    """(keys that stay, keys whose time is over). A revoked one stays as long as the inventory names its selector."""
    kept: list[Key] = []
    gone: list[Key] = []
    for key in keys:
        over = key.state in ("retired", "revoked") and key.slot is None and key.until is not None and key.until <= now
        (gone if over else kept).append(key)
    return kept, gone


def revoke(keys: Iterable[Key], selector: str, domains: Collection[str] | None, now: int) -> list[Key]:
    """The keys with those under this selector revoked, in these domains or in all."""
    return [
        replace(key, state="revoked", slot=None, since=now, until=None)
        if key.selector == selector and (domains is None or key.domain in domains) and key.state != "revoked"
        else key
        for key in keys
    ]


# -- views


def published(keys: Iterable[Key]) -> list[dict[str, str]]:
    """The records that must be in the DNS now: `{name, value, domain, selector, state}`."""
    return [
        {"name": key.name, "value": key.record, "domain": key.domain, "selector": key.selector, "state": key.state}
        for key in sorted(keys, key=lambda key: key.name)
    ]


def zone_line(name: str, value: str) -> str:
    """The record as a line of a zone file (RFC 1035, 5.1); a character string has at most 255 octets, and verifiers join them.

    In parentheses, so that it may be wrapped on its way there.
    """
    strings = " ".join(f'"{value[start : start + 255]}"' for start in range(0, len(value), 255))
    return f"{name}. IN TXT ( {strings} )"


def signing(keys: Iterable[Key]) -> dict[str, list[Key]]:
    """The keys that sign, by domain."""
    found: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: (key.domain, key.selector)):
        if key.state == "signing":
            found.setdefault(key.domain, []).append(key)
    return found


def is_due(keys: Iterable[Key], now: int) -> bool:
    """Whether there is anything to ask, to switch or to remove."""
    return any(
        key.state in ("prepared", "published") or (key.state in ("retired", "revoked") and key.slot is None and (key.until or 0) <= now)
        for key in keys
    )


def outlook(key: Key, rotation_age: int = 0) -> str:
    """What a key is, and what comes next, for people; times are UTC."""
    since = f"{key.name} ({key.kind}): {key.state} since {_date(key.since)}"
    if key.state == "prepared":
        return f"{since}; signs once every name server of the zone has its record"
    if key.state == "published":
        return f"{since}; signs from {_date(key.until)}, when no cache holds another record any more"
    if key.state == "signing":
        if key.slot is None:
            return f"{since}; until a key that the inventory asks for is published"
        if key.slot.startswith("="):
            return f"{since}; its selector is declared, so that it stays"
        return f"{since}; " + (f"to be replaced from {_date(key.since + rotation_age)}" if rotation_age else "to be replaced on request")
    if key.slot is not None:
        return f"{since}; declare another selector"
    return f"{since}; its record can go " + ("when the filter has been reloaded" if key.until is None else f"from {_date(key.until)}")


def _date(when: int | None) -> str:
    return f"{dt.datetime.fromtimestamp(when or 0, dt.UTC):%Y-%m-%d %H:%M}"
