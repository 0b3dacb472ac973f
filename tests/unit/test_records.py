"""Every DNS record that an inventory calls for."""

from __future__ import annotations

import textwrap
from typing import Any

import dns.rdata
import pytest
import yaml
from ansible.module_utils.mailwright import records
from ansible.module_utils.mailwright.builder import DomainFile, check
from ansible.module_utils.mailwright.compile import compile_rows
from ansible.module_utils.mailwright.reader import Reader
from ansible.module_utils.mailwright.records import Known
from hypothesis import given
from hypothesis import strategies as st

HASH = "'{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4'"
OAK = "domain: oak.test\nmailboxes: [{name: alice, password_hash: HASH}]"
BASE: dict[str, object] = {
    "mail_hostname": "mail.oak.test",
    "mail_postmaster": "alice@oak.test",
    "mail_addresses": ["192.0.2.7", "2001:DB8:0::7"],
}
DIGEST, NEXT = "ab" * 32, "cd" * 32
KNOWN = Known(
    dkim=[{"name": "s1._domainkey.oak.test", "value": "v=DKIM1; k=rsa; p=" + "A" * 392}], tlsa={"default": [DIGEST, NEXT]}, addresses=[]
)


def read(*domains: str, **variables: object) -> tuple[Any, Reader]:
    reader = Reader()
    files = [DomainFile(yaml.safe_load(textwrap.dedent(text).replace("HASH", HASH)), "") for text in domains]
    return check(reader, {**BASE, **variables}, files, in_clear=lambda _: False), reader


def dns_rows(*domains: str, **variables: object) -> dict[str, Any]:
    model, reader = read(*domains, **variables)
    assert reader.report.problems == []
    return dict(compile_rows(model)["dns"])


def made(*domains: str, known: Known = KNOWN, **variables: object) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for record in records.expected(dns_rows(*domains, **variables), known):
        found.setdefault((record.name, record.type), []).append(record.value)
    return found


def problems(*domains: str, **variables: object) -> list[str]:
    return [str(problem) for problem in read(*domains, **variables)[1].report.problems]


def test_the_whole_set_of_a_host_and_a_domain() -> None:
    assert made(OAK, mail_tls_reports=["alice@oak.test"]) == {
        ("mail.oak.test", "A"): ["192.0.2.7"],
        ("mail.oak.test", "AAAA"): ["2001:db8::7"],
        ("7.2.0.192.in-addr.arpa", "PTR"): ["mail.oak.test"],
        ("7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR"): ["mail.oak.test"],
        ("mail.oak.test", "TXT"): ["v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 -all"],
        **{(f"_{port}._tcp.mail.oak.test", "TLSA"): [f"3 1 1 {DIGEST}", f"3 1 1 {NEXT}"] for port in (25, 465, 587)},
        ("mail.oak.test", "CAA"): ['0 issue "letsencrypt.org"', '0 issuewild ";"'],
        ("oak.test", "MX"): ["10 mail.oak.test"],
        ("oak.test", "TXT"): ["v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 ~all"],
        ("_dmarc.oak.test", "TXT"): ["v=DMARC1; p=quarantine"],
        ("_mta-sts.oak.test", "TXT"): ["v=STSv1; id=" + records.policy_id(records.mta_sts_policy("testing", ["mail.oak.test"])) + ";"],
        ("mta-sts.oak.test", "CAA"): ['0 issue "letsencrypt.org"', '0 issuewild ";"'],
        **{(f"{label}.oak.test", "A"): ["192.0.2.7"] for label in ("mta-sts", "autoconfig", "autodiscover")},
        **{(f"{label}.oak.test", "AAAA"): ["2001:db8::7"] for label in ("mta-sts", "autoconfig", "autodiscover")},
        ("_smtp._tls.oak.test", "TXT"): ["v=TLSRPTv1; rua=mailto:alice@oak.test"],
        ("_submissions._tcp.oak.test", "SRV"): ["0 1 465 mail.oak.test"],
        ("_submission._tcp.oak.test", "SRV"): ["10 1 587 mail.oak.test"],
        ("_imaps._tcp.oak.test", "SRV"): ["0 1 993 mail.oak.test"],
        ("_imap._tcp.oak.test", "SRV"): ["0 0 0 ."],
        ("_pop3s._tcp.oak.test", "SRV"): ["10 1 995 mail.oak.test"],
        ("_pop3._tcp.oak.test", "SRV"): ["0 0 0 ."],
        ("_sieve._tcp.oak.test", "SRV"): ["0 1 4190 mail.oak.test"],
        ("s1._domainkey.oak.test", "TXT"): [KNOWN.dkim[0]["value"]],  # type: ignore[index]
    }


