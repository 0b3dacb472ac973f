"""What an update of a zone would change."""

from __future__ import annotations

from ansible.module_utils.mailwright.dns_plan import (
    MARKER_LIMIT,
    Present,
    ZonePlan,
    digest,
    make_zone_plan,
    marker_name,
    read_marker,
)
from ansible.module_utils.mailwright.records import Record
from hypothesis import given
from hypothesis import strategies as st

ZONE, HOST = "oak.test", "mail.oak.test"
Sets = dict[tuple[str, str], Present]


def record(name: str, kind: str, value: str, ttl: int = 300, shared: bool = False) -> Record:
    return Record(name, kind, value, ttl, "", "oak.test", shared=shared)


MX = record("oak.test", "MX", "10 mail.oak.test")
SPF = record("oak.test", "TXT", "v=spf1 ip4:192.0.2.7 ~all")
DKIM = record("s1._domainkey.oak.test", "TXT", "v=DKIM1; p=AAAA")
ALIAS = record("mta-sts.oak.test", "CNAME", "mail.oak.test")


def applied(plan: ZonePlan, present: Sets) -> Sets:
    """The zone afterwards."""
    sets = {key: set(there.values) for key, there in present.items()}
    ttls = {key: there.ttl for key, there in present.items()}
    for change in plan.delete:
        sets[change.name, change.type].remove(change.value)
    for change in plan.add:
        sets.setdefault((change.name, change.type), set()).add(change.value)
        ttls[change.name, change.type] = change.ttl
    return {key: Present(ttls[key], frozenset(values)) for key, values in sets.items() if values}


def published(*records: Record, host: str = HOST, present: Sets | None = None) -> Sets:
    present = present or {}
    return applied(make_zone_plan(ZONE, host, records, present), present)


def without_marker(sets: Sets) -> Sets:
    return {key: there for key, there in sets.items() if key[0] != marker_name(ZONE)}


def test_a_second_run_changes_nothing() -> None:
    sets = published(MX, SPF, DKIM, ALIAS)
    assert without_marker(sets) == {(r.name, r.type): Present(300, frozenset([r.value])) for r in (MX, SPF, DKIM, ALIAS)}
    assert not make_zone_plan(ZONE, HOST, [MX, SPF, DKIM, ALIAS], sets)


def test_only_differences_are_sent() -> None:
    other = record("oak.test", "TXT", "v=spf1 ip4:192.0.2.8 ~all")
    plan = make_zone_plan(ZONE, HOST, [MX, other, DKIM], published(MX, SPF, DKIM))
    assert plan.lines() == [
        '- oak.test. 300 TXT "v=spf1 ip4:192.0.2.7 ~all"',
        '+ oak.test. 300 TXT "v=spf1 ip4:192.0.2.8 ~all"',
    ]
    assert plan.conflicts == []


def test_what_is_no_longer_expected_goes_and_nothing_else() -> None:
    site = frozenset({SPF.value, "site-verification=1"})
    before = published(MX, SPF, DKIM, present={("oak.test", "TXT"): Present(60, frozenset({"site-verification=1"}))})
    assert before["oak.test", "TXT"].values == site
    assert published(present=before) == {("oak.test", "TXT"): Present(60, frozenset({"site-verification=1"}))}


def test_a_record_of_others_is_told_about_and_left() -> None:
    foreign: Sets = {
        ("oak.test", "MX"): Present(60, frozenset({"10 old.example"})),
        ("oak.test", "TXT"): Present(60, frozenset({"v=spf1 include:old.example -all", "site-verification=1"})),
        ("s1._domainkey.oak.test", "TXT"): Present(60, frozenset({"k=rsa; p=BBBB"})),
        ("mta-sts.oak.test", "A"): Present(60, frozenset({"192.0.2.80"})),
    }
    plan = make_zone_plan(ZONE, HOST, [MX, SPF, DKIM, ALIAS], foreign)
    assert (plan.add, plan.delete) == ([], [])
    assert [text.split(":")[0] for text in plan.conflicts] == [
        "mta-sts.oak.test CNAME",
        "oak.test MX",
        "oak.test TXT",
        "s1._domainkey.oak.test TXT",
    ]


def test_an_alias_of_others_is_no_place_for_records() -> None:
    plan = make_zone_plan(ZONE, HOST, [DKIM], {("s1._domainkey.oak.test", "CNAME"): Present(60, frozenset({"hosted.example"}))})
    assert not plan
    assert plan.conflicts == [
        "s1._domainkey.oak.test TXT: the name is an alias of hosted.example, which is not Mailwright's; remove that CNAME"
    ]


def test_an_alias_of_ours_makes_room_for_records() -> None:
    after = published(record("mta-sts.oak.test", "A", "192.0.2.7"), present=published(ALIAS))
    assert without_marker(after) == {("mta-sts.oak.test", "A"): Present(300, frozenset({"192.0.2.7"}))}


