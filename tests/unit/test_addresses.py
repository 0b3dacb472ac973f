"""Alias domains, forwards, groups, internal addresses, aliases of every domain, and who may send as what."""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Any

import pytest
from ansible.module_utils.mailwright.builder import DomainFile, check
from ansible.module_utils.mailwright.compile import compile_rows
from ansible.module_utils.mailwright.reader import Reader
from test_compile import aliases, compiled, mailbox, table
from test_model import accepted, problems, read

PEOPLE = """
domain: oak.test
mailboxes:
  - {name: alice, password_hash: HASH, aliases: [sales]}
  - {name: bob, password_hash: HASH}
  - {name: carol, password_hash: HASH}
  - {name: robot, password_hash: HASH, send_only: true}
"""
TWIN = "{domain: twin.test, alias_of: oak.test}"


def oak(more: str) -> str:
    return f"{PEOPLE}{more}\n"


# -- alias domains (D4)


def test_every_address_of_a_domain_exists_in_its_alias_domain_by_name() -> None:
    rows = compiled(
        oak(
            "groups: [{name: crew, members: [alice]}]\naliases: [{name: far, to: [x@good.test]}]\n"
            "alias_patterns: [{pattern: 'ticket-[0-9]+', to: [bob]}]"
        ),
        TWIN,
    )
    assert {row["name"] for row in rows["domains"]} == {"oak.test", "twin.test"}
    found = aliases(rows)
    for name in ("alice", "sales", "bob", "carol", "robot", "crew", "far", "abuse", "postmaster"):
        assert found[f"{name}@twin.test"] == [f"{name}@oak.test"] or name == "postmaster"
    assert "@twin.test" not in found, "what does not exist is refused"
    assert any(re.search(row["pattern"], "ticket-7@twin.test") and row["to"] == ["bob@oak.test"] for row in rows["alias_patterns"])
    assert not any(row["address"].endswith("@twin.test") for row in rows["mailboxes"])


def test_an_alias_domain_has_the_other_ones_catch_all() -> None:
    found = aliases(compiled(oak("catch_all: carol"), TWIN))
    assert found["@twin.test"] == ["carol@oak.test"]
    assert found["alice@twin.test"] == ["alice@oak.test"]


def test_an_alias_domain_refuses_what_the_other_one_refuses_and_is_sent_from_by_the_same_people() -> None:
    rows = compiled(
        oak(
            "  - {name: secret, password_hash: HASH, internal: true, spam: high, aliases: [hidden]}\n"
            "groups: [{name: crew, members: [alice, bob], send_as: true}]"
        ),
        TWIN,
    )
    for name in ("recipient_access", "internal_recipients", "sender_logins"):
        entries = table(rows, name)
        own = {key: value for key, value in entries.items() if key.endswith("@oak.test")}
        assert own
        assert {key.replace("@oak.test", "@twin.test"): value for key, value in own.items()}.items() <= entries.items()
    assert {"twin.test", ".twin.test"} <= set(table(rows, "own_domains"))
    assert [key["domain"] for key in rows["dkim_keys"]].count("twin.test") == 2
    assert {"secret@twin.test", "hidden@twin.test"} <= {row["recipient"] for row in rows["spam_settings"]}


def test_the_right_to_send_as_an_address_of_an_alias_domain_alone_can_be_given() -> None:
    senders = table(compiled(oak("  - {name: dave, password_hash: HASH, send_as: [bob@twin.test]}"), TWIN), "sender_logins")
    assert senders["bob@twin.test"] == "bob@oak.test,dave@oak.test"
    assert senders["bob@oak.test"] == "bob@oak.test"


def test_addresses_of_an_alias_domain_can_be_written_wherever_an_address_can() -> None:
    found = aliases(compiled(oak("groups: [{name: crew, members: [alice@twin.test, bob], except: [alice]}]"), TWIN))
    assert found["crew@oak.test"] == ["bob@oak.test"]
    assert "no mailbox or alias nobody@oak.test" in problems(oak("aliases: [{name: a, to: [nobody@twin.test]}]"), TWIN)
    assert "robot@oak.test is send_only" in problems(oak("aliases: [{name: a, to: [robot@twin.test]}]"), TWIN)


