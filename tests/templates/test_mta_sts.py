"""The MTA-STS tree, how Postfix asks it, and that its answers leave DANE in force."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from types import ModuleType
from typing import Any

import dns.exception
import dns.flags
import dns.resolver
import pytest
import test_postfix
import yaml
from rendering import render

DAEMON = "roles/mta_sts/templates/enabled/usr/local/lib/mailwright/mta-sts-daemon.py"


def tree(release: str = "13") -> dict[str, str]:
    return render("mta_sts", "enabled", ansible_facts={"distribution_major_version": release})


def test_the_daemon_answers_on_the_loopback_and_keeps_what_it_has_learned() -> None:
    settings = yaml.safe_load(tree()["/etc/mailwright/mta-sts-daemon.conf"])
    assert (settings["host"], settings["port"]) == ("127.0.0.1", 8461)
    assert settings["cache"]["type"] == "sqlite"
    assert settings["default_zone"]["strict_testing"] is False


def test_only_a_postfix_that_knows_them_gets_further_attributes() -> None:
    assert yaml.safe_load(tree("13")["/etc/mailwright/mta-sts-daemon.conf"])["default_zone"]["tlsrpt"] is True
    assert "tlsrpt" not in yaml.safe_load(tree("12")["/etc/mailwright/mta-sts-daemon.conf"])["default_zone"]


@pytest.mark.parametrize("enabled", [True, False])
def test_postfix_asks_for_policies_last_and_only_where_that_is_declared(enabled: bool) -> None:
    main = test_postfix.parameters(test_postfix.render("13", {"mta_sts_outgoing": enabled})["/etc/postfix/main.cf"])
    asked = "lmdb:/var/lib/mailwright/postfix/tls_policies"
    assert main["smtp_tls_policy_maps"] == (f"{asked}, socketmap:inet:127.0.0.1:8461:postfix" if enabled else asked)
    assert main["smtp_tls_security_level"] == "dane"


def test_policies_for_subdomains_come_before_the_destinations_own() -> None:
    rows = [{"key": ".deep.under.test", "value": "may"}, {"key": ".under.test", "value": "secure match=.x$y.test"}]
    written = test_postfix.render("12", mail={"tls_policies_subdomains": rows})
    assert written["/etc/postfix/tls_policies_subdomains"].splitlines()[-2:] == [
        "/^[^][:]*\\.deep\\.under\\.test$/  may",
        "/^[^][:]*\\.under\\.test$/  secure match=.x$$y.test",
    ]
    maps = test_postfix.parameters(written["/etc/postfix/main.cf"])["smtp_tls_policy_maps"].split(", ")
    assert [kind.partition(":")[0] for kind in maps] == ["lmdb", "pcre", "socketmap"]
    assert "/etc/postfix/tls_policies_subdomains" not in test_postfix.render("12")


def test_forwarded_mail_on_its_way_through_the_loopback_asks_nobody() -> None:
    lane = test_postfix.services(test_postfix.render("13")["/etc/postfix/master.cf"])["forward/unix"]
    assert "smtp_tls_policy_maps = }" in " ".join(lane.split()) or "smtp_tls_policy_maps=" in lane


# The daemon


class Answer(list[Any]):
    """As dnspython's, as far as the daemon looks."""

    def __init__(self, records: list[Any], secure: bool, name: str) -> None:
        super().__init__(records)
        self.rrset = records or None
        self.canonical_name = types.SimpleNamespace(to_text=lambda: name)
        self.response = types.SimpleNamespace(flags=dns.flags.AD if secure else 0)


MX = [types.SimpleNamespace(preference=20, exchange=types.SimpleNamespace(to_text=lambda: "b.test."))]
MX.append(types.SimpleNamespace(preference=10, exchange=types.SimpleNamespace(to_text=lambda: "a.test.")))


def tlsa(usage: int) -> list[Any]:
    return [types.SimpleNamespace(usage=usage)]


