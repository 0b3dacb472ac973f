"""I4: who is allowed and who is blocked on port 25, with the exact reply; what is allowed opens nothing else. S2, S3: named exceptions."""

from __future__ import annotations

import re

import pytest
from correspondent import MailHost, until
from testinfra.host import Host
from wire import STRANGER4, stranger, submission

BLOCKED, BLOCKED_NAME, ALLOWED = "198.51.100.120", "198.51.100.121", "2001:db8:25::122"
MAY_FORGE, TRUSTED = "198.51.100.123", "198.51.100.124"
OTHER = "someone@good.test"


def answer(mail: MailHost, sender: str, recipient: str, source: str = STRANGER4, name: str = "client.world.test") -> tuple[int, str]:
    """What this client is told at RCPT."""
    with stranger(mail, source=source, name=name) as session:
        assert session.code(f"MAIL FROM:<{sender}>") == 250
        return session.command(f"RCPT TO:<{recipient}>")


@pytest.mark.parametrize(
    ("source", "name", "sender", "recipient", "code", "text"),
    [
        (
            BLOCKED,
            "",
            OTHER,
            "alice@oak.test",
            550,
            "5.7.1 <client120.world.test[198.51.100.120]>: Client host rejected: Not from this address",
        ),
        (
            BLOCKED_NAME,
            "",
            OTHER,
            "alice@oak.test",
            550,
            "5.7.1 <client121.world.test[198.51.100.121]>: Client host rejected: Not from this host",
        ),
        ("", "rude.test", OTHER, "alice@oak.test", 550, "5.7.1 <rude.test>: Helo command rejected: Not with this greeting"),
        ("", "mx.rude.test", OTHER, "alice@oak.test", 550, "5.7.1 <mx.rude.test>: Helo command rejected: Not with this greeting"),
        ("", "", "x@rude.test", "alice@oak.test", 550, "5.7.1 <x@rude.test>: Sender address rejected: Not this domain"),
        ("", "", "X@Sub.Rude.test", "alice@oak.test", 550, "5.7.1 <X@Sub.Rude.test>: Sender address rejected: Not this domain"),
        ("", "", "x@any.thing.bad", "alice@oak.test", 450, "4.7.1 <x@any.thing.bad>: Sender address rejected: Not this part of the world"),
        (
            "",
            "",
            "nuisance@good.test",
            "alice@oak.test",
            554,
            "5.7.1 <nuisance@good.test>: Sender address rejected: Refused by local policy",
        ),
        (
            "",
            "",
            "nuisance+x@good.test",
            "alice@oak.test",
            554,
            "5.7.1 <nuisance+x@good.test>: Sender address rejected: Refused by local policy",
        ),
        ("", "", OTHER, "closed@oak.test", 550, "5.7.1 <closed@oak.test>: Recipient address rejected: Closed"),
        ("", "", "former@good.test", "carol@oak.test", 550, "5.7.1 <former@good.test>: Sender address rejected: She does not want this"),
    ],
    ids=["network", "client name", "greeting", "greeting below", "domain", "subdomain", "tld", "address", "tagged", "recipient", "pair"],
)
def test_who_is_blocked_gets_the_reply_declared(
    mail: MailHost, source: str, name: str, sender: str, recipient: str, code: int, text: str
) -> None:
    assert answer(mail, sender, recipient, source or STRANGER4, name or "client.world.test") == (code, text)


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [(OTHER, "alice@oak.test"), ("former@good.test", "alice@oak.test"), (OTHER, "carol@oak.test")],
    ids=["no rule", "the pair's sender to another", "another to the pair's recipient"],
)
def test_nobody_else_is_blocked(mail: MailHost, sender: str, recipient: str) -> None:
    assert answer(mail, sender, recipient)[0] == 250


@pytest.mark.parametrize(
    ("source", "sender", "recipient"),
    [
        (ALLOWED, "x@rude.test", "alice@oak.test"),
        (ALLOWED, OTHER, "closed@oak.test"),
        (STRANGER4, "sorry@rude.test", "alice@oak.test"),
        (BLOCKED, "sorry@rude.test", "alice@oak.test"),
        (STRANGER4, "x@rude.test", "open@oak.test"),
        (BLOCKED, OTHER, "open@oak.test"),
        (STRANGER4, "x@rude.test", "bob@oak.test"),
        (BLOCKED, "x@rude.test", "postmaster@oak.test"),
    ],
    ids=[
        "client",
        "client to blocked recipient",
        "address",
        "address at blocked client",
        "recipient",
        "recipient for client",
        "pair",
        "postmaster",
    ],
)
def test_allow_wins_over_block(mail: MailHost, source: str, sender: str, recipient: str) -> None:
    assert answer(mail, sender, recipient, source)[0] == 250