@pytest.mark.parametrize(
    ("alias", "problem"),
    [
        (
            "{domain: twin.test, alias_of: okk.test}",
            "alias_of: okk.test: okk.test is not a domain that is delivered here; did you mean oak.test?",
        ),
        ("{domain: twin.test, alias_of: good.example}", "good.example is not a domain that is delivered here; declare it"),
        ("{domain: twin.test, alias_of: twin.test}", "alias_of: twin.test: alias loop twin.test → twin.test"),
        ("{domain: twin.test, alias_of: oak}", "alias_of: oak: a single label"),
        ("{domain: twin.test, alias_of: oak.test, catch_all: alice@oak.test}", "catch_all: alice@oak.test: not for an alias domain"),
        ("{domain: twin.test, alias_of: oak.test, mailboxes: [{name: a, password_hash: HASH}]}", "mailboxes: not for an alias domain"),
        ("{domain: twin.test, alias_of: oak.test, aliases: []}", "aliases: not for an alias domain"),
        ("{domain: twin.test, alias_of: oak.test, quota: 5G}", "quota: 5G: not for an alias domain"),
        ("{domain: oak.test, alias_of: oak.test}", "domain: oak.test: duplicate of"),
    ],
)
def test_a_wrong_alias_domain_is_named(alias: str, problem: str) -> None:
    assert problem in problems(PEOPLE, alias)


def test_alias_domains_of_alias_domains_are_refused() -> None:
    chain = problems(PEOPLE, TWIN, "{domain: third.test, alias_of: twin.test}")
    assert chain == "alias_of: twin.test: twin.test is an alias domain itself; write oak.test"
    loop = problems("{domain: a.test, alias_of: b.test}", "{domain: b.test, alias_of: a.test}")
    assert "alias loop a.test → b.test → a.test" in loop
    # What leads there is followed no further.
    group = "{domain: elm.test, groups: [{name: g, members: [x@twin.test, h@elm.test], except: [h@elm.test]}]}"
    assert "alias loop twin.test → twin.test" in problems("{domain: twin.test, alias_of: twin.test}", group)


def test_an_alias_domain_of_a_large_domain_costs_no_more_than_the_domain() -> None:
    boxes = [{"name": f"m{number}", "password_hash": "{ARGON2ID}x", "allow_weak_hash": True} for number in range(2000)]

    def calls(*domains: dict[str, Any]) -> int:
        """How many functions of Python are called: the cost, whatever else the computer does."""
        count = 0

        def seen(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(seen)
        try:
            model = check(
                Reader(), {"mail_hostname": "mail.oak.test", "mail_postmaster": "x@good.test"}, [DomainFile(d, "") for d in domains]
            )
            assert model is not None
            rows = compile_rows(model)
        finally:
            sys.setprofile(None)
        assert len(rows["mailboxes"]) == 2000
        return count

    for box in boxes:
        box["password_hash"] = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4"
    own = {"domain": "oak.test", "mailboxes": boxes}
    # The first time fills caches.
    calls(own)
    assert calls(own, {"domain": "t.test", "alias_of": "oak.test"}) < 1.5 * calls(own)


# -- forwards (M6)


def test_a_mailbox_forwards_and_keeps_a_copy_or_not() -> None:
    rows = compiled(
        oak(
            "  - {name: dora, password_hash: HASH, forward: [Far@good.test, bob]}\n"
            "  - {name: emil, password_hash: HASH, forward: [bob], keep_copy: false}"
        )
    )
    assert aliases(rows)["dora@oak.test"] == ["dora@oak.test", "Far@good.test", "bob@oak.test"]
    assert aliases(rows)["emil@oak.test"] == ["bob@oak.test"]
    assert mailbox(rows, "emil@oak.test"), "it can still log in and send"
    assert table(rows, "sender_logins")["emil@oak.test"] == "emil@oak.test"


def test_a_catch_all_does_not_undo_a_forward() -> None:
    found = aliases(compiled(oak("  - {name: dora, password_hash: HASH, forward: [bob], keep_copy: false}\ncatch_all: alice")))
    assert found["dora@oak.test"] == ["bob@oak.test"]


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ("forward: []", "forward: empty list of targets"),
        ("forward: [nobody]", "forward[0]: nobody@oak.test: no mailbox or alias nobody@oak.test"),
        ("forward: [robot]", "robot@oak.test is send_only and receives nothing"),
        ("forward: [dora]", "forward[0]: dora@oak.test: the mailbox itself; remove it; keep_copy says"),
        ("forward: [dora+x], keep_copy: false", "forward[0]: dora+x@oak.test: the mailbox itself"),
        ("forward: [dolly]", "alias loop dolly@oak.test → dora@oak.test → dolly@oak.test"),
        ("forward: [dora@twin.test]", "alias loop"),
        ("forward: [back]", "alias loop dora@oak.test → back@oak.test → dora@oak.test"),
        ("forward: ['|/bin/sh']", "forward[0]: |/bin/sh: commands, files"),
        ("forward: bob", "forward: bob: got text, a list is needed; write [bob]"),
        ("keep_copy: false", "keep_copy: false: without forward it means nothing"),
        ("forward: [bob], send_only: true", "forward: a send_only mailbox receives nothing to forward"),
    ],
)
def test_a_wrong_forward_is_named(box: str, problem: str) -> None:
    found = problems(
        oak(
            f"  - {{name: dora, password_hash: HASH, aliases: [dolly], {box}}}\n"
            "  - {name: back, password_hash: HASH, forward: [dora], keep_copy: false}"
            if "back" in box
            else f"  - {{name: dora, password_hash: HASH, aliases: [dolly], {box}}}"
        ),
        TWIN,
    )
    assert problem in found


