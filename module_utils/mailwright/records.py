# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Every DNS record that an inventory calls for: from the compiled rows (`dns`) and what only the host knows. Pure.

RFC 7208 (SPF), 6376 and 8463 (DKIM), 7489 (DMARC), 8461 (MTA-STS), 8460 (TLS reports), 6698 and 7672 (TLSA), 8659 (CAA), 6186 and
8314 (clients), 5804 (ManageSieve), 7505 (null MX).
"""

from __future__ import annotations

import hashlib
import ipaddress
import urllib.parse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "Known",
    "Record",
    "expected",
    "mta_sts_policy",
    "policy_host",
    "policy_id",
    "quoted",
    "unknown",
    "zone_of",
    "zones",
]

NAME_LIMIT: Final = 253
_ENDS_WITH_NAME: Final = frozenset({"CNAME", "MX", "PTR", "SRV"})
# SMTP clients look on the port that they connect to; those that know DANE speak to these.
TLSA_PORTS: Final = (25, 465, 587)
# RFC 8461, 3.2: how long a policy is kept by those who have seen it. While it is tried out it should not be long.
STS_MAX_AGE: Final[Mapping[str, int]] = {"none": 86400, "testing": 86400, "enforce": 1_209_600}
# RFC 6186, RFC 8314, RFC 5804: service, port where it is offered, priority. TLS from the first octet comes first.
_SERVICES: Final = (("submissions", 465, 0), ("submission", 587, 10), ("imaps", 993, 0), ("imap", 0, 0), ("pop3s", 995, 10), ("pop3", 0, 0))


@dataclass(frozen=True, order=True)
class Record:
    """One record. Names are A-labels in lower case without a final dot.

    `value` is what follows the type in a zone file, a name in it without its final dot (the root is `.`); that of a TXT record is its
    plain text, unsplit and without quotes. `domain` is the mail domain or host it serves. `elsewhere`: it belongs into a zone of
    other people. `shared`: it may stand beside records of others.
    """

    name: str
    type: str
    value: str
    ttl: int
    purpose: str
    domain: str
    elsewhere: bool = False
    shared: bool = False

    @property
    def data(self) -> str:
        """The value as in a zone file."""
        if self.type == "TXT":
            return quoted(self.value)
        return f"{self.value}." if self.type in _ENDS_WITH_NAME and not self.value.endswith(".") else self.value


@dataclass(frozen=True)
class Known:
    """What only the host knows; None where it was not asked.

    `dkim`: `{name, value}` of each key that must be in the DNS now. `tlsa`: by certificate name (`default` is the host's own) the
    SHA-256 of each public key, in hex, that is or will be served. `addresses`: the host's, where the inventory names none.
    """

    dkim: Sequence[Mapping[str, str]] | None = None
    tlsa: Mapping[str, Sequence[str]] | None = None
    addresses: Sequence[str] | None = None


@dataclass
class _List:
    """Records as they are collected."""

    ttl: int
    # Names that have records of another kind.
    taken: frozenset[str]
    rows: list[Record] = field(default_factory=list)

    def add(self, purpose: str, domain: str, name: str, kind: str, value: str, *, elsewhere: bool = False, shared: bool = False) -> None:
        # A prefix may make the longest names too long; such a name cannot exist.
        if len(name) <= NAME_LIMIT:
            self.rows.append(Record(name, kind, value, self.ttl, purpose, domain, elsewhere, shared))


def expected(dns: Mapping[str, Any], known: Known | None = None) -> list[Record]:
    """The complete set, hosts first, then domain by domain. `dns` is that part of the compiled rows (docs/architecture.md)."""
    known = known or Known()
    found = _List(dns["ttl"], frozenset([dns["hostname"], *dns["hostnames"], *(domain["name"] for domain in dns["domains"])]))
    addresses = list(dns["addresses"] or known.addresses or ())
    _host(found, dns, known, addresses)
    keys: dict[str, list[Mapping[str, str]]] = {}
    for key in known.dkim or ():
        keys.setdefault(key["name"].partition("._domainkey.")[2], []).append(key)
    every = zones(dns)
    for domain in dns["domains"]:
        if domain["kind"] == "parked":
            _parked(found, domain)
        else:
            _domain(found, dns, domain, addresses, every)
        for key in keys.pop(domain["name"], ()):
            found.add("dkim", domain["name"], key["name"], "TXT", key["value"])
    # Keys of a name that is no mail domain, such as the host's own.
    for name, further in keys.items():
        for key in further:
            found.add("dkim", name, key["name"], "TXT", key["value"])
    return list(dict.fromkeys(found.rows))


def unknown(dns: Mapping[str, Any], known: Known | None = None) -> list[str]:
    """What `expected` lacks because the host was not asked, or has not got it yet; a sentence each."""
    known = known or Known()
    told: list[str] = []
    if not (dns["addresses"] or known.addresses):
        told.append(f"A, AAAA and PTR of {dns['hostname']}: the inventory names no mail_addresses; SPF records name the host instead")
    own = [domain["name"] for domain in dns["domains"] if domain["signed"]]
    have = {key["name"].partition("._domainkey.")[2] for key in known.dkim or ()}
    lacking = [name for name in own if name not in have]
    if lacking:
        some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        told.append(f"DKIM keys of {some}: " + ("only the host knows them" if known.dkim is None else "the host has none yet"))
    if not (known.tlsa or {}).get("default"):
        why = "only the host knows its key" if known.tlsa is None else "the host has no certificate yet"
        told.append(f"TLSA of {dns['hostname']}: {why}")
    return told


# -- hosts


def _host(found: _List, dns: Mapping[str, Any], known: Known, addresses: Sequence[str]) -> None:
    host = dns["hostname"]
    for name in (host, *dns["hostnames"]):
        for address in addresses:
            found.add("address", host, name, "AAAA" if ":" in address else "A", address)
    for address in addresses:
        found.add("reverse", host, ipaddress.ip_address(address).reverse_pointer, "PTR", f"{host}")
    # Bounces and forwarded mail carry the host's own name (RFC 7208, 2.4).
    found.add("spf", host, host, "TXT", _spf({"all": "-all", "include": [], "addresses": []}, host, addresses))
    for port in TLSA_PORTS:
        for digest in (known.tlsa or {}).get("default", ()):
            found.add("tlsa", host, f"_{port}._tcp.{host}", "TLSA", f"3 1 1 {digest}")
    for name in (host, *dns["hostnames"]):
        for value in _caa(dns["caa"]):
            found.add("caa", host, name, "CAA", value, shared=True)


def _caa(caa: Mapping[str, Any]) -> Iterator[str]:
    """Nothing is said where no authority is named: that would forbid all of them."""
    if not caa["issue"]:
        return
    account = f"; accounturi={caa['account']}" if caa["account"] else ""
    for authority in caa["issue"]:
        yield f'0 issue "{authority}{account}"'
    for authority in caa["wildcard"] or [";"]:
        yield f'0 issuewild "{authority}"'
    if caa["report"]:
        yield f'0 iodef "{_mailto(caa["report"])}"'


# -- domains


def _domain(found: _List, dns: Mapping[str, Any], domain: Mapping[str, Any], addresses: Sequence[str], every: Collection[str]) -> None:
    host, name = dns["hostname"], domain["name"]
    found.add("mx", name, name, "MX", f"{domain['preference']} {host}", shared=domain["kind"] == "relayed")
    # Other servers deliver its mail, and send it: what else is published is their affair.
    if domain["kind"] == "relayed":
        return
    found.add("spf", name, name, "TXT", _spf(domain["spf"], host, addresses))
    dmarc = domain["dmarc"]
    found.add("dmarc", name, f"_dmarc.{name}", "TXT", _dmarc(dmarc))
    for reporter in dict.fromkeys(address.rpartition("@")[2].lower() for address in (*dmarc["reports"], *dmarc["failure_reports"])):
        # RFC 7489, 7.1. Below one of the two names the other is the same organisation.
        if not (_below(name, reporter) or _below(reporter, name)):
            elsewhere = zone_of(reporter, every) is None
            found.add("dmarc-report", name, f"{name}._report._dmarc.{reporter}", "TXT", "v=DMARC1;", elsewhere=elsewhere)
    if domain["mta_sts"] != "disabled":
        policy = mta_sts_policy(domain["mta_sts"], [host])
        found.add("mta-sts", name, f"_mta-sts.{name}", "TXT", f"v=STSv1; id={policy_id(policy)};")
        _also(found, dns, "mta-sts", name, policy_host(name))
    if domain["tls_reports"]:
        found.add("tls-report", name, f"_smtp._tls.{name}", "TXT", "v=TLSRPTv1; rua=" + ",".join(map(_mailto, domain["tls_reports"])))
    for service, port, priority in _SERVICES:
        offered = port and service not in dns["services_off"]
        target = f"{priority} 1 {port} {host}" if offered else "0 0 0 ."
        found.add("client", name, f"_{service}._tcp.{name}", "SRV", target)
    found.add("client", name, f"_sieve._tcp.{name}", "SRV", f"0 1 4190 {host}")
    for further in domain["hosts"]:
        _also(found, dns, "client", name, further)
    for prefix in ("autoconfig", "autodiscover"):
        _also(found, dns, "client", name, f"{prefix}.{name}", certified=False)


def _also(found: _List, dns: Mapping[str, Any], purpose: str, domain: str, name: str, *, certified: bool = True) -> None:
    """A further name of the host: by its addresses where the inventory has them, which everybody can follow, otherwise as an alias.

    Where the name has records of its own there can be no CNAME (RFC 1034, 3.6.2), and need be none. CAA of what an alias leads to
    holds for it, too (RFC 8659, 3).
    """
    if name in found.taken:
        return
    for address in dns["addresses"]:
        found.add(purpose, domain, name, "AAAA" if ":" in address else "A", address)
    if not dns["addresses"]:
        found.add(purpose, domain, name, "CNAME", dns["hostname"])
    elif certified:
        for value in _caa(dns["caa"]):
            found.add("caa", domain, name, "CAA", value, shared=True)


def _parked(found: _List, domain: Mapping[str, Any]) -> None:
    """A domain without mail says so, to be of no use to forgers (M3AAWG, "Protecting Parked Domains")."""
    name = domain["name"]
    found.add("mx", name, name, "MX", "0 .")
    found.add("spf", name, name, "TXT", "v=spf1 -all")
    found.add("dmarc", name, f"_dmarc.{name}", "TXT", "v=DMARC1; p=reject; adkim=s; aspf=s")
    found.add("dkim", name, f"*._domainkey.{name}", "TXT", "v=DKIM1; p=")


def _spf(spf: Mapping[str, Any], host: str, addresses: Sequence[str]) -> str:
    """Addresses written out cost those who check no look-up."""
    words = [_ip(address) for address in addresses] or [f"a:{host}"]
    words += [_ip(network) for network in spf["addresses"]]
    words += [f"include:{name}" for name in spf["include"]]
    return " ".join(["v=spf1", *dict.fromkeys(words), spf["all"]])


def _ip(network: str) -> str:
    parsed = ipaddress.ip_network(network)
    single = parsed.prefixlen == parsed.max_prefixlen
    return f"ip{parsed.version}:{parsed.network_address if single else parsed}"


def _dmarc(dmarc: Mapping[str, Any]) -> str:
    tags = ["v=DMARC1", f"p={dmarc['policy']}"]
    if dmarc["subdomain_policy"]:
        tags.append(f"sp={dmarc['subdomain_policy']}")
    if dmarc["strict"]:
        tags += ["adkim=s", "aspf=s"]
    for tag, addresses in (("rua", dmarc["reports"]), ("ruf", dmarc["failure_reports"])):
        if addresses:
            tags.append(f"{tag}=" + ",".join(map(_mailto, addresses)))
    return "; ".join(tags)


def _mailto(address: str) -> str:
    """RFC 6068; `,`, `;` and `!` separate in the records that hold it, and are quoted as well."""
    local, _, domain = address.rpartition("@")
    return f"mailto:{urllib.parse.quote(local, safe='+=-._~')}@{domain}"


def mta_sts_policy(mode: str, hosts: Iterable[str]) -> str:
    """The text of a policy (RFC 8461, 3.2), as it is served."""
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in hosts), f"max_age: {STS_MAX_AGE[mode]}"]
    return "\n".join(lines) + "\n"


def policy_host(domain: str) -> str:
    """Where others look for the policy of a domain (RFC 8461, 3.3)."""
    return f"mta-sts.{domain}"


def policy_id(policy: str) -> str:
    """Changes with the text and with nothing else."""
    return hashlib.sha256(policy.encode()).hexdigest()[:32]


# -- names and texts


def _below(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


def zones(dns: Mapping[str, Any]) -> list[str]:
    """Zones the records go to: those declared, then every mail domain that is not below another, and the host's parent.

    Where a zone really begins only its name servers know; this is how it is mostly done.
    """
    found = set(dns["zones"])
    for name in sorted((domain["name"] for domain in dns["domains"]), key=len):
        if zone_of(name, found) is None:
            found.add(name)
    for host in (dns["hostname"], *dns["hostnames"]):
        if zone_of(host, found) is None:
            found.add(host.partition(".")[2] if host.count(".") > 1 else host)
    return sorted(found)


def zone_of(name: str, every: Collection[str]) -> str | None:
    """The innermost of the zones that a name is in; for the reverse of an address that no zone has, its /24 or /64."""
    labels = name.split(".")
    for start in range(len(labels)):
        if (zone := ".".join(labels[start:])) in every:
            return zone
    if name.endswith(".in-addr.arpa") and len(labels) == 6:
        return ".".join(labels[1:])
    if name.endswith(".ip6.arpa") and len(labels) == 34:
        return ".".join(labels[16:])
    return None


def quoted(text: str) -> str:
    """A text as character strings of at most 255 octets, as in a zone file (RFC 1035, 5.1); readers join them."""
    octets = text.encode()
    strings = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return " ".join('"' + "".join(map(_escaped, string)) + '"' for string in strings)


def _escaped(octet: int) -> str:
    character = chr(octet)
    if character in '"\\':
        return "\\" + character
    return character if 32 <= octet < 127 else f"\\{octet:03d}"
