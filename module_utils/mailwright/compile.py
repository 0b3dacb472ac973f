# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From the checked model to the rows that modules, templates and tests read. Shapes: docs/architecture.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from .model import Mailbox, Model

__all__ = ["compile_rows"]

Row = dict[str, Any]

# Answers of access(5). REJECT takes an enhanced status code in front of its text.
FORGED: Final = "REJECT 5.7.1 Mail from this domain is sent by its own users only, with authentication"
SEND_ONLY: Final = "REJECT 5.7.1 This mailbox receives no mail"
INTERNAL: Final = "REJECT 5.7.1 This address takes mail from its own users only"
DISABLED: Final = "550 5.2.1 Mailbox disabled"

# Below it a destination is one of forwarded mail; main.cf routes it, no DNS ever has it (RFC 6761).
DETOUR: Final = "forward.invalid"

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
            "recipient_access": _map(_with_twins(model, _recipient_access(model))),
            "internal_recipients": _map(_with_twins(model, _internal_recipients(model))),
            "sender_transports": _map(_sender_transports(model)),
            "forward_routes": _map(_forward_routes(model, _transports(settings["transports"]))),
            "transports": _map(_transports(settings["transports"])),
            "tls_policies": _map(_tls_policies(settings["tls_policies"])),
        },
        "alias_patterns": [
            {"pattern": f"^(?:{pattern.pattern})@{re.escape(name)}$", "to": list(pattern.to)}
            for name, domain in sorted(model.domains.items())
            for pattern in model.domains[domain.alias_of or name].patterns
        ],
        "hidden_copies": _hidden_copies(model),
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
    rows.update((mailbox.address, list(mailbox.forward.to)) for mailbox in model.mailboxes.values() if mailbox.forward is not None)
    # Every address by name, so that one that does not exist is refused and not found out about later.
    for twin, original in _twins(model, (*model.mailboxes, *model.aliases)):
        rows[twin] = rows[original] if original.startswith("@") else [original]
    return [{"address": address, "to": to} for address, to in sorted(rows.items())]


