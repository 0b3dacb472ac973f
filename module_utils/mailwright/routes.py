# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Checks of where mail goes and who may bring it: relayed domains, transports, smarthosts, TLS policies, access lists."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import schema
from .errors import Invalid
from .reader import BROKEN, At, Reader, suggest

__all__ = ["Owner", "Relayed", "Routes", "Smarthost", "here", "hop", "relayed_domain"]

# A user name ends at the first colon of an entry of smtp_sasl_password_maps.
_CREDENTIAL_LIMIT = 255


@dataclass(slots=True)
class Relayed:
    """A domain that another server delivers. `recipients` is None where that server is asked."""

    at: At
    name: str
    next_hop: str
    port: int | None
    tls: str | None
    recipients: list[str] | None
    spam: dict[str, float] | None


@dataclass(slots=True)
class Smarthost:
    """A server that takes mail for others; neither `sender` nor `recipient`: everybody's."""

    at: At
    sender: str | None
    recipient: str | None
    next_hop: str
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    tls: str | None


class Owner(Protocol):
    """What the checks need of the model's builder."""

    reader: Reader
    settings: dict[str, Any]
    in_clear: Callable[[object], bool]

    def refuse(self, at: At, reason: str, cure: str = "", value: object = None, secret: bool = False) -> None: ...
    def warn(self, at: At, text: str) -> None: ...
    def place(self, at: At) -> str: ...


def hop(next_hop: str, port: int | None) -> str:
    """A next hop as Postfix writes it everywhere, and looks up TLS policies and passwords by."""
    return next_hop + (f":{port}" if port else "")


def here(recipient: str, domains: set[str]) -> bool:
    """Whether an address, a domain or a .domain is one of these domains."""
    name = recipient.rpartition("@")[2]
    return name in domains or (name.startswith(".") and any(domain.endswith(name) for domain in domains))


def relayed_domain(owner: Owner, at: At, name: str, values: dict[str, Any]) -> Relayed | None:
    """The relayed domain of a domain file; None for one that is delivered here."""
    given = _given(at)
    if given.get("relay") is None:
        for key in ("recipients", "verify_recipients"):
            if given.get(key) is not None:
                owner.refuse(
                    at.item(key), "only for a relayed domain", "remove it, or say in relay which server delivers the mail", given[key]
                )
        return None
    for key in given:
        if key in schema.DOMAIN and key not in schema.RELAYED_KEYS and given[key] is not None:
            owner.refuse(at.item(key), "not for a relayed domain: another server delivers its mail", "remove it, or relay")
    relay, spot = values["relay"], at.item("relay")
    _port(owner, spot, relay["port"])
    recipients = values["recipients"]
    if values["verify_recipients"]:
        if given.get("recipients") is not None:
            owner.refuse(at.item("recipients"), "both recipients and verify_recipients", "remove one")
        recipients = None
    elif given.get("recipients") is None:
        owner.refuse(
            spot,
            "it is not said which recipients exist, so mail to others would be accepted and then bounced",
            "list them in recipients, or set verify_recipients: true",
            value=None,
        )
    elif recipients == []:
        owner.refuse(at.item("recipients"), "empty list of recipients", "list them, or remove the domain")
    found: dict[str, At] = {}
    for place, local in recipients or ():
        if found.setdefault(local, place) is not place:
            owner.refuse(place, f"duplicate of {owner.place(found[local])}", value=local)
    if relay["next_hop"] in (None, BROKEN):
        return None
    _not_here(owner, spot.item("next_hop"), relay["next_hop"])
    _named(owner, spot.item("tls"), relay["next_hop"], relay["tls"])
    return Relayed(at, name, relay["next_hop"], relay["port"], relay["tls"], None if recipients is None else sorted(found), values["spam"])


def _given(at: At) -> Mapping[str, object]:
    """What is written there, to tell what is wrong from what is missing."""
    return at.value if isinstance(at.value, Mapping) else {}


def _port(owner: Owner, at: At, port: int | None) -> None:
    if port is not None and not 1 <= port <= 65535:
        owner.refuse(at.item("port"), "not a port from 1 to 65535", value=port)


def _not_here(owner: Owner, at: At, next_hop: str) -> None:
    if next_hop.strip("[]") in {owner.settings["hostname"], *owner.settings["hostnames"]}:
        owner.refuse(at, "this host itself: mail would loop", value=next_hop)


def _named(owner: Owner, at: At, next_hop: str, level: str | None) -> None:
    """A certificate is compared with a name; without one mail would wait for ever."""
    if level in ("verify", "secure") and _is_address(next_hop):
        owner.refuse(at, f"{next_hop} is an address: there is no name to compare its certificate with", "give the next hop by name")


