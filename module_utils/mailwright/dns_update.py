# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Keeps the records of a host on primary name servers by dynamic update (RFC 2136) with TSIG (RFC 8945).

A zone is read, compared (dns_plan.py) and changed by one message whose prerequisites are what was read, so that it is carried out as a
whole or not at all; then read again, because a server may ignore parts without a word. Serial and signatures are the server's affair.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.tsig
import dns.update

from .authority import value_of
from .dns_plan import Change, Present, ZonePlan, make_zone_plan, marker_name, read_marker
from .records import Record, quoted, zone_of

__all__ = ["Published", "publish"]

TIMEOUT: Final = 10.0
# Questions on their way at once.
BATCH: Final = 64
# Of one message; what is more goes into the next.
MESSAGE_LIMIT: Final = 50_000
# Somebody else changed the zone between reading and writing.
TRIES: Final = 3
_CHANGED_MEANWHILE: Final = frozenset({dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN})
# What a CNAME cannot stand beside, and is likely to be there.
_BESIDE_ALIAS: Final = ("A", "AAAA", "TXT", "MX")

Key = tuple[str, str]
Answered = TypeVar("Answered")


class ServerError(Exception):
    """What a server or a zone lacks, in a sentence with its cure."""


@dataclass
class Published:
    """What was done, or would be. `notes`: what is nobody's fault, such as names that no server here has."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    zones: list[str] = field(default_factory=list)


class Primary:
    """One connection to a primary server; questions are signed as well, since what a server shows may depend on the key."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.where = f"{entry['server']} port {entry['port']}"
        name = dns.name.from_text(entry["key_name"])
        self.key = dns.tsig.Key(name, entry["secret"], dns.name.from_text(entry["algorithm"]))
        self.key_name = entry["key_name"]
        self.address = (entry["server"], entry["port"])
        self.stream: socket.socket | None = None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = None

    def ask(self, questions: Sequence[dns.message.Message]) -> list[dns.message.Message]:
        """The answers, in the order of the questions. Raises ServerError."""
        answers: list[dns.message.Message] = []
        for start in range(0, len(questions), BATCH):
            answers += self._batch(questions[start : start + BATCH])
        return answers

    def _batch(self, questions: Sequence[dns.message.Message]) -> list[dns.message.Message]:
        try:
            # A server may close a connection that it has answered on before.
            fresh = self.stream is None
            try:
                return self._exchange(questions)
            except (EOFError, ConnectionError):
                self.close()
                if fresh or any(question.opcode() == dns.opcode.UPDATE for question in questions):
                    raise
                return self._exchange(questions)
        except TimeoutError:
            self.close()
            raise ServerError(f"{self.where} does not answer; is it the right server, and does its firewall let this host in?") from None
        except (OSError, EOFError) as error:
            self.close()
            raise ServerError(f"{self.where}: {error or 'it closed the connection'}") from None
        except dns.tsig.PeerBadKey:
            raise ServerError(f"{self.where} does not know the key {self.key_name}, or by another algorithm") from None
        except (dns.tsig.PeerBadSignature, dns.tsig.BadSignature):
            raise ServerError(f"{self.where} has another secret for the key {self.key_name}") from None
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            raise ServerError(f"the clocks of {self.where} and of this host are more than five minutes apart") from None
        except dns.exception.DNSException as error:
            self.close()
            raise ServerError(f"{self.where} sent what cannot be read: {error or type(error).__name__}") from None

    def _exchange(self, questions: Sequence[dns.message.Message]) -> list[dns.message.Message]:
        if self.stream is None:
            self.stream = socket.create_connection(self.address, timeout=TIMEOUT)
        waiting: dict[int, dns.message.Message] = {}
        octets = b""
        for question in questions:
            while question.id in waiting:
                question.id = (question.id + 1) % 65536
            question.use_tsig(self.key)
            wire = question.to_wire(max_size=65535)
            octets += struct.pack("!H", len(wire)) + wire
            waiting[question.id] = question
        self.stream.sendall(octets)
        found: dict[int, dns.message.Message] = {}
        while len(found) < len(questions):
            (size,) = struct.unpack("!H", self._read(2))
            wire = self._read(size)
            (number,) = struct.unpack("!H", wire[:2])
            asked = waiting.get(number)
            if asked is not None:
                answer = dns.message.from_wire(wire, keyring=asked.keyring, request_mac=asked.mac, ignore_trailing=True)
                if not answer.had_tsig:
                    # It cannot sign with a key that it does not know; whoever else answers is not to be believed.
                    raise dns.tsig.PeerBadKey
                found[number] = answer
        return [found[question.id] for question in questions]

    def _read(self, size: int) -> bytes:
        octets = b""
        while len(octets) < size:
            part = self.stream.recv(size - len(octets)) if self.stream else b""
            if not part:
                raise EOFError("it closed the connection")
            octets += part
        return octets

    # -- reading

    def zones(self, names: Iterable[str]) -> dict[str, str | None]:
        """The zone of this server that each name is in, None where it has none."""
        names = list(names)
        found: dict[str, str | None] = {}
        for name, answer in zip(names, self.ask([dns.message.make_query(name, "SOA") for name in names]), strict=True):
            authoritative = bool(answer.flags & dns.flags.AA) and answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
            starts = [rrset.name for rrset in (*answer.answer, *answer.authority) if rrset.rdtype == dns.rdatatype.SOA]
            found[name] = _plain(starts[0]) if authoritative and starts else None
        return found

    def read(self, keys: Collection[Key]) -> dict[Key, dns.rdataset.Rdataset]:
        """The sets that are there. Raises ServerError where one of the names is another server's."""
        ordered = sorted(keys)
        found: dict[Key, dns.rdataset.Rdataset] = {}
        for (name, kind), answer in zip(ordered, self.ask([dns.message.make_query(name, kind) for name, kind in ordered]), strict=True):
            if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                raise ServerError(f"{self.where} says {dns.rcode.to_text(answer.rcode())} when asked for {name} {kind}")
            if not answer.flags & dns.flags.AA:
                raise ServerError(f"{self.where} leaves {name} to other servers; name its zone apart")
            for rrset in answer.answer:
                if _plain(rrset.name) == name and rrset.rdtype in (dns.rdatatype.from_text(kind), dns.rdatatype.CNAME):
                    found[name, dns.rdatatype.to_text(rrset.rdtype)] = rrset.to_rdataset()
        return found


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _present(sets: Mapping[Key, dns.rdataset.Rdataset]) -> dict[Key, Present]:
    return {key: Present(rdataset.ttl, frozenset(map(value_of, rdataset))) for key, rdataset in sets.items()}


