"""What the inventory says of incoming mail's authentication, of reports, and of how outgoing mail presents itself."""

from __future__ import annotations

import pytest
from test_compile import compiled
from test_model import problems

OAK = "{domain: oak.test, aliases: [{name: reports, to: [x@good.test]}, {name: alice, to: [x@good.test]}]}"


def test_without_a_word_dmarc_is_followed_and_the_rest_is_a_matter_of_scores() -> None:
    authentication = compiled(OAK)["settings"]["authentication"]
    assert authentication["dmarc"] == {"reject": "reject", "quarantine": "junk", "none": "score", "temperror": "score"}
    assert {*authentication["spf"].values(), *authentication["dkim"].values()} == {"score"}
    assert authentication["arc"] == {"trusted_sealers": []}


def test_what_is_declared_replaces_only_itself() -> None:
    authentication = compiled(OAK, mail_authentication={"spf": {"fail": "junk"}, "arc": {"trusted_sealers": ["Lists.Example"]}})[
        "settings"
    ]["authentication"]
    assert authentication["spf"] == {"fail": "junk", "softfail": "score", "permerror": "score", "temperror": "score"}
    assert authentication["dmarc"]["reject"] == "reject"
    assert authentication["arc"]["trusted_sealers"] == ["lists.example"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"spf": {"fail": "bounce"}}, "mail_authentication.spf.fail: bounce: not one of score, junk, defer, reject"),
        ({"spf": {"hardfail": "junk"}}, "mail_authentication.spf.hardfail: unknown key"),
        ({"arc": {"trusted_sealers": ["a b"]}}, "mail_authentication.arc.trusted_sealers[0]: a b: space not allowed"),
        ({"dmark": {}}, "mail_authentication.dmark: unknown key"),
    ],
)
def test_consequences_are_checked(value: object, problem: str) -> None:
    assert problem in problems(OAK, mail_authentication=value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            {"organisation": "Oak", "from": "reports@pine.test"},
            "mail_dmarc_reports.from: reports@pine.test: not in a domain delivered here",
        ),
        ({"organisation": "Oak", "from": "nobody@oak.test"}, "mail_dmarc_reports.from: nobody@oak.test: no mailbox or alias"),
        ({"organisation": "Oak\nBcc: x", "from": "reports@oak.test"}, "mail_dmarc_reports.organisation: "),
        ({"organisation": " ", "from": "reports@oak.test"}, "mail_dmarc_reports.organisation: "),
        ({"organisation": "Oak"}, "mail_dmarc_reports: required key from is missing"),
    ],
)
def test_reports_have_a_sender_that_exists_here_and_a_name(value: object, problem: str) -> None:
    found = problems(OAK, mail_dmarc_reports=value)
    assert problem in found


def test_reports_are_sent_only_where_that_is_declared() -> None:
    assert compiled(OAK)["settings"]["dmarc_reports"] == {"organisation": None, "from": None}
    declared = {"organisation": "Öak & Söhne", "from": "reports@oak.test"}
    assert compiled(OAK, mail_dmarc_reports=declared)["settings"]["dmarc_reports"] == declared


def test_mail_leaves_from_one_address_of_each_family() -> None:
    settings = compiled(OAK, mail_source_addresses=["2001:DB8:0::7", "192.0.2.7"], mail_helo_name="Out.Oak.test")["settings"]
    assert settings["source_addresses"] == ["192.0.2.7", "2001:db8::7"]
    assert settings["helo_name"] == "out.oak.test"
    found = problems(OAK, mail_source_addresses=["192.0.2.7", "192.0.2.8", "127.0.0.1", "x"])
    assert "mail_source_addresses[1]: 192.0.2.8: a second address of IPv4" in found
    assert "mail_source_addresses[2]: 127.0.0.1: not an address that others can reach" in found
    assert "mail_source_addresses[3]: x: not an IPv4 or IPv6 address" in found


def test_policies_for_subdomains_come_once_more_with_the_nearest_first() -> None:
    policies = [{"destination": name, "level": "may"} for name in (".b.test", ".a.b.test", "b.test")]
    assert [row["key"] for row in compiled(OAK, mail_tls_policies=policies)["tls_policies_subdomains"]] == [".a.b.test", ".b.test"]
