# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""The addresses of one domain: mailboxes, aliases, groups, patterns and their targets, each checked by itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Final

from . import names, passwords, schema
from .errors import Invalid
from .model import Alias, Domain, Folder, Mailbox, Model, Pattern
from .reader import BROKEN, At, Plain, Reader

__all__ = ["Addresses"]


# No text has this hash.
NO_LOGIN: Final = "{CRYPT}!"


class Addresses:
    """What every address of the inventory is, and whose: the base of the builder."""

    def __init__(self, reader: Reader, model: Model, in_clear: Callable[[object], bool]) -> None:
        self.reader = reader
        self.model = model
        self.in_clear = in_clear
        self.settings = model.settings
        self.owners: dict[str, At] = {}
        self.copies: list[tuple[str, At]] = []
        self.weak: list[str] = []
        self.certified: dict[str, At] = {}

    def refuse(self, at: At, reason: str, cure: str = "", value: object = None, secret: bool = False) -> None:
        self.reader.refuse(at, reason, cure, value=value, secret=secret)

    def place(self, at: At) -> str:
        return at.place(self.reader.locate) or at.path()

    def warn(self, at: At, text: str) -> None:
        place = at.place(self.reader.locate)
        self.reader.report.warnings.append(": ".join(part for part in (place, at.path(), text) if part))

    def near(self, address: str) -> str:
        """A cure for a misspelt address: only what somebody declared, the likeness counted before '@'."""
        local, _, domain = address.rpartition("@")
        declared = [name for name in self.owners if name.endswith(f"@{domain}")]
        found = difflib.get_close_matches(local, [name.rpartition("@")[0] for name in declared], n=1, cutoff=0.7)
        return f"did you mean {found[0]}@{domain}?" if found else ""

    def contents(self, domain: Domain, values: dict[str, Any]) -> None:
        quota = values["quota"] if values["quota"] is not None else self.settings["default_quota"]
        domain.sieve_before, domain.sieve_after = values["sieve_before"], values["sieve_after"]
        domain.legal_note = values["legal_note"]
        for at, entry in values["mailboxes"] or ():
            self.mailbox(domain, at, entry, quota)
        domain.public_quota = values["public_quota"]
        for at, entry in values["public_folders"] or ():
            self.public_folder(domain, at, entry)
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
            sending_limit=entry["sending_limit"],
            internal=entry["internal"],
            **{
                key: self.settings[key] if entry[key] is None else entry[key]
                for key in ("junk_retention", "trash_retention", "deleted_to_trash")
            },
            sieve_before=entry["sieve_before"],
            sieve_after=entry["sieve_after"],
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

    def public_folder(self, domain: Domain, at: At, entry: dict[str, Any]) -> None:
        """M8: who may do what in it, and its address."""
        name = entry["name"]
        if name is BROKEN:
            return
        same = next((other for other in domain.public_folders if other.name == name), None)
        if same is not None:
            self.refuse(at.item("name"), f"duplicate of {self.place(same.at)}", value=name)
            return
        folder = Folder(at, name, entry["everyone"])
        domain.public_folders.append(folder)
        spots = {}
        for spot, access in entry["access"] or ():
            if access["who"] is BROKEN or (who := self.target(domain, spot.item("who"), access["who"])) is None:
                continue
            if who in folder.access:
                self.refuse(spot.item("who"), f"{who} is named twice", "remove one", value=access["who"])
            folder.access[who] = access["rights"]
            spots[who] = spot.item("who")
        folder.spots = spots
        if not folder.access and folder.everyone is None:
            self.refuse(at, "nobody may see it", "give everyone or access")
        if entry["address"] is None:
            return
        address = f"{entry['address']}@{domain.name}"
        if re.search(r"[ .]", name):
            self.refuse(
                at.item("address"), "a folder with an address has no space and no dot in its name", "rename it", value=entry["address"]
            )
        elif self.own(address, at.item("address"), "mailbox"):
            mailbox = Mailbox(
                at=at,
                address=address,
                password=None,
                password_hash=NO_LOGIN,
                password_update=self.settings["password_update"],
                quota=domain.public_quota,
                enabled=True,
                protocols=dict.fromkeys(schema.PROTOCOLS, False),
                send_only=False,
                receive_only=True,
                aliases=[],
                spam=None,
                # It has no Junk of its own.
                junk_filing=False,
                internal=False,
                junk_retention=0,
                trash_retention=0,
                deleted_to_trash=False,
                folder=name,
            )
            self.model.mailboxes[address] = mailbox
            domain.mailboxes.append(mailbox)

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
