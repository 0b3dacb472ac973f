# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Compares what the DNS says with what the inventory calls for, and what others make of it. Pure functions over answers.

What has to be asked of the world beforehand is in `View` and `Probed`; live.py gathers it on a host.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from . import spf
from .authority import Answer, Server, canonical
from .findings import KINDS, Finding
from .records import Record, mta_sts_policy

__all__ = ["Certificate", "Policy", "Probed", "Smtp", "View", "check_domain", "check_host", "check_records", "check_zones", "merged"]


class View(Protocol):
    """The DNS as this host sees it."""

    def live(self, name: str, rdtype: str) -> Mapping[str, Answer]:
        """What each name server says."""

    def lookup(self, name: str, rdtype: str) -> Answer:
        """What the host's resolver says."""

    def zone_of(self, name: str) -> str | None:
        """The zone that holds the name."""

    def is_bogus(self, name: str, rdtype: str) -> bool:
        """Whether validation refuses what there is."""


@dataclass(frozen=True)
class Certificate:
    """The certificate of a server. `digests`: hex SHA-256 and SHA-512, of the whole (selector 0) and of the public key (1)."""

    names: tuple[str, ...]
    not_after: float
    trusted: bool
    digests: Mapping[tuple[int, int], str]


@dataclass(frozen=True)
class Policy:
    """An MTA-STS policy as it was fetched; `problem` is a kind of finding where it could not be, or empty."""

    text: str = ""
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Smtp:
    """What a client meets on port 25 of one address; `problem` is a kind of finding."""

    greeting: str = ""
    certificate: Certificate | None = None
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Probed:
    """What was asked of others than name servers. `clock`: validity of the root's signature, in seconds since 1970."""

    addresses: Sequence[str] = ()
    now: float = 0.0
    smtp: Mapping[str, Smtp] = field(default_factory=dict)
    blocklists: Sequence[str] = ()
    validates: bool = True
    clock: tuple[float, float] | None = None
    synchronised: bool | None = None


# -- records


def _starts(mark: str) -> Callable[[str], bool]:
    return lambda text: re.match(rf"{re.escape(mark)}\s*(;|$)", text, re.IGNORECASE) is not None


is_dmarc: Final = _starts("v=DMARC1")
# Of the TXT records of a name, those that are about the purpose.
_MARKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "spf": spf.is_spf,
    "dmarc": is_dmarc,
    "dmarc-report": is_dmarc,
    "mta-sts": _starts("v=STSv1"),
    "tls-report": _starts("v=TLSRPTv1"),
    "dkim": lambda _: True,
}


