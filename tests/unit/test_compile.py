"""The rows that modules and templates read: what an inventory means."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.mailwright import directory, staging
from ansible.module_utils.mailwright.builder import DomainFile, check
from ansible.module_utils.mailwright.compile import compile_rows
from ansible.module_utils.mailwright.reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

HASH = "'{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4'"
OAK = """
    domain: oak.test
    mailboxes:
      - {name: alice, password_hash: HASH, aliases: [sales], spam: high}
      - {name: bob, password_hash: HASH, protocols: {pop3: false, submission: false}, junk_filing: false}
      - {name: robot, password: hunter2, send_only: true, password_update: on_create, aliases: [cron]}
      - {name: reader, password_hash: HASH, receive_only: true, quota: unlimited}
      - {name: gone, password_hash: HASH, enabled: false}
    aliases:
      - {name: team, to: [alice, bob, friend@good.test]}
      - {name: office, to: [team, reader+x], send_as: true}
      - {name: outside, to: [friend@good.test], send_as: true}
    alias_patterns:
      - {pattern: 'ticket-[0-9]+', to: [bob, alice]}
    """
ELM = """
    domain: elm.test
    catch_all: dave
    spam: {greylist: 3, junk: 5, reject: 12}
    dkim: false
    mailboxes:
      - {name: dave, password_hash: HASH}
      - {name: erin, password_hash: HASH}
    """
BASE: dict[str, object] = {"mail_hostname": "mail.oak.test", "mail_postmaster": "alice@oak.test"}


def compiled(*domains: str, **variables: object) -> dict[str, Any]:
    reader = Reader()
    files = [DomainFile(yaml.safe_load(textwrap.dedent(text).replace("HASH", HASH)), "") for text in domains]
    model = check(reader, {**BASE, **variables}, files, in_clear=lambda _: False)
    assert reader.report.problems == []
    assert model is not None
    return compile_rows(model)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return compiled(OAK, ELM)


def table(rows: dict[str, Any], name: str) -> dict[str, str]:
    return {row["key"]: row["value"] for row in rows["maps"][name]}


def mailbox(rows: dict[str, Any], address: str) -> dict[str, Any]:
    return next(row for row in rows["mailboxes"] if row["address"] == address)


def aliases(rows: dict[str, Any]) -> dict[str, list[str]]:
    return {row["address"]: row["to"] for row in rows["aliases"]}


def test_the_rows_have_the_keys_that_the_architecture_names(rows: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("holds plain JSON types")[2].partition("Lookup tables")[0]
    assert {*re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE), "settings"} == set(rows)


def test_the_rows_are_plain_json(rows: dict[str, Any]) -> None:
    assert json.loads(json.dumps(rows)) == rows


def test_a_mailbox_row_is_complete(rows: dict[str, Any]) -> None:
    assert mailbox(rows, "robot@oak.test") == {
        "address": "robot@oak.test",
        "password": "hunter2",
        "password_hash": None,
        "password_update": "on_create",
        "quota_bytes": 5 * 2**30,
        "denied_protocols": [],
        "enabled": True,
        "junk_filing": True,
        "extras": {},
    }
    assert mailbox(rows, "bob@oak.test")["junk_filing"] is False
    assert mailbox(rows, "reader@oak.test")["quota_bytes"] == 0


@pytest.mark.parametrize(
    ("address", "denied"),
    [
        ("alice@oak.test", []),
        ("bob@oak.test", ["pop3", "smtp"]),
        ("reader@oak.test", ["smtp"]),
        ("gone@oak.test", ["imap", "pop3", "sieve", "smtp"]),
    ],
)
def test_protocols_are_denied_by_switch_by_kind_and_with_the_mailbox(rows: dict[str, Any], address: str, denied: list[str]) -> None:
    assert mailbox(rows, address)["denied_protocols"] == denied


def test_retention_and_trash_are_those_of_the_host_or_of_the_mailbox() -> None:
    domain = """
        domain: oak.test
        mailboxes:
          - {name: alice, password_hash: HASH}
          - {name: b, password_hash: HASH, junk_retention: 1d, trash_retention: unlimited, deleted_to_trash: false}
        """
    found = compiled(domain, mail_junk_retention="1w", mail_trash_retention="1h", mail_deleted_to_trash=True)
    assert mailbox(found, "alice@oak.test")["extras"] == {"junk_retention": "604800", "trash_retention": "3600", "deleted_to_trash": "yes"}
    assert mailbox(found, "b@oak.test")["extras"] == {"junk_retention": "86400"}
    assert found["deleted_to_trash"] is True
    assert compiled(domain)["deleted_to_trash"] is False


def test_public_folders_are_lists_of_rights_and_groups_of_the_domain_alone() -> None:
    oak = """
        domain: oak.test
        public_quota: 1M
        mailboxes: [{name: alice, password_hash: HASH}, {name: bob, password_hash: HASH}]
        groups: [{name: staff, members: [bob, dave@elm.test]}]
        public_folders:
          - {name: A/B, address: post, everyone: read, access: [{who: staff, rights: add}, {who: alice, rights: write}]}
        """
    found = compiled(oak, "{domain: elm.test, mailboxes: [{name: dave, password_hash: HASH}]}")
    assert found["public_folders"] == {
        "oak.test": {".A.B": "anyone lrs\nuser=alice@oak.test lrswipte\ngroup=staff@oak.test lrsip\n"},
    }
    assert mailbox(found, "bob@oak.test")["extras"] == {"acl_groups": "staff@oak.test", "public_quota": "1048576"}
    assert mailbox(found, "alice@oak.test")["extras"] == {"public_quota": "1048576"}
    assert mailbox(found, "dave@elm.test")["extras"] == {}
    post = mailbox(found, "post@oak.test")
    assert post["extras"] == {"folder": "oak.test/.A.B", "public_quota": "1048576"}
    assert (post["quota_bytes"], post["denied_protocols"]) == (2**20, ["imap", "pop3", "sieve", "smtp"])
    assert found["deleted_to_trash"] is False


def test_scripts_are_files_by_place_and_owner(rows: dict[str, Any]) -> None:
    found = compiled(
        "{domain: oak.test, sieve_after: stop;, mailboxes: [{name: alice, password_hash: HASH, sieve_before: keep;}]}",
        mail_sieve_before="a;\n",
    )
    assert found["sieve_scripts"] == {
        "before/host.sieve": "a;\n",
        "before/alice@oak.test.sieve": "keep;\n",
        "after/oak.test.sieve": "stop;\n",
    }
    assert rows["sieve_scripts"] == {}


def test_mail_to_send_only_and_disabled_mailboxes_is_refused_under_all_their_names(rows: dict[str, Any]) -> None:
    assert table(rows, "recipient_access") == {
        "robot@oak.test": "REJECT 5.7.1 This mailbox receives no mail",
        "cron@oak.test": "REJECT 5.7.1 This mailbox receives no mail",
        "gone@oak.test": "550 5.2.1 Mailbox disabled",
    }


def test_a_sender_belongs_to_its_mailbox_and_declared_aliases_to_their_members(rows: dict[str, Any]) -> None:
    senders = table(rows, "sender_logins")
    assert senders["alice@oak.test"] == senders["sales@oak.test"] == "alice@oak.test"
    assert senders["cron@oak.test"] == "robot@oak.test"
    assert senders["office@oak.test"] == "alice@oak.test,bob@oak.test,reader@oak.test"
    assert not {"team@oak.test", "outside@oak.test", "postmaster@oak.test", "@elm.test"} & set(senders)


def test_own_domains_and_their_subdomains_are_refused_as_foreign_senders(rows: dict[str, Any]) -> None:
    domains = table(rows, "own_domains")
    assert set(domains) == {"oak.test", ".oak.test", "elm.test", ".elm.test"}
    assert all(value.startswith("REJECT 5.7.1 ") for value in domains.values())


def test_a_catch_all_leaves_mailboxes_and_aliases_alone(rows: dict[str, Any]) -> None:
    found = aliases(rows)
    assert found["@elm.test"] == ["dave@elm.test"]
    assert found["dave@elm.test"] == ["dave@elm.test"]
    assert found["erin@elm.test"] == ["erin@elm.test"]
    assert found["abuse@elm.test"] == ["alice@oak.test"]
    # No catch-all, no entries to themselves.
    assert "alice@oak.test" not in found


def test_a_pattern_matches_whole_addresses_of_its_domain_only(rows: dict[str, Any]) -> None:
    (row,) = rows["alias_patterns"]
    assert row["to"] == ["bob@oak.test", "alice@oak.test"]
    assert re.search(row["pattern"], "ticket-12@oak.test")
    for address in ("xticket-12@oak.test", "ticket-12x@oak.test", "ticket-12@oakxtest", "ticket-12@oak.test.evil.test"):
        assert not re.search(row["pattern"], address)


def test_spam_settings_are_those_that_differ_for_every_name_of_a_mailbox(rows: dict[str, Any]) -> None:
    high = {"greylist": 3.0, "junk": 4.5, "reject": 10.0}
    assert rows["spam_settings"] == [
        {"recipient": "@elm.test", "greylist": 3.0, "junk": 5.0, "reject": 12.0},
        {"recipient": "alice@oak.test", **high},
        {"recipient": "sales@oak.test", **high},
    ]


def test_who_passes_mail_on_to_other_servers_is_known_to_the_filter(rows: dict[str, Any]) -> None:
    assert rows["forwarders"] == ["office@oak.test", "outside@oak.test", "team@oak.test"]
    box = "domain: oak.test\nmailboxes: [{name: alice, password_hash: HASH, forward: [friend@good.test], aliases: [a]}]"
    found = compiled(box + "\ncatch_all: alice", "domain: twin.test\nalias_of: oak.test")["forwarders"]
    assert {"@oak.test", "a@oak.test", "alice@oak.test", "alice@twin.test", "@twin.test"} <= set(found)


def test_dkim_keys_are_wanted_for_each_domain_that_signs(rows: dict[str, Any]) -> None:
    assert rows["dkim_keys"] == [
        {"domain": "oak.test", "selector": None, "algorithm": "rsa", "bits": 2048, "private_key": None, "shared": False},
        {"domain": "oak.test", "selector": None, "algorithm": "ed25519", "bits": None, "private_key": None, "shared": False},
    ]


def test_transports_and_policies_are_written_as_postfix_reads_them() -> None:
    rows = compiled(
        OAK,
        mail_transports=[
            {"destination": "a.test", "next_hop": "[hub.test]", "port": 25},
            {"destination": ".a.test", "next_hop": "hub.test", "transport": "relay"},
            {"destination": "Who@b.test", "next_hop": "[2001:db8::1]", "transport": "lmtp", "port": 24},
        ],
        mail_tls_policies=[
            {"destination": "a.test", "level": "secure", "match": [".a.test", "hub.test"]},
            {"destination": "[hub.test]:25", "level": "dane-only"},
            {"destination": "old.test", "level": "none", "allow_plaintext": True},
        ],
    )
    assert table(rows, "transports") == {
        "a.test": "smtp:[hub.test]:25",
        ".a.test": "relay:hub.test",
        "who@b.test": "lmtp:[2001:db8::1]:24",
    }
    assert table(rows, "tls_policies") == {
        "a.test": "secure match=.a.test:hub.test",
        "[hub.test]:25": "dane-only",
        "old.test": "none",
    }


ASH = """
    domain: ash.test
    relay: {next_hop: "[mx.ash.test]", port: 2525, tls: secure}
    recipients: [zoe, yan]
    spam: high
    """
BIRCH = """
    domain: birch.test
    relay: {next_hop: birch.test}
    verify_recipients: true
    """


def test_a_relayed_domain_has_a_route_and_tells_at_rcpt_who_exists() -> None:
    rows = compiled(OAK, ASH, BIRCH)
    assert rows["relayed_domains"] == [{"name": "ash.test"}, {"name": "birch.test"}]
    assert table(rows, "relay_domains") == {"ash.test": "OK", "birch.test": "OK"}
    assert table(rows, "transports") == {"ash.test": "relay:[mx.ash.test]:2525", "birch.test": "relay:birch.test"}
    assert table(rows, "tls_policies") == {"[mx.ash.test]:2525": "secure"}
    listed = ("zoe", "yan", "postmaster", "abuse", "hostmaster", "webmaster")
    assert table(rows, "relay_recipients") == {
        "ash.test": "550 5.1.1 No such recipient",
        **{f"{name}@ash.test": "DUNNO" for name in listed},
        "birch.test": "reject_unverified_recipient",
    }
    assert aliases(rows)["abuse@ash.test"] == ["alice@oak.test"]
    assert "abuse@birch.test" not in aliases(rows)


def test_a_relayed_domain_is_somebody_elses() -> None:
    """Its users send through its own server: no forgery protection here, no keys, no logins."""
    rows = compiled(OAK, ASH, BIRCH)
    assert {row["name"] for row in rows["domains"]} == {"oak.test"}
    assert set(table(rows, "own_domains")) == {"oak.test", ".oak.test"}
    assert {key["domain"] for key in rows["dkim_keys"]} == {"oak.test"}
    assert {"recipient": "@ash.test", "greylist": 3.0, "junk": 4.5, "reject": 10.0} in rows["spam_settings"]


def test_a_route_for_subdomains_leaves_our_own_names_below_alone() -> None:
    rows = compiled(
        OAK,
        "domain: lists.oak.test",
        ASH.replace("ash", "ash.oak"),
        mail_transports=[{"destination": ".oak.test", "next_hop": "[hub.test]"}],
    )
    assert table(rows, "transports") == {
        ".oak.test": "smtp:[hub.test]",
        "lists.oak.test": ":",
        "mail.oak.test": ":",
        "ash.oak.test": "relay:[mx.ash.oak.test]:2525",
    }


def test_a_slow_lane_goes_to_the_mx_hosts_or_to_a_server() -> None:
    rows = compiled(
        OAK,
        mail_transports=[
            {"destination": "a.test", "transport": "turtle"},
            {"destination": "b.test", "transport": "polite", "next_hop": "[hub.test]", "port": 26},
        ],
    )
    assert table(rows, "transports") == {"a.test": "turtle:", "b.test": "polite:[hub.test]:26"}


LOGIN = {"next_hop": "[smart.test]", "port": 587, "user": "relay", "password": "hunter2"}


def test_a_smarthost_is_chosen_by_recipient_by_sender_and_for_the_rest() -> None:
    rows = compiled(
        OAK,
        mail_relays=[
            LOGIN,
            {**LOGIN, "sender": "Alice@oak.test", "user": "alice", "tls": "encrypt", "next_hop": "[other.test]"},
            {"sender": "oak.test", "next_hop": "[inner.test]"},
            {**LOGIN, "recipient": "partner.test"},
        ],
    )
    assert table(rows, "sender_transports") == {
        "<>": "smarthost:[smart.test]:587",
        "@mail.oak.test": "smarthost:[smart.test]:587",
        "alice@oak.test": "sender-smarthost:[other.test]:587",
        "@oak.test": "smtp:[inner.test]",
    }
    assert table(rows, "transports") == {"partner.test": "smarthost:[smart.test]:587"}
    assert table(rows, "tls_policies") == {"[smart.test]:587": "secure", "[other.test]:587": "encrypt"}
    assert rows["relay_passwords"] == [
        {"key": "[smart.test]:587", "value": "relay:hunter2"},
        {"key": "alice@oak.test", "value": "alice:hunter2"},
    ]


def test_the_password_of_a_smarthost_is_in_its_own_table_only() -> None:
    rows = compiled(OAK.replace("hunter2", "hunter3"), mail_relays=[LOGIN])
    del rows["relay_passwords"]
    assert "hunter2" not in json.dumps(rows)


def test_without_smarthosts_mail_goes_to_its_mx_hosts(rows: dict[str, Any]) -> None:
    assert set(table(rows, "sender_transports").values()) == {"smtp:"}
    assert rows["relay_passwords"] == []


def test_access_lists_name_a_domain_with_its_subdomains() -> None:
    rows = compiled(
        OAK,
        mail_access=[
            {"action": "block", "client": "mx.spam.test", "reply": "450 4.7.1 Later"},
            {"action": "block", "client": ".spam.test"},
            {"action": "allow", "helo": "printer.test"},
            {"action": "block", "sender": "Bad.test"},
            {"action": "block", "sender": ".top"},
            {"action": "allow", "sender": "One@bad.test"},
            {"action": "block", "recipient": "alice@oak.test"},
        ],
    )
    answer = "554 5.7.1 Refused by local policy"
    assert table(rows, "blocked_clients") == {
        "mx.spam.test": "450 4.7.1 Later",
        ".mx.spam.test": "450 4.7.1 Later",
        ".spam.test": answer,
    }
    assert table(rows, "allowed_helos") == {"printer.test": "OK", ".printer.test": "OK"}
    assert table(rows, "blocked_senders") == {"bad.test": answer, ".bad.test": answer, ".top": answer}
    assert table(rows, "allowed_senders") == {"one@bad.test": "OK"}
    assert table(rows, "blocked_recipients") == {"alice@oak.test": answer}


def test_of_two_access_entries_that_cover_a_name_the_one_that_names_it_counts() -> None:
    wide, narrow = {"action": "block", "sender": "a.test"}, {"action": "block", "sender": ".a.test", "reply": "450 4.7.1 Later"}
    for entries in ([wide, narrow], [narrow, wide]):
        assert table(compiled(OAK, mail_access=entries), "blocked_senders")[".a.test"] == "450 4.7.1 Later"


def test_networks_and_pairs_are_for_the_configuration() -> None:
    rows = compiled(
        OAK,
        mail_access=[
            {"action": "block", "client": "192.0.2.0/24", "reply": "550 5.7.1 No"},
            {"action": "block", "client": "192.0.2.7"},
            {"action": "allow", "client": "2001:DB8::/32"},
            {"action": "block", "sender": "a.test", "recipient": "alice@oak.test"},
            {"action": "block", "sender": "x@a.test", "recipient": "alice@oak.test", "reply": "450 4.7.1 Later"},
        ],
    )
    answer = "554 5.7.1 Refused by local policy"
    senders = [
        {"key": ".a.test", "value": answer},
        {"key": "a.test", "value": answer},
        {"key": "x@a.test", "value": "450 4.7.1 Later"},
    ]
    assert rows["access"] == {
        "allowed_networks": [{"network": "2001:db8::/32", "answer": "OK"}],
        "blocked_networks": [{"network": "192.0.2.7/32", "answer": answer}, {"network": "192.0.2.0/24", "answer": "550 5.7.1 No"}],
        "allowed_pairs": [],
        "blocked_pairs": [{"recipients": ["alice@oak.test"], "senders": senders}],
    }
    assert table(rows, "blocked_clients") == table(rows, "blocked_senders") == {}


def test_the_certificate_is_for_all_names_of_the_host() -> None:
    rows = compiled(OAK, mail_hostnames=["imap.oak.test", "Mail.oak.test", "smtp.oak.test"])
    assert rows["certificate_names"] == ["mail.oak.test", "imap.oak.test", "smtp.oak.test"]


def test_the_order_of_the_inventory_does_not_matter() -> None:
    assert compiled(OAK, ELM) == compiled(ELM, OAK)


def test_the_modules_take_the_rows_as_they_are(rows: dict[str, Any], tmp_path: Path) -> None:
    live = directory.Directory(tmp_path)
    for staged in (
        staging.stage_domains(live, rows["domains"], check_mode=True),
        staging.stage_aliases(live, rows["aliases"], check_mode=True),
        staging.stage_maps(live, rows["maps"], rows["alias_patterns"], rows["relay_passwords"], check_mode=True),
    ):
        assert staged


LOCAL = st.text("abAB01.-_=+'ü ", min_size=1, max_size=6)
NAME = st.text("abAB.-ü", max_size=8).map(lambda text: f"{text}.test")
TARGET = (
    LOCAL
    | st.builds("{}@{}".format, LOCAL, NAME)
    | st.sampled_from(["a", "b", "a@a.test", "b@b.test", "|/bin/sh", "$x@y.test", "/x/ y@z.test"])
)
TARGETS = st.lists(TARGET, max_size=3)
DOMAIN = st.fixed_dictionaries(
    {"domain": NAME | st.sampled_from(["a.test", "b.test"])},
    optional={
        "catch_all": LOCAL,
        "alias_of": NAME | st.sampled_from(["a.test", "b.test"]),
        "hidden_copy": TARGET,
        "hidden_copy_outgoing": TARGET,
        "groups": st.lists(
            st.fixed_dictionaries(
                {"name": LOCAL, "members": TARGETS}, optional={"except": TARGETS, "send_as": st.booleans(), "internal": st.booleans()}
            ),
            max_size=3,
        ),
        "mailboxes": st.lists(
            st.fixed_dictionaries(
                {"name": LOCAL, "password_hash": st.just(HASH.strip("'"))},
                optional={
                    "aliases": st.lists(LOCAL),
                    "forward": TARGETS,
                    "keep_copy": st.booleans(),
                    "send_as": TARGETS,
                    "internal": st.booleans(),
                },
            ),
            max_size=3,
        ),
        "aliases": st.lists(
            st.fixed_dictionaries({"name": LOCAL, "to": st.lists(LOCAL | st.builds("{}@{}".format, LOCAL, NAME), min_size=1, max_size=3)}),
            max_size=3,
        ),
        "alias_patterns": st.lists(st.fixed_dictionaries({"pattern": st.text("ab.*[]|\\d", max_size=5), "to": st.just(["x@y.test"])})),
    },
)


@settings(max_examples=300)
@given(st.lists(DOMAIN, max_size=3), st.lists(st.fixed_dictionaries({"name": TARGET, "to": TARGETS}), max_size=2))
def test_what_passes_the_checks_stays_one_entry_of_its_table(domains: list[dict[str, Any]], common: list[dict[str, Any]]) -> None:
    """`compile_rows` asserts it of every row; so do the readers of the modules."""
    reader = Reader()
    variables = {**BASE, "mail_postmaster": "x@y.test", "mail_aliases": common}
    model = check(reader, variables, [DomainFile(domain, "") for domain in domains])
    if model is None:
        return
    rows = compile_rows(model)
    addresses = [row["address"] for row in rows["mailboxes"]] + [row["address"] for row in rows["aliases"]]
    assert all(address == address.lower() and not set(address) & set(" \t\n:#") for address in addresses)
    known = {row["address"] for row in rows["mailboxes"]} | {row["address"] for row in rows["aliases"]}
    named = {row["name"] for row in rows["domains"]}
    for to in (row["to"] for row in rows["aliases"]):
        assert all(address.rpartition("@")[2] not in named or model.known(address) for address in to), (
            "no mail is accepted and then bounced"
        )
    assert all(row["key"] in known or model.known(row["key"]) for row in rows["maps"]["sender_logins"])
    assert len(set(addresses)) == len({row["address"] for row in rows["mailboxes"]} | {row["address"] for row in rows["aliases"]})


def test_a_row_that_would_break_its_line_never_leaves() -> None:
    reader = Reader()
    model = check(reader, {**BASE, "mail_postmaster": "x@y.test"}, [DomainFile({"domain": "oak.test"}, "")])
    assert model is not None
    model.aliases["abuse@oak.test"].to.append("x@y.test\nroot@oak.test root")
    with pytest.raises(AssertionError, match="would not stay one entry"):
        compile_rows(model)


def test_the_largest_quota_is_known_for_the_disk_to_be_compared_with() -> None:
    text = "domain: oak.test\nmailboxes:\n" + "".join(
        f"  - {{name: {name}, password_hash: HASH, quota: {quota}}}\n"
        for name, quota in (("alice", "1G"), ("bob", "7T"), ("carol", "unlimited"))
    )
    assert compiled(text)["largest_quota"] == {"address": "bob@oak.test", "bytes": 7 * 2**40}


def certificates(rows: dict[str, Any]) -> dict[str, list[str]]:
    return {row["name"]: row["names"] for row in rows["certificates"]}


def test_a_domain_with_names_of_its_own_gets_a_certificate_for_them() -> None:
    rows = compiled(
        "domain: oak.test\ncertificate: true\nmailboxes: [{name: alice, password_hash: HASH}]",
        "domain: elm.test\ncertificate: [IMAP.elm.test, elm.test]\nmta_sts: disabled",
    )
    # The host has mail.oak.test already.
    assert certificates(rows) == {
        "default": ["mail.oak.test"],
        "elm.test": ["imap.elm.test", "elm.test"],
        "web-0": ["mta-sts.oak.test"],
    }
    assert [row["mail_names"] for row in rows["certificates"]] == [[], ["imap.elm.test", "elm.test"], []]


def test_names_of_a_thousand_domains_fit_certificates_and_one_more_changes_one() -> None:
    alice_only = "domain: oak.test\nmta_sts: disabled\nmailboxes: [{name: alice, password_hash: HASH}]"
    names = [f"d{number}.test" for number in range(1000)]
    few = certificates(compiled(alice_only, *(f"domain: {name}" for name in names)))
    more = certificates(compiled(alice_only, *(f"domain: {name}" for name in [*names, "one-more.test"])))
    del few["default"], more["default"]
    assert len(few) <= 40
    assert max(map(len, few.values())) <= 100
    assert {name for hosts in few.values() for name in hosts} == {f"mta-sts.{name}" for name in names}
    assert sum(few[name] != more[name] for name in more) == 1


def test_names_that_one_key_can_prove_share_a_certificate() -> None:
    updates = [{"server": "192.0.2.1", "key_name": "k", "secret": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "zones": ["elm.test"]}]
    rows = compiled(OAK, ELM, mail_dns_updates=updates, mail_allow_plaintext_passwords=True)
    assert {name for name in certificates(rows) if name != "default"} == {"web-0", "web-0-0"}


def test_policies_are_served_with_the_certificate_that_has_their_name() -> None:
    ash = "domain: ash.test\nalias_of: oak.test\nmta_sts: enforce"
    rows = compiled(OAK, ash, "domain: fir.test\nmta_sts: disabled", mail_hostnames=["mta-sts.oak.test"])
    assert certificates(rows) == {"default": ["mail.oak.test", "mta-sts.oak.test"], "web-0": ["mta-sts.ash.test"]}
    found = [(row["certificate"], row["names"], row["text"].split("\n")[1:3]) for row in rows["policies"]]
    assert found == [
        ("default", ["mta-sts.oak.test"], ["mode: testing", "mx: mail.oak.test"]),
        ("web-0", ["mta-sts.ash.test"], ["mode: enforce", "mx: mail.oak.test"]),
    ]


def test_exceptions_of_greetings_become_patterns_for_whole_names() -> None:
    helo = {"exceptions": ["printer", "example.org", ".example.net"], "exception_patterns": ["srv-[0-9]+"]}
    patterns = compiled(OAK, mail_helo=helo)["helo_exceptions"]

    def taken(name: str) -> bool:
        return any(re.search(pattern, name, re.IGNORECASE) for pattern in patterns)

    assert all(map(taken, ["printer", "PRINTER", "example.org", "mx.example.org", "mx.example.net", "srv-7"]))
    assert not any(map(taken, ["printer2", "a.printer", "example.net", "xexample.org", "exampleXorg", "srv-", "srv-7.example.com"]))


def test_a_list_counts_listings_and_no_errors() -> None:
    (row,) = compiled(OAK, mail_blocklists=[{"zone": "l.test", "of": ["client", "sender"], "score": 2}])["blocklists"]
    assert (row["checks"], row["selectors"]) == (["from"], {"sender": "from('smtp'):domain"})
    patterns = [pattern.replace("%d", "[0-9]").replace("%.", "[.]") for pattern in row["answers"]]

    def counts(answer: str) -> bool:
        return any(re.fullmatch(pattern, answer) for pattern in patterns)

    assert all(map(counts, ["127.0.0.2", "127.0.1.9", "127.0.0.10", "127.0.0.99", "127.0.0.100", "127.0.255.254"]))
    assert not any(map(counts, ["127.255.255.254", "127.0.0.1", "127.0.0.0", "127.0.1.255", "192.0.2.2", "127.1.0.2"]))


def test_the_filter_knows_domains_with_their_subdomains() -> None:
    entries = [
        {"action": "allow", "sender": "Example.org"},
        {"action": "allow", "client": "192.0.2.7"},
        {"action": "block", "sender": "x@example.net"},
        {"action": "no_greylisting", "recipient": ".oak.test"},
    ]
    found = compiled(OAK, "domain: sub.oak.test", mail_filter=entries)["filter"]
    assert found["allow"] == {"clients": ["192.0.2.7/32"], "senders": ["example.org", ".example.org"], "recipients": []}
    assert found["block"]["senders"] == ["x@example.net"]
    assert found["no_greylisting"]["recipients"] == [".oak.test"]


def test_a_legal_note_becomes_lines_of_text_and_html_that_is_ascii() -> None:
    note = 'legal_note: "Söhne & <b>\\n\\n' + "word " * 20 + '"'
    rows = compiled(
        f"domain: oak.test\n{note}\nmailboxes: [{{name: alice, password_hash: HASH}}]\n", "{domain: ash.test, alias_of: oak.test}"
    )
    assert set(rows["legal_notes"]) == {"oak.test", "ash.test"}
    note = rows["legal_notes"]["ash.test"]
    assert note["text"] == ["Söhne & <b>", "", "word " * 14 + "word", "word " * 4 + "word"]
    assert note["html"][1:-1] == ["S&#246;hne &amp; &lt;b&gt;<br>", "<br>", "word " * 14 + "word", "word " * 4 + "word<br>"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"), min_size=1, max_size=300))
def test_no_line_of_a_legal_note_is_too_long_for_a_message(text: str) -> None:
    reader = Reader()
    domain = {"domain": "oak.test", "legal_note": text, "mailboxes": [{"name": "alice", "password_hash": HASH.strip("'")}]}
    model = check(reader, BASE, [DomainFile(domain, "")], in_clear=lambda _: False)
    for note in compile_rows(model)["legal_notes"].values() if model else ():
        assert all(len(line.encode()) <= 990 and "\n" not in line and "\r" not in line for line in note["text"] + note["html"])
        assert all(line.isascii() for line in note["html"])


def test_nobody_in_a_directory_takes_an_address_of_the_inventory() -> None:
    directory = {
        "servers": ["ldaps://a.test"],
        "base": "dc=test",
        "bind_dn": "cn=x,dc=test",
        "bind_password": "secret",
        "domains": ["oak.test"],
    }
    rows = compiled(OAK, ELM, mail_ldap=directory)
    aliases = {row["address"]: row["to"] for row in rows["aliases"]}
    assert aliases["alice@oak.test"] == ["alice@oak.test"]
    logins = {row["key"]: row["value"] for row in rows["maps"]["sender_logins"]}
    assert (logins["alice@oak.test"], logins["team@oak.test"]) == ("alice@oak.test", "nobody")
    assert "postmaster@elm.test" not in logins
    assert compiled(OAK)["ldap"] is None