def test_a_host_that_was_not_asked_leaves_out_what_only_it_knows() -> None:
    rows = dns_rows(OAK, mail_addresses=[])
    found = records.expected(rows)
    assert not {"A", "AAAA", "PTR", "TLSA"} & {record.type for record in found}
    assert [record.value for record in found if record.purpose == "spf"] == ["v=spf1 a:mail.oak.test -all", "v=spf1 a:mail.oak.test ~all"]
    assert [text.partition(":")[0] for text in records.unknown(rows)] == [
        "A, AAAA and PTR of mail.oak.test",
        "DKIM keys of oak.test",
        "TLSA of mail.oak.test",
    ]
    assert records.unknown(dns_rows(OAK), KNOWN) == []


def test_what_the_host_found_of_itself_serves_where_the_inventory_names_no_address() -> None:
    found = made(OAK, known=Known(addresses=["198.51.100.10"]), mail_addresses=[])
    assert found["mail.oak.test", "A"] == ["198.51.100.10"]
    assert found["oak.test", "TXT"] == ["v=spf1 ip4:198.51.100.10 ~all"]


def test_a_domain_says_what_differs_and_keeps_the_rest() -> None:
    found = made(
        OAK + "\ndmarc: {policy: reject}\nspf: {include: [_spf.news.example]}\nmta_sts: disabled\ntls_reports: []",
        mail_dmarc={"reports": ["alice@oak.test"], "strict": True, "subdomain_policy": "none"},
        mail_spf={"all": "-all", "addresses": ["198.51.100.0/24", "198.51.100.9"]},
        mail_tls_reports=["alice@oak.test"],
    )
    assert found["_dmarc.oak.test", "TXT"] == ["v=DMARC1; p=reject; sp=none; adkim=s; aspf=s; rua=mailto:alice@oak.test"]
    addresses = "ip4:192.0.2.7 ip6:2001:db8::7 ip4:198.51.100.0/24 ip4:198.51.100.9"
    assert found["oak.test", "TXT"] == [f"v=spf1 {addresses} include:_spf.news.example -all"]
    assert not [name for name, _ in found if "mta-sts" in name or "_smtp" in name]


def test_reports_to_another_organisation_are_authorised_there() -> None:
    elm = "domain: elm.test\ndmarc: {reports: ['a+b&c@oak.test', x@sub.elm.test, y@reports.example]}"
    both = records.expected(dns_rows(OAK + "\ncatch_all: alice", elm), KNOWN)
    found = {record.name: record for record in both if record.purpose == "dmarc-report"}
    assert set(found) == {"elm.test._report._dmarc.oak.test", "elm.test._report._dmarc.reports.example"}
    assert {record.value for record in found.values()} == {"v=DMARC1;"}
    assert {name: record.elsewhere for name, record in found.items()} == {
        "elm.test._report._dmarc.oak.test": False,
        "elm.test._report._dmarc.reports.example": True,
    }
    dmarc = next(record.value for record in both if record.name == "_dmarc.elm.test")
    assert dmarc.endswith("rua=mailto:a+b%26c@oak.test,mailto:x@sub.elm.test,mailto:y@reports.example")


def test_other_kinds_of_domains() -> None:
    found = made(
        OAK,
        "domain: ash.test\nalias_of: oak.test\ndmarc: {policy: none}",
        "domain: yew.test\nrelay: {next_hop: '[mx.yew.test]'}\nverify_recipients: true",
        "domain: birch.test\nrelay: {next_hop: birch.test}\nrecipients: [known]",
        "domain: moss.test\nparked: true",
    )
    assert found["ash.test", "MX"] == ["10 mail.oak.test"]
    assert found["_dmarc.ash.test", "TXT"] == ["v=DMARC1; p=none"]
    assert found["birch.test", "MX"] == ["20 mail.oak.test"]
    assert {key: value for key, value in found.items() if key[0].endswith("yew.test")} == {("yew.test", "MX"): ["10 mail.oak.test"]}
    assert {key: value for key, value in found.items() if key[0].endswith("moss.test")} == {
        ("moss.test", "MX"): ["0 ."],
        ("moss.test", "TXT"): ["v=spf1 -all"],
        ("_dmarc.moss.test", "TXT"): ["v=DMARC1; p=reject; adkim=s; aspf=s"],
        ("*._domainkey.moss.test", "TXT"): ["v=DKIM1; p="],
    }