def test_a_forward_counts_towards_the_expansion_limit() -> None:
    text = oak("  - {name: dora, password_hash: HASH, forward: [a@good.test, b@good.test]}\naliases: [{name: all, to: [dora, bob]}]")
    assert problems(text, mail_alias_expansion_limit=4) == ""
    assert "all@oak.test becomes 4 addresses, the limit is 3" in problems(text, mail_alias_expansion_limit=3)


# -- groups (M7)


def test_a_group_of_groups_leaves_out_who_is_excepted() -> None:
    found = aliases(
        compiled(
            oak(
                "  - {name: dora, password_hash: HASH, forward: [bob]}\n"
                "aliases: [{name: both, to: [alice, bob]}]\n"
                "groups:\n"
                "  - {name: crew, members: [both, carol, far@good.test]}\n"
                "  - {name: staff, members: [crew, dora], except: [carol]}\n"
                "  - {name: rest, members: [staff, carol], except: [both]}\n"
                "  - {name: inner, members: [rest], except: [far@good.test]}"
            )
        )
    )
    assert found["crew@oak.test"] == ["both@oak.test", "carol@oak.test", "far@good.test"]
    assert found["staff@oak.test"] == ["alice@oak.test", "bob@oak.test", "far@good.test", "dora@oak.test"]
    assert found["rest@oak.test"] == ["far@good.test", "dora@oak.test", "carol@oak.test"], "dora's forward to bob is her own affair"
    assert found["inner@oak.test"] == ["dora@oak.test", "carol@oak.test"]


