"""SPF records as receivers read them; pyspf, which many of them use, is the judge of the same records."""

from __future__ import annotations

import warnings

import pytest
from ansible.module_utils.mailwright import spf
from ansible.module_utils.mailwright.authority import Answer, Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import spf as pyspf

ZONE: dict[tuple[str, str], list[str]] = {
    ("oak.test", "MX"): ["10 mail.oak.test", "20 mx2.oak.test"],
    ("oak.test", "A"): ["192.0.2.80"],
    ("mail.oak.test", "A"): ["192.0.2.10"],
    ("mail.oak.test", "AAAA"): ["2001:db8::10"],
    ("mx2.oak.test", "A"): ["192.0.2.20"],
    ("strict.test", "TXT"): ["v=spf1 ip4:192.0.2.10 -all", "other text"],
    ("soft.test", "TXT"): ["v=spf1 include:strict.test ~all"],
    ("twice.test", "TXT"): ["v=spf1 -all", "v=spf1 ip4:192.0.2.1 -all"],
    ("round.test", "TXT"): ["v=spf1 include:round.test -all"],
    ("wide.test", "TXT"): ["v=spf1 " + " ".join(f"a:n{index}.test" for index in range(6)) + " -all"],
    ("wider.test", "TXT"): ["v=spf1 include:wide.test a mx a:mail.oak.test ?all"],
    **{(f"n{index}.test", "A"): ["192.0.2.99"] for index in range(6)},
}


def lookup(name: str, rdtype: str) -> Answer:
    values = ZONE.get((name, rdtype))
    if values:
        return Answer(Server("", ""), "ok", tuple(values))
    return Answer(Server("", ""), "empty" if any(name == owner for owner, _ in ZONE) else "nxdomain")


def judged(text: str, address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    def answers(name: str, qtype: str, *_: object, **__: object) -> list[tuple[tuple[str, str], object]]:
        found = {**ZONE, ("oak.test", "TXT"): [text]}.get((name.lower().rstrip("."), qtype), [])
        if qtype == "MX":
            return [((name, qtype), (int(value.split()[0]), value.split()[1].rstrip("."))) for value in found]
        if qtype == "AAAA":
            import ipaddress

            return [((name, qtype), ipaddress.IPv6Address(value).packed) for value in found]
        return [((name, qtype), (value.encode(),) if qtype == "TXT" else value) for value in found]

    monkeypatch.setattr(pyspf, "DNSLookup", answers)
    return pyspf.check2(i=address, s="somebody@oak.test", h="mail.oak.test")[0]


@pytest.mark.parametrize("address", ["192.0.2.10", "192.0.2.20", "192.0.2.80", "192.0.2.250", "2001:db8::10", "2001:db8::99"])
@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 mx -all",
        "v=spf1 a ~all",
        "v=spf1 a/28 -all",
        "v=spf1 mx//120 -all",
        "v=spf1 a:mail.oak.test/27//64 ?all",
        "v=spf1 ip4:192.0.2.0/27 ip6:2001:db8::/124 -all",
        "v=spf1 include:soft.test -all",
        "v=spf1 -include:strict.test +all",
        "v=spf1 redirect=strict.test",
        "v=spf1 include:twice.test -all",
        "v=spf1 include:nothing.test -all",
        "V=SPF1 MX ip4:192.0.2.250 -ALL",
        "v=spf1",
        "v=spf1 -all ip4:192.0.2.10",
        "v=spf1 ipv4:192.0.2.10 -all",
        "v=spf1 ip4:192.0.2.300 -all",
        "v=spf1 include:round.test -all",
        "v=spf1 exp=why.oak.test x-new=1 mx -all",
    ],
)
def test_who_is_permitted_is_what_receivers_say(text: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spf.permits("oak.test", text, address, lookup) == judged(text, address, monkeypatch)


@pytest.mark.parametrize(
    ("text", "lookups", "void", "unread"),
    [
        ("v=spf1 ip4:192.0.2.1 -all", 0, 0, []),
        ("v=spf1 mx a include:soft.test -all", 4, 0, []),
        ("v=spf1 include:wide.test include:wider.test -all", 18, 2, []),
        ("v=spf1 a:x.test a:y.test mx:z.test -all", 3, 3, []),
        ("v=spf1 include:twice.test include:nothing.test -all", 2, 0, ["twice.test", "nothing.test"]),
        ("v=spf1 include:round.test -all", 2, 0, ["round.test"]),
        ("v=spf1 redirect=soft.test", 2, 0, []),
        ("v=spf1 exists:%{i}.list.test ptr -all", 2, 0, []),
        ("v=spf1 A:n1.test/24 MX:oak.test -all", 2, 0, []),
    ],
)
def test_look_ups_are_counted_through_every_include(text: str, lookups: int, void: int, unread: list[str]) -> None:
    cost = spf.cost("oak.test", text, lookup)
    assert (cost.lookups, cost.void, cost.unread) == (lookups, void, unread)


def test_counting_comes_to_an_end() -> None:
    many = {"a.test": "v=spf1 " + "include:b.test " * 30, "b.test": "v=spf1 " + "include:a.test include:c.test " * 30, "c.test": "v=spf1 a"}
    asked: list[str] = []

    def endless(name: str, rdtype: str) -> Answer:
        asked.append(name)
        return Answer(Server("", ""), "ok", (many[name],)) if rdtype == "TXT" else Answer(Server("", ""), "empty")

    assert spf.cost("a.test", many["a.test"], endless).lookups > spf.LOOKUPS
    assert len(asked) < 100


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("v=spf1 ip4:192.0.2.1 mx -all", ""),
        ("v=spf1 ipv4:192.0.2.1 -all", "no such mechanism"),
        ("v=spf1 ip4:2001:db8::1 -all", "no IPv4 address"),
        ("v=spf1 include -all", "needs a value"),
        ("v=spf1 include=a.test -all", "write include:"),
        ("v=spf1 -all mx", "never read"),
        ("v=spf1 redirect=a.test redirect=b.test", "more than one redirect"),
        ("v=spf1 “mx” -all", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, wrong: str) -> None:
    found = spf.problems(text)
    assert (wrong in found[0]) if wrong else not found


@pytest.mark.parametrize(
    ("text", "is_open"), [("v=spf1 +all", True), ("v=spf1 all", True), ("v=spf1 ip4:0.0.0.0/0 -all", True), ("v=spf1 mx ?all", False)]
)
def test_a_record_for_everybody_is_open(text: str, is_open: bool) -> None:
    assert spf.is_open(text) is is_open
