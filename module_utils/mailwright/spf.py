# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""SPF records as receivers read them (RFC 7208): what they cost, whom they permit, what is wrong with them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .authority import Answer

__all__ = ["LOOKUPS", "VOID_LOOKUPS", "Cost", "cost", "is_open", "is_spf", "permits", "problems"]

# RFC 7208, 4.6.4.
LOOKUPS: Final = 10
VOID_LOOKUPS: Final = 2
MX_LIMIT: Final = 10
# Where counting ends: far beyond what anybody evaluates.
_ENOUGH: Final = 40
_TERM: Final = re.compile(
    r"(?P<qualifier>[-+?~]?)(?P<name>[a-z][a-z0-9._-]*)(?P<sign>[:=/]?)(?P<rest>.*)", re.ASCII | re.IGNORECASE | re.DOTALL
)
_ASKING: Final = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
_MECHANISMS: Final = frozenset({"all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"})
_NEEDS_VALUE: Final = frozenset({"include", "ip4", "ip6", "exists"})

Lookup = Callable[[str, str], Answer]


def is_spf(text: str) -> bool:
    """Whether a TXT record is one of SPF (RFC 7208, 4.5)."""
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


@dataclass(frozen=True)
class Term:
    """One mechanism or modifier; `domain` is empty where the name of the record itself is meant."""

    qualifier: str
    name: str
    domain: str
    prefix4: int
    prefix6: int

    @property
    def has_macro(self) -> bool:
        return "%" in self.domain


@dataclass
class Cost:
    """What evaluating a record takes at most. `chain`: the names that were followed, in order; `unread`: those without one record."""

    lookups: int = 0
    void: int = 0
    chain: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def _terms(text: str) -> Iterator[Term | str]:
    """Each term, or a sentence on what is wrong with it."""
    for word in text.split()[1:]:
        found = _TERM.fullmatch(word)
        if not found:
            yield f"{word}: cannot be read"
            continue
        name, rest = found["name"].lower(), found["rest"]
        if found["sign"] == "=":
            # Modifiers that nobody knows are ignored.
            if name == "redirect":
                yield Term("+", name, rest.lower().removesuffix("."), 32, 128)
            elif name in _MECHANISMS:
                yield f"{word}: write {name}:…"
            continue
        if name not in _MECHANISMS:
            yield f"{word}: no such mechanism"
            continue
        domain, prefix4, prefix6 = rest if found["sign"] == ":" else "", 32, 128
        if name in ("a", "mx"):
            lengths = re.fullmatch(r"(.*?)(?:/(\d{1,2}))?(?://(\d{1,3}))?", domain if found["sign"] == ":" else f"{found['sign']}{rest}")
            if lengths:
                domain, prefix4, prefix6 = lengths[1], int(lengths[2] or 32), int(lengths[3] or 128)
        if name in _NEEDS_VALUE and not domain:
            yield f"{word}: needs a value"
            continue
        if name in ("ip4", "ip6"):
            try:
                version: int = ipaddress.ip_network(domain, strict=False).version
            except ValueError:
                version = 0
            if version != int(name[-1]):
                yield f"{word}: no IPv{name[-1]} address"
                continue
        yield Term(found["qualifier"] or "+", name, domain.lower().removesuffix("."), prefix4, prefix6)


def _parsed(text: str) -> list[Term]:
    return [term for term in _terms(text) if isinstance(term, Term)]


def problems(text: str) -> list[str]:
    """What is wrong with the text of a record, a sentence each."""
    found = [term for term in _terms(text) if isinstance(term, str)]
    names = [term.name for term in _parsed(text)]
    if "all" in names and any(name != "redirect" for name in names[names.index("all") + 1 :]):
        found.append("what follows 'all' is never read")
    if names.count("redirect") > 1:
        found.append("more than one redirect")
    return found


def is_open(text: str) -> bool:
    """Whether it permits everybody."""
    return any(
        term.qualifier == "+" and (term.name == "all" or (term.name in ("ip4", "ip6") and term.domain.endswith("/0")))
        for term in _parsed(text)
    )


def _records(lookup: Lookup, name: str) -> list[str]:
    return [value for value in lookup(name, "TXT").values if is_spf(value)]


def cost(name: str, text: str, lookup: Lookup) -> Cost:
    """Look-ups of a record, all that may be needed, through includes and redirects; each counts once per mention."""
    found = Cost()

    def count(name: str, text: str, above: Sequence[str]) -> None:
        for term in _parsed(text):
            if term.name not in _ASKING or found.lookups >= _ENOUGH:
                continue
            found.lookups += 1
            target = term.domain or name
            if term.has_macro:
                continue
            if term.name in ("include", "redirect"):
                found.chain.append(target)
                records = [] if target in above else _records(lookup, target)
                if len(records) == 1:
                    count(target, records[0], (*above, target))
                else:
                    found.unread.append(target)
            elif term.name == "mx":
                found.void += lookup(target, "MX").status in ("empty", "nxdomain")
            elif term.name == "a":
                # Receivers ask for one of the two.
                found.void += all(lookup(target, rdtype).status in ("empty", "nxdomain") for rdtype in ("A", "AAAA"))

    count(name, text, (name,))
    return found


def permits(name: str, text: str, address: str, lookup: Lookup) -> str:
    """The result for mail from the address: pass, fail, softfail, neutral, or permerror.

    What depends on the sender (macros) and `ptr`, which nobody should use, never matches here.
    """
    return _check(name, text, ipaddress.ip_address(address), lookup, 0)


_RESULTS: Final = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


def _check(name: str, text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, lookup: Lookup, depth: int) -> str:
    if depth > LOOKUPS:
        return "permerror"
    redirect: Term | None = None
    for term in _terms(text):
        if isinstance(term, str):
            return "permerror"
        if term.name == "redirect":
            redirect = term
        elif term.name == "include" and not term.has_macro:
            records = _records(lookup, term.domain)
            inner = _check(term.domain, records[0], address, lookup, depth + 1) if len(records) == 1 else "permerror"
            if inner in ("pass", "permerror"):
                return _RESULTS[term.qualifier] if inner == "pass" else inner
        elif _matches(name, term, address, lookup):
            return _RESULTS[term.qualifier]
    if redirect and not redirect.has_macro:
        records = _records(lookup, redirect.domain)
        return _check(redirect.domain, records[0], address, lookup, depth + 1) if len(records) == 1 else "permerror"
    return "neutral"


def _matches(name: str, term: Term, address: ipaddress.IPv4Address | ipaddress.IPv6Address, lookup: Lookup) -> bool:
    if term.name == "all":
        return True
    if term.name in ("ip4", "ip6"):
        return address in ipaddress.ip_network(term.domain, strict=False)
    if term.name not in ("a", "mx") or term.has_macro:
        return False
    hosts: Iterable[str] = [term.domain or name]
    if term.name == "mx":
        hosts = [value.split()[1] for value in lookup(term.domain or name, "MX").values[:MX_LIMIT]]
    prefix = term.prefix4 if address.version == 4 else term.prefix6
    rdtype = "A" if address.version == 4 else "AAAA"
    return any(
        address in ipaddress.ip_network(f"{value}/{prefix}", strict=False) for host in hosts for value in lookup(host, rdtype).values
    )