def test_a_second_mx_stands_beside_the_first() -> None:
    backup = record("oak.test", "MX", "20 mail.oak.test", shared=True)
    primary: Sets = {("oak.test", "MX"): Present(60, frozenset({"10 mx.oak.test"}))}
    after = published(backup, present=primary)
    # One TTL for the set: that of those who were there.
    assert after["oak.test", "MX"] == Present(60, frozenset({"10 mx.oak.test", "20 mail.oak.test"}))
    assert not make_zone_plan(ZONE, HOST, [backup], after)
    assert published(present=after) == primary


def test_several_hosts_keep_their_records_side_by_side() -> None:
    second = record("oak.test", "MX", "10 mx2.oak.test")
    both = published(second, host="mx2.oak.test", present=published(MX))
    assert both["oak.test", "MX"].values == {"10 mail.oak.test", "10 mx2.oak.test"}
    assert not make_zone_plan(ZONE, HOST, [MX], both)
    alone = published(host="mx2.oak.test", present=both)
    assert alone == published(MX)


def test_a_record_that_was_there_just_as_expected_becomes_ours() -> None:
    there: Sets = {("oak.test", "MX"): Present(300, frozenset({MX.value}))}
    plan = make_zone_plan(ZONE, HOST, [MX], there)
    assert plan.lines() == []
    assert published(present=applied(plan, there)) == {}


def test_a_record_that_somebody_changed_is_ours_no_more() -> None:
    sets = published(MX, SPF)
    sets["oak.test", "TXT"] = Present(300, frozenset({"v=spf1 mx -all"}))
    plan = make_zone_plan(ZONE, HOST, [MX, SPF], sets)
    assert plan.lines() == []
    assert plan.conflicts == ["oak.test TXT: there is 'v=spf1 mx -all', which is not Mailwright's; remove it there and run again"]
    assert without_marker(published(present=sets)) == {("oak.test", "TXT"): Present(300, frozenset({"v=spf1 mx -all"}))}


def test_a_new_lifetime_is_a_difference() -> None:
    later = record("oak.test", "MX", MX.value, ttl=60)
    assert make_zone_plan(ZONE, HOST, [later], published(MX)).lines() == [
        "- oak.test. 300 MX 10 mail.oak.test.",
        "+ oak.test. 60 MX 10 mail.oak.test.",
    ]


def test_a_marker_that_no_message_could_hold_is_refused() -> None:
    many = [record(f"d{number}.oak.test", "MX", "10 mail.oak.test") for number in range(MARKER_LIMIT // 40)]
    plan = make_zone_plan(ZONE, HOST, many, {})
    assert not plan
    assert "zones of their own" in plan.conflicts[0]


VALUES = st.sampled_from(["v=spf1 -all", "v=spf1 ~all", "token", "v=DMARC1; p=none"])
NAMES = st.sampled_from(["oak.test", "_dmarc.oak.test", "a.oak.test"])
RECORDS = st.lists(st.builds(lambda name, value: record(name, "TXT", value), NAMES, VALUES), max_size=5)


@given(RECORDS, RECORDS, RECORDS)
def test_what_others_have_is_never_lost(foreign: list[Record], first: list[Record], second: list[Record]) -> None:
    present: Sets = {}
    for row in foreign:
        present[row.name, row.type] = Present(60, present.get((row.name, row.type), Present(60, frozenset())).values | {row.value})
    after = published(*second, present=published(*first, present=present))
    adopted = {(row.name, row.value) for row in (*first, *second)}
    for (name, kind), there in present.items():
        kept = {value for value in there.values if (name, value) not in adopted}
        assert kept <= after.get((name, kind), Present(0, frozenset())).values
    # Without anything expected, nothing of ours is left.
    assert marker_name(ZONE) not in {name for name, _ in published(present=after)}


@given(st.lists(st.tuples(NAMES, st.sampled_from(["TXT", "MX"]), VALUES.map(digest)), max_size=6).map(set))
def test_a_marker_is_read_back(owned: set[tuple[str, str, str]]) -> None:
    texts = [f"{HOST} {name.removesuffix('.oak.test') if name != ZONE else '@'} {kind}:{value}" for name, kind, value in owned]
    assert read_marker(ZONE, texts).get(HOST, set()) == owned


def test_what_is_no_marker_is_nobodys() -> None:
    words = ["", "hello", "mail.oak.test @ MX", "mail.oak.test @ SOA:abcdefgh", "mail.oak.test a..b MX:abcdefgh", "mail.oak.test @ MX:../x"]
    assert read_marker(ZONE, words) == {}
    present = {(marker_name(ZONE), "TXT"): Present(60, frozenset(words))}
    assert published(present=present) == present
