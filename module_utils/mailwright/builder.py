# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From a parsed inventory to a checked model, or to every problem it has (see reader.py for how it is read)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import ldap, names, passwords, schema
from .addresses import Addresses
from .errors import Invalid
from .expansion import DEPTH_LIMIT, EXPANSION_CEILING, check_expansions
from .model import Alias, Domain, Model
from .pem import RSA_BITS, check_private_key
from .policy import check_filter_web, check_junk, check_policy
from .publication import check_domain, check_publication, is_parked
from .reader import BROKEN, At, Reader, kind, suggest
from .references import check_references, check_senders
from .routes import Routes, relayed_domain

__all__ = ["DomainFile", "check"]


@dataclass(frozen=True)
class DomainFile:
    """One file of domains/: what it holds and its name for messages."""

    content: object
    where: str


def check(
    reader: Reader,
    variables: Mapping[str, Any],
    files: Sequence[DomainFile] = (),
    *,
    in_clear: Callable[[object], bool] = lambda value: True,
    where: str = "",
    complete: bool = True,
) -> Model | None:
    """Check the `mail_*` variables of one host and its domain files; None when the reader's report has problems.

    `in_clear` tells whether a password stands in an unencrypted file. `where` names the place of variables without a line of
    their own. `complete=False`: some file could not be read, so that references to others are not checked.
    """
    root = At(variables, "", None, None, where)
    settings = _settings(reader, variables, root)
    model = Model(settings)
    entries = [*settings.pop("domains"), *((At(file.content), file) for file in files)]
    _Builder(reader, model, in_clear).build(entries, root, variables, complete)
    return None if reader.report.problems else model


def _settings(reader: Reader, variables: Mapping[str, Any], root: At) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, key in schema.SHARED.items():
        short = name.removeprefix("mail_")
        raw = variables.get(name)
        value: Any = BROKEN
        if raw is not None:
            spot = At(raw, name, root)
            if name == "mail_domains":
                raw = reader.plain(raw, spot)
                if isinstance(raw, list | tuple):
                    value = [(At(entry, f"[{index}]", spot), None) for index, entry in enumerate(raw)]
                elif raw is not BROKEN:
                    reader.refuse(spot, f"got {kind(raw)}, a list is needed")
            else:
                value = reader.value(key, raw, spot)
        elif key.required:
            reader.refuse(At(None, name, root), "required variable is missing", f"set {name} for this host or its group")
        if value is BROKEN:
            value = [] if key.type == "list" and key.default is None else reader.default(key)
        settings[short] = value
    return settings