def test_a_member_is_excepted_under_any_name_and_tag() -> None:
    found = aliases(compiled(oak("groups: [{name: crew, members: [sales, bob+crew, carol], except: [alice, bob]}]")))
    assert found["crew@oak.test"] == ["carol@oak.test"]


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ("[{name: g, members: []}]", "groups[0].members: empty list of targets"),
        ("[{name: g}]", "groups[0]: required key members is missing"),
        (
            "[{name: g, members: [alcie]}]",
            "groups[0].members[0]: alcie@oak.test: no mailbox or alias alcie@oak.test; did you mean alice@oak.test?",
        ),
        ("[{name: g, members: [robot]}]", "robot@oak.test is send_only and receives nothing"),
        ("[{name: g, members: [alice], except: [bob]}]", "groups[0].except[0]: bob@oak.test: bob@oak.test is not a member"),
        ("[{name: g, members: [alice], except: [alice]}]", "groups[0].members: nobody is left in g@oak.test"),
        ("[{name: g, members: [h]}, {name: h, members: [g]}]", "alias loop g@oak.test → h@oak.test → g@oak.test"),
        ("[{name: g, members: [h, alice], except: [alice]}, {name: h, members: [g]}]", "g@oak.test is a member of itself"),
        ("[{name: g, members: [h, bob], except: [bob]}, {name: h, members: [g, bob], except: [bob]}]", "g@oak.test is a member of itself"),
        ("[{name: alice, members: [bob]}]", "groups[0].name: alice: mailbox and group have the same address"),
        ("[{name: g, members: [alice]}, {name: g, members: [bob]}]", "groups[1].name: g: duplicate group"),
        ("[{name: g, member: [alice]}]", "groups[0].member: unknown key; did you mean members?"),
    ],
)
def test_a_wrong_group_is_named(groups: str, problem: str) -> None:
    assert problem in problems(oak(f"groups: {groups}"))


def test_a_disabled_member_gets_nothing_and_a_group_of_such_is_refused() -> None:
    rows = compiled(
        oak(
            "  - {name: gone, password_hash: HASH, enabled: false, aliases: [leaver]}\n"
            "  - {name: dora, password_hash: HASH, forward: [gone, bob]}\n"
            "groups: [{name: crew, members: [alice, gone+x]}, {name: former, members: [gone], send_as: true}]\n"
            "aliases: [{name: both, to: [crew, former, gone]}]"
        )
    )
    assert aliases(rows)["crew@oak.test"] == ["alice@oak.test"]
    assert aliases(rows)["dora@oak.test"] == ["dora@oak.test", "bob@oak.test"]
    assert aliases(rows)["both@oak.test"] == ["crew@oak.test", "former@oak.test"]
    refused = {key for key, value in table(rows, "recipient_access").items() if value == "550 5.2.1 Mailbox disabled"}
    assert refused == {f"{name}@oak.test" for name in ("gone", "leaver", "former")}


# -- internal addresses (M14)


def test_an_internal_address_is_so_under_all_its_names() -> None:
    rows = compiled(
        oak(
            "  - {name: dora, password_hash: HASH, internal: true, aliases: [dolly]}\n"
            "aliases: [{name: quiet, to: [alice], internal: true}]\n"
            "groups: [{name: crew, members: [alice], internal: true}]"
        ),
        mail_aliases=[{"name": "house", "to": ["alice@oak.test"], "internal": True}],
    )
    found = table(rows, "internal_recipients")
    assert set(found) == {f"{name}@oak.test" for name in ("dora", "dolly", "quiet", "crew", "house")}
    assert set(found.values()) == {"REJECT 5.7.1 This address takes mail from its own users only"}


@pytest.mark.parametrize(
    "text",
    [
        "  - {name: abuse, password_hash: HASH, internal: true}",
        "  - {name: dora, password_hash: HASH, internal: true, aliases: [postmaster]}",
        "aliases: [{name: postmaster, to: [alice], internal: true}]",
        "groups: [{name: abuse, members: [alice], internal: true}]",
    ],
)
def test_postmaster_and_abuse_cannot_be_internal(text: str) -> None:
    assert "internal: true: " in problems(oak(text))
    assert "must hear from everybody" in problems(oak(text))


# -- aliases of every domain (A2)


