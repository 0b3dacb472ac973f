# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From the checked model to the rows that modules, templates and tests read. Shapes: docs/architecture.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .model import Mailbox, Model

__all__ = ["compile_rows"]

Row = dict[str, Any]

# Answers of access(5). REJECT takes an enhanced status code in front of its text.
FORGED: Final = "REJECT 5.7.1 Mail from this domain is sent by its own users only, with authentication"
SEND_ONLY: Final = "REJECT 5.7.1 This mailbox receives no mail"
DISABLED: Final = "550 5.2.1 Mailbox disabled"

# How a protocol is called in the inventory, and for Dovecot.
_PROTOCOLS: Final[Mapping[str, str]] = {"imap": "imap", "pop3": "pop3", "sieve": "sieve", "submission": "smtp"}
_KEY = re.compile(r"[!-~]+", re.ASCII)
_ANSWER = re.compile(r"[!-~]+( [!-~]+)*", re.ASCII)


def compile_rows(model: Model) -> Row:
    """Plain JSON types. Raises AssertionError when a row could be read by a daemon as anything but itself."""
    settings = dict(model.settings)
    rows: Row = {
        "hostname": settings["hostname"],
        "domains": [{"name": name} for name in sorted(model.domains)],
        "mailboxes": [_mailbox(mailbox) for _, mailbox in sorted(model.mailboxes.items())],
        "aliases": _aliases(model),
        "maps": {
            "sender_logins": _map(_sender_logins(model)),
            "own_domains": _map({key: FORGED for name in model.domains for key in (name, f".{name}")}),
            "recipient_access": _map(_recipient_access(model)),
            "transports": _map(_transports(settings["transports"])),
            "tls_policies": _map(_tls_policies(settings["tls_policies"])),
        },
        "alias_patterns": [
            {"pattern": f"^(?:{pattern.pattern})@{re.escape(name)}$", "to": list(pattern.to)}
            for name, domain in sorted(model.domains.items())
            for pattern in domain.patterns
        ],
        "dkim_keys": [{"domain": name, **key} for name, domain in sorted(model.domains.items()) for key in domain.dkim_keys],
        "spam_settings": _spam_settings(model),
        "certificate_names": list(dict.fromkeys([settings["hostname"], *settings["hostnames"]])),
        "settings": settings,
    }
    _assert_inert(rows)
    return rows


def _mailbox(mailbox: Mailbox) -> Row:
    denied = {
        name
        for protocol, name in _PROTOCOLS.items()
        if not mailbox.enabled or not mailbox.protocols[protocol] or (protocol == "submission" and mailbox.receive_only)
    }
    return {
        "address": mailbox.address,
        "password": mailbox.password,
        "password_hash": mailbox.password_hash,
        "password_update": mailbox.password_update,
        "quota_bytes": mailbox.quota,
        "denied_protocols": sorted(denied),
        "enabled": mailbox.enabled,
        "junk_filing": mailbox.junk_filing,
    }


def _aliases(model: Model) -> list[Row]:
    rows = {address: list(alias.to) for address, alias in model.aliases.items()}
    for domain in model.domains.values():
        # Postfix looks a catch-all up before it knows about mailboxes: an entry to itself keeps each from being swallowed.
        if domain.catch_all is not None:
            rows.update((mailbox.address, [mailbox.address]) for mailbox in domain.mailboxes)
    return [{"address": address, "to": to} for address, to in sorted(rows.items())]


def _members(model: Model, start: Iterable[str]) -> set[str]:
    """Mailboxes of ours that an alias ends in, through other aliases."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        step = model.rewrite(address)
        if step is not None:
            waiting.extend(step[1])
        elif (base := address if address in model.mailboxes else model.base(address)) in model.mailboxes:
            found.add(base)
    return found


def _sender_logins(model: Model) -> dict[str, str]:
    logins: dict[str, set[str]] = {}
    for mailbox in model.mailboxes.values():
        for address in (mailbox.address, *mailbox.aliases):
            logins.setdefault(address, set()).add(mailbox.address)
    for alias in model.aliases.values():
        if alias.send_as and (members := _members(model, alias.to)):
            logins.setdefault(alias.address, set()).update(members)
    return {address: ",".join(sorted(members)) for address, members in logins.items()}


def _recipient_access(model: Model) -> dict[str, str]:
    answers: dict[str, str] = {}
    for mailbox in model.mailboxes.values():
        answer = DISABLED if not mailbox.enabled else SEND_ONLY if mailbox.send_only else None
        if answer is not None:
            answers.update(dict.fromkeys((mailbox.address, *mailbox.aliases), answer))
    return answers


def _transports(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {
        entry["destination"]: f"{entry['transport']}:{entry['next_hop']}" + (f":{entry['port']}" if entry["port"] else "")
        for entry in entries
    }


def _tls_policies(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {entry["destination"]: entry["level"] + (f" match={':'.join(entry['match'])}" if entry["match"] else "") for entry in entries}


def _map(entries: Mapping[str, str]) -> list[Row]:
    return [{"key": key, "value": value} for key, value in sorted(entries.items())]


def _spam_settings(model: Model) -> list[Row]:
    rows: list[Row] = []
    for name, domain in sorted(model.domains.items()):
        if domain.spam is not None:
            rows.append({"recipient": f"@{name}", **domain.spam})
        rows.extend(
            {"recipient": address, **mailbox.spam}
            for mailbox in domain.mailboxes
            if mailbox.spam is not None
            for address in (mailbox.address, *mailbox.aliases)
        )
    return rows


def _assert_inert(rows: Row) -> None:
    """The last line of defence: no key or value can break out of its line, field or quotes."""

    def hold(condition: bool, what: str) -> None:
        if not condition:
            raise AssertionError(f"{what} would not stay one entry of its table")

    for row in rows["domains"]:
        hold(_KEY.fullmatch(row["name"]) is not None and "/" not in row["name"], row["name"])
    for row in rows["mailboxes"]:
        hold(_KEY.fullmatch(row["address"]) is not None and not set(row["address"]) & set(":/#,"), row["address"])
        hashed = row["password_hash"]
        hold(hashed is None or (_KEY.fullmatch(hashed) is not None and ":" not in hashed), row["address"])
    for row in (*rows["aliases"], *({"address": r["pattern"], "to": r["to"]} for r in rows["alias_patterns"])):
        hold(_KEY.fullmatch(row["address"]) is not None and row["address"][0] not in "#/", row["address"])
        hold(bool(row["to"]), row["address"])
        for address in row["to"]:
            hold(_KEY.fullmatch(address) is not None and not set(address) & set(',$|"\\/:'), address)
    for entries in rows["maps"].values():
        for row in entries:
            hold(_KEY.fullmatch(row["key"]) is not None and row["key"][0] != "#", row["key"])
            hold(_ANSWER.fullmatch(row["value"]) is not None, row["key"])