def test_a_parked_domain_is_not_served() -> None:
    model, _ = read(OAK, "domain: moss.test\nparked: true")
    assert [row["name"] for row in compile_rows(model)["domains"]] == ["oak.test"]


def test_a_name_with_records_of_its_own_gets_no_cname() -> None:
    found = made(
        OAK, "domain: mta-sts.oak.test", mail_addresses=[], mail_hostnames=["autoconfig.oak.test"], known=Known(addresses=["192.0.2.7"])
    )
    assert ("autoconfig.oak.test", "CNAME") not in found
    assert ("mta-sts.oak.test", "CNAME") not in found
    assert found["autoconfig.oak.test", "A"] == ["192.0.2.7"]
    assert found["mta-sts.mta-sts.oak.test", "CNAME"] == ["mail.oak.test"]


def test_names_with_a_certificate_of_their_own_lead_to_the_host() -> None:
    found = made(OAK + "\ncertificate: [imap.oak.test]")
    assert found["imap.oak.test", "A"] == ["192.0.2.7"]
    assert made(OAK + "\ncertificate: [imap.oak.test]", mail_addresses=[])["imap.oak.test", "CNAME"] == ["mail.oak.test"]


def test_letters_of_any_script_are_a_labels() -> None:
    assert made(OAK, "domain: bücher.test")["xn--bcher-kva.test", "MX"] == ["10 mail.oak.test"]


def test_authorities_are_named_where_they_are_known() -> None:
    assert ("mail.oak.test", "CAA") not in made(OAK, certificates_source="provided")
    assert ("mail.oak.test", "CAA") not in made(OAK, certificates_acme_directory="https://ca.example/dir")
    caa = {"issue": ["ca.example"], "account": "https://ca.example/acct/1", "wildcard": ["ca.example"], "report": "alice@oak.test"}
    assert made(OAK, mail_caa=caa)["mail.oak.test", "CAA"] == [
        '0 issue "ca.example; accounturi=https://ca.example/acct/1"',
        '0 issuewild "ca.example"',
        '0 iodef "mailto:alice@oak.test"',
    ]


def test_a_service_that_is_off_is_said_to_be_absent() -> None:
    assert made(OAK, dovecot_pop3_enabled=False)["_pop3s._tcp.oak.test", "SRV"] == ["0 0 0 ."]


def test_the_id_of_a_policy_changes_with_its_text_alone() -> None:
    testing, enforce = (records.mta_sts_policy(mode, ["mail.oak.test"]) for mode in ("testing", "enforce"))
    assert testing == "version: STSv1\nmode: testing\nmx: mail.oak.test\nmax_age: 86400\n"
    assert records.policy_id(testing) == records.policy_id(testing) != records.policy_id(enforce)
    # RFC 8461, 3.1
    assert records.policy_id(testing).isalnum()
    assert len(records.policy_id(testing)) <= 32


def test_every_record_is_read_by_dnspython() -> None:
    caa = {"issue": ["ca.example"], "account": "https://ca.example/acct/1", "report": "alice@oak.test"}
    for record in records.expected(
        dns_rows(OAK, "domain: moss.test\nparked: true", mail_caa=caa, mail_tls_reports=["alice@oak.test"]), KNOWN
    ):
        assert dns.rdata.from_text("IN", record.type, record.data)


@given(st.text(max_size=700))
def test_any_text_comes_back_from_its_strings(text: str) -> None:
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        return
    read_back = dns.rdata.from_text("IN", "TXT", records.quoted(text))
    assert b"".join(read_back.strings) == octets
    assert max(map(len, read_back.strings)) <= 255


def test_zones_of_names() -> None:
    rows = dns_rows(OAK, "domain: sub.oak.test", mail_hostname="mx.host.example")
    assert records.zones(rows) == ["host.example", "oak.test"]
    for name, zone in {
        "s1._domainkey.sub.oak.test": "oak.test",
        "mx.host.example": "host.example",
        "other.example": None,
        "7.2.0.192.in-addr.arpa": "2.0.192.in-addr.arpa",
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
    }.items():
        assert records.zone_of(name, records.zones(rows)) == zone


UPDATE = {"server": "192.0.2.53", "key_name": "mail", "secret": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}


def test_declared_zones_come_first() -> None:
    rows = dns_rows(OAK, "domain: sub.oak.test", mail_dns_updates=[{**UPDATE, "zones": ["sub.oak.test"]}, UPDATE])
    assert records.zones(rows) == ["oak.test", "sub.oak.test"]