def test_an_alias_without_a_domain_exists_in_every_domain_that_does_not_declare_it() -> None:
    found = aliases(
        compiled(
            oak("aliases: [{name: help, to: [carol]}]"),
            "{domain: elm.test, mailboxes: [{name: dave, password_hash: HASH}]}",
            TWIN,
            mail_aliases=[
                {"name": "help", "to": ["alice@oak.test"]},
                {"name": "abuse", "to": ["bob@oak.test"]},
                {"name": "hello@elm.test", "to": ["dave", "x@good.test"]},
                {"name": "here", "to": ["abuse"]},
            ],
        )
    )
    assert found["help@oak.test"] == ["carol@oak.test"]
    assert found["help@elm.test"] == ["alice@oak.test"]
    assert found["help@twin.test"] == ["help@oak.test"]
    assert found["abuse@elm.test"] == found["abuse@oak.test"] == ["bob@oak.test"]
    assert found["hello@elm.test"] == ["dave@elm.test", "x@good.test"]
    assert "hello@oak.test" not in found
    assert found["here@elm.test"] == ["abuse@elm.test"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            {"name": "a@elsewhere.example", "to": ["alice@oak.test"]},
            "[0].name: a@elsewhere.example: not in a domain that is delivered here",
        ),
        ({"name": "a@okk.test", "to": ["alice@oak.test"]}, "did you mean oak.test?"),
        ({"name": "a@twin.test", "to": ["alice@oak.test"]}, "in an alias domain of oak.test; write a@oak.test"),
        ({"name": "a+b", "to": ["alice@oak.test"]}, "holds the recipient delimiter '+'"),
        ({"name": "a b", "to": ["alice@oak.test"]}, "[0].name: a b: space not allowed"),
        ({"name": "a", "to": []}, "[0].to: empty list of targets"),
        ({"name": "a", "to": ["nobody"]}, "[0].to[0]: nobody@oak.test: no mailbox or alias"),
        ({"name": "alice@oak.test", "to": ["bob@oak.test"]}, "mailbox and alias have the same address"),
        ({"to": ["bob@oak.test"]}, "[0]: required key name is missing"),
    ],
)
def test_a_wrong_alias_of_every_domain_is_named(entry: dict[str, Any], problem: str) -> None:
    found = problems(PEOPLE, TWIN, mail_aliases=[entry])
    assert problem in found
    assert "mail_aliases[0]" in found


def test_the_same_alias_of_every_domain_twice_is_refused() -> None:
    entry = {"name": "help", "to": ["alice@oak.test"]}
    assert problems(PEOPLE, mail_aliases=[entry, entry]) == "mail_aliases[1].name: help: duplicate of mail_aliases[0]"


# -- who may send as what (A4)


def test_members_may_send_as_a_group_that_says_so_and_who_is_excepted_may_not() -> None:
    senders = table(
        compiled(
            oak(
                "  - {name: dora, password_hash: HASH, forward: [bob], keep_copy: false}\n"
                "groups:\n  - {name: crew, members: [all, dora], except: [carol], send_as: true}\n"
                "  - {name: all, members: [alice, carol]}"
            )
        ),
        "sender_logins",
    )
    assert senders["crew@oak.test"] == "alice@oak.test,dora@oak.test"
    assert "all@oak.test" not in senders


def test_a_mailbox_may_be_given_further_addresses_to_send_as() -> None:
    senders = table(
        compiled(oak("  - {name: dora, password_hash: HASH, send_as: [bob, crew]}\ngroups: [{name: crew, members: [alice]}]")),
        "sender_logins",
    )
    assert senders["bob@oak.test"] == "bob@oak.test,dora@oak.test"
    assert senders["crew@oak.test"] == "dora@oak.test"


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ("send_as: [boss@elsewhere.example]", "send_as[0]: boss@elsewhere.example: not an address of a domain that is delivered here"),
        ("send_as: [bob@okk.test]", "did you mean oak.test?"),
        ("send_as: [alcie]", "send_as[0]: alcie@oak.test: no mailbox or alias alcie@oak.test; did you mean alice@oak.test?"),
        ("send_as: ['@oak.test']", "send_as[0]: @oak.test: nothing before '@'"),
        ("send_as: [bob], receive_only: true", "send_as: a receive_only mailbox sends nothing"),
    ],
)
def test_a_wrong_right_to_send_is_named(box: str, problem: str) -> None:
    assert problem in problems(oak(f"  - {{name: dora, password_hash: HASH, {box}}}"))


def test_all_problems_of_the_new_kinds_come_at_once() -> None:
    _, found, _ = read(
        oak(
            "  - {name: dora, password_hash: HASH, forward: [nobody], send_as: [nobody2]}\n"
            "groups: [{name: g, members: [nobody3], except: [nobody4]}]"
        ),
        "{domain: twin.test, alias_of: elsewhere.example}",
        mail_aliases=[{"name": "x@elsewhere.example", "to": ["nobody5"]}],
    )
    assert len(found) == 6


