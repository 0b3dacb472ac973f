# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Checks of what the inventory says about DNS records and where they are published."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .addresses import Addresses
from .model import Domain
from .reader import BROKEN, At, kind
from .schema import DOMAIN, PARKED_KEYS

__all__ = ["check_domain", "check_publication", "is_parked"]

LETS_ENCRYPT: Final = "letsencrypt.org"
TTL_LIMIT: Final = 7 * 86400
# Each include costs one look-up at least; more than ten void the whole record (RFC 7208, 4.6.4).
INCLUDE_LIMIT: Final = 10
# Inside quotes in a CAA record, between semicolons (RFC 8657).
_ACCOUNT: Final = re.compile(r"https?://[!#-:<-\[\]-~]+", re.ASCII)
# RFC 8945 wants a secret as long as the digest; shorter ones than this can be guessed.
SECRET_OCTETS: Final = 16


def check_publication(owner: Addresses, root: At, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Leave plain values in the settings; returns the entries of `mail_dns_updates`, which hold secrets and are no setting of services."""
    settings = owner.settings
    settings["addresses"] = _unique(settings["addresses"])
    if settings["dns_ttl"] > TTL_LIMIT:
        owner.refuse(root.item("mail_dns_ttl"), "longer than 1w", "mistakes stay in caches as long as this", variables.get("mail_dns_ttl"))
    settings["spf"] = _spf(owner, root.item("mail_spf"), settings["spf"])
    settings["dmarc"] = _dmarc(owner, root.item("mail_dmarc"), settings["dmarc"])
    settings["tls_reports"] = _reports(owner, settings["tls_reports"])
    if _variable(owner, variables, "dovecot_pop3_enabled", True) is False:
        owner.model.services_off = ["pop3s"]
    certificates = _variable(owner, variables, "certificates_source", "acme")
    if settings["mta_sts"] == "enforce" and certificates == "self_signed":
        reason = "others would refuse to send here: the certificate is self-signed"
        owner.refuse(root.item("mail_mta_sts"), reason, "change certificates_source, or write testing", value="enforce")
    caa = settings["caa"]
    spot = root.item("mail_caa").item("account")
    if caa["account"] is not None and not _ACCOUNT.fullmatch(caa["account"]):
        owner.refuse(spot, "not the address of an account", "as `certbot show_account` tells it", value=caa["account"])
    if caa["issue"] is None:
        public = certificates == "acme" and not _variable(owner, variables, "certificates_acme_directory", "")
        caa["issue"] = [LETS_ENCRYPT] if public else []
    for name in ("issue", "wildcard"):
        caa[name] = _unique(caa[name])
    return _updates(owner)


def check_domain(owner: Addresses, domain: Domain, values: Mapping[str, Any]) -> None:
    """What is published for one domain: what it says itself, and for the rest what the host says."""
    at: At = values["at"]
    for name, read in (("spf", _spf), ("dmarc", _dmarc)):
        shared = owner.settings[name]
        given = read(owner, at.item(name), values[name]) if isinstance(values[name], Mapping) else {}
        domain.dns[name] = {**shared, **{key: value for key, value in given.items() if value is not None}}
    domain.dns["mta_sts"] = values["mta_sts"] or owner.settings["mta_sts"]
    reports = values["tls_reports"]
    domain.dns["tls_reports"] = owner.settings["tls_reports"] if reports is None else _reports(owner, reports)
    if domain.name in domain.dns["spf"]["include"]:
        owner.refuse(at.item("spf").item("include"), "the domain itself: a record that includes itself is void", "remove it", domain.name)


def is_parked(owner: Addresses, at: At, name: str, values: Mapping[str, Any]) -> bool:
    """A domain without any mail; it says nothing else."""
    if not values["parked"]:
        return False
    for key, value in at.value.items() if isinstance(at.value, Mapping) else ():
        if key in DOMAIN and key not in PARKED_KEYS and value is not None:
            owner.refuse(at.item(key), "not for a parked domain: it has no mail", "remove it, or parked", value)
    owner.model.parked[name] = at.item("domain")
    return True


def _unique(entries: Sequence[Any] | None) -> list[Any]:
    """The values of a list, each once; a default comes without its place."""
    return list(dict.fromkeys(entry[1] if isinstance(entry, tuple) else entry for entry in entries or ()))


def _variable(owner: Addresses, variables: Mapping[str, Any], name: str, default: object) -> object:
    """A role's variable, which is checked elsewhere; the default where it cannot be told yet."""
    try:
        return owner.reader.resolve(variables.get(name, default))
    except ValueError:
        return default


def _spf(owner: Addresses, at: At, spf: dict[str, Any]) -> dict[str, Any]:
    include = spf["include"]
    if include is not None and len(include) > INCLUDE_LIMIT:
        owner.refuse(at.item("include"), f"{len(include)} look-ups, {INCLUDE_LIMIT} are allowed", "name addresses instead", value=None)
    return {
        name: spf[name] if name == "all" else None if spf[name] is None else _unique(spf[name]) for name in ("all", "include", "addresses")
    }


def _dmarc(owner: Addresses, at: At, dmarc: dict[str, Any]) -> dict[str, Any]:
    reports = {name: None if dmarc[name] is None else _reports(owner, dmarc[name]) for name in ("reports", "failure_reports")}
    return {**{name: dmarc[name] for name in ("policy", "subdomain_policy", "strict")}, **reports}


def _reports(owner: Addresses, entries: Sequence[Any] | None) -> list[str]:
    """Addresses of ours among them must exist (check_references)."""
    owner.copies += [(entry[1], entry[0]) for entry in entries or () if isinstance(entry, tuple)]
    return _unique(entries)


def _updates(owner: Addresses) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen: dict[str, At] = {}
    rest: At | None = None
    for at, entry in owner.settings.pop("dns_updates"):
        zones = _unique(entry["zones"])
        if not zones and rest is not None:
            owner.refuse(at, f"all zones are also named at {owner.place(rest)}", "name the zones of one of them", value=None)
        rest = rest if zones else at
        for spot, zone in entry["zones"] or ():
            if seen.setdefault(zone, spot) is not spot:
                owner.refuse(spot, f"duplicate of {owner.place(seen[zone])}", "a zone has one primary server", value=zone)
        if not 1 <= entry["port"] <= 65535:
            owner.refuse(at.item("port"), "not a port from 1 to 65535", value=entry["port"])
        _secret(owner, at.item("secret"), entry["secret"])
        if BROKEN not in entry.values():
            found.append({**entry, "zones": zones})
    return found


def _secret(owner: Addresses, at: At, secret: object) -> None:
    if secret is BROKEN:
        return
    try:
        octets = base64.b64decode(str(secret), validate=True)
    except (binascii.Error, ValueError):
        owner.refuse(at, f"not base64 ({kind(secret)})", "as tsig-keygen or keymgr -t write it", secret=True)
        return
    if len(octets) < SECRET_OCTETS:
        owner.refuse(at, f"{len(octets)} octets, {SECRET_OCTETS} are needed", "make one with tsig-keygen or keymgr -t", secret=True)
    if not owner.settings["allow_plaintext_passwords"] and owner.in_clear(at.value):
        owner.refuse(at, "secret in clear in an unencrypted file", "encrypt it with ansible-vault", secret=True)
