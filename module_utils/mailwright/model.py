# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From a parsed inventory to a checked model, or to every problem it has (see reader.py for how it is read)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from . import names, passwords, schema
from .errors import Invalid
from .pem import RSA_BITS, check_private_key
from .reader import BROKEN, At, Plain, Reader, kind, suggest
from .routes import Relayed, Routes, Smarthost, relayed_domain

__all__ = ["Alias", "Domain", "DomainFile", "Mailbox", "Model", "Pattern", "check"]

DEPTH_LIMIT: Final = 100
# Postfix's own limits are 1000; more would be refused at delivery.
EXPANSION_CEILING: Final = 1000


@dataclass(frozen=True)
class DomainFile:
    """One file of domains/: what it holds and its name for messages."""

    content: object
    where: str


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
    # Who gets copies of mail to it, and of mail sent from it.
    hidden_copy: str | None = None
    hidden_copy_outgoing: str | None = None
    # The domain whose addresses all exist in this one, which has none of its own.
    alias_of: str | None = None
    mailboxes: list[Mailbox] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)


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
    _Builder(reader, model, in_clear).build(entries, root, complete)
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


class _Builder:
    """Domains, mailboxes and aliases, and what holds between them."""

    def __init__(self, reader: Reader, model: Model, in_clear: Callable[[object], bool]) -> None:
        self.reader = reader
        self.model = model
        self.in_clear = in_clear
        self.settings = model.settings
        self.owners: dict[str, At] = {}
        self.copies: list[tuple[str, At]] = []
        self.weak: list[str] = []

    def refuse(self, at: At, reason: str, cure: str = "", value: object = None, secret: bool = False) -> None:
        self.reader.refuse(at, reason, cure, value=value, secret=secret)

    def place(self, at: At) -> str:
        return at.place(self.reader.locate) or at.path()

    def build(self, entries: Sequence[tuple[At, DomainFile | None]], root: At, complete: bool) -> None:
        settings = self.settings
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
        for domain, values in raw_domains:
            if domain.alias_of is not None:
                self.alias_domain(domain, values["at"].item("alias_of"))
            else:
                self.contents(domain, values)
        self.common_aliases(common)
        self.common_copies(root)
        self.postmaster(root)
        for alias in list(self.model.aliases.values()):
            self.exclude(alias)
        self.patterns()
        self.model.smarthosts = Routes(self, root, set(self.model.domains), self.model.relayed).check()
        if complete:
            self.references(root)
            self.senders()
        self.expansions()
        if self.weak:
            self.reader.report.warnings.append(
                f"{len(self.weak)} mailboxes have weak password hashes (allow_weak_hash): " + ", ".join(sorted(self.weak))
            )

    # -- shared variables

    def check_settings(self, root: At) -> None:
        settings = self.settings
        if settings["bounce_lifetime"] > settings["queue_lifetime"]:
            self.refuse(root.item("mail_bounce_lifetime"), "longer than mail_queue_lifetime")
        if not 1 <= settings["alias_expansion_limit"] <= EXPANSION_CEILING:
            at = root.item("mail_alias_expansion_limit")
            self.refuse(at, f"not between 1 and {EXPANSION_CEILING}", value=at.value)
        settings["srs_exempt"] = [(at, self.exempt(at, text)) for at, text in settings["srs_exempt"]]
        for name in ("hostnames", "networks", "srs_exempt"):
            settings[name] = list(dict.fromkeys(value for _, value in settings[name]))

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
            if selector is not BROKEN and seen.setdefault(selector, at) is not at:
                self.refuse(at.item("selector"), f"duplicate of {self.place(seen[selector])}", value=selector)
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
            keys.append(
                {
                    "selector": selector,
                    "algorithm": entry["algorithm"],
                    "bits": bits,
                    "private_key": entry["private_key"],
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
        if name == self.settings["hostname"]:
            self.refuse(
                spot,
                "this is mail_hostname; a host's own name cannot be a mail domain",
                "give the host a name of its own, such as mail." + name,
                value=shown,
            )
        if (relayed := relayed_domain(self, at, name, values)) is not None:
            self.model.relayed[name] = relayed
            return None
        dkim = values["dkim"]
        keys = self.settings["dkim_keys"] if dkim is None else self.dkim_keys(dkim)
        domain = Domain(spot, name, None, values["spam"], keys)
        self.model.domains[name] = domain
        return domain, {**values, "at": at}

    def contents(self, domain: Domain, values: dict[str, Any]) -> None:
        quota = values["quota"] if values["quota"] is not None else self.settings["default_quota"]
        for at, entry in values["mailboxes"] or ():
            self.mailbox(domain, at, entry, quota)
        for key, what in (("groups", "group"), ("aliases", "alias")):
            for at, entry in values[key] or ():
                if entry["name"] is BROKEN:
                    self.targets(domain, at, entry, "members" if what == "group" else "to")
                else:
                    self.alias(domain, at, entry, f"{entry['name']}@{domain.name}", what)
        for at, entry in values["alias_patterns"] or ():
            to = self.targets(domain, at, entry)
            if entry["pattern"] is not BROKEN:
                domain.patterns.append(Pattern(at, entry["pattern"], domain.name, list(to), to))
        for key in ("hidden_copy", "hidden_copy_outgoing"):
            if values[key] is not None:
                spot = values["at"].item(key)
                setattr(domain, key, address := self.target(domain, spot, values[key]))
                if address is not None:
                    self.copies.append((address, spot))
        if values["catch_all"] is not None:
            spot = values["at"].item("catch_all")
            catch_all = self.target(domain, spot, values["catch_all"])
            if catch_all is not None:
                domain.catch_all = Alias(spot, f"@{domain.name}", [catch_all], spots={catch_all: spot})
                self.model.aliases[f"@{domain.name}"] = domain.catch_all

    def alias(self, domain: Domain, at: At, entry: dict[str, Any], address: str, what: str) -> None:
        """An alias, or a group, which has `members` in place of `to`."""
        key = "members" if what == "group" else "to"
        to = self.targets(domain, at, entry, key)
        if not self.own(address, at.item("name"), what):
            return
        self.receives(address, at, entry["internal"])
        excluded = self.addresses(domain, entry["except"]) if what == "group" else {}
        alias = Alias(at.item(key), address, list(to), entry["send_as"], entry["internal"], to, excluded)
        domain.aliases.append(alias)
        self.model.aliases[address] = alias

    def receives(self, address: str, at: At, internal: bool) -> None:
        local = address.partition("@")[0]
        if internal and local in ("postmaster", "abuse"):
            self.refuse(at.item("internal"), f"{local} must hear from everybody (RFC 5321, 4.5.1; RFC 2142)", "remove it", value=True)

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

    def own(self, address: str, at: At, what: str) -> bool:
        """Take an address for one thing; a second one is a problem."""
        local = address.partition("@")[0]
        delimiter = self.settings["recipient_delimiter"]
        if delimiter and delimiter in local:
            self.refuse(
                at,
                f"holds the recipient delimiter {delimiter!r}",
                f"mail for it belongs to {local.partition(delimiter)[0] or 'another name'}; see mail_recipient_delimiter",
                value=local,
            )
            return False
        if address in self.owners:
            first = self.owners[address]
            is_mailbox = address in self.model.mailboxes
            if (what == "mailbox") == is_mailbox:
                reason = f"duplicate {what}"
            else:
                reason = f"mailbox and {'alias' if what == 'mailbox' else what} have the same address"
            self.refuse(at, f"{reason}, {address} is also at {self.place(first)}", value=at.value)
            return False
        self.owners[address] = at
        return True

    def mailbox(self, domain: Domain, at: At, entry: dict[str, Any], quota: int) -> None:
        address = f"{entry['name']}@{domain.name}"
        self.password(at, entry, address)
        if entry["send_only"] and entry["receive_only"]:
            self.refuse(at, "both send_only and receive_only", "remove one; enabled: false closes a mailbox")
        if entry["name"] is BROKEN or not self.own(address, at.item("name"), "mailbox"):
            return
        mailbox = Mailbox(
            at=at,
            address=address,
            password=entry["password"],
            password_hash=entry["password_hash"],
            password_update=entry["password_update"] or self.settings["password_update"],
            quota=quota if entry["quota"] is None else entry["quota"],
            enabled=entry["enabled"],
            protocols=entry["protocols"],
            send_only=entry["send_only"],
            receive_only=entry["receive_only"],
            aliases=[],
            spam=entry["spam"],
            junk_filing=entry["junk_filing"],
            internal=entry["internal"],
            send_as=self.addresses(domain, entry["send_as"]),
        )
        self.forward(domain, mailbox, at, entry)
        if mailbox.send_as and mailbox.receive_only:
            self.refuse(at.item("send_as"), "a receive_only mailbox sends nothing", "remove one of the two")
        self.receives(address, at, mailbox.internal)
        self.model.mailboxes[address] = mailbox
        domain.mailboxes.append(mailbox)
        for spot, name in entry["aliases"] or ():
            alias = f"{name}@{domain.name}"
            if self.own(alias, spot, "alias"):
                mailbox.aliases.append(alias)
                self.receives(alias, at, mailbox.internal)
                self.model.aliases[alias] = Alias(spot, alias, [address])

    def password(self, at: At, entry: dict[str, Any], address: str) -> None:
        given = [name for name in ("password", "password_hash") if at.item(name).value is not None]
        if len(given) != 1:
            reason = "both password and password_hash" if given else "required key password or password_hash is missing"
            self.refuse(at, reason, "remove one" if given else "give one of them")
            return
        name = given[0]
        text = entry[name]
        spot = at.item(name)
        if text is None:
            return
        try:
            if name == "password_hash":
                if passwords.check_hash(text, allow_weak=entry["allow_weak_hash"]):
                    self.weak.append(address)
                return
            passwords.check_password(text)
            if not self.settings["allow_plaintext_passwords"] and self.in_clear(spot.value):
                raise Invalid(
                    "password in clear in an unencrypted file",
                    "encrypt it with ansible-vault, or write password_hash (`doveadm pw -s ARGON2ID`)",
                )
        except Invalid as error:
            self.refuse(spot, error.reason, error.cure, secret=True)

    # -- addresses that pass mail on

    def target(self, domain: Domain, at: At, text: str) -> str | None:
        try:
            if "@" not in text and text[:1] not in ("|", "/", ":"):
                return f"{names.local_part(text)}@{domain.name}"
            address = names.target(text)
            local, _, name = address.rpartition("@")
            return f"{names.local_part(local)}@{name}" if name in self.model.domains else address
        except Invalid as error:
            self.refuse(at, error.reason, error.cure, value=text)
            return None

    def targets(self, domain: Domain, at: At, entry: dict[str, Any], key: str = "to") -> dict[str, At]:
        """The addresses of `to`, each once, and where each stands."""
        if entry[key] == [] and not at.item(key).value:
            self.refuse(at.item(key), "empty list of targets", "name who gets the mail, or remove the entry")
        return self.addresses(domain, entry[key])

    def addresses(self, domain: Domain, entries: Plain) -> dict[str, At]:
        """Addresses of a list, each once, and where each stands."""
        found: dict[str, At] = {}
        for spot, text in entries if isinstance(entries, list) else ():
            if (address := self.target(domain, spot, text)) is not None:
                found.setdefault(address, spot)
        return found

    def forward(self, domain: Domain, mailbox: Mailbox, at: At, entry: dict[str, Any]) -> None:
        """M6: mail to a mailbox goes on to others, and is kept or not."""
        if entry["forward"] is None:
            if at.item("keep_copy").value is not None:
                self.refuse(
                    at.item("keep_copy"),
                    "without forward it means nothing",
                    "remove it, or say who gets the mail",
                    value=entry["keep_copy"],
                )
            return
        if mailbox.send_only:
            self.refuse(at.item("forward"), "a send_only mailbox receives nothing to forward", "remove one of the two")
        to = self.targets(domain, at, entry, "forward")
        for address in [address for address in to if self.model.base(address) == mailbox.address]:
            self.refuse(to.pop(address), "the mailbox itself", "remove it; keep_copy says whether it keeps the mail", value=address)
        kept = [mailbox.address] if entry["keep_copy"] else []
        mailbox.forward = Alias(at.item("forward"), mailbox.address, [*kept, *to], spots=to)

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

    def passed_on(self) -> Iterator[Alias]:
        yield from self.model.aliases.values()
        yield from (mailbox.forward for mailbox in self.model.mailboxes.values() if mailbox.forward is not None)

    def references(self, root: At) -> None:
        """Every local target exists and can receive."""
        sources: list[tuple[str, Mapping[str, At]]] = [
            *((alias.address, alias.spots) for alias in self.passed_on()),
            *(("", pattern.spots) for domain in self.model.domains.values() for pattern in domain.patterns),
        ]
        sources += [("", {address: at}) for address, at in self.copies]
        if self.settings["postmaster"] is not None:
            sources.append(("", {self.settings["postmaster"]: root.item("mail_postmaster")}))
        misspelt: dict[str, str] = {}
        for source, spots in sources:
            for address, at in spots.items():
                domain = address.rpartition("@")[2]
                if domain in self.model.domains:
                    self.reference(at, source, address)
                    continue
                if domain in self.model.relayed:
                    self.relayed_reference(at, address)
                    continue
                if domain not in misspelt:
                    near = difflib.get_close_matches(domain, self.model.domains, n=1, cutoff=0.9)
                    misspelt[domain] = near[0] if near else ""
                if misspelt[domain]:
                    self.warn(at, f"{address}: not a domain of this inventory; did you mean {misspelt[domain]}?")

    def reference(self, at: At, source: str, address: str) -> None:
        model = self.model
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
        if (mailbox is None and found is None) or (found is not None and found[0] == source and source.startswith("@")):
            self.refuse(at, f"no mailbox or alias {address}", self.near(address) or "declare it, or remove it here", value=address)
        elif found is not None and found[0].startswith("@") and (near := self.near(address)):
            self.warn(at, f"{address}: reaches the catch-all only; {near}")
        elif mailbox is not None and mailbox.send_only:
            self.refuse(at, f"{mailbox.address} is send_only and receives nothing", value=address)

    def senders(self) -> None:
        """Every address that a mailbox may send as exists here."""
        for mailbox in self.model.mailboxes.values():
            for address, at in mailbox.send_as.items():
                domain = address.rpartition("@")[2]
                if domain not in self.model.domains:
                    cure = suggest(domain, self.model.domains) or "remove it"
                    self.refuse(at, "not an address of a domain that is delivered here", cure, value=address)
                elif not self.model.known(address):
                    self.refuse(at, f"no mailbox or alias {address}", self.near(address) or "declare it, or remove it here", value=address)

    def relayed_reference(self, at: At, address: str) -> None:
        known = self.model.relayed[address.rpartition("@")[2]].recipients
        local = self.model.base(address).rpartition("@")[0]
        if known is not None and local not in known and address not in self.model.aliases:
            near = difflib.get_close_matches(local, known, n=1, cutoff=0.7)
            cure = f"did you mean {near[0]}?" if near else "add it there, or remove it here"
            self.refuse(at, "not among the recipients of that relayed domain", cure, value=address)

    def warn(self, at: At, text: str) -> None:
        place = at.place(self.reader.locate)
        self.reader.report.warnings.append(": ".join(part for part in (place, at.path(), text) if part))

    def near(self, address: str) -> str:
        """A cure for a misspelt address: only what somebody declared, the likeness counted before '@'."""
        local, _, domain = address.rpartition("@")
        declared = [name for name in self.owners if name.endswith(f"@{domain}")]
        found = difflib.get_close_matches(local, [name.rpartition("@")[0] for name in declared], n=1, cutoff=0.7)
        return f"did you mean {found[0]}@{domain}?" if found else ""

    def expansions(self) -> None:
        """Loops, depth and size of everything that passes mail on, as Postfix counts them: every branch, duplicates too."""
        model = self.model
        limit = self.settings["alias_expansion_limit"]
        leaves: dict[str, int] = {}
        depth: dict[str, int] = {}
        entries: list[tuple[At, str, list[str]]] = [
            *((alias.at, alias.address, alias.to) for alias in self.passed_on()),
            *((p.at, f"{p.pattern}@{domain.name}", p.to) for domain in model.domains.values() for p in domain.patterns),
        ]
        for at, start, targets in entries:
            if start not in leaves:
                self.expand(at, start, targets, leaves, depth)
            if leaves[start] > limit:
                self.refuse(
                    at,
                    f"{start} becomes {leaves[start]} addresses, the limit is {limit}",
                    "use fewer members or raise mail_alias_expansion_limit",
                )
            if depth[start] > DEPTH_LIMIT:
                self.refuse(at, f"a chain of {depth[start]} aliases, the limit is {DEPTH_LIMIT}")

    def expand(self, at: At, start: str, targets: list[str], leaves: dict[str, int], depth: dict[str, int]) -> None:
        """Count one entry and all it leads to, without recursion: chains may be longer than Python's stack."""
        chain = [start]
        stack = [(start, iter(targets))]
        sums = {start: [0, 0]}
        while stack:
            node, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                stack.pop()
                chain.pop()
                leaves[node], depth[node] = sums[node][0], sums[node][1] + 1
                if stack:
                    above = sums[stack[-1][0]]
                    above[0] += leaves[node]
                    above[1] = max(above[1], depth[node])
                continue
            found = self.model.rewrite(step)
            if found is None:
                sums[node][0] += 1
                continue
            key, further = found
            if key in leaves:
                sums[node][0] += leaves[key]
                sums[node][1] = max(sums[node][1], depth[key])
            elif key == node and key in self.model.mailboxes:
                # The copy that a mailbox keeps: Postfix expands an address into itself once.
                sums[node][0] += 1
            elif key == node and key.startswith("@"):
                # A catch-all to a name that does not exist: `references` says so.
                continue
            elif key in chain:
                loop = [*chain[chain.index(key) :], key]
                box = self.model.mailboxes.get(node)
                entry = box.forward if box is not None else self.model.aliases.get(node)
                place = entry.at if entry is not None else at
                reason = (
                    f"{node} is an alias of itself and no mailbox receives its mail" if len(loop) == 2 else "alias loop " + " → ".join(loop)
                )
                self.refuse(place, reason, "let one of them end in a mailbox", value=step)
            else:
                chain.append(key)
                sums[key] = [0, 0]
                stack.append((key, iter(further)))