def test_tags_reach_a_forward_and_an_alias_domain() -> None:
    model = accepted(oak("  - {name: dora, password_hash: HASH, forward: [bob]}"), TWIN)
    assert model.rewrite("dora+x@oak.test") == ("dora@oak.test", ["dora@oak.test", "bob@oak.test"])
    assert model.rewrite("bob+x@twin.test") == ("bob+x@twin.test", ["bob+x@oak.test"])
    assert model.rewrite("nobody@twin.test") is None


# -- forwarded mail (SRS)


def test_only_who_sends_from_here_by_right_is_not_taken_for_forwarded() -> None:
    relayed = "{domain: inner.example, relay: {next_hop: '[hub.example]'}, recipients: [x]}"
    rows = compiled(PEOPLE, TWIN, relayed, mail_srs_exempt=["Shop.example", "bücher.example"])
    assert set(table(rows, "sender_transports")) == {
        "<>",
        "@mail.oak.test",
        "@oak.test",
        "@twin.test",
        "@inner.example",
        "@shop.example",
        "@xn--bcher-kva.example",
    }
    assert "mail_srs_exempt[0]: a b: space not allowed" in problems(PEOPLE, mail_srs_exempt=["a b"])


def test_a_destination_with_a_transport_is_forwarded_to_under_another_name_first() -> None:
    rows = compiled(
        oak("aliases: [{name: far, to: [x@sub.wide.example, y@other.example]}]"),
        mail_transports=[
            {"destination": "lane.example", "next_hop": "[hub.example]"},
            {"destination": ".wide.example", "next_hop": "[hub.example]"},
            {"destination": "Who@one.example", "next_hop": "[hub.example]"},
        ],
    )
    assert table(rows, "forward_routes") == {
        "@lane.example": "@lane.example.forward.invalid",
        "@sub.wide.example": "@sub.wide.example.forward.invalid",
        "who@one.example": "who@one.example.forward.invalid",
    }


# -- hidden copies (D6)


def test_copies_are_declared_for_a_domain_or_for_everything() -> None:
    rows = compiled(
        oak("hidden_copy: carol\n"),
        "{domain: elm.test, hidden_copy_outgoing: sales@oak.test}",
        TWIN,
        mail_hidden_copy="Alice@oak.test",
        mail_hidden_copy_outgoing="out@good.test",
    )
    carol = {"to": "carol@oak.test", "except": ["carol@oak.test", "carol@twin.test"]}
    assert rows["hidden_copies"] == {
        "recipients": [
            {"domain": "oak.test", **carol},
            {"domain": "twin.test", **carol},
            {"domain": None, "to": "alice@oak.test", "except": [f"{n}@{d}.test" for n in ("alice", "sales") for d in ("oak", "twin")]},
        ],
        "senders": [
            {"domain": "elm.test", "to": "sales@oak.test"},
            {"domain": "oak.test", "to": "out@good.test"},
            {"domain": "twin.test", "to": "out@good.test"},
        ],
    }


@pytest.mark.parametrize(
    ("variables", "more", "problem"),
    [
        ({}, "hidden_copy: nobody", "hidden_copy: nobody@oak.test: no mailbox or alias nobody@oak.test"),
        ({}, "hidden_copy_outgoing: robot", "robot@oak.test is send_only and receives nothing"),
        ({}, "hidden_copy: a b", "hidden_copy: a b: space not allowed"),
        ({}, "hidden_copy: [alice]", "hidden_copy: got a list, text is needed"),
        ({"mail_hidden_copy": "alcie@oak.test"}, "", "mail_hidden_copy: alcie@oak.test: no mailbox or alias alcie@oak.test; did you mean"),
        ({"mail_hidden_copy_outgoing": "alice"}, "", "mail_hidden_copy_outgoing: alice: no '@'"),
    ],
)
def test_a_wrong_copy_is_named(variables: dict[str, Any], more: str, problem: str) -> None:
    assert problem in problems(oak(more), **variables)