def tags(text: str) -> dict[str, str]:
    """`a=b; c=d` as DKIM, DMARC and their kin write it; white space around does not count."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): value.strip() for name, sign, value in pairs if sign}


def _prefix(record: Record) -> str:
    return "mta-sts-host" if record.purpose == "mta-sts" and record.type != "TXT" else record.purpose


def check_records(records: Iterable[Record], view: View) -> Iterator[Finding]:
    """Every expected set against every name server."""
    sets: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        sets[record.name, record.type, _prefix(record)].append(record)
    for (name, rdtype, prefix), wanted in sets.items():
        answers = view.live(name, rdtype)
        told: dict[tuple[str, str], list[Server]] = defaultdict(list)
        answered = [answer for answer in answers.values() if answer.answered]
        for answer in answered:
            for kind, detail in _compare(prefix, wanted, answer, view):
                told[kind, detail].append(answer.server)
        for (kind, detail), servers in told.items():
            everywhere = len(servers) == len(answered)
            yield Finding(kind, wanted[0].domain, f"{name} {rdtype}", detail, () if everywhere else tuple(map(_told, servers)))


def _told(server: Server) -> str:
    return f"{server.name} {server.address}".strip()


def _compare(prefix: str, wanted: Sequence[Record], answer: Answer, view: View) -> Iterator[tuple[str, str]]:
    rdtype = wanted[0].type
    expected = {canonical(rdtype, record.value) for record in wanted}
    found = set(answer.values)
    if rdtype == "TXT":
        yield from _compare_text(prefix, next(iter(expected)), sorted(filter(_MARKS[prefix], found)))
        return
    if rdtype == "CNAME" and not found and _leads_there(wanted[0], view):
        return
    missing, other = expected - found, set() if wanted[0].shared else found - expected
    detail = f"found {_listed(found)}; expected {_listed(expected)}" if found else f"expected {_listed(expected)}"
    if rdtype in ("PTR", "CAA", "SRV", "CNAME"):
        # One thing as a whole.
        wrong = {f"{prefix}-other" if found else f"{prefix}-missing"} if missing or other else set()
    else:
        wrong = {f"{prefix}-{what}" for what, values in (("missing", missing), ("other", other)) if values}
    for kind in sorted(wrong & set(KINDS)):
        yield kind, detail


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "nothing"


def _leads_there(record: Record, view: View) -> bool:
    """In place of an alias the name may have the same addresses as the host it would lead to."""
    own = {value for rdtype in ("A", "AAAA") for value in view.lookup(record.name, rdtype).values}
    return bool(own) and own <= {value for rdtype in ("A", "AAAA") for value in view.lookup(record.value, rdtype).values}


def _compare_text(prefix: str, expected: str, found: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not found:
        yield f"{prefix}-missing", f"expected {expected}"
    elif prefix == "dmarc-report":
        return
    elif len(found) > 1:
        yield f"{prefix}-several", f"found {_listed(found)}"
    elif prefix == "dkim":
        yield from _compare_key(tags(expected), tags(found[0]), found[0])
    elif _normal(prefix, found[0]) != _normal(prefix, expected):
        yield f"{prefix}-other", f"found {found[0]}; expected {expected}"


def _normal(prefix: str, text: str) -> object:
    return text.lower().split() if prefix == "spf" else tags(text)


def _compare_key(expected: Mapping[str, str], found: Mapping[str, str], text: str) -> Iterator[tuple[str, str]]:
    key = "".join(found.get("p", "").split())
    if key == "" and expected.get("p"):
        yield "dkim-revoked", f"found {text}"
    elif key != expected.get("p") or found.get("k", "rsa") != expected.get("k", "rsa") or found.get("v", "DKIM1") != "DKIM1":
        yield "dkim-other", f"found {text}"
    elif "y" in found.get("t", "").split(":"):
        yield "dkim-testing", f"found t={found['t']}"


# -- what others make of a domain's records


def check_domain(domain: Mapping[str, Any], host: str, addresses: Sequence[str], policy: Policy | None, view: View) -> Iterator[Finding]:
    """What is published for one mail domain, whatever it is, as senders and receivers take it."""
    name = domain["name"]
    if domain["kind"] == "parked":
        return
    hosts = [value.split()[1].removesuffix(".") for value in view.lookup(name, "MX").values]
    yield from _check_mx(name, hosts, view)
    if domain["kind"] == "relayed":
        return
    yield from check_spf(name, addresses, view)
    yield from check_dmarc(name, view)
    if policy is not None:
        yield from check_policy(name, domain["mta_sts"], host, hosts, policy)


def _check_mx(name: str, hosts: Iterable[str], view: View) -> Iterator[Finding]:
    for host in hosts:
        if not host:
            continue
        if _is_address(host):
            yield Finding("mx-address", name, f"{name} MX", f"found {host}")
            continue
        found = [view.lookup(host, rdtype) for rdtype in ("A", "AAAA")]
        alias = next((answer.alias for answer in found if answer.alias), "")
        if alias:
            yield Finding("mx-alias", name, f"{name} MX", f"{host} is {alias}")
        if all(answer.status in ("empty", "nxdomain") for answer in found):
            yield Finding("mx-unresolved", name, f"{name} MX", host)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _text(view: View, name: str, purpose: str) -> str:
    """The one text that is published; empty where there is none, or several."""
    found = [list(filter(_MARKS[purpose], answer.values)) for answer in view.live(name, "TXT").values() if answer.answered]
    return next((values[0] for values in found if len(values) == 1), "")


def check_spf(name: str, addresses: Iterable[str], view: View) -> Iterator[Finding]:
    """The SPF record of a name."""
    text = _text(view, name, "spf")
    if not text:
        return
    record = f"{name} TXT"
    wrong = spf.problems(text)
    if wrong:
        yield Finding("spf-syntax", name, record, "; ".join(wrong))
    if spf.is_open(text):
        yield Finding("spf-open", name, record, text)
    cost = spf.cost(name, text, view.lookup)
    through = f" through {', '.join(cost.chain)}" if cost.chain else ""
    if cost.lookups > spf.LOOKUPS:
        yield Finding("spf-lookups", name, record, f"{cost.lookups} look-ups{through}")
    if cost.void > spf.VOID_LOOKUPS:
        yield Finding("spf-void", name, record, f"{cost.void} look-ups find nothing{through}")
    for target in dict.fromkeys(cost.unread):
        yield Finding("spf-unread", name, record, target)
    for address in addresses:
        result = spf.permits(name, text, address, view.lookup)
        if result not in ("pass", "permerror"):
            yield Finding("spf-forbids", name, record, f"{result} for {address}: {text}")


_DMARC_POLICIES: Final = ("none", "quarantine", "reject")
_URI: Final = re.compile(r"mailto:(?P<address>[^\s,;!@]+@(?P<domain>[a-z0-9.-]+\.[a-z0-9-]+))(?:![0-9]+[kmgt]?)?", re.IGNORECASE)


def dmarc_problems(text: str) -> list[str]:
    """What receivers cannot read (RFC 7489, 6.3)."""
    found = tags(text)
    wrong = []
    first = text.replace(" ", "").split(";")
    if len(first) < 2 or not first[1].lower().startswith("p="):
        wrong.append("p= has to follow v=DMARC1")
    for tag in ("p", "sp", "np"):
        if tag in found and found[tag].lower() not in _DMARC_POLICIES:
            wrong.append(f"{tag}={found[tag]}: none, quarantine or reject is possible")
    if "pct" in found and not (found["pct"].isdigit() and int(found["pct"]) <= 100):
        wrong.append(f"pct={found['pct']}: 0 to 100 is possible")
    for tag in ("adkim", "aspf"):
        if tag in found and found[tag].lower() not in ("r", "s"):
            wrong.append(f"{tag}={found[tag]}: r or s is possible")
    for tag in ("rua", "ruf"):
        wrong += [f"{tag}={uri}: mailto:ADDRESS is expected" for uri in _uris(found.get(tag, "")) if not _URI.fullmatch(uri)]
    wrong += [f"{part.strip()}: no tag" for part in text.split(";") if part.strip() and "=" not in part]
    return wrong


def _uris(text: str) -> list[str]:
    return [uri.strip() for uri in text.split(",") if uri.strip()]


def check_dmarc(name: str, view: View) -> Iterator[Finding]:
    """The DMARC record of a domain, and whether its reports arrive."""
    text = _text(view, f"_dmarc.{name}", "dmarc")
    if not text:
        return
    record = f"_dmarc.{name} TXT"
    found = tags(text)
    wrong = dmarc_problems(text)
    if wrong:
        yield Finding("dmarc-syntax", name, record, "; ".join(wrong))
    if found.get("p", "").lower() == "none":
        yield Finding("dmarc-none", name, record, text)
    if not found.get("rua"):
        yield Finding("dmarc-unreported", name, record, text)
    reported = [match for tag in ("rua", "ruf") for uri in _uris(found.get(tag, "")) if (match := _URI.fullmatch(uri))]
    for reporter in dict.fromkeys(match["domain"].lower() for match in reported):
        if all(view.lookup(reporter, rdtype).status in ("empty", "nxdomain") for rdtype in ("MX", "A", "AAAA")):
            yield Finding("dmarc-unreachable", name, record, reporter)
        # RFC 7489, 7.1. Below one of the two names the other is the same organisation.
        if not (_below(name, reporter) or _below(reporter, name)):
            agreement = f"{name}._report._dmarc.{reporter}"
            answer = view.lookup(agreement, "TXT")
            if answer.answered and not any(map(is_dmarc, answer.values)):
                yield Finding("dmarc-report-missing", name, f"{agreement} TXT", "expected v=DMARC1;")


def _below(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


def check_policy(name: str, mode: str, host: str, hosts: Iterable[str], policy: Policy) -> Iterator[Finding]:
    """The MTA-STS policy that is served (RFC 8461)."""
    where = f"https://mta-sts.{name}/.well-known/mta-sts.txt"
    if policy.problem:
        yield Finding(policy.problem, name, where, policy.detail)
        return
    served = [line.partition(":")[::2] for line in policy.text.splitlines() if ":" in line]
    fields = [(key.strip(), value.strip()) for key, value in served]
    expected = [line.partition(": ")[::2] for line in mta_sts_policy(mode, [host]).splitlines()]
    if fields != expected:
        yield Finding("mta-sts-policy", name, where, "; ".join(f"{key}: {value}" for key, value in fields) or "found nothing")
    served_mode = dict(fields).get("mode", "none")
    patterns = [value.lower() for key, value in fields if key == "mx"]
    for mx in hosts:
        if served_mode in ("testing", "enforce") and not any(_fits(mx, pattern) for pattern in patterns):
            yield Finding("mta-sts-mx" if served_mode == "enforce" else "mta-sts-mx-testing", name, where, mx)


def _fits(host: str, pattern: str) -> bool:
    """RFC 8461, 4.1: `*.` stands for one label."""
    return host == pattern or (pattern.startswith("*.") and host.partition(".")[2] == pattern[2:])


# -- zones


_SERVER_KINDS: Final = {
    "timeout": "server-dead",
    "closed": "server-dead",
    "refused": "server-lame",
    "lame": "server-lame",
    "servfail": "server-failing",
    "alias": "server-failing",
    "no address": "server-unaddressed",
    "no zone": "zone-missing",
}


def check_zones(records: Iterable[Record], names: Iterable[str], view: View) -> Iterator[Finding]:
    """The name servers that were asked for the records, and the zones of the names."""
    asked: dict[tuple[str, Server], list[str]] = defaultdict(list)
    for name, rdtype in dict.fromkeys((record.name, record.type) for record in records if not record.elsewhere):
        for answer in view.live(name, rdtype).values():
            # Behind an alias it is another's zone.
            asked[view.zone_of(answer.alias or name) or name, answer.server].append(answer.status)
    unasked = sorted({_told(server) for (_, server), statuses in asked.items() if "no route" in statuses})
    for (zone, server), statuses in asked.items():
        for kind in dict.fromkeys(_SERVER_KINDS[status] for status in statuses if status in _SERVER_KINDS):
            failed = [status for status in statuses if _SERVER_KINDS.get(status) == kind]
            detail = " or ".join(sorted(set(failed))) + (
                f", {len(failed)} of {len(statuses)} questions" if len(failed) < len(statuses) else ""
            )
            yield Finding(kind, zone, zone, detail, (_told(server),) if server.name else ())
    if unasked:
        yield Finding("server-unasked", "name servers", ", ".join(unasked))
    for zone in dict.fromkeys(found for name in names if (found := view.zone_of(name)) is not None):
        yield from _check_zone(zone, view)


def _check_zone(zone: str, view: View) -> Iterator[Finding]:
    answers = view.live(zone, "SOA")
    serials: dict[str, list[Server]] = defaultdict(list)
    for answer in answers.values():
        for value in answer.values:
            serials[value.split()[2]].append(answer.server)
    if len(serials) > 1:
        detail = "; ".join(f"{serial}: {', '.join(map(_told, servers))}" for serial, servers in sorted(serials.items()))
        yield Finding("serials-differ", zone, f"{zone} SOA", detail)
    servers = [answer.server for answer in answers.values() if answer.server.address]
    if len({server.name for server in servers}) == 1:
        yield Finding("server-single", zone, zone, servers[0].name)
    if servers and not any(":" in server.address for server in servers):
        yield Finding("server-ipv4-only", zone, zone, ", ".join(sorted({server.name for server in servers})))
    state = view.lookup(zone, "SOA")
    if state.status == "servfail" and view.is_bogus(zone, "SOA"):
        yield Finding("dnssec-bogus", zone, zone)
    elif state.answered and not state.secure:
        yield Finding("dnssec-insecure", zone, zone)


# -- the host


def check_host(dns: Mapping[str, Any], probed: Probed, view: View) -> Iterator[Finding]:
    """The host as others meet it, and what it relies on itself."""
    host = dns["hostname"]
    yield from check_spf(host, probed.addresses, view)
    for address in probed.addresses:
        yield from _check_reverse(host, address, view)
    for address, met in probed.smtp.items():
        yield from _check_smtp(host, address, met, probed.now)
    certificates = [met.certificate for met in probed.smtp.values() if met.certificate]
    yield from check_tlsa(host, certificates, view)
    for name in (host, *dns["hostnames"]):
        yield from check_caa(host, name, dns["caa"]["issue"] or [], view)
    for site in probed.blocklists:
        yield from check_blocklist(host, site, probed.addresses, view)
    if not probed.validates:
        yield Finding("resolver-unvalidated", host, "resolver")
    if probed.clock and not probed.clock[0] <= probed.now <= probed.clock[1]:
        yield Finding("clock", host, "clock", "outside the validity of the root zone's signature")
    elif probed.synchronised is False:
        yield Finding("clock-unsynchronised", host, "clock")


def _check_reverse(host: str, address: str, view: View) -> Iterator[Finding]:
    """Forward-confirmed: address → name → address (RFC 1912, 2.1). What the name should be is a matter of records."""
    name = ipaddress.ip_address(address).reverse_pointer
    rdtype = "AAAA" if ":" in address else "A"
    for target in view.lookup(name, "PTR").values:
        back = view.lookup(target, rdtype).values
        if ipaddress.ip_address(address) not in {ipaddress.ip_address(value) for value in back}:
            yield Finding("reverse-unconfirmed", host, f"{name} PTR", f"{target} has {_listed(back)}")


def _check_smtp(host: str, address: str, met: Smtp, now: float) -> Iterator[Finding]:
    where = f"port 25 of {address}"
    if met.problem:
        yield Finding(met.problem, host, where, met.detail)
    if met.greeting and met.greeting.lower() != host:
        yield Finding("greeting-other", host, where, f"found {met.greeting}; expected {host}")
    certificate = met.certificate
    if certificate is None:
        return
    if not any(_covers(host, name) for name in certificate.names):
        yield Finding("certificate-name", host, where, f"found {_listed(certificate.names)}; expected {host}")
    if certificate.not_after < now:
        yield Finding("certificate-expired", host, where)
    elif not certificate.trusted:
        yield Finding("certificate-untrusted", host, where)


def _covers(host: str, name: str) -> bool:
    """RFC 6125, 6.4.3."""
    return _fits(host, name.lower())


def check_tlsa(host: str, certificates: Sequence[Certificate], view: View) -> Iterator[Finding]:
    """TLSA records of port 25 against the keys that are served (RFC 7672, 3.1)."""
    name = f"_25._tcp.{host}"
    answer = view.lookup(name, "TLSA")
    if not answer.values:
        return
    if not answer.secure:
        yield Finding("tlsa-insecure", host, f"{name} TLSA")
    rows = [value.lower().split(None, 3) for value in answer.values]
    # Usage 2 names an authority: only the whole chain would tell.
    if any(row[0] == "2" for row in rows):
        return
    for certificate in certificates:
        fitting = any(row[0] == "3" and certificate.digests.get((int(row[1]), int(row[2]))) == row[3].replace(" ", "") for row in rows)
        if not fitting:
            yield Finding(
                "tlsa-mismatch", host, f"{name} TLSA", f"found {_listed(answer.values)}; served 3 1 1 {certificate.digests[1, 1]}"
            )


def check_caa(host: str, name: str, authorities: Sequence[str], view: View) -> Iterator[Finding]:
    """Whether one of our authorities may issue for the name (RFC 8659, 3): the first set upwards counts."""
    if not authorities:
        return
    labels = name.split(".")
    for start in range(len(labels)):
        at = ".".join(labels[start:])
        values = view.lookup(at, "CAA").values
        if not values:
            continue
        rows = [value.split(None, 2) for value in values]
        issuers = [row[2].strip('"').partition(";")[0].strip().lower() for row in rows if row[1].lower() == "issue"]
        if issuers and not set(issuers) & set(authorities):
            yield Finding("caa-forbids", host, f"{at} CAA", f"found {_listed(values)}; expected {_listed(authorities)}")
        return


_REFUSAL: Final = ipaddress.ip_network("127.255.255.0/24")


def check_blocklist(host: str, site: str, addresses: Iterable[str], view: View) -> Iterator[Finding]:
    """RFC 5782, 5: 127.0.0.2 is always listed, 127.0.0.1 never; refusals of public resolvers come as 127.255.255.x."""
    listed = view.lookup(f"2.0.0.127.{site}", "A")
    if any(ipaddress.ip_address(value) in _REFUSAL for value in listed.values):
        yield Finding("blocklist-refuses", host, site, _listed(listed.values))
    elif not listed.values:
        yield Finding("blocklist-silent", host, site, f"127.0.0.2: {listed.status}")
    elif view.lookup(f"1.0.0.127.{site}", "A").values:
        yield Finding("blocklist-total", host, site)
    else:
        for address in addresses:
            labels = ipaddress.ip_address(address).reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
            if values := view.lookup(f"{labels}.{site}", "A").values:
                yield Finding("blocklisted", host, site, f"{address}: {_listed(values)}")


# -- all of them


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Without repetitions; what mail programs lack is one finding for each domain."""
    found: dict[tuple[str, str, tuple[str, ...]], list[Finding]] = defaultdict(list)
    for finding in dict.fromkeys(findings):
        name = "" if finding.kind.startswith("client-") else finding.name + finding.detail
        found[finding.kind, finding.domain + "\0" + name, finding.servers].append(finding)
    return [
        same[0] if len(same) == 1 else Finding(same[0].kind, same[0].domain, ", ".join(one.name for one in same), "", same[0].servers)
        for same in found.values()
    ]


def digests(whole: bytes, public_key: bytes) -> dict[tuple[int, int], str]:
    """What a TLSA record may hold of a certificate: {(selector, matching type): hex}."""
    return {
        (selector, kind): text
        for selector, data in ((0, whole), (1, public_key))
        for kind, text in ((0, data.hex()), (1, hashlib.sha256(data).hexdigest()), (2, hashlib.sha512(data).hexdigest()))
    }