@pytest.fixture
def daemon(load_plugin: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With Debian's package in its smallest form: an answer with a policy for everything."""

    class Responder:
        async def process_request(self, raw_req: bytes) -> bytes:
            return b"NOTFOUND " if b" ." in raw_req else b"35:OK secure match=x.test,"

    for name in ("postfix_mta_sts_resolver", "postfix_mta_sts_resolver.responder"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    package = sys.modules["postfix_mta_sts_resolver"]
    package.daemon = types.ModuleType("daemon")  # type: ignore[attr-defined]
    package.netstring = types.SimpleNamespace(encode=lambda text: b"%d:%s," % (len(text), text))  # type: ignore[attr-defined]
    sys.modules["postfix_mta_sts_resolver.responder"].STSSocketmapResponder = Responder  # type: ignore[attr-defined]
    return load_plugin(DAEMON)


def said(daemon: ModuleType, zone: dict[tuple[str, str], Any], destination: str = "example.test") -> str:
    """The answer for a destination, in a DNS of these sets (a list with False is not vouched for)."""

    async def resolve(name: str, kind: str, **_: object) -> Answer:
        found = zone.get((name.rstrip("."), kind), dns.resolver.NXDOMAIN())
        if isinstance(found, Exception):
            raise found
        records, secure = found if isinstance(found, tuple) else (found, True)
        return Answer(records, secure, f"{name.rstrip('.')}.")

    daemon._resolver.resolve = resolve
    answer: bytes = asyncio.run(daemon.DaneFirst().process_request(f"postfix {destination}".encode()))
    return answer.decode().partition(":")[2].removesuffix(",")


DANE = {("example.test", "MX"): MX, ("a.test", "A"): [1], ("a.test", "AAAA"): [], ("_25._tcp.a.test", "TLSA"): tlsa(3)}


def test_a_host_with_tlsa_records_is_held_to_them(daemon: ModuleType) -> None:
    assert said(daemon, DANE) == "OK dane-only"


def test_the_port_of_the_destination_counts(daemon: ModuleType) -> None:
    zone = {("a.test", "A"): [1], ("a.test", "AAAA"): [], ("_587._tcp.a.test", "TLSA"): tlsa(2)}
    assert said(daemon, zone, "[a.test]:587") == "OK dane-only"
    assert said(daemon, zone, "[a.test]") == "OK secure match=x.test"


@pytest.mark.parametrize(
    "change",
    [
        {("example.test", "MX"): (MX, False)},
        {("a.test", "A"): ([1], False), ("a.test", "AAAA"): ([], False)},
        {("_25._tcp.a.test", "TLSA"): (tlsa(3), False)},
        {("_25._tcp.a.test", "TLSA"): tlsa(1)},
        {("_25._tcp.a.test", "TLSA"): []},
        {("a.test", "A"): []},
        {("example.test", "MX"): dns.resolver.NXDOMAIN()},
    ],
    ids=["insecure MX", "insecure address", "insecure record", "another usage", "no record", "no address", "no domain"],
)
def test_without_dane_the_policy_stands(daemon: ModuleType, change: dict[tuple[str, str], Any]) -> None:
    assert said(daemon, DANE | change) == "OK secure match=x.test"


@pytest.mark.parametrize("name", [("example.test", "MX"), ("a.test", "A"), ("_25._tcp.a.test", "TLSA")])
def test_mail_waits_where_nobody_can_tell_whether_there_is_dane(daemon: ModuleType, name: tuple[str, str]) -> None:
    assert said(daemon, DANE | {name: dns.exception.Timeout()}).startswith("TEMP ")


def test_one_host_with_dane_decides_even_where_another_cannot_be_asked(daemon: ModuleType) -> None:
    zone = DANE | {("_25._tcp.a.test", "TLSA"): dns.exception.Timeout()}
    zone |= {("b.test", "A"): [1], ("b.test", "AAAA"): [], ("_25._tcp.b.test", "TLSA"): tlsa(3)}
    assert said(daemon, zone) == "OK dane-only"


def test_where_there_is_no_policy_nothing_is_asked(daemon: ModuleType) -> None:
    assert said(daemon, {}, ".example.test") == ""
