"""Name servers on loopback addresses that speak real DNS over UDP and TCP, and can be told to fail."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

# (name, type) → values in zone file form.
Records = dict[tuple[str, str], list[str]]
Answering = Callable[[dns.message.Message, bool], dns.message.Message | bytes | None]


@dataclass
class NameServer:
    """Answers with authority from `records`, which hold the SOA of each of its zones; `twist` may change an answer, or withhold it.

    `asked` is every question it got, with the transport.
    """

    records: Records
    twist: Callable[[dns.message.Message, dns.message.Message, bool], dns.message.Message | bytes | None] | None = None
    recursive: bool = False
    asked: list[tuple[str, str, bool]] = field(default_factory=list)

    def __call__(self, query: dns.message.Message, tcp: bool) -> dns.message.Message | bytes | None:
        question = query.question[0]
        self.asked.append((question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype), tcp))
        response = dns.message.make_response(query, recursion_available=self.recursive)
        self._fill(response, question.name, question.rdtype)
        return self.twist(query, response, tcp) if self.twist else response

    def _fill(self, response: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        zones = [dns.name.from_text(owner) for owner, kind in self.records if kind == "SOA"] + [dns.name.root] * self.recursive
        while True:
            above = [zone for zone in zones if name.is_subdomain(zone)]
            if not above:
                if not response.answer:
                    response.set_rcode(dns.rcode.REFUSED)
                return
            zone = max(above, key=len)
            if not self.recursive:
                response.flags |= dns.flags.AA
            if values := self._values(name, rdtype):
                response.answer.append(dns.rrset.from_text(name, 60, "IN", rdtype, *values))
                return
            if not (target := self._values(name, dns.rdatatype.CNAME)):
                break
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *target))
            name = dns.name.from_text(target[0])
        if not any(dns.name.from_text(owner).is_subdomain(name) for owner, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(dns.rrset.from_text(zone, 60, "IN", "SOA", *(self._values(zone, dns.rdatatype.SOA) or [". . 1 1 1 1 1"])))

    def _values(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> list[str]:
        return self.records.get((name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(rdtype)), [])


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, connection = self.request
        answer = _wire(self.server.answering(dns.message.from_wire(wire), False), 1232)
        if answer is not None:
            connection.sendto(answer, self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = self.rfile.read(2)
        if len(size) == 2:
            answer = _wire(self.server.answering(dns.message.from_wire(self.rfile.read(struct.unpack("!H", size)[0])), True), 65535)
            if answer is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)


def _wire(answer: dns.message.Message | bytes | None, size: int) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    wire = answer.to_wire(max_size=65535)
    if len(wire) > size:
        answer.answer.clear()
        answer.flags |= dns.flags.TC
        wire = answer.to_wire()
    return wire


def _server(kind: type, handler: type, address: str, port: int, answering: Answering) -> socketserver.BaseServer:
    class Here(socketserver.ThreadingMixIn, kind):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        daemon_threads = True
        # For UDP that would let two tests that run at the same moment have the same port.
        allow_reuse_address = kind is socketserver.TCPServer
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has gone."""

    server = Here((address, port), handler)
    server.answering = answering
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@contextlib.contextmanager
def serving(servers: Mapping[str, Answering]) -> Iterator[int]:
    """Serve {address: server} on one free port of them all, which is returned."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            with contextlib.ExitStack() as trial:
                try:
                    for address, answering in servers.items():
                        for kind, handler in ((socketserver.UDPServer, _Udp), (socketserver.TCPServer, _Tcp)):
                            server = _server(kind, handler, address, port, answering)
                            trial.callback(server.server_close)
                            trial.callback(server.shutdown)
                except OSError:
                    continue
                stack.enter_context(trial.pop_all())
                break
        yield port


def zone(name: str, servers: Mapping[str, list[str]], serial: int = 1) -> Records:
    """SOA and NS of a zone, and the addresses of its servers: {name: [address]}."""
    records: Records = {
        (name, "SOA"): [f"{next(iter(servers))}. hostmaster.{name}. {serial} 60 60 86400 60"],
        (name, "NS"): [f"{server}." for server in servers],
    }
    for server, addresses in servers.items():
        for rdtype, mark in (("A", "."), ("AAAA", ":")):
            if found := [address for address in addresses if mark in address]:
                records[server, rdtype] = found
    return records