def publish(
    entries: Sequence[Mapping[str, Any]], host: str, records: Sequence[Record], before: Collection[str] = (), *, check_mode: bool = False
) -> Published:
    """Make the zones of the servers hold these records and none that were ours. `before`: the zones of the last time.

    A server or zone that fails is told about, and the others go on.
    """
    done = Published()
    rest = [record for record in records if not record.elsewhere]
    named = {zone for entry in entries for zone in entry["zones"]}
    for entry in sorted(entries, key=lambda entry: not entry["zones"]):
        primary = Primary(entry)
        try:
            zones = _zones(primary, entry, rest, named, before, done)
            mine: dict[str, list[Record]] = {zone: [] for zone in zones}
            kept: list[Record] = []
            for record in rest:
                mine.get(zone_of(record.name, zones) or "", kept).append(record)
            rest = kept
            for zone in sorted(mine):
                try:
                    _publish_zone(primary, zone, host, mine[zone], done, check_mode)
                    done.zones.append(zone)
                except ServerError as error:
                    done.failed.append(f"{zone}: {error}")
        except ServerError as error:
            done.failed.append(f"{', '.join(entry['zones']) or 'all zones'}: {error}")
            rest = [record for record in rest if zone_of(record.name, entry["zones"]) not in entry["zones"]] if entry["zones"] else []
        finally:
            primary.close()
    if rest:
        names = sorted({record.name for record in rest})
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more names" if len(names) > 3 else "")
        done.notes.append(f"no server of mail_dns_updates has {some}; publish their records yourself (playbooks/dns.yml lists them)")
    return done


def _zones(
    primary: Primary, entry: Mapping[str, Any], rest: Sequence[Record], named: Collection[str], before: Collection[str], done: Published
) -> list[str]:
    """The zones to work on. Of those that are named, each must be the server's."""
    if entry["zones"]:
        found = primary.zones(entry["zones"])
        wrong = [zone for zone in entry["zones"] if found[zone] != zone]
        done.failed += [f"{zone}: {primary.where} is not authoritative for it, or not for this key" for zone in wrong]
        return [zone for zone in entry["zones"] if zone not in wrong]
    origins = {zone_of(record.name, before) or _origin(record) for record in rest if zone_of(record.name, named) not in named}
    origins |= set(before) - set(named)
    return sorted({zone for zone in primary.zones(sorted(origins)).values() if zone} - set(named))


