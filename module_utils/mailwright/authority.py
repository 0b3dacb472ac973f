# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What the name servers of a zone say, each asked directly: whether a record is published is not what a cache remembers.

The servers are found by the host's own resolver. A broken server is an answer, never an exception, so that one does not hide the others;
and what this host cannot reach for want of an address family of its own is told apart from a server that is dead.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.TXT import TXT

__all__ = ["Answer", "Client", "Question", "Server", "Status", "canonical", "value_of"]

# Larger answers come by TCP rather than in fragments (DNS flag day 2020).
PAYLOAD: Final = 1232
CHAIN_LIMIT: Final = 8
# So many questions in a row without an answer, and the rest of them does not wait for that server.
PATIENCE: Final = 16
# What connect(2) says where this host has no way to an address family.
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_ENDS_WITH_NAME: Final = frozenset({"CNAME", "DNAME", "MX", "NS", "PTR", "SRV"})

Status = Literal[
    "ok",  # records
    "empty",  # the name exists, not with this type
    "nxdomain",  # the name does not exist
    "alias",  # a CNAME leads to where this server has nothing to say; see Client.ask
    "timeout",  # no answer
    "closed",  # nothing listens there, or the way to it is closed
    "refused",  # the server does not serve this zone
    "lame",  # an answer without authority
    "servfail",  # any other error of the server's, also what cannot be read
    "no route",  # this host has no IPv6, or no IPv4
    "no address",  # the name of the server has no address
    "no zone",  # no zone, or none of its servers, could be found
]
Question = tuple[str, str]
T = TypeVar("T")
R = TypeVar("R")


class Server(NamedTuple):
    """One address of a name server; empty where its name has none."""

    name: str
    address: str


@dataclass(frozen=True)
class Answer:
    """What one server says about one name and type.

    `values` are texts in the form of `Record.value`: strings of a TXT joined, names lower case and without the final dot. `secure`: the
    resolver has validated it (only of `lookup`). `alias`: where a CNAME led.
    """

    server: Server
    status: Status
    values: tuple[str, ...] = ()
    ttl: int = 0
    alias: str = ""
    secure: bool = False

    @property
    def answered(self) -> bool:
        """The server has said what there is, or that there is nothing."""
        return self.status in ("ok", "empty", "nxdomain")