def _is_address(next_hop: str) -> bool:
    try:
        ipaddress.ip_address(next_hop.strip("[]"))
    except ValueError:
        return False
    return True


class Routes:
    """Everything that names a destination, checked together: two rules for one thing are refused."""

    def __init__(self, owner: Owner, root: At, own: set[str], relayed: dict[str, Relayed]) -> None:
        self.owner = owner
        self.settings = owner.settings
        self.root = root
        self.own = {*own, self.settings["hostname"]}
        self.relayed = relayed
        self.destinations: dict[str, At] = {}
        self.policies: dict[str, tuple[str, At]] = {}

    def check(self) -> list[Smarthost]:
        """Checks `mail_transports`, `mail_tls_policies`, `mail_relays` and `mail_access` and leaves plain entries in the settings."""
        for at, entry in self.settings["transports"]:
            self._transport(at, entry)
        self.settings["transports"] = [entry for _, entry in self.settings["transports"]]
        for at, entry in self.settings["tls_policies"]:
            self._tls_policy(at, entry)
        self.settings["tls_policies"] = [entry for _, entry in self.settings["tls_policies"]]
        for domain in self.relayed.values():
            self._tls(domain.at.item("relay"), hop(domain.next_hop, domain.port), domain.tls)
        smarthosts = self._smarthosts()
        self._access()
        return smarthosts

    # -- destinations

    def _destination(self, at: At, destination: str) -> None:
        owner = self.owner
        first = self.destinations.setdefault(destination, at)
        domain = destination.rpartition("@")[2]
        if domain in self.own:
            owner.refuse(at, "a domain of our own: its mail would leave this host", "remove the domain or this entry", value=destination)
        elif domain in self.relayed:
            owner.refuse(
                at,
                f"a relayed domain, declared at {owner.place(self.relayed[domain].at.item('domain'))}",
                "its relay says where it goes",
                destination,
            )
        elif first is not at:
            owner.refuse(at, f"duplicate of {owner.place(first)}", value=destination)

    def _transport(self, at: At, entry: dict[str, Any]) -> None:
        if entry["destination"] is not BROKEN:
            self._destination(at.item("destination"), entry["destination"])
        _port(self.owner, at, entry["port"])
        if _given(at).get("next_hop") is None:
            if entry["transport"] not in ("polite", "turtle"):
                self.owner.refuse(at, "required key next_hop is missing", "only a slow lane goes without: to the MX hosts of the domain")
            elif entry["port"] is not None:
                self.owner.refuse(at.item("port"), "a port without next_hop", "name the server", value=entry["port"])
        elif entry["next_hop"] is not None and entry["transport"] != "lmtp":
            _not_here(self.owner, at.item("next_hop"), entry["next_hop"])

    # -- TLS

    def _tls_policy(self, at: At, entry: dict[str, Any]) -> None:
        level, destination, owner = entry["level"], entry["destination"], self.owner
        entry["match"] = list(dict.fromkeys(value for _, value in entry["match"] or []))
        if entry["match"] and level not in (BROKEN, "verify", "secure"):
            owner.refuse(at.item("match"), f"the level {level} has no match", "remove it")
        if level == "none" and not entry["allow_plaintext"]:
            owner.refuse(at.item("level"), "mail would go in clear", "set allow_plaintext: true in this entry if it is meant", value=level)
        del entry["allow_plaintext"]
        if destination is BROKEN or level is BROKEN:
            return
        if not entry["match"]:
            _named(owner, at.item("level"), destination if destination.endswith("]") else destination.rpartition(":")[0], level)
        spot = at.item("destination")
        first = self.policies.setdefault(destination, (level, spot))
        if first[1] is not spot:
            owner.refuse(spot, f"duplicate of {owner.place(first[1])}", value=destination)

    def _tls(self, at: At, next_hop: str, level: str | None) -> None:
        """What a relay says of the TLS to its next hop: one word for all that use it."""
        if level is None:
            return
        known = self.policies.setdefault(next_hop, (level, at))
        if known[1] is not at and (known[0] != level or known[1].name == "destination"):
            place = self.owner.place(known[1])
            self.owner.refuse(at.item("tls"), f"the TLS policy of {next_hop} is also declared at {place}", "say it once", value=level)

    # -- smarthosts

    def _smarthosts(self) -> list[Smarthost]:
        owner, found = self.owner, []
        senders: dict[str | None, At] = {}
        credentials: dict[str, tuple[tuple[str | None, str | None], At]] = {}
        for at, entry in self.settings.pop("relays"):
            given = _given(at)
            if given.get("sender") is not None and given.get("recipient") is not None:
                owner.refuse(at, "both sender and recipient", "one entry is for one of them")
            elif given.get("recipient") is not None:
                if entry["recipient"] is not None:
                    self._destination(at.item("recipient"), entry["recipient"])
            elif given.get("sender") is None or entry["sender"] is not None:
                first = senders.setdefault(entry["sender"], at)
                if first is not at:
                    what = "a smarthost for everything else" if entry["sender"] is None else entry["sender"]
                    owner.refuse(at, f"{what} is also declared at {owner.place(first)}", "remove one")
            _port(owner, at, entry["port"])
            self._credentials(at, entry)
            if entry["next_hop"] is BROKEN:
                continue
            if entry["port"] == 465:
                owner.refuse(
                    at.item("port"), "TLS from the first octet is not supported here", "use the port with STARTTLS, mostly 587", 465
                )
            _not_here(owner, at.item("next_hop"), entry["next_hop"])
            level = entry["tls"] or ("secure" if entry["user"] is not None else None)
            _named(owner, at.item("tls"), entry["next_hop"], level)
            where = hop(entry["next_hop"], entry["port"])
            self._tls(at, where, level)
            login = (entry["user"], entry["password"])
            if entry["user"] is not None and given.get("sender") is None and credentials.setdefault(where, (login, at))[0] != login:
                place = owner.place(credentials[where][1])
                owner.refuse(
                    at, f"another login at {where} is declared at {place}", "only senders can have logins of their own", value=None
                )
            found.append(Smarthost(at, entry["sender"], entry["recipient"], entry["next_hop"], entry["port"], *login, level))
        return found

    def _credentials(self, at: At, entry: dict[str, Any]) -> None:
        owner, given = self.owner, _given(at)
        for key, other in (("user", "password"), ("password", "user")):
            if given.get(key) is not None and given.get(other) is None:
                owner.refuse(at, f"{key} without {other}", f"give {other}, or remove {key}", value=None)
        if given.get("user") is not None and entry["tls"] in ("may", "dane"):
            owner.refuse(
                at.item("tls"),
                f"with {entry['tls']} the password could go in clear",
                "write secure, verify, encrypt or dane-only",
                entry["tls"],
            )
        for key in ("user", "password"):
            text = entry[key]
            if text is None:
                continue
            try:
                _plain_text(text)
                if key == "user" and ":" in text:
                    raise Invalid("character ':' not allowed")
                spot = at.item(key)
                if key == "password" and not self.settings["allow_plaintext_passwords"] and owner.in_clear(spot.value):
                    raise Invalid("password in clear in an unencrypted file", "encrypt it with ansible-vault")
            except Invalid as error:
                owner.refuse(at.item(key), error.reason, error.cure, value=text, secret=key == "password")

    # -- access lists

    def _access(self) -> None:
        owner = self.owner
        entries = []
        seen: dict[tuple[str, str], At] = {}
        for at, entry in self.settings["access"]:
            kinds = [kind for kind in ("client", "helo", "sender", "recipient") if _given(at).get(kind) is not None]
            if len(kinds) != 1 and kinds != ["sender", "recipient"]:
                reason = f"{', '.join(kinds)} together" if kinds else "nobody is named"
                owner.refuse(at, reason, "name one of client, helo, sender, recipient, or sender with recipient", value=None)
                continue
            if entry["action"] == "allow" and _given(at).get("reply") is not None:
                owner.refuse(at.item("reply"), "what is allowed gets no such reply", "remove it", entry["reply"])
            if any(entry[kind] is None for kind in kinds) or entry["action"] is BROKEN:
                continue
            if "recipient" in kinds:
                self._recipient(at.item("recipient"), entry["recipient"])
            # Keys that both name the same domain once more are two opinions, too.
            name = ("/".join(kinds), " ".join(entry[kind] for kind in kinds))
            first = seen.setdefault(name, at)
            if first is not at:
                owner.refuse(at, f"{name[1]} is also declared at {owner.place(first)}", "remove one", value=None)
            entries.append({key: entry[key] for key in ("action", "client", "helo", "sender", "recipient", "reply")})
        self.settings["access"] = entries

    def _recipient(self, at: At, recipient: str) -> None:
        """Only mail to our domains is asked about: another recipient is a misspelling."""
        domains = {*self.own, *self.relayed}
        if not here(recipient, domains):
            self.owner.refuse(at, "not a domain of this inventory", suggest(recipient.rpartition("@")[2], domains), value=recipient)


def _plain_text(text: str) -> None:
    """What one entry of a lookup table can hold."""
    if not text:
        raise Invalid("empty")
    if not text.isascii() or not text.isprintable():
        raise Invalid("a character that is not printable ASCII")
    if text != " ".join(text.split()):
        raise Invalid("a space at an end, or two in a row, cannot be written to a lookup table")
    if len(text) > _CREDENTIAL_LIMIT:
        raise Invalid(f"longer than {_CREDENTIAL_LIMIT} characters")