def _origin(record: Record) -> str:
    """A name of the record's zone that many records share."""
    if record.type == "PTR":
        return record.name
    return record.domain if f".{record.name}".endswith(f".{record.domain}") else record.name.rpartition("._dmarc.")[2]


def _publish_zone(primary: Primary, zone: str, host: str, records: Sequence[Record], done: Published, check_mode: bool) -> None:
    for attempt in range(TRIES):
        marker = (marker_name(zone), "TXT")
        sets = primary.read({marker})
        owned = read_marker(zone, map(value_of, sets.get(marker, ()))).get(host, set())
        wanted = {(record.name, record.type) for record in records} | {(name, kind) for name, kind, _ in owned}
        wanted |= {(name, kind) for name, alias in wanted if alias == "CNAME" for kind in _BESIDE_ALIAS}
        sets |= primary.read(wanted)
        plan = make_zone_plan(zone, host, records, _present(sets))
        if not plan or check_mode:
            break
        if _send(primary, plan, sets):
            _prove(primary, plan)
            break
        if attempt == TRIES - 1:
            raise ServerError("somebody else keeps changing it; run again")
    done.lines += plan.lines()
    done.conflicts += plan.conflicts


def _send(primary: Primary, plan: ZonePlan, sets: Mapping[Key, dns.rdataset.Rdataset]) -> bool:
    """False where the zone is no longer as it was read."""
    for part in _parts(plan):
        message = dns.update.UpdateMessage(f"{plan.zone}.")
        for name, kind in dict.fromkeys((change.name, change.type) for change in (*part.delete, *part.add)):
            if name == marker_name(plan.zone):
                # Each host writes lines of its own; a large set as a prerequisite would fill the message.
                continue
            if (there := sets.get((name, kind))) is not None:
                message.present(f"{name}.", dns.rdataset.from_rdata_list(0, list(there)))
            else:
                message.absent(f"{name}.", kind)
        for change in part.delete:
            rdata = next(rdata for rdata in sets[change.name, change.type] if value_of(rdata) == change.value)
            message.delete(f"{change.name}.", rdata)
        for change in part.add:
            message.add(f"{change.name}.", change.ttl, _rdata(change))
        rcode = primary.ask([message])[0].rcode()
        if rcode in _CHANGED_MEANWHILE:
            return False
        if rcode != dns.rcode.NOERROR:
            text = dns.rcode.to_text(rcode)
            cure = "; the key may not update this zone" if rcode in (dns.rcode.REFUSED, dns.rcode.NOTAUTH) else ""
            raise ServerError(f"{primary.where} refused the update: {text}{cure}")
    return True


def _rdata(change: Change) -> dns.rdata.Rdata:
    text = quoted(change.value) if change.type == "TXT" else Record(change.name, change.type, change.value, change.ttl, "", "").data
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(change.type), text)


def _parts(plan: ZonePlan) -> list[ZonePlan]:
    """One message for all; a zone with a great many changes takes several, each name with its marker in one of them."""
    by_name: dict[str, ZonePlan] = {}
    marker = marker_name(plan.zone)
    for changes, kind in ((plan.delete, "delete"), (plan.add, "add")):
        for change in changes:
            name = change.name
            if name == marker:
                label = change.value.split()[1]
                name = plan.zone if label == "@" else f"{label}.{plan.zone}"
            getattr(by_name.setdefault(name, ZonePlan(plan.zone)), kind).append(change)
    parts = [ZonePlan(plan.zone)]
    size = 0
    for group in by_name.values():
        # What is deleted appears as a prerequisite, too.
        weight = sum(2 * (len(change.name) + len(change.value) + 30) for change in (*group.delete, *group.add))
        if size and size + weight > MESSAGE_LIMIT:
            parts.append(ZonePlan(plan.zone))
            size = 0
        size += weight
        parts[-1].delete += group.delete
        parts[-1].add += group.add
    return parts


def _prove(primary: Primary, plan: ZonePlan) -> None:
    """A server ignores what it must not do, such as a CNAME beside other records (RFC 2136, 3.4.2.2)."""
    present = _present(primary.read({(change.name, change.type) for change in (*plan.delete, *plan.add)}))
    for change in plan.add:
        there = present.get((change.name, change.type))
        if there is None or change.value not in there.values:
            raise ServerError(f"{primary.where} took the update but has no {change.name} {change.type} {change.value[:60]}")
