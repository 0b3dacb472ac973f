"""Another key for the host's own certificate: not used before its record is everywhere, the record before it not withdrawn too soon."""

from __future__ import annotations

import datetime as dt
import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import acme as a
from ansible.module_utils.mailwright import certificate as c
from ansible.module_utils.mailwright import certificates as m
from ansible.module_utils.mailwright import rollover as r
from test_certificate import NAMES, NOW, Authority
from test_certificates import Server, acme, authority, live, reloads, request_, server  # noqa: F401  (fixtures)

SECOND = dt.timedelta(seconds=1)
OLD, NEW = "a" * 64, "b" * 64
WAITING = r.Next(NEW)


@dataclass(frozen=True)
class Said:
    server: tuple[str, str]
    values: tuple[str, ...] = ()
    status: str = "ok"
    ttl: int = 300


def one(*digests: str, address: str = "192.0.2.1", **more: object) -> Said:
    return Said(("ns", address), tuple(r.record(digest) for digest in digests), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        ([one(OLD)], f"TLSA 3 1 1 {NEW} is not yet on ns (192.0.2.1)"),
        ([one(OLD, NEW), one(OLD, address="192.0.2.2")], "not yet on ns (192.0.2.2)"),
        ([one(OLD, NEW), one(address="192.0.2.2", status="timeout")], "every name server must answer: ns (192.0.2.2): timeout"),
        ([one(address="2001:db8::1", status="no route")], "none can be reached"),
        ([], "none can be reached"),
        ([one(OLD, NEW), one(OLD, NEW, address="192.0.2.2")], "caches may have the records from before until 2026-11-21 12:05:02 UTC"),
    ],
    ids=["missing", "slow secondary", "dead secondary", "no IPv6 of its own", "no server", "ttl"],
)
def test_the_key_waits(heard: Sequence[Said], reason: str) -> None:
    assert reason in r.advance(WAITING, heard, NOW)[1]


def test_the_key_is_used_when_no_cache_can_have_what_was_before() -> None:
    # The longest lifetime counts, also of what was there before the next record.
    waiting, _ = r.advance(WAITING, [one(OLD, ttl=3600)], NOW)
    waiting, reason = r.advance(waiting, [one(OLD, NEW, ttl=60), one(address="2001:db8::1", status="no route")], NOW + 10 * SECOND)
    assert "until 2026-11-21 13:00:12" in reason
    assert "until" in r.advance(waiting, [one(OLD, NEW, ttl=60)], NOW + 3600 * SECOND)[1]
    assert r.advance(waiting, [one(OLD, NEW, ttl=60)], NOW + 3612 * SECOND)[1] == ""
    # A server that lost it again makes the wait begin anew.
    back, reason = r.advance(waiting, [one(OLD, NEW), one(OLD, address="192.0.2.2")], NOW + 3612 * SECOND)
    assert back.proved is None
    assert "not yet on" in reason


def test_without_any_tlsa_record_nothing_is_waited_for() -> None:
    assert r.advance(WAITING, [one(status="empty"), one(status="nxdomain", address="192.0.2.2")], NOW)[1] == ""


def test_the_state_survives_and_is_for_root_alone(tmp_path: Path) -> None:
    waiting = r.prepare(tmp_path / "tls")
    assert r.spki_digest(r.load_key(tmp_path / "tls")) == waiting.digest
    proved = replace(waiting, ttl=60, proved=NOW)
    r.save(tmp_path / "tls", proved)
    assert r.load(tmp_path / "tls") == proved
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in (tmp_path / "tls").iterdir())
    (tmp_path / "tls" / c.NEXT_FILE).write_text("{")
    with pytest.raises(c.CertificateError, match="damaged"):
        r.load(tmp_path / "tls")
    r.finish(tmp_path / "tls")
    assert r.load(tmp_path / "tls") is None