class _Builder(Addresses):
    """Domains and what holds between them and their addresses."""

    def build(self, entries: Sequence[tuple[At, DomainFile | None]], root: At, variables: Mapping[str, Any], complete: bool) -> None:
        settings = self.settings
        self.model.dns_updates = check_publication(self, root, variables)
        settings["dkim_keys"] = self.dkim_keys(settings["dkim_keys"])
        common = settings.pop("aliases")
        self.check_settings(root)
        raw_domains: list[tuple[Domain, dict[str, Any]]] = []
        for at, file in entries:
            if file is not None:
                at = At(file.content, "", None, None, "" if self.reader.locate(file.content) else file.where)
            if (read := self.domain(at)) is not None:
                raw_domains.append(read)
        for domain, values in raw_domains:
            self.read_alias_of(domain, values)
            check_domain(self, domain, values)
        for domain, values in raw_domains:
            if domain.alias_of is not None:
                self.alias_domain(domain, values["at"].item("alias_of"))
            else:
                self.contents(domain, values)
        self.common_aliases(common)
        self.common_copies(root)
        self.postmaster(root)
        self.dmarc_reports(root)
        self.quarantine(root)
        self.model.ldap = self.ldap(root.item("mail_ldap"))
        for alias in list(self.model.aliases.values()):
            self.exclude(alias)
        self.patterns()
        self.model.smarthosts = Routes(self, root, set(self.model.domains), self.model.relayed).check()
        check_junk(self, root, self.model)
        check_policy(self, root, {*self.model.domains, *self.model.relayed, settings["hostname"]}, self.lowest_reject())
        if complete:
            check_references(self, root)
            check_senders(self)
        check_expansions(self)
        if self.weak:
            self.reader.report.warnings.append(
                f"{len(self.weak)} mailboxes have weak password hashes (allow_weak_hash): " + ", ".join(sorted(self.weak))
            )

    def lowest_reject(self) -> float:
        """The lowest score at which some mail is refused."""
        model = self.model
        found = [self.settings["spam"], *(domain.spam for domain in model.domains.values())]
        found += [domain.spam for domain in model.relayed.values()]
        found += [mailbox.spam for mailbox in model.mailboxes.values()]
        return min(float(scores["reject"]) for scores in found if scores is not None)

    # -- shared variables

    def check_settings(self, root: At) -> None:
        settings = self.settings
        if settings["bounce_lifetime"] > settings["queue_lifetime"]:
            self.refuse(root.item("mail_bounce_lifetime"), "longer than mail_queue_lifetime")
        if not 1 <= settings["alias_expansion_limit"] <= EXPANSION_CEILING:
            at = root.item("mail_alias_expansion_limit")
            self.refuse(at, f"not between 1 and {EXPANSION_CEILING}", value=at.value)
        settings["srs_exempt"] = [(at, self.exempt(at, text)) for at, text in settings["srs_exempt"]]
        arc = settings["authentication"]["arc"]
        arc["trusted_sealers"] = [self.exempt(at, text) for at, text in arc["trusted_sealers"] or []]
        self.source_addresses(root)
        settings["master_users"] = self.master_users(settings["master_users"])
        for name in ("hostnames", "networks", "quota_warnings", "srs_exempt"):
            settings[name] = list(dict.fromkeys(value for _, value in settings[name]))
        check_filter_web(self, root)

    def master_users(self, entries: Sequence[tuple[At, dict[str, Any]]]) -> list[dict[str, Any]]:
        """M9: name, hash, and whether each may send."""
        seen: dict[str, At] = {}
        for at, entry in entries:
            name, password = entry["name"], entry["password_hash"]
            if name is not BROKEN and seen.setdefault(name, at) is not at:
                self.refuse(at.item("name"), f"duplicate of {self.place(seen[name])}", value=name)
            try:
                if password is not BROKEN:
                    passwords.check_hash(password)
            except Invalid as error:
                self.refuse(at.item("password_hash"), error.reason, error.cure, secret=True)
        return [{key: entry[key] for key in ("name", "password_hash", "submission")} for _, entry in entries]

    def source_addresses(self, root: At) -> None:
        """S5: at most one of each family."""
        found: dict[int, str] = {}
        for at, text in self.settings["source_addresses"]:
            version = ipaddress.ip_address(text).version
            if version in found:
                self.refuse(at, f"a second address of IPv{version}", "mail leaves from one of each family", value=text)
            found.setdefault(version, text)
        self.settings["source_addresses"] = [found[version] for version in sorted(found)]

    def exempt(self, at: At, text: str) -> str:
        try:
            return names.domain(text, allow_confusable=True)
        except Invalid as error:
            self.refuse(at, error.reason, error.cure, value=text)
            return text

    def dkim_keys(self, entries: Sequence[tuple[At, dict[str, Any]]]) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = []
        seen: dict[str, At] = {}
        for at, entry in entries:
            selector = entry["selector"]
            # Without a selector there is one key of a kind.
            name = entry["algorithm"] if selector is None else f"={selector}"
            if selector is not BROKEN and seen.setdefault(name, at) is not at:
                at_selector = at.item("selector")
                if selector is None:
                    self.refuse(
                        at_selector, f"missing, as in {self.place(seen[name])}, which is of the same kind", "declare their selectors"
                    )
                else:
                    self.refuse(at_selector, f"duplicate of {self.place(seen[name])}", value=selector)
            given = at.item("bits").value
            bits: int | None = entry["bits"]
            if entry["algorithm"] == "ed25519":
                if given is not None:
                    self.refuse(at.item("bits"), "an Ed25519 key has one size", "remove bits", value=given)
                bits = None
            elif not isinstance(bits, int) or not RSA_BITS[0] <= bits <= RSA_BITS[1]:
                self.refuse(at.item("bits"), f"not between {RSA_BITS[0]} and {RSA_BITS[1]}", value=given)
            if entry["private_key"] is not None:
                try:
                    check_private_key(entry["private_key"], entry["algorithm"])
                except Invalid as error:
                    self.refuse(at.item("private_key"), error.reason, error.cure, secret=True)
                if selector is None:
                    self.refuse(at.item("selector"), "missing", "a given key needs the selector under which its record is published")
            keys.append(
                {
                    "selector": selector,
                    "algorithm": entry["algorithm"],
                    "bits": bits,
                    "private_key": entry["private_key"],
                    "shared": entry.get("shared", False),
                }
            )
        return keys

    # -- domains

    def domain(self, at: At) -> tuple[Domain, dict[str, Any]] | None:
        values = self.reader.mapping(at.value, schema.DOMAIN, at)
        if values is None:
            return None
        spot = at.item("domain")
        shown = ""
        # A stand-in, so that the contents of a domain with a bad name are checked all the same.
        name = f"unnamed-{len(self.model.domains)}.invalid"
        if values["domain"] is not BROKEN:
            shown = values["domain"]
            try:
                name = names.domain(shown, allow_confusable=values["allow_confusable"])
            except Invalid as error:
                self.refuse(spot, error.reason, error.cure, value=shown)
        if shown and name != shown:
            shown = f"{shown} ({name})"
        if name in self.model.domains:
            self.refuse(spot, f"duplicate of {self.place(self.model.domains[name].at)}", value=shown)
            return self.model.domains[name], {**values, "at": at}
        if name in self.model.relayed:
            self.refuse(spot, f"duplicate of {self.place(self.model.relayed[name].at.item('domain'))}, a relayed domain", value=shown)
            return None
        if name in self.model.parked:
            self.refuse(spot, f"duplicate of {self.place(self.model.parked[name])}, a parked domain", value=shown)
            return None
        if name == self.settings["hostname"]:
            self.refuse(
                spot,
                "this is mail_hostname; a host's own name cannot be a mail domain",
                "give the host a name of its own, such as mail." + name,
                value=shown,
            )
        if is_parked(self, at, name, values):
            return None
        if (relayed := relayed_domain(self, at, name, values)) is not None:
            self.model.relayed[name] = relayed
            return None
        dkim = values["dkim"]
        keys = self.settings["dkim_keys"] if dkim is None else self.dkim_keys(dkim)
        domain = Domain(spot, name, None, values["spam"], keys)
        domain.certificate = self.certificate(name, at.item("certificate"), values["certificate"])
        self.model.domains[name] = domain
        return domain, {**values, "at": at}

    def certificate(self, domain: str, at: At, given: bool | Sequence[tuple[At, str]] | None) -> list[str]:
        """T3: host names of a domain that get a certificate of their own."""
        hosts: list[str] = []
        for spot, host in [(at, f"mail.{domain}")] if given is True else given or ():
            if host != domain and not host.endswith(f".{domain}"):
                self.refuse(spot, f"not in {domain}", "name it in the file of its own domain, or in mail_hostnames", value=host)
            elif self.certified.setdefault(host, spot) is not spot:
                self.refuse(spot, f"duplicate of {self.place(self.certified[host])}", value=host)
            else:
                hosts.append(host)
        return hosts

    def read_alias_of(self, domain: Domain, values: dict[str, Any]) -> None:
        if values["alias_of"] is None:
            return
        at: At = values["at"]
        for key, value in at.value.items() if isinstance(at.value, Mapping) else ():
            if key in schema.DOMAIN and key not in schema.ALIAS_DOMAIN_KEYS and value is not None:
                self.refuse(
                    at.item(key), "not for an alias domain: its addresses are those of the other one", "remove it, or alias_of", value
                )
        try:
            domain.alias_of = names.domain(values["alias_of"], allow_confusable=True)
        except Invalid as error:
            self.refuse(at.item("alias_of"), error.reason, error.cure, value=values["alias_of"])

    def alias_domain(self, domain: Domain, at: At) -> None:
        """D4: the domain with the addresses is another one, delivered here, and has them itself."""
        domains = self.model.domains
        chain = [domain.name]
        while (target := domains[chain[-1]].alias_of) is not None and target in domains and target not in chain:
            chain.append(target)
        if target in chain:
            loop = " → ".join([*chain[chain.index(target) :], target])
            self.refuse(at, f"alias loop {loop}", "one of them must have the addresses", value=at.value)
        elif target is not None:
            near = suggest(target, domains) or "declare it, or name one that is declared"
            self.refuse(at, f"{target} is not a domain that is delivered here", near, value=at.value)
        elif len(chain) > 2:
            self.refuse(at, f"{chain[1]} is an alias domain itself", f"write {chain[-1]}", value=at.value)

    def common_aliases(self, entries: Sequence[tuple[At, dict[str, Any]]]) -> None:
        """A2: aliases of every domain that is delivered here and does not declare the name, or of one domain."""
        model = self.model
        local = [domain for domain in model.domains.values() if domain.alias_of is None]
        declared = set(self.owners)
        seen: dict[str, At] = {}
        for at, entry in entries:
            name, spot = entry["name"], at.item("name")
            if name is BROKEN:
                continue
            if seen.setdefault(name, at) is not at:
                self.refuse(spot, f"duplicate of {self.place(seen[name])}", value=name)
                continue
            if "@" not in name:
                for domain in local:
                    if f"{name}@{domain.name}" not in declared:
                        self.alias(domain, at, entry, f"{name}@{domain.name}", "alias")
                continue
            found = model.domains.get(name.rpartition("@")[2])
            if found is None:
                near = suggest(name.rpartition("@")[2], model.domains)
                self.refuse(spot, "not in a domain that is delivered here", near or "declare the domain", value=name)
            elif found.alias_of is not None:
                twin = f"{name.rpartition('@')[0]}@{found.alias_of}"
                self.refuse(spot, f"in an alias domain of {found.alias_of}", f"write {twin}", value=name)
            else:
                self.alias(found, at, entry, name, "alias")

    def exclude(self, group: Alias, depth: int = 0) -> None:
        """Where members are excluded, `to` becomes the list of those who are left: a lookup table knows no exceptions."""
        excluded, group.excluded = group.excluded, {}
        if not excluded:
            return
        found = {key for key, _, ends in self.model.reach([*group.to, *excluded]) if not ends}
        if group.address in found:
            self.refuse(group.at, f"{group.address} is a member of itself", "remove it from its members")
            return
        if depth > DEPTH_LIMIT:
            self.refuse(group.at, f"a chain of more than {DEPTH_LIMIT} groups with exceptions")
            return
        for address in found:
            if (inner := self.model.aliases.get(address)) is not None:
                self.exclude(inner, depth + 1)
        members = self.model.members(group.to)
        excepted: dict[str, str] = {}
        for address, at in excluded.items():
            gone = self.model.members([address])
            if not gone.keys() & members.keys():
                cure = "remove it" if self.model.known(address) else self.near(address) or "remove it"
                self.refuse(at, f"{address} is not a member, so there is nothing to except", cure, value=address)
            excepted.update(gone)
        group.to = [address for key, address in members.items() if key not in excepted]
        if not group.to:
            self.refuse(group.at, f"nobody is left in {group.address}", "except fewer members")

    def common_copies(self, root: At) -> None:
        """D6: who gets copies of everything, and of everything that is sent."""
        for name in ("hidden_copy", "hidden_copy_outgoing"):
            address, spot = self.settings[name], root.item(f"mail_{name}")
            local, _, domain = (address or "").rpartition("@")
            if domain in self.model.domains:
                try:
                    address = f"{names.local_part(local)}@{domain}"
                except Invalid as error:
                    self.refuse(spot, error.reason, error.cure, value=address)
                    continue
            self.settings[name] = address
            if address is not None:
                self.copies.append((address, spot))

    def ldap(self, root: At) -> dict[str, Any] | None:
        """M19: nothing unless declared."""
        given = self.settings.pop("ldap")
        if root.value is None:
            return None
        servers = given["servers"]
        if servers is BROKEN or BROKEN in (given[key] for key in ("base", "bind_dn", "bind_password", "domains")):
            return None
        for key, entries in (("servers", servers), ("domains", given["domains"])):
            if not entries:
                self.refuse(root.item(key), "empty list", value=None)
        try:
            ldap.password(given["bind_password"])
            if self.in_clear(root.item("bind_password").value) and not self.settings["allow_plaintext_passwords"]:
                raise Invalid("password in clear in an unencrypted file", "encrypt it with ansible-vault")
        except Invalid as error:
            self.refuse(root.item("bind_password"), error.reason, error.cure, secret=True)
        domains: dict[str, At] = {}
        for at, text in given["domains"]:
            name = self.exempt(at, text)
            domain = self.model.domains.get(name)
            if domain is None:
                self.refuse(at, "not a domain that is delivered here", suggest(name, self.model.domains) or "declare it", value=text)
            elif domain.alias_of is not None:
                self.refuse(at, f"an alias domain of {domain.alias_of}", "it has no users", value=text)
            elif domains.setdefault(name, at) is not at:
                self.refuse(at, f"duplicate of {self.place(domains[name])}", value=text)
        attributes = given["attributes"]
        if BROKEN in attributes.values():
            return None
        return {
            "servers": [uri for _, uri in servers],
            **{key: given[key] for key in ("base", "bind_dn", "bind_password")},
            "domains": list(domains),
            **attributes,
            "users": ldap.condition(given["user_filter"], attributes["address"], domains),
        }

    def dmarc_reports(self, root: At) -> None:
        """I8: reports come from an address here, so that they pass DMARC themselves and their bounces reach somebody."""
        reports = self.settings["dmarc_reports"]
        spot = root.item("mail_dmarc_reports")
        if isinstance(organisation := reports["organisation"], str) and not (organisation.strip() and organisation.isprintable()):
            self.refuse(spot.item("organisation"), "not a name in one line", value=organisation)
        if not isinstance(address := reports["from"], str):
            return
        if address.rpartition("@")[2] in self.model.domains:
            self.copies.append((address, spot.item("from")))
        else:
            self.refuse(spot.item("from"), "not in a domain delivered here", "its bounces would reach nobody", value=address)

    def quarantine(self, root: At) -> None:
        """F10: what is accepted for it is never sent back to senders, who are forged."""
        quarantine, spot = self.settings["quarantine"], root.item("mail_quarantine")
        for at, address in quarantine["notify"] or ():
            self.copies.append((address, at))
        if quarantine["mailbox"] is None:
            return
        local, _, domain = quarantine["mailbox"].rpartition("@")
        at, address = spot.item("mailbox"), f"{local.lower()}@{domain}"
        quarantine["mailbox"] = address
        mailbox = self.model.mailboxes.get(address)
        if mailbox is None or mailbox.folder is not None or mailbox.forward is not None:
            self.refuse(
                at, f"{address} is not a mailbox of an own domain without forward", self.near(address) or "declare it", value=address
            )
        elif not mailbox.enabled or mailbox.send_only:
            self.refuse(at, f"{address} takes no mail", "enable it", value=address)
        elif mailbox.quota:
            self.refuse(mailbox.at, "the quarantine has a quota: what no more fits would go back to forged senders", "quota: unlimited")
        elif mailbox.sieve_before is not None:
            self.refuse(mailbox.at, "the quarantine has a sieve_before, where its own script stands", "use sieve_after")

    def postmaster(self, root: At) -> None:
        """M18: what RFC 2142 asks for exists in every domain."""
        postmaster = self.settings["postmaster"]
        if postmaster is None:
            return
        local, _, name = postmaster.rpartition("@")
        spot = root.item("mail_postmaster")
        if name in self.model.domains:
            try:
                postmaster = f"{names.local_part(local)}@{name}"
            except Invalid as error:
                self.refuse(spot, error.reason, error.cure, value=postmaster)
                return
            self.settings["postmaster"] = postmaster
        # Of a relayed domain whose server is asked, these are that server's own affair.
        for relayed in self.model.relayed.values():
            for role in schema.RFC_2142_NAMES:
                address = f"{role}@{relayed.name}"
                if relayed.recipients is not None and role not in relayed.recipients and address != postmaster:
                    self.model.aliases[address] = Alias(spot, address, [postmaster])
        for domain in self.model.domains.values():
            for role in schema.RFC_2142_NAMES if domain.alias_of is None else ():
                address = f"{role}@{domain.name}"
                if address not in self.owners and address != postmaster:
                    alias = Alias(spot, address, [postmaster])
                    domain.aliases.append(alias)
                    self.model.aliases[address] = alias

    def patterns(self) -> None:
        """A declared name wins over a pattern; as the tables cannot say so for tags, an overlap is refused."""
        delimiter = self.settings["recipient_delimiter"]
        for domain in self.model.domains.values():
            seen: dict[str, At] = {}
            for pattern in domain.patterns:
                spot = pattern.at.item("pattern")
                if pattern.pattern in seen:
                    self.refuse(spot, f"duplicate of {self.place(seen[pattern.pattern])}", value=pattern.pattern)
                seen[pattern.pattern] = pattern.at
                matches = re.compile(pattern.pattern).fullmatch
                own = (
                    address.partition("@")[0]
                    for addresses in (self.model.mailboxes, self.model.aliases)
                    for address in addresses
                    if address.endswith(f"@{domain.name}") and address[0] != "@"
                )
                hit = next((n for n in own if matches(n) or (delimiter and matches(f"{n}{delimiter}tag"))), None)
                if hit is not None:
                    self.refuse(
                        spot,
                        f"matches {hit}@{domain.name}, which is declared",
                        "make the pattern narrower",
                        value=pattern.pattern,
                    )
