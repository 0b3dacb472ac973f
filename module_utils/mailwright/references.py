# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Every address that the inventory names exists, and can do what it is named for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from .addresses import Addresses
from .reader import At, suggest

__all__ = ["check_references", "check_senders"]


def check_references(owner: Addresses, root: At) -> None:
    """Every local target exists and can receive."""
    sources: list[tuple[str, Mapping[str, At]]] = [
        *((alias.address, alias.spots) for alias in owner.model.passed_on()),
        *(("", pattern.spots) for domain in owner.model.domains.values() for pattern in domain.patterns),
    ]
    for home in owner.model.domains.values():
        for folder in home.public_folders:
            sources.append(("", folder.spots))
            for address, at in folder.spots.items():
                if address.rpartition("@")[2] != home.name:
                    owner.refuse(at, f"not an address of {home.name}: public folders are seen in their own domain only", value=address)
    sources += [("", {address: at}) for address, at in owner.copies]
    if owner.settings["postmaster"] is not None:
        sources.append(("", {owner.settings["postmaster"]: root.item("mail_postmaster")}))
    misspelt: dict[str, str] = {}
    for source, spots in sources:
        for address, at in spots.items():
            domain = address.rpartition("@")[2]
            if domain in owner.model.domains:
                _reference(owner, at, source, address)
                continue
            if domain in owner.model.relayed:
                _relayed_reference(owner, at, address)
                continue
            if domain not in misspelt:
                near = difflib.get_close_matches(domain, owner.model.domains, n=1, cutoff=0.9)
                misspelt[domain] = near[0] if near else ""
            if misspelt[domain]:
                owner.warn(at, f"{address}: not a domain of this inventory; did you mean {misspelt[domain]}?")


def _reference(owner: Addresses, at: At, source: str, address: str) -> None:
    model = owner.model
    local, _, name = address.rpartition("@")
    if (original := model.domains[name].alias_of) is not None:
        name, address = original, f"{local}@{original}"
        if name not in model.domains or model.domains[name].alias_of is not None:
            # Said already.
            return
    mailbox = model.mailboxes.get(address)
    found = None if mailbox else model.rewrite(address)
    if mailbox is None and found is None:
        mailbox = model.mailboxes.get(model.base(address))
    missing = found[0] == source and source.startswith("@") if found is not None else mailbox is None
    if missing and name in model.ldap_domains():
        # Perhaps a user of the directory: a check contacts no server.
        if near := owner.near(address):
            owner.warn(at, f"{address}: not in the inventory, so a user of the directory; {near}")
    elif missing:
        owner.refuse(at, f"no mailbox or alias {address}", owner.near(address) or "declare it, or remove it here", value=address)
    elif found is not None and found[0].startswith("@") and (near := owner.near(address)):
        owner.warn(at, f"{address}: reaches the catch-all only; {near}")
    elif mailbox is not None and mailbox.send_only:
        owner.refuse(at, f"{mailbox.address} is send_only and receives nothing", value=address)


def check_senders(owner: Addresses) -> None:
    """Every address that a mailbox may send as exists here."""
    for mailbox in owner.model.mailboxes.values():
        for address, at in mailbox.send_as.items():
            domain = address.rpartition("@")[2]
            if domain not in owner.model.domains:
                cure = suggest(domain, owner.model.domains) or "remove it"
                owner.refuse(at, "not an address of a domain that is delivered here", cure, value=address)
            elif not owner.model.known(address):
                owner.refuse(at, f"no mailbox or alias {address}", owner.near(address) or "declare it, or remove it here", value=address)


def _relayed_reference(owner: Addresses, at: At, address: str) -> None:
    known = owner.model.relayed[address.rpartition("@")[2]].recipients
    local = owner.model.base(address).rpartition("@")[0]
    if known is not None and local not in known and address not in owner.model.aliases:
        near = difflib.get_close_matches(local, known, n=1, cutoff=0.7)
        cure = f"did you mean {near[0]}?" if near else "add it there, or remove it here"
        owner.refuse(at, "not among the recipients of that relayed domain", cure, value=address)
