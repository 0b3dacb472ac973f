# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""The inventory of one host as checked objects, and where mail to an address goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .reader import At
from .routes import Relayed, Smarthost

__all__ = ["Alias", "Domain", "Folder", "Mailbox", "Model", "Pattern"]


@dataclass(slots=True)
class Mailbox:
    at: At
    address: str
    password: str | None
    password_hash: str | None
    password_update: str
    quota: int
    enabled: bool
    protocols: Mapping[str, bool]
    send_only: bool
    receive_only: bool
    aliases: list[str]
    spam: Mapping[str, float] | None
    junk_filing: bool
    internal: bool
    # Seconds; 0 is for ever.
    junk_retention: int
    trash_retention: int
    deleted_to_trash: bool
    # Recipients per hour; None: as everybody, 0: unlimited.
    sending_limit: int | None = None
    sieve_before: str | None = None
    sieve_after: str | None = None
    # The public folder that it stands for: mail to its address, and no login.
    folder: str | None = None
    # Who gets its mail, itself among them where it keeps a copy.
    forward: Alias | None = None
    # Further addresses it may send as.
    send_as: Mapping[str, At] = field(default_factory=dict)


@dataclass(slots=True)
class Alias:
    """An address that passes mail on: alias, group, catch-all, another name of a mailbox, or a mailbox with `forward`."""

    at: At
    address: str
    to: list[str]
    send_as: bool = False
    internal: bool = False
    # Where each target stands; none for what is made of something else (a mailbox's own names, RFC 2142).
    spots: Mapping[str, At] = field(default_factory=dict)
    # Of a group: who gets nothing. `to` is without them once the whole inventory is read.
    excluded: Mapping[str, At] = field(default_factory=dict)


@dataclass(slots=True)
class Folder:
    """A public folder. `access` is address → rights, of mailboxes, groups and aliases of its domain; `spots` says where each stands."""

    at: At
    name: str
    everyone: str | None
    access: dict[str, str] = field(default_factory=dict)
    spots: Mapping[str, At] = field(default_factory=dict)


@dataclass(slots=True)
class Pattern:
    at: At
    pattern: str
    domain: str
    to: list[str]
    spots: Mapping[str, At] = field(default_factory=dict)

    def matches(self, address: str) -> bool:
        local, _, domain = address.rpartition("@")
        return domain == self.domain and re.fullmatch(self.pattern, local) is not None


@dataclass(slots=True)
class Domain:
    at: At
    name: str
    catch_all: Alias | None
    spam: Mapping[str, float] | None
    dkim_keys: list[dict[str, Any]]
    # Host names with a certificate of their own.
    certificate: list[str] = field(default_factory=list)
    # Who gets copies of mail to it, and of mail sent from it.
    hidden_copy: str | None = None
    hidden_copy_outgoing: str | None = None
    sieve_before: str | None = None
    sieve_after: str | None = None
    legal_note: str | None = None
    # The domain whose addresses all exist in this one, which has none of its own.
    alias_of: str | None = None
    mailboxes: list[Mailbox] = field(default_factory=list)
    public_folders: list[Folder] = field(default_factory=list)
    public_quota: int = 0
    aliases: list[Alias] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    # What is published for it: spf, dmarc, mta_sts, tls_reports.
    dns: dict[str, Any] = field(default_factory=dict)


@dataclass
class Model:
    """The whole inventory of one host, checked and normalised. `settings` are the shared variables without `mail_`."""

    settings: dict[str, Any]
    domains: dict[str, Domain] = field(default_factory=dict)
    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    # By address; a catch-all is `@domain`. The names of mailboxes and those of RFC 2142 are among them.
    aliases: dict[str, Alias] = field(default_factory=dict)
    # Domains that other servers deliver, and servers that take our mail.
    relayed: dict[str, Relayed] = field(default_factory=dict)
    smarthosts: list[Smarthost] = field(default_factory=list)
    # Domains without any mail.
    parked: dict[str, At] = field(default_factory=dict)
    # Name servers that take our records; with secrets.
    dns_updates: list[dict[str, Any]] = field(default_factory=list, repr=False)
    # The directory with further users, with its password; `users` is the filter for them.
    ldap: dict[str, Any] | None = field(default=None, repr=False)
    # Services that clients look for and that are off here: names of RFC 6186.
    services_off: list[str] = field(default_factory=list)

    def base(self, address: str) -> str:
        """The address without its tag."""
        delimiter = self.settings["recipient_delimiter"]
        local, _, domain = address.rpartition("@")
        if delimiter and delimiter in local[1:]:
            return f"{local[: local.index(delimiter, 1)]}@{domain}"
        return address

    def rewrite(self, address: str) -> tuple[str, list[str]] | None:
        """The entry that Postfix finds for an address, and what it becomes; None when it stays as it is (virtual(5))."""
        local, _, domain_name = address.rpartition("@")
        domain = self.domains.get(domain_name)
        if domain is None:
            return None
        if domain.alias_of is not None:
            twin = f"{local}@{domain.alias_of}"
            original = self.domains.get(domain.alias_of)
            if original is None or original.alias_of is not None:
                # Refused elsewhere; followed, it could lead back here.
                return None
            return (address, [twin]) if self.known(twin) else None
        if address in self.mailboxes:
            return self._forward(address)
        if address in self.aliases:
            return address, self.aliases[address].to
        for pattern in domain.patterns:
            if pattern.matches(address):
                return f"{pattern.pattern}@{domain_name}", pattern.to
        base = self.base(address)
        if base in self.mailboxes:
            return self._forward(base)
        alias = self.aliases.get(base) or self.aliases.get(f"@{domain_name}")
        return (alias.address, alias.to) if alias else None

    def _forward(self, address: str) -> tuple[str, list[str]] | None:
        forward = self.mailboxes[address].forward
        return (address, forward.to) if forward else None

    def ldap_domains(self) -> list[str]:
        """Domains that have users of a directory, too."""
        return self.ldap["domains"] if self.ldap is not None else []

    def known(self, address: str) -> bool:
        """Whether an address of a domain delivered here exists."""
        return address in self.mailboxes or self.base(address) in self.mailboxes or self.rewrite(address) is not None

    def reach(self, addresses: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
        """All that mail to these addresses comes by, each once: what finds it (a mailbox, an entry that passes it on, or the address
        itself), the address, and whether it ends there. What a mailbox forwards is not followed: that is its own affair.
        """
        seen: set[str] = set()
        waiting = list(addresses)[::-1]
        while waiting:
            address = waiting.pop()
            step = self.rewrite(address)
            base = address if address in self.mailboxes else self.base(address)
            key = step[0] if step is not None else base if base in self.mailboxes else address
            if key in seen:
                continue
            seen.add(key)
            ends = step is None or key in self.mailboxes
            yield key, address, ends
            if step is not None and not ends:
                waiting.extend(step[1][::-1])

    def members(self, addresses: Iterable[str]) -> dict[str, str]:
        """Where mail to these addresses ends: mailboxes and other people's addresses, and how each was written."""
        return {key: address for key, address, ends in self.reach(addresses) if ends}

    def passed_on(self) -> Iterator[Alias]:
        """Everything that passes mail on, forwards of mailboxes among it."""
        yield from self.aliases.values()
        yield from (mailbox.forward for mailbox in self.mailboxes.values() if mailbox.forward is not None)
