"""Debian's MTA-STS daemon, but DANE comes first: a policy must not override a failing DANE validation (RFC 8461, 2).

Postfix asks one table after the other and takes the first answer, so `secure` for a policy would end DANE for that domain. Where a
policy is to be enforced and an MX host has usable TLSA records that DNSSEC vouches for (RFC 7672), the answer is `dane-only`: mail
goes to hosts that match theirs, and to no other.
"""

from __future__ import annotations

import re
import sys

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.resolver
from postfix_mta_sts_resolver import daemon, netstring
from postfix_mta_sts_resolver.responder import STSSocketmapResponder

# DANE-TA and DANE-EE; Postfix uses no others.
USABLE = (2, 3)

_resolver = dns.asyncresolver.Resolver(configure=False)
# The host's own, which validates: only that one's word for DNSSEC counts.
_resolver.nameservers = ["127.0.0.1"]
_resolver.lifetime = 10.0
_resolver.use_edns(0, dns.flags.DO, 1232)


async def ask(name: str, kind: str) -> dns.resolver.Answer | None:
    """An answer that DNSSEC vouches for, which may be empty; None for any other. Raises DNSException when there is none to be had."""
    try:
        answer = await _resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
    except dns.resolver.NXDOMAIN:
        return None
    return answer if answer.response.flags & dns.flags.AD else None


async def has_tlsa(host: str, port: str) -> bool:
    """Whether TLSA records say which key this host has. For hosts without DNSSEC nothing is asked: some name servers fail at that."""
    found = [answer for answer in (await ask(host, "A"), await ask(host, "AAAA")) if answer is not None]
    if not any(answer.rrset for answer in found):
        return False
    for name in dict.fromkeys([found[0].canonical_name.to_text(), host]):
        answer = await ask(f"_{port}._tcp.{name}", "TLSA")
        if answer is not None and any(record.usage in USABLE for record in answer):
            return True
    return False


async def under_dane(destination: str) -> bool:
    """Whether DANE decides for a next hop in Postfix's form: domain, [host], either with :port."""
    form = re.fullmatch(r"(\[)?([^][:]+)\]?(?::(\d+))?", destination)
    if form is None:
        return False
    hosts = [form[2]]
    if not form[1]:
        servers = await ask(form[2], "MX")
        if servers is None:
            return False
        hosts = [record.exchange.to_text() for record in sorted(servers, key=lambda record: record.preference)] or hosts
    failure = None
    for host in hosts:
        try:
            if await has_tlsa(host, form[3] or "25"):
                return True
        except dns.exception.DNSException as error:
            failure = error
    if failure is not None:
        raise failure
    return False


class DaneFirst(STSSocketmapResponder):
    """The daemon's answers to Postfix, those with a policy seen through."""

    async def process_request(self, raw_req: bytes) -> bytes:
        answer: bytes = await super().process_request(raw_req)
        if b":OK secure " not in answer[:20]:
            return answer
        try:
            if await under_dane(raw_req.decode().partition(" ")[2]):
                return netstring.encode(b"OK dane-only")
        except dns.exception.DNSException as error:
            return netstring.encode(f"TEMP DANE cannot be ruled out: {type(error).__name__}".encode())
        return answer


if __name__ == "__main__":
    daemon.STSSocketmapResponder = DaneFirst
    sys.exit(daemon.main())