class Client:
    """Asks, many things at once. Found zones and servers are remembered for as long as it lives, answers are not."""

    def __init__(
        self, resolvers: Sequence[str] | None = None, *, port: int = 53, timeout: float = 2.0, tries: int = 2, parallel: int = 64
    ) -> None:
        """`timeout` in seconds is for one try. Without `resolvers`: those of /etc/resolv.conf."""
        self._resolvers = list(resolvers) if resolvers is not None else _system_resolvers()
        self._port = port
        self._timeout = timeout
        self._tries = tries
        self._parallel = parallel
        self._zones: dict[str, str | None] = {}
        self._servers: dict[str, list[Server]] = {}
        self._silent: dict[str, int] = {}
        self._lock = threading.Lock()

    def zone_of(self, name: str) -> str | None:
        """The zone that holds the name; None where the resolver does not know."""
        if name not in self._zones:
            self._zones[name] = self._find_zone(name)
        return self._zones[name]

    def servers_of(self, zone: str) -> list[Server]:
        """Every address of every name server of the zone; a name without any has one row with an empty address."""
        if zone not in self._servers:
            self._servers[zone] = self._find_servers(zone)
        return self._servers[zone]

    def ask(self, name: str, rdtype: str) -> dict[str, Answer]:
        """What each server of the name's zone says: {address: Answer}; see ask_all."""
        return self.ask_all([(name, rdtype)])[name, rdtype]

    def ask_all(self, questions: Iterable[Question]) -> dict[Question, dict[str, Answer]]:
        """The same for many questions in parallel.

        Never an empty mapping: where no server is found the key is the name of the server, or empty, and the status says why. Where a
        server says that the name is an alias (CNAME) of one elsewhere, the servers of that one answer in its place.
        """
        with self._lock:
            self._silent.clear()
        return self._ask_all(list(dict.fromkeys(questions)), CHAIN_LIMIT)

    def lookup(self, name: str, rdtype: str, *, validate: bool = True) -> Answer:
        """What the host's resolver says. Without `validate` also what its validation refuses."""
        flags = dns.flags.RD | (dns.flags.AD if validate else dns.flags.CD)
        answer = Answer(Server("", ""), "no zone")
        for resolver in self._resolvers:
            # It asks others in turn, and has to wait for them.
            answer, _ = self._query(Server("", resolver), name, rdtype, flags, self._timeout * 3)
            if answer.answered:
                break
        return answer

    def lookup_all(self, questions: Iterable[Question]) -> dict[Question, Answer]:
        """The same for many questions in parallel."""
        asked = list(dict.fromkeys(questions))
        return dict(zip(asked, self._each(lambda question: self.lookup(*question), asked), strict=True))

    def is_bogus(self, name: str, rdtype: str) -> bool:
        """The resolver refuses what it finds: its signatures are broken (RFC 4035, 3.2.2: the CD bit)."""
        return self.lookup(name, rdtype).status == "servfail" and self.lookup(name, rdtype, validate=False).answered

    def validity(self, name: str, rdtype: str) -> tuple[float, float] | None:
        """From when to when the signature of a record is valid, in seconds since 1970; None where none is found."""
        for resolver in self._resolvers:
            _, message = self._query(Server("", resolver), name, rdtype, dns.flags.RD | dns.flags.CD, self._timeout * 3, signed=True)
            for rrset in message.answer if message is not None else ():
                if rrset.rdtype == dns.rdatatype.RRSIG:
                    return float(rrset[0].inception), float(rrset[0].expiration)
        return None

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if len(items) <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(self._parallel, len(items))) as pool:
            return list(pool.map(work, items))

    def _ask_all(self, asked: list[Question], depth: int) -> dict[Question, dict[str, Answer]]:
        names = list(dict.fromkeys(name for name, _ in asked))
        zones = dict(zip(names, self._each(self.zone_of, names), strict=True))
        found = [zone for zone in dict.fromkeys(zones.values()) if zone is not None]
        servers = dict(zip(found, self._each(self.servers_of, found), strict=True))
        nobody = [Server("", "")]
        jobs = [(question, server) for question in asked for server in servers.get(zones[question[0]] or "") or nobody]
        answers: dict[Question, dict[str, Answer]] = {question: {} for question in asked}
        for (question, server), answer in zip(jobs, self._each(lambda job: self._ask_one(job[1], *job[0]), jobs), strict=True):
            answers[question][server.address or server.name] = answer
        return self._follow(answers, depth) if depth > 0 else answers

    def _follow(self, answers: dict[Question, dict[str, Answer]], depth: int) -> dict[Question, dict[str, Answer]]:
        targets = {
            question: list(dict.fromkeys(answer.alias for answer in found.values() if _leads(answer)))
            for question, found in answers.items()
        }
        elsewhere = [(target, question[1]) for question, aliases in targets.items() for target in aliases]
        there = self._ask_all(list(dict.fromkeys(elsewhere)), depth - 1) if elsewhere else {}
        for question, aliases in targets.items():
            answers[question] = {key: answer for key, answer in answers[question].items() if not _leads(answer)}
            for target in aliases:
                found = there[target, question[1]].items()
                answers[question].update({key: replace(answer, alias=answer.alias or target) for key, answer in found})
        return answers

    def _ask_one(self, server: Server, name: str, rdtype: str) -> Answer:
        if not server.address:
            return Answer(server, "no address" if server.name else "no zone")
        if self._silent.get(server.address, 0) >= PATIENCE:
            return Answer(server, "timeout")
        answer, message = self._query(server, name, rdtype, dns.flags.Flag(0), self._timeout)
        with self._lock:
            self._silent[server.address] = self._silent.get(server.address, 0) + 1 if answer.status == "timeout" else 0
        if message is not None and (answer.answered or _leads(answer)) and not message.flags & dns.flags.AA:
            return Answer(server, "lame")
        return answer

    def _find_zone(self, name: str) -> str | None:
        try:
            here = dns.name.from_text(name)
        except dns.exception.DNSException:
            return None
        while True:
            message = self._resolver_message(_plain(here), "SOA")
            if message is None:
                return None
            if any(rrset.name == here and rrset.rdtype == dns.rdatatype.SOA for rrset in message.answer):
                return _plain(here)
            # Of a name without records: the SOA comes along. Behind an alias it would be another zone's.
            if not message.answer:
                for rrset in message.authority:
                    if rrset.rdtype == dns.rdatatype.SOA and here.is_subdomain(rrset.name):
                        return _plain(rrset.name)
            if here == dns.name.root:
                return None
            here = here.parent()

    def _find_servers(self, zone: str) -> list[Server]:
        found: list[Server] = []
        for name in sorted(self.lookup(zone, "NS", validate=False).values):
            addresses = [value for rdtype in ("A", "AAAA") for value in self.lookup(name, rdtype, validate=False).values]
            found += [Server(name, address) for address in addresses] or [Server(name, "")]
        return found

    def _resolver_message(self, name: str, rdtype: str) -> dns.message.Message | None:
        for resolver in self._resolvers:
            answer, message = self._query(Server("", resolver), name, rdtype, dns.flags.RD | dns.flags.CD, self._timeout * 3)
            if answer.status in ("ok", "empty", "nxdomain", "alias"):
                return message
        return None

    def _query(
        self, server: Server, name: str, rdtype: str, flags: dns.flags.Flag, timeout: float, signed: bool = False
    ) -> tuple[Answer, dns.message.Message | None]:
        """One question to one server, by UDP and where that is not enough by TCP."""
        status: Status = "timeout"
        edns = True
        try:
            query, wire = _query_of(name, rdtype, flags, signed, edns)
        except dns.exception.DNSException:
            return Answer(server, "nxdomain"), None
        for _ in range(self._tries):
            try:
                message = self._exchange(server.address, query, wire, timeout)
                if message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and edns:
                    # Older than EDNS.
                    edns = False
                    query, wire = _query_of(name, rdtype, flags, signed, edns)
                    message = self._exchange(server.address, query, wire, timeout)
                return _read(server, query, message), message
            except (TimeoutError, dns.exception.Timeout):
                status = "timeout"
            except OSError as error:
                status = "no route" if error.errno in _NO_ROUTE else "closed"
                if status == "no route":
                    break
            except (dns.exception.DNSException, EOFError, ValueError):
                status = "servfail"
        return Answer(server, status), None

    def _exchange(self, address: str, query: dns.message.Message, wire: bytes, timeout: float) -> dns.message.Message:
        """Raises OSError, TimeoutError, DNSException, EOFError."""
        until = time.monotonic() + timeout
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        identity = os.urandom(2)
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            # Connected: the kernel drops what comes from elsewhere, and tells of a closed port at once.
            connection.connect((address, self._port))
            connection.send(identity + wire[2:])
            while True:
                connection.settimeout(max(until - time.monotonic(), 0.001))
                received = connection.recv(65535)
                if time.monotonic() > until:
                    raise TimeoutError
                # Not an answer to this question: whoever sends it must not be able to end the waiting.
                with suppress(dns.exception.DNSException, ValueError):
                    if received[:2] == identity:
                        message = _message(wire[:2] + received[2:])
                        if query.is_response(message):
                            break
        if message.flags & dns.flags.TC:
            return dns.query.tcp(query, address, timeout=timeout, port=self._port)
        return message


