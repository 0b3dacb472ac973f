# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Whether a DKIM record is published: what every authoritative server of its zone answers, asked directly (authority.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .authority import Answer, Client
from .dkim_life import Found, Key

__all__ = ["ask", "judge", "tags", "verdicts"]

# What each outcome without a record means, for people.
_MEANINGS: Final[Mapping[str, str]] = {
    "empty": "has no such record",
    "nxdomain": "has no such record",
    "alias": "leads to a name that could not be followed",
    "timeout": "does not answer",
    "closed": "cannot be reached",
    "refused": "refuses to answer for the zone",
    "lame": "does not serve the zone",
    "servfail": "answers with an error",
    "no route": "cannot be reached from here, which has no such address itself",
    "no address": "has no address",
    "no zone": "the zone, or its name servers, could not be found",
}


def tags(record: str) -> dict[str, str]:
    """The tags of a record (RFC 6376, 3.2), white space removed; two texts with the same tags are the same record."""
    pairs = (part.partition("=") for part in record.split(";") if part.strip())
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}


def judge(record: str, answers: Iterable[Answer]) -> tuple[Found, list[str]]:
    """What the answers of all servers prove, and a line for each that does not have just this record.

    A server is proven by all of its addresses that this host has a way to, and by one at least.
    """
    answers = list(answers)
    wanted = tags(record)
    right = {answer.server.name for answer in answers if _is(wanted, answer)}
    proven = bool(right)
    other_ttl = 0
    lines = []
    for answer in answers:
        if _is(wanted, answer) or (answer.status == "no route" and answer.server.name in right):
            continue
        proven = False
        if answer.status == "ok":
            other_ttl = max(other_ttl, answer.ttl, 1)
        where = f"{answer.server.name} ({answer.server.address})" if answer.server.address else answer.server.name
        lines.append(f"{where} {_meaning(answer)}".strip())
    ttl = max((answer.ttl for answer in answers if answer.status == "ok"), default=0)
    return Found(proven, ttl, other_ttl), lines


def _is(wanted: Mapping[str, str], answer: Answer) -> bool:
    return answer.status == "ok" and len(answer.values) == 1 and tags(answer.values[0]) == wanted


def _meaning(answer: Answer) -> str:
    if answer.status != "ok":
        return _MEANINGS[answer.status]
    if len(answer.values) != 1:
        return f"has {len(answer.values)} records, and verifiers may take any of them"
    key = tags(answer.values[0]).get("p")
    return "has another record, without a key" if not key else f"has another record, with the key p={_short(key)}"


def _short(text: str) -> str:
    # All keys of a kind begin alike.
    end = text[-24:]
    return f"…{end}" if end.isascii() and end.isprintable() else "(not readable)"


def ask(keys: Iterable[Key], client: Client) -> dict[str, tuple[Found, list[str]]]:
    """{name: what is proven, and who does not have it} for the records of these keys."""
    keys = list(keys)
    answers = client.ask_all([(key.name, "TXT") for key in keys])
    return {key.name: judge(key.record, answers[key.name, "TXT"].values()) for key in keys}


def verdicts(asked: Iterable[Key], proofs: Mapping[str, tuple[Found, list[str]]], keys: Iterable[Key]) -> dict[str, Found]:
    """The findings that still hold for `keys`, read after `asked`: a key may have been replaced meanwhile."""
    records = {key.name: key.record for key in asked}
    return {key.name: proofs[key.name][0] for key in keys if records.get(key.name) == key.record}
