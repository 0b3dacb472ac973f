"""One thing is broken at a time, and exactly that is found; every kind of finding has its case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible.module_utils.mailwright.authority import Answer, Server, canonical
from ansible.module_utils.mailwright.dns_check import (
    Certificate,
    Policy,
    Probed,
    Smtp,
    check_domain,
    check_host,
    check_records,
    check_zones,
    digests,
    merged,
)
from ansible.module_utils.mailwright.findings import KINDS, Finding, is_bad, lines, render
from ansible.module_utils.mailwright.records import Known, Record, expected, mta_sts_policy

V4, V6 = "192.0.2.10", "2001:db8::10"
HOST = "mail.oak.test"
ONE, TWO = Server("ns1.oak.test", "192.0.2.53"), Server("ns2.oak.test", "2001:db8::53")
KEY = "v=DKIM1; k=rsa; p=QUFBQQ=="
SERVED = digests(b"certificate", b"public key")
DNS: dict[str, Any] = {
    "hostname": HOST,
    "hostnames": [],
    "addresses": [V4, V6],
    "caa": {"issue": ["ca.test"], "wildcard": [], "account": None, "report": None},
    "ttl": 3600,
    "services_off": [],
    "zones": [],
    "domains": [
        {
            "name": "oak.test",
            "kind": "own",
            "preference": 10,
            "signed": True,
            "hosts": [],
            "spf": {"all": "~all", "include": ["_spf.news.test"], "addresses": []},
            "dmarc": {
                "policy": "reject",
                "subdomain_policy": None,
                "reports": ["dmarc@oak.test", "a@reports.test"],
                "failure_reports": [],
                "strict": False,
            },
            "mta_sts": "enforce",
            "tls_reports": ["tls@oak.test"],
        }
    ],
}
RELAYED = {"name": "yew.test", "kind": "relayed", "preference": 20, "signed": False}
PARKED = {"name": "ash.test", "kind": "parked", "signed": False}
KNOWN = Known([{"name": "d._domainkey.oak.test", "value": KEY}], {"default": [SERVED[1, 1]]})


@dataclass
class World:
    """A DNS without servers: the same for all of them, but for what `of_two` has, which the second one says instead."""

    records: dict[tuple[str, str], list[str]]
    of_two: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    secure: bool = True
    bogus: bool = False
    servers: tuple[Server, ...] = (ONE, TWO)
    broken: dict[Server, str] = field(default_factory=dict)
    policy: Policy | None = None
    probed: Probed = field(default_factory=Probed)
    dns: dict[str, Any] = field(default_factory=lambda: DNS)

    def live(self, name: str, rdtype: str) -> Mapping[str, Answer]:
        found = {}
        for server in self.servers:
            answer = self._answer(server, name, rdtype, self.of_two if server == TWO else {})
            found[server.address or server.name] = Answer(server, self.broken[server]) if server in self.broken else answer
        return found

    def lookup(self, name: str, rdtype: str) -> Answer:
        if self.bogus and rdtype == "SOA":
            return Answer(ONE, "servfail")
        return self._answer(ONE, name, rdtype, {})

    def _answer(self, server: Server, name: str, rdtype: str, instead: Mapping[tuple[str, str], list[str]]) -> Answer:
        records = {**self.records, **instead}
        alias = (records.get((name, "CNAME")) or [""])[0]
        if alias and rdtype != "CNAME":
            return dataclasses.replace(self._answer(server, alias, rdtype, instead), alias=alias)
        values = records.get((name, rdtype), [])
        status = "ok" if values else "empty" if any(values and owner == name for (owner, _), values in records.items()) else "nxdomain"
        return Answer(server, status, tuple(sorted(canonical(rdtype, value) for value in values)), 60, "", self.secure)

    def zone_of(self, name: str) -> str | None:
        return name if name.endswith(".arpa") else ".".join(name.split(".")[-2:])

    def is_bogus(self, _name: str, _rdtype: str) -> bool:
        return self.bogus

    def set(self, name: str, rdtype: str, *values: str) -> None:
        self.records[name, rdtype] = list(values)

    def findings(self) -> list[Finding]:
        records = expected(self.dns, KNOWN)
        found = [*check_records(records, self), *check_zones(records, ["oak.test", HOST], self)]
        found += check_host(self.dns, self.probed, self)
        for domain in self.dns["domains"]:
            found += check_domain(domain, HOST, [V4, V6], self.policy if domain.get("mta_sts") else None, self)
        return merged(found)


def healthy() -> World:
    records: dict[tuple[str, str], list[str]] = {}
    for record in expected(DNS, KNOWN):
        records.setdefault((record.name, record.type), []).append(record.value)
    records["_spf.news.test", "TXT"] = ["v=spf1 ip4:198.51.100.7 -all"]
    records["reports.test", "MX"] = ["10 mail.reports.test"]
    records["oak.test", "TXT"].append("some-verification=1")
    records["oak.test", "SOA"] = ["ns1.oak.test. hostmaster.oak.test. 7 60 60 60 60"]
    records["2.0.0.127.list.test", "A"] = ["127.0.0.2"]
    certificate = Certificate((HOST,), 2000.0, True, SERVED)
    probed = Probed([V4, V6], 1000.0, {V4: Smtp(HOST, certificate)}, ["list.test"], True, (500.0, 1500.0), True)
    return World(records, policy=Policy(mta_sts_policy("enforce", [HOST]).replace("\n", "\r\n")), probed=probed)


def test_as_declared_nothing_is_found() -> None:
    assert healthy().findings() == []


Break = Callable[[World], object]


def spf_text(text: str) -> Break:
    return lambda world: world.set("oak.test", "TXT", text)


def dmarc_text(text: str) -> Break:
    return lambda world: world.set("_dmarc.oak.test", "TXT", text)


def key_text(text: str) -> Break:
    return lambda world: world.set("d._domainkey.oak.test", "TXT", text)


def probe(**changes: object) -> Break:
    return lambda world: setattr(world, "probed", dataclasses.replace(world.probed, **changes))


def served(**changes: object) -> Break:
    return lambda world: probe(
        smtp={V4: dataclasses.replace(world.probed.smtp[V4], certificate=dataclasses.replace(world.probed.smtp[V4].certificate, **changes))}
    )(world)


def policy(text: str = "", **changes: str) -> Break:
    return lambda world: setattr(world, "policy", Policy(text, **changes))


def breaks(status: str, server: Server = TWO) -> Break:
    return lambda world: world.broken.update({server: status})


MX = ("oak.test", "MX")
HEALTHY_SPF = f"v=spf1 ip4:{V4} ip6:{V6} include:_spf.news.test ~all"
HEALTHY_DMARC = "v=DMARC1; p=reject; rua=mailto:dmarc@oak.test,mailto:a@reports.test"
MANY = " ".join(f"include:i{index}.news.test" for index in range(11))

# What is broken, and what is found then: the kind first, and whatever else follows from it.
CASES: list[tuple[str, Break, set[str]]] = [
    ("mx-missing", lambda w: w.set(*MX), {"dmarc-unreachable"}),
    ("mx-missing", lambda w: w.set(*MX, "10 other.test"), {"mx-other", "mx-unresolved", "mta-sts-mx"}),
    ("mx-other", lambda w: w.set(*MX, f"10 {HOST}", f"20 {HOST}"), set()),
    (
        "mx-alias",
        lambda w: (w.set(*MX, "10 alias.oak.test"), w.set("alias.oak.test", "CNAME", HOST)),
        {"mx-missing", "mx-other", "mta-sts-mx"},
    ),
    ("mx-address", lambda w: w.set(*MX, f"10 {V4}"), {"mx-missing", "mx-other", "mta-sts-mx"}),
    ("mx-unresolved", lambda w: w.set(*MX, f"10 {HOST}", "20 gone.oak.test"), {"mx-other", "mta-sts-mx"}),
    ("address-missing", lambda w: w.set(HOST, "AAAA"), {"reverse-unconfirmed"}),
    ("address-other", lambda w: w.set(HOST, "A", V4, "192.0.2.11"), set()),
    ("reverse-missing", lambda w: w.set("10.2.0.192.in-addr.arpa", "PTR"), set()),
    ("reverse-other", lambda w: w.set("10.2.0.192.in-addr.arpa", "PTR", "static-10.isp.test"), {"reverse-unconfirmed"}),
    (
        "reverse-unconfirmed",
        lambda w: (w.set("10.2.0.192.in-addr.arpa", "PTR", HOST, "x.isp.test"), w.set("x.isp.test", "A", "192.0.2.66")),
        {"reverse-other"},
    ),
    ("spf-missing", lambda w: w.set("oak.test", "TXT", "some-verification=1"), set()),
    ("spf-other", spf_text(HEALTHY_SPF.replace("~all", "-all")), set()),
    ("spf-several", lambda w: w.set("oak.test", "TXT", HEALTHY_SPF, "v=spf1 -all"), set()),
    ("spf-syntax", spf_text(HEALTHY_SPF.replace("ip6:", "ipv6:")), {"spf-other"}),
    (
        "spf-lookups",
        lambda w: (
            spf_text(HEALTHY_SPF.replace("~all", f"{MANY} ~all"))(w),
            [w.set(f"i{index}.news.test", "TXT", "v=spf1 ip4:198.51.100.8 -all") for index in range(11)],
        ),
        {"spf-other"},
    ),
    ("spf-void", spf_text(HEALTHY_SPF.replace("~all", "a:x.test a:y.test a:z.test ~all")), {"spf-other"}),
    ("spf-unread", lambda w: w.set("_spf.news.test", "TXT"), set()),
    ("spf-forbids", spf_text(f"v=spf1 ip4:{V4} include:_spf.news.test ~all"), {"spf-other"}),
    ("spf-open", spf_text("v=spf1 +all"), {"spf-other"}),
    ("dkim-missing", lambda w: w.set("d._domainkey.oak.test", "TXT"), set()),
    ("dkim-other", key_text("v=DKIM1; k=rsa; p=QkJCQg=="), set()),
    ("dkim-several", lambda w: w.set("d._domainkey.oak.test", "TXT", KEY, "v=DKIM1; p=QkJCQg=="), set()),
    ("dkim-revoked", key_text("v=DKIM1; k=rsa; p="), set()),
    ("dkim-testing", key_text("v=DKIM1; k=rsa; t=s:y; p=QUFBQQ=="), set()),
    ("dmarc-missing", lambda w: w.set("_dmarc.oak.test", "TXT"), set()),
    ("dmarc-other", dmarc_text(HEALTHY_DMARC.replace("reject", "quarantine")), set()),
    ("dmarc-several", lambda w: w.set("_dmarc.oak.test", "TXT", HEALTHY_DMARC, "v=DMARC1; p=none"), set()),
    ("dmarc-syntax", dmarc_text(HEALTHY_DMARC.replace("reject", "rejekt")), {"dmarc-other"}),
    ("dmarc-syntax", dmarc_text(HEALTHY_DMARC + "; pct=101"), {"dmarc-other"}),
    ("dmarc-syntax", dmarc_text(HEALTHY_DMARC.replace("mailto:dmarc", "dmarc")), {"dmarc-other"}),
    ("dmarc-none", dmarc_text(HEALTHY_DMARC.replace("reject", "none")), {"dmarc-other"}),
    ("dmarc-unreported", dmarc_text("v=DMARC1; p=reject"), {"dmarc-other"}),
    ("dmarc-unreachable", lambda w: w.set("reports.test", "MX"), set()),
    ("dmarc-report-missing", lambda w: w.set("oak.test._report._dmarc.reports.test", "TXT"), set()),
    ("mta-sts-missing", lambda w: w.set("_mta-sts.oak.test", "TXT"), set()),
    ("mta-sts-other", lambda w: w.set("_mta-sts.oak.test", "TXT", "v=STSv1; id=old;"), set()),
    ("mta-sts-several", lambda w: w.set("_mta-sts.oak.test", "TXT", "v=STSv1; id=old;", "v=STSv1; id=new;"), set()),
    ("mta-sts-host-missing", lambda w: w.set("mta-sts.oak.test", "A"), set()),
    ("mta-sts-unreachable", policy(problem="mta-sts-unreachable", detail="404 Not Found"), set()),
    ("mta-sts-certificate", policy(problem="mta-sts-certificate"), set()),
    ("mta-sts-policy", policy(mta_sts_policy("testing", [HOST])), set()),
    ("mta-sts-mx", policy(mta_sts_policy("enforce", ["other.test"])), {"mta-sts-policy"}),
    ("mta-sts-mx-testing", policy(mta_sts_policy("testing", ["*.elm.test"])), {"mta-sts-policy"}),
    ("tls-report-missing", lambda w: w.set("_smtp._tls.oak.test", "TXT"), set()),
    ("tls-report-other", lambda w: w.set("_smtp._tls.oak.test", "TXT", "v=TLSRPTv1; rua=mailto:x@oak.test"), set()),
    ("tls-report-several", lambda w: w.set("_smtp._tls.oak.test", "TXT", *(f"v=TLSRPTv1; rua=mailto:{x}@oak.test" for x in "ab")), set()),
    ("tlsa-missing", lambda w: w.set(f"_25._tcp.{HOST}", "TLSA"), set()),
    ("tlsa-other", lambda w: w.set(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {SERVED[1, 1]}", f"3 1 1 {'0' * 64}"), set()),
    ("tlsa-mismatch", lambda w: w.set(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {'0' * 64}"), {"tlsa-missing", "tlsa-other"}),
    ("tlsa-mismatch", served(digests=digests(b"other", b"other")), set()),
    ("tlsa-insecure", lambda w: setattr(w, "secure", False), {"dnssec-insecure"}),
    ("caa-missing", lambda w: w.set(HOST, "CAA"), set()),
    ("caa-other", lambda w: w.set(HOST, "CAA", '0 issue "ca.test"'), set()),
    ("caa-forbids", lambda w: (w.set(HOST, "CAA"), w.set("oak.test", "CAA", '0 issue "other.test"')), {"caa-missing"}),
    ("client-missing", lambda w: (w.set("_imaps._tcp.oak.test", "SRV"), w.set("autoconfig.oak.test", "A")), set()),
    ("client-other", lambda w: w.set("_imaps._tcp.oak.test", "SRV", "0 1 993 imap.elm.test"), set()),
    ("zone-missing", lambda w: setattr(w, "servers", (Server("", ""),)) or breaks("no zone", Server("", ""))(w), set()),
    ("server-dead", breaks("timeout"), set()),
    ("server-dead", breaks("closed"), set()),
    ("server-lame", breaks("lame"), set()),
    ("server-lame", breaks("refused"), set()),
    ("server-failing", breaks("servfail"), set()),
    (
        "server-unaddressed",
        lambda w: setattr(w, "servers", (ONE, TWO, Server("ns3.oak.test", ""))) or breaks("no address", w.servers[2])(w),
        set(),
    ),
    ("server-unasked", breaks("no route"), set()),
    ("server-single", lambda w: setattr(w, "servers", (ONE, Server("ns1.oak.test", "2001:db8::53"))), set()),
    ("server-ipv4-only", lambda w: setattr(w, "servers", (ONE, Server("ns2.oak.test", "192.0.2.54"))), set()),
    ("serials-differ", lambda w: w.of_two.update({("oak.test", "SOA"): ["ns1.oak.test. hostmaster.oak.test. 6 60 60 60 60"]}), set()),
    ("dnssec-bogus", lambda w: setattr(w, "bogus", True), set()),
    ("dnssec-insecure", lambda w: setattr(w, "secure", False), {"tlsa-insecure"}),
    ("greeting-other", probe(smtp={V4: Smtp("localhost")}), set()),
    ("smtp-unreachable", probe(smtp={V4: Smtp(problem="smtp-unreachable", detail="Connection refused")}), set()),
    ("starttls-missing", probe(smtp={V4: Smtp(HOST, problem="starttls-missing")}), set()),
    ("certificate-name", served(names=("www.oak.test", "*.mail.oak.test")), set()),
    ("certificate-expired", served(not_after=999.0, trusted=False), set()),
    ("certificate-untrusted", served(trusted=False), set()),
    ("resolver-unvalidated", probe(validates=False), set()),
    ("blocklist-refuses", lambda w: w.set("2.0.0.127.list.test", "A", "127.255.255.254"), set()),
    ("blocklist-silent", lambda w: w.set("2.0.0.127.list.test", "A"), set()),
    ("blocklist-total", lambda w: w.set("1.0.0.127.list.test", "A", "127.0.0.2"), set()),
    ("blocklisted", lambda w: w.set("10.2.0.192.list.test", "A", "127.0.0.3"), set()),
    ("clock", probe(now=1600.0), set()),
    ("clock-unsynchronised", probe(synchronised=False), set()),
]


@pytest.mark.parametrize(("kind", "damage", "others"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)])
def test_what_is_broken_is_found_and_nothing_else(kind: str, damage: Break, others: set[str]) -> None:
    world = healthy()
    damage(world)
    assert {finding.kind for finding in world.findings()} == {kind, *others}


def test_every_kind_has_its_case() -> None:
    assert {kind for kind, _, _ in CASES} == set(KINDS)


def test_a_server_that_differs_is_named_and_one_finding_tells_of_all() -> None:
    world = healthy()
    world.of_two["d._domainkey.oak.test", "TXT"] = []
    (finding,) = world.findings()
    assert (finding.kind, finding.name, finding.servers) == ("dkim-missing", "d._domainkey.oak.test TXT", ("ns2.oak.test 2001:db8::53",))
    world.of_two.clear()
    world.set("d._domainkey.oak.test", "TXT")
    (finding,) = world.findings()
    assert finding.servers == ()


def test_how_a_record_is_written_does_not_matter() -> None:
    world = healthy()
    spf_text(HEALTHY_SPF.upper().replace("IP6:2001:DB8::10", f"ip6:{V6}"))(world)
    dmarc_text("v=DMARC1;p=reject ; rua=mailto:dmarc@oak.test,mailto:a@reports.test;")(world)
    key_text("k=rsa; p=QUFB QQ==")(world)
    # An alias in place of the same addresses.
    for name in ("mta-sts.oak.test", "autoconfig.oak.test"):
        world.set(name, "A")
        world.set(name, "AAAA")
        world.set(name, "CNAME", HOST)
    assert world.findings() == []
    # And the other way round, where the inventory names no addresses.
    alias = Record("autoconfig.oak.test", "CNAME", HOST, 60, "client", "oak.test")
    world.set(alias.name, "CNAME")
    assert [finding.kind for finding in check_records([alias], world)] == ["client-missing"]
    world.set(alias.name, "A", V4)
    assert list(check_records([alias], world)) == []


def test_a_dead_server_hides_nothing_of_the_others() -> None:
    world = healthy()
    world.broken[TWO] = "timeout"
    key_text("v=DKIM1; k=rsa; p=")(world)
    assert {(finding.kind, finding.servers) for finding in world.findings()} == {
        ("server-dead", ("ns2.oak.test 2001:db8::53",)),
        ("dkim-revoked", ()),
    }


def test_of_a_relayed_domain_only_our_mx_is_of_interest_and_of_a_parked_one_its_refusals() -> None:
    world = healthy()
    world.dns = {**DNS, "domains": [*DNS["domains"], RELAYED, PARKED]}
    for record in expected(world.dns, KNOWN):
        if record.domain in ("yew.test", "ash.test"):
            world.set(record.name, record.type, record.value)
    world.set("yew.test", "MX", "10 mx.yew.test", f"20 {HOST}")
    world.set("mx.yew.test", "A", "192.0.2.77")
    assert world.findings() == []
    world.set("yew.test", "MX", "10 mx.yew.test")
    world.set("ash.test", "TXT")
    assert {(finding.kind, finding.domain) for finding in world.findings()} == {("mx-missing", "yew.test"), ("spf-missing", "ash.test")}


def test_the_report_names_the_worst_first_and_counts() -> None:
    rows = [
        Finding("dmarc-none", "oak.test", "_dmarc.oak.test TXT", "v=DMARC1; p=none").as_dict(),
        Finding("dkim-missing", "oak.test", "d._domainkey.oak.test TXT", f"expected {KEY}", ("ns2.oak.test 2001:db8::53",)).as_dict(),
    ]
    told = list(lines(rows))
    assert told[:4] == [
        "oak.test",
        "  error   dkim-missing: d._domainkey.oak.test TXT (ns2.oak.test 2001:db8::53)",
        "          the key that signs, or soon will, is not published: signatures cannot be verified",
        f"          expected {KEY}",
    ]
    assert told[5].startswith("  notice  dmarc-none")
    assert is_bad(rows)
    assert not is_bad(rows[:1])
    assert render({"checks": {"mail": rows}, "problems": []}).splitlines()[-1] == "1 error, 1 notice."
    assert render({"checks": {"mail": []}, "problems": []}) == "Everything is as the inventory says.\n"
    assert render({"checks": {}, "problems": [("mail", "unreachable")]}).splitlines() == [
        "mail: unreachable",
        "Not everything could be checked.",
    ]


def test_every_expected_record_has_its_kinds() -> None:
    """Whatever records.py makes, what may be wrong with it has a name."""
    world = healthy()
    world.records.clear()
    kinds = {finding.kind for finding in check_records(expected(DNS, KNOWN), world)}
    assert kinds == {
        f"{purpose}-missing"
        for purpose in (
            "mx",
            "address",
            "reverse",
            "spf",
            "dkim",
            "dmarc",
            "dmarc-report",
            "mta-sts",
            "mta-sts-host",
            "tls-report",
            "tlsa",
            "caa",
            "client",
        )
    }
    assert all(isinstance(record, Record) for record in expected(DNS, KNOWN))