@functools.lru_cache(maxsize=4096)
def _query_of(name: str, rdtype: str, flags: dns.flags.Flag, signed: bool, edns: bool) -> tuple[dns.message.Message, bytes]:
    """A question and its octets, the same for all servers: what goes out gets an identity of its own. Raises DNSException."""
    query = dns.message.make_query(
        name, rdtype, use_edns=0 if edns else False, payload=PAYLOAD if edns else None, want_dnssec=signed and edns
    )
    query.flags = flags
    return query, query.to_wire()


def _message(wire: bytes) -> dns.message.Message:
    """A message without what is seldom of interest, the authority section and what follows; to read that takes most of the time."""
    if wire[6:8] != b"\0\0":
        message = dns.message.from_wire(wire[:8] + bytes(4) + wire[12:], ignore_trailing=True)
        if not any(rrset.rdtype == dns.rdatatype.CNAME for rrset in message.answer):
            return message
    elif wire[2] & 4:
        # With authority there is nothing: that the SOA is there goes without saying.
        return dns.message.from_wire(wire[:8] + bytes(4) + wire[12:], ignore_trailing=True)
    return dns.message.from_wire(wire)


def _system_resolvers() -> list[str]:
    try:
        return [str(address) for address in dns.resolver.Resolver().nameservers]
    except (dns.exception.DNSException, OSError):
        return []


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else "."


def _leads(answer: Answer) -> bool:
    return answer.status == "alias"


def _read(server: Server, query: dns.message.Message, message: dns.message.Message) -> Answer:
    code = message.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(server, "refused" if code in (dns.rcode.REFUSED, dns.rcode.NOTAUTH) else "servfail")
    wanted = query.question[0].rdtype
    here = query.question[0].name
    secure = bool(message.flags & dns.flags.AD)
    for _ in range(CHAIN_LIMIT):
        for rrset in message.answer:
            if rrset.name == here and rrset.rdtype == wanted:
                alias = "" if here == query.question[0].name else _plain(here)
                values = tuple(sorted(value_of(rdata) for rdata in rrset))
                return Answer(server, "ok", values, rrset.ttl, alias, secure)
        target = next((rrset[0].target for rrset in message.answer if rrset.name == here and rrset.rdtype == dns.rdatatype.CNAME), None)
        if target is None:
            break
        here = target
    alias = "" if here == query.question[0].name else _plain(here)
    if code == dns.rcode.NXDOMAIN:
        return Answer(server, "nxdomain", (), 0, alias, secure)
    # A resolver follows aliases to their end, and says so by the SOA that belongs to it.
    if alias and not (message.flags & dns.flags.RA or any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)):
        return Answer(server, "alias", (), 0, alias, secure)
    return Answer(server, "empty", (), 0, alias, secure)


def value_of(rdata: dns.rdata.Rdata) -> str:
    """One record as `Record.value` has it: strings of a TXT joined, names lower case and without the final dot."""
    kind = dns.rdatatype.to_text(rdata.rdtype)
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings).decode(errors="backslashreplace")
    text = rdata.to_text()
    if kind not in _ENDS_WITH_NAME:
        return text
    # The root alone stays a dot, as in `0 .` (RFC 7505).
    return text.lower() if text.endswith(" .") else text.lower().removesuffix(".")


def canonical(rdtype: str, value: str) -> str:
    """A value of a zone file, or of a `Record`, in the form that `value_of` gives; a TXT is plain text. Raises DNSException."""
    return value if rdtype == "TXT" else value_of(dns.rdata.from_text("IN", rdtype, value))