class Dns:
    """The TLSA records that senders can find, and that every key is compared with as soon as it is live."""

    def __init__(self, request: m.Request) -> None:
        self.request = request
        self.digests = c.tlsa_digests(request.path)["default"]

    def publish(self) -> None:
        self.digests = c.tlsa_digests(self.request.path)["default"]

    def ask(self, names: Sequence[str]) -> list[r.Heard]:
        assert names == ["_25._tcp.mail.oak.test"]
        return [one(*self.digests, ttl=0)]

    def fits(self) -> bool:
        return c.spki_digest(live(self.request).key) in self.digests


@pytest.mark.parametrize("source", ["acme", "self_signed"])
def test_there_is_always_a_record_of_the_live_key(acme: m.Request, server: Server, source: str) -> None:  # noqa: F811  (fixtures)
    request = replace(acme, source=source, tlsa_names=["_25._tcp.mail.oak.test"])
    m.install(request, NOW)
    m.obtain(request, NOW)
    first = c.spki_digest(live(request).key)
    dns = Dns(request)
    request = replace(request, ask=dns.ask)
    assert "would be made" in m.obtain(replace(request, rotate=True), NOW, check_mode=True).next_key
    assert c.tlsa_digests(request.path)["default"] == [first]

    result = m.obtain(replace(request, rotate=True), NOW)
    assert result.changed
    assert "is not yet on ns" in result.next_key
    assert dns.fits()
    digests = c.tlsa_digests(request.path)["default"]
    assert digests[0] == first
    assert f"_25._tcp.mail.oak.test TLSA 3 1 1 {digests[1]}" in result.next_key
    # Once more changes nothing.
    assert not m.obtain(replace(request, rotate=True), NOW).changed
    assert c.tlsa_digests(request.path)["default"] == digests

    dns.publish()
    done = m.obtain(replace(request, wait=10), NOW)
    assert done.outcomes[0].reason == m.NEW_KEY
    assert c.spki_digest(live(request).key) == digests[1]
    assert dns.fits()
    # The former key's record stays for a while.
    assert c.tlsa_digests(request.path)["default"] == [digests[1], first]
    assert c.tlsa_digests(request.path, dt.datetime.now(dt.UTC) + (m.RELOAD_TIME + 1) * SECOND)["default"] == [digests[1]]
    again = m.obtain(request, NOW)
    assert not again.changed
    assert again.next_key == ""


def test_a_server_that_fails_leaves_the_old_key_in_place_everywhere(acme: m.Request, server: Server) -> None:  # noqa: F811  (fixtures)
    assert acme.acme
    m.install(acme, NOW)
    m.obtain(acme, NOW)
    before = live(acme)
    request = replace(acme, ask=lambda _: [one(status="empty")])
    server.down = "Connection refused"
    result = m.obtain(replace(request, rotate=True), NOW)
    assert c.same(live(acme), before)
    assert c.same(a.issued(acme.acme, "default"), before)
    assert result.missing
    # The next run uses it.
    server.down = ""
    digest = json.loads((acme.path / c.NEXT_FILE).read_text())["digest"]
    m.obtain(request, NOW)
    assert c.spki_digest(live(acme).key) == digest


def test_a_provided_key_is_not_changed_but_the_way_is_told(request_: m.Request, authority: Authority) -> None:  # noqa: F811  (fixtures)
    pair = authority.issue(NAMES)
    request = replace(request_, provided={"default": (pair.key_pem, pair.chain_pem)}, rotate=True)
    m.install(request, NOW)
    assert "provided" in m.obtain(request, NOW).next_key
    assert not (request.path / c.NEXT_FILE).exists()


def test_the_key_of_a_provisional_certificate_is_never_published(acme: m.Request, server: Server) -> None:  # noqa: F811  (fixtures)
    server.down = "Connection refused"
    m.install(acme, NOW)
    m.obtain(acme, NOW)
    assert live(acme).is_self_signed
    assert "default" not in c.tlsa_digests(acme.path)
    assert "no certificate of the ACME server yet" in m.obtain(replace(acme, rotate=True), NOW).next_key
    server.down = ""
    m.obtain(acme, NOW)
    assert c.tlsa_digests(acme.path)["default"] == [c.spki_digest(live(acme).key)]
    m.obtain(replace(acme, source="self_signed"), NOW)
    assert "default" in c.tlsa_digests(acme.path)