def test_a_pair_that_is_allowed_is_that_pair_only(mail: MailHost) -> None:
    assert answer(mail, "x@rude.test", "alice@oak.test")[0] == 550
    assert answer(mail, "x@rude.test", "carol@oak.test")[0] == 550


@pytest.mark.parametrize(
    ("source", "sender"), [(ALLOWED, OTHER), (STRANGER4, "sorry@rude.test"), (STRANGER4, OTHER)], ids=["client", "sender", "nobody"]
)
@pytest.mark.parametrize("recipient", ["friend@good.test", "friend%good.test@oak.test", "@oak.test:friend@good.test"])
def test_what_is_allowed_is_no_relay(mail: MailHost, source: str, sender: str, recipient: str) -> None:
    assert answer(mail, sender, recipient, source)[0] >= 500


@pytest.mark.parametrize(
    ("source", "sender", "recipient"),
    [
        (ALLOWED, OTHER, "nobody-here@oak.test"),
        (ALLOWED, OTHER, "nobody@birch.test"),
        (ALLOWED, OTHER, "disabled@oak.test"),
        (STRANGER4, "sorry@rude.test", "nobody-here@oak.test"),
        (ALLOWED, "alice@oak.test", "bob@oak.test"),
        (STRANGER4, "alice@oak.test", "open@oak.test"),
    ],
    ids=["unknown", "unknown, relayed", "disabled", "unknown to an allowed sender", "forged", "forged to an allowed recipient"],
)
def test_what_is_allowed_skips_no_other_check(mail: MailHost, source: str, sender: str, recipient: str) -> None:
    assert answer(mail, sender, recipient, source)[0] >= 500


def test_an_allowed_client_need_not_greet_well_nor_have_a_sender_domain(mail: MailHost) -> None:
    assert answer(mail, "x@does-not-exist.test", "alice@oak.test", ALLOWED, "printer")[0] == 250
    assert answer(mail, "x@does-not-exist.test", "alice@oak.test", name="printer")[0] >= 500


def test_an_allowed_network_passes_before_the_greeting_too(mail: MailHost, host: Host) -> None:
    assert answer(mail, OTHER, "alice@oak.test", ALLOWED)[0] == 250
    journal = "journalctl --quiet --since -2min --output cat --identifier postfix/postscreen"
    until("the log says so", lambda: re.search(rf"(?:ALLOW|WHITE)LISTED \[{ALLOWED}\]", host.check_output(journal)))


@pytest.mark.parametrize("recipient", ["closed@oak.test", "carol@oak.test"])
def test_own_users_are_not_blocked(mail: MailHost, accounts: dict[str, str], recipient: str) -> None:
    with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("alice@oak.test", recipient) == [250, 250]


# -- named exceptions


def test_a_named_client_may_use_our_senders(mail: MailHost) -> None:
    assert answer(mail, "alice@oak.test", "bob@oak.test", MAY_FORGE)[0] == 250
    assert answer(mail, "alice@oak.test", "bob@oak.test")[0] >= 500
    assert answer(mail, "alice@oak.test", "friend@good.test", MAY_FORGE)[0] == 554, "but not relay"


def test_a_named_sender_may_come_from_anywhere(mail: MailHost) -> None:
    assert answer(mail, "partner@oak.test", "bob@oak.test")[0] == 250
    assert answer(mail, "team@oak.test", "bob@oak.test")[0] >= 500
    assert answer(mail, "partner@oak.test", "friend@good.test")[0] == 554, "but not relay"


def test_a_named_login_may_send_as_an_address_that_is_not_its_own(mail: MailHost, accounts: dict[str, str]) -> None:
    with submission(mail, 465, "robot@oak.test", accounts["robot@oak.test"]) as session:
        assert session.rcpt("newsletter@elm.test", "bob@oak.test") == [250, 250]
    with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("newsletter@elm.test", "bob@oak.test")[-1] >= 500


def test_a_listed_network_relays_without_a_login_and_nobody_else(mail: MailHost) -> None:
    assert answer(mail, "scanner@good.test", "friend@good.test", TRUSTED)[0] == 250
    assert answer(mail, "scanner@good.test", "friend@good.test", MAY_FORGE)[0] == 554
    assert answer(mail, "scanner@good.test", "nobody-here@oak.test", TRUSTED)[0] == 550