@pytest.mark.parametrize(
    ("domain", "variables", "told"),
    [
        (OAK, {"mail_addresses": ["127.0.0.1"]}, "mail_addresses[0]: 127.0.0.1: not an address that others can reach"),
        (OAK, {"mail_addresses": ["oak.test"]}, "mail_addresses[0]: oak.test: not an IPv4 or IPv6 address; write 192.0.2.7 or 2001:db8::7"),
        (OAK, {"mail_spf": {"all": "+all"}}, "mail_spf.all: +all: not one of ~all, -all, ?all; did you mean ~all?"),
        (OAK, {"mail_spf": {"addresses": ["0.0.0.0/0"]}}, "mail_spf.addresses[0]: 0.0.0.0/0: it is everybody"),
        (
            OAK,
            {"mail_spf": {"include": [f"a{n}.test" for n in range(11)]}},
            "mail_spf.include: 11 look-ups, 10 are allowed; name addresses",
        ),
        (OAK + "\nspf: {include: [oak.test]}", {}, "spf.include: oak.test: the domain itself: a record that includes itself is void"),
        (OAK, {"mail_spf": {"include": ["a b"]}}, "mail_spf.include[0]: a b: space not allowed"),
        (OAK, {"mail_dmarc": {"policy": "nonee"}}, "mail_dmarc.policy: nonee: not one of none, quarantine, reject; did you mean none?"),
        (OAK, {"mail_dmarc": {"reports": ["alise@oak.test"]}}, "mail_dmarc.reports[0]: alise@oak.test: no mailbox or alias"),
        (OAK + "\ndmarc: {pct: 101}", {}, "dmarc.pct: unknown key"),
        (OAK, {"mail_mta_sts": "on"}, "mail_mta_sts: on: not one of disabled, none, testing, enforce"),
        (OAK, {"mail_mta_sts": "enforce", "certificates_source": "self_signed"}, "others would refuse to send here"),
        (OAK, {"mail_tls_reports": ["nobody@oak.test"]}, "mail_tls_reports[0]: nobody@oak.test: no mailbox or alias"),
        (OAK, {"mail_caa": {"account": 'x"; y'}}, 'mail_caa.account: x"; y: not the address of an account'),
        (OAK, {"mail_dns_ttl": "8d"}, "mail_dns_ttl: 8d: longer than 1w; mistakes stay in caches as long as this"),
        (OAK, {"mail_dns_updates": [{**UPDATE, "secret": "?"}]}, "mail_dns_updates[0].secret: ***: not base64"),
        (OAK, {"mail_dns_updates": [{**UPDATE, "secret": "c2VjcmV0"}]}, "mail_dns_updates[0].secret: ***: 6 octets, 16 are needed"),
        (OAK, {"mail_dns_updates": [{**UPDATE, "port": 0}]}, "mail_dns_updates[0].port: 0: not a port from 1 to 65535"),
        (OAK, {"mail_dns_updates": [UPDATE, UPDATE]}, "mail_dns_updates[1]: all zones are also named at mail_dns_updates[0]"),
        (OAK, {"mail_dns_updates": [{**UPDATE, "zones": ["a.test", "A.test"]}]}, "mail_dns_updates[0].zones[1]: a.test: duplicate of"),
        (OAK, {"mail_dns_updates": [{**UPDATE, "algorithm": "hmac-md5"}]}, "algorithm: hmac-md5: not one of hmac-sha256"),
        ("domain: oak.test\nparked: true\nmailboxes: [{name: a, password_hash: HASH}]", {}, "mailboxes: not for a parked domain"),
    ],
)
def test_what_cannot_be_published_is_refused(domain: str, variables: dict[str, object], told: str) -> None:
    found = problems(domain, **variables)
    assert any(told in text for text in found), found


def test_a_secret_in_clear_is_refused_and_not_shown() -> None:
    reader = Reader()
    files = [DomainFile(yaml.safe_load(OAK.replace("HASH", HASH)), "")]
    check(reader, {**BASE, "mail_dns_updates": [UPDATE]}, files, in_clear=lambda _: True)
    (found,) = map(str, reader.report.problems)
    assert found == "mail_dns_updates[0].secret: ***: secret in clear in an unencrypted file; encrypt it with ansible-vault"


def test_the_secret_is_in_no_setting() -> None:
    model, _ = read(OAK, mail_dns_updates=[UPDATE])
    rows = compile_rows(model)
    assert rows["dns_updates"][0]["secret"] == UPDATE["secret"]
    assert UPDATE["secret"] not in str({**rows, "dns_updates": None}) + repr(model)