def _twins(model: Model, addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(address of an alias domain, the one it stands for) for each of these that has such."""
    aliases: dict[str, list[str]] = {}
    for name, domain in model.domains.items():
        if domain.alias_of is not None:
            aliases.setdefault(domain.alias_of, []).append(name)
    if aliases:
        for address in addresses:
            local, _, name = address.rpartition("@")
            for alias in aliases.get(name, ()):
                yield f"{local}@{alias}", address


def _with_twins(model: Model, entries: Mapping[str, str]) -> dict[str, str]:
    """The same for alias domains, which have no entries of their own."""
    return {**entries, **{twin: entries[original] for twin, original in _twins(model, entries)}}


def _sender_logins(model: Model) -> dict[str, str]:
    logins: dict[str, set[str]] = {}
    for mailbox in model.mailboxes.values():
        for address in (mailbox.address, *mailbox.aliases, *mailbox.send_as):
            logins.setdefault(address, set()).add(mailbox.address)
    for alias in model.aliases.values():
        if alias.send_as and (members := model.members(alias.to).keys() & model.mailboxes.keys()):
            logins.setdefault(alias.address, set()).update(members)
    for twin, original in list(_twins(model, logins)):
        logins.setdefault(twin, set()).update(logins[original])
    return {address: ",".join(sorted(members)) for address, members in logins.items()}


def _recipient_access(model: Model) -> dict[str, str]:
    answers: dict[str, str] = {}
    for mailbox in model.mailboxes.values():
        answer = DISABLED if not mailbox.enabled else SEND_ONLY if mailbox.send_only else None
        if answer is not None:
            answers.update(dict.fromkeys((mailbox.address, *mailbox.aliases), answer))
    return answers


def _internal_recipients(model: Model) -> dict[str, str]:
    answers = {alias.address: INTERNAL for alias in model.aliases.values() if alias.internal}
    for mailbox in model.mailboxes.values():
        if mailbox.internal:
            answers.update(dict.fromkeys((mailbox.address, *mailbox.aliases), INTERNAL))
    return answers


def _transports(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {
        entry["destination"]: f"{entry['transport']}:{entry['next_hop']}" + (f":{entry['port']}" if entry["port"] else "")
        for entry in entries
    }


def _sender_transports(model: Model) -> dict[str, str]:
    """Who sends from here by right; `<>` are bounces. Everybody else's mail that goes out is being forwarded (main.cf)."""
    names = (model.settings["hostname"], *model.domains, *model.settings["srs_exempt"])
    return {"<>": "smtp:", **{f"@{name}": "smtp:" for name in names}}


def _forward_routes(model: Model, transports: Iterable[str]) -> dict[str, str]:
    """A route of its own would come before the detour for forwarded mail (transport(5)): the destination gets another name until then."""
    lists = [alias.to for alias in model.aliases.values()]
    lists += [mailbox.forward.to for mailbox in model.mailboxes.values() if mailbox.forward is not None]
    lists += [pattern.to for domain in model.domains.values() for pattern in domain.patterns]
    named = {address.rpartition("@")[2] for to in lists for address in to}
    found: set[str] = set()
    for destination in transports:
        name = destination.rpartition("@")[2]
        if name.startswith("."):
            found.update(f"@{domain}" for domain in named if domain.endswith(name) and domain not in model.domains)
        elif name not in model.domains:
            found.add(destination if "@" in destination else f"@{name}")
    return {key: f"{key}.{DETOUR}" for key in found}


def _hidden_copies(model: Model) -> Row:
    """Rules in the order of their look-up, the first one counts. `except`: the copy's own address, which has the mail already."""

    def names(address: str) -> list[str]:
        mailbox = model.mailboxes.get(address)
        own = [address, *(mailbox.aliases if mailbox is not None else ())]
        return sorted({*own, *(twin for twin, _ in _twins(model, own))})

    recipients: list[Row] = []
    senders: list[Row] = []
    for name, domain in sorted(model.domains.items()):
        original = model.domains[domain.alias_of or name]
        if original.hidden_copy is not None:
            recipients.append({"domain": name, "to": original.hidden_copy, "except": names(original.hidden_copy)})
        if (to := original.hidden_copy_outgoing or model.settings["hidden_copy_outgoing"]) is not None:
            senders.append({"domain": name, "to": to})
    if (everything := model.settings["hidden_copy"]) is not None:
        recipients.append({"domain": None, "to": everything, "except": names(everything)})
    return {"recipients": recipients, "senders": senders}


def _tls_policies(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {entry["destination"]: entry["level"] + (f" match={':'.join(entry['match'])}" if entry["match"] else "") for entry in entries}


def _map(entries: Mapping[str, str]) -> list[Row]:
    return [{"key": key, "value": value} for key, value in sorted(entries.items())]


def _spam_settings(model: Model) -> list[Row]:
    rows: list[Row] = []
    for name, domain in sorted(model.domains.items()):
        original = model.domains[domain.alias_of or name]
        spam = domain.spam if domain.spam is not None else original.spam
        if spam is not None:
            rows.append({"recipient": f"@{name}", **spam})
        rows.extend(
            {"recipient": f"{address.rpartition('@')[0]}@{name}", **mailbox.spam}
            for mailbox in original.mailboxes
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
    for row in (*rows["hidden_copies"]["recipients"], *rows["hidden_copies"]["senders"]):
        hold(_KEY.fullmatch(row["to"]) is not None and not set(row["to"]) & set(',$|"\\/:'), row["to"])
    for entries in rows["maps"].values():
        for row in entries:
            hold(_KEY.fullmatch(row["key"]) is not None and row["key"][0] != "#", row["key"])
            hold(_ANSWER.fullmatch(row["value"]) is not None, row["key"])
