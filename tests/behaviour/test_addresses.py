"""Whose mail an address is, and who may use it: alias domains, groups, internal addresses, aliases of every domain, rights to send."""

from __future__ import annotations

from typing import Any

import pytest
from correspondent import MailHost, send_from_world, until, write
from hosts import world_mailbox
from testinfra.host import Host
from wire import STRANGER4, STRANGER6, stranger, submission


def told(mail: MailHost, recipient: str, sender: str = "someone@good.test", source: str = STRANGER4) -> tuple[int, str]:
    """What a stranger is told at RCPT."""
    with stranger(mail, source=source) as session:
        assert session.code(f"MAIL FROM:<{sender}>") == 250
        return session.command(f"RCPT TO:<{recipient}>")


def copies(mail: MailHost, address: str, password: str, message_id: str) -> int:
    """How many messages with that Message-ID lie in a mailbox."""
    session = mail.imap(address, password)
    try:
        session.select("INBOX", readonly=True)
        return len(session.search(None, "HEADER", "Message-ID", message_id)[1][0].split())
    finally:
        session.logout()


def delivered(host: Host, message_id: str) -> None:
    """Wait until nothing of a message is in the queue any more."""

    def gone() -> bool:
        # One that leaves the queue meanwhile cannot be read any more.
        queued = host.check_output(
            'for id in $(postqueue -j | grep -o \'"queue_id": *"[^"]*"\' | cut -d\'"\' -f4); do postcat -qh $id 2>/dev/null || :; done'
        )
        return message_id not in queued

    until(f"{message_id} has left the queue", gone)


# -- D4


@pytest.mark.parametrize(
    "recipient",
    ["alice@ash.test", "ALICE@Ash.Test", "alice+tag@ash.test", "sales@ash.test", "team@ash.test", "ticket-17@ash.test", "abuse@ash.test"],
)
def test_every_address_of_a_domain_exists_in_its_alias_domain(mail: MailHost, recipient: str) -> None:
    assert told(mail, recipient)[0] == 250


@pytest.mark.parametrize("recipient", ["nobody-here@ash.test", "ticket-x@ash.test", "dave@ash.test", "nobody-here+tag@ash.test"])
def test_what_does_not_exist_is_refused_in_an_alias_domain_at_once(mail: MailHost, recipient: str) -> None:
    assert told(mail, recipient)[0] == 550


@pytest.mark.parametrize("recipient", ["robot@ash.test", "disabled@ash.test", "helga@ash.test"])
def test_what_takes_no_mail_takes_none_in_an_alias_domain(mail: MailHost, recipient: str) -> None:
    code, text = told(mail, recipient)
    assert 500 <= code < 600, text


def test_mail_to_an_alias_domain_arrives(mail: MailHost, accounts: dict[str, str]) -> None:
    message = write("friend@good.test", "bob+shop@ash.test")
    send_from_world(message, "friend@good.test", "bob+shop@ash.test")
    raw = mail.find("bob@oak.test", accounts["bob@oak.test"], str(message["Message-ID"]))
    assert b"bob+shop@oak.test" in raw, "the tag is kept"


def test_people_send_as_their_addresses_in_an_alias_domain_and_the_mail_is_signed_for_it(mail: MailHost, accounts: dict[str, str]) -> None:
    message = write("alice@ash.test", "bob@oak.test")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    raw = mail.find("bob@oak.test", accounts["bob@oak.test"], str(message["Message-ID"]))
    assert b"d=ash.test" in raw


@pytest.mark.parametrize("sender", ["bob@ash.test", "nobody-here@ash.test"])
def test_nobody_sends_as_somebody_else_through_an_alias_domain(mail: MailHost, accounts: dict[str, str], sender: str) -> None:
    with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt(sender, "bob@oak.test")[-1] >= 500


def test_a_stranger_cannot_send_in_the_name_of_an_alias_domain(mail: MailHost) -> None:
    for sender in ("alice@ash.test", "x@sub.ash.test"):
        assert told(mail, "bob@oak.test", sender)[0] >= 500


# -- M7


def test_mail_to_a_group_reaches_each_member_once_and_by_their_own_settings(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    """Of groups and aliases inside it too; frieda's goes on to where she wants it."""
    message = write("stranger@expired.test", "staff@oak.test")
    message_id = str(message["Message-ID"])
    send_from_world(message, "stranger@expired.test", "staff@oak.test")
    for name in ("alice", "bob", "nopop", "frieda"):
        mail.find(f"{name}@oak.test", accounts[f"{name}@oak.test"], message_id)
    world_mailbox("plain.test", "pal", message_id)
    world_mailbox("good.test", "friend", message_id)
    delivered(host, message_id)
    for name in ("alice", "bob", "nopop", "frieda"):
        assert copies(mail, f"{name}@oak.test", accounts[f"{name}@oak.test"], message_id) == 1, name


def test_mail_to_a_group_of_groups_does_not_reach_who_is_excepted(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    message = write("alice@oak.test", "colleagues@oak.test")
    message_id = str(message["Message-ID"])
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    for address in ("alice@oak.test", "bob@oak.test", "frieda@oak.test", "helga@oak.test", "dave@elm.test"):
        mail.find(address, accounts[address], message_id)
    delivered(host, message_id)
    assert copies(mail, "nopop@oak.test", accounts["nopop@oak.test"], message_id) == 0


def test_a_disabled_member_gets_nothing(mail: MailHost) -> None:
    assert told(mail, "former@oak.test")[0] == 550
    assert told(mail, "former@ash.test")[0] == 550
    assert told(mail, "staff@oak.test")[0] == 250


# -- M18


def test_the_addresses_of_rfc_2142_exist_in_every_domain(mail: MailHost, model: dict[str, Any], accounts: dict[str, str]) -> None:
    for domain in model["domains"]:
        recipients = [f"{name}@{domain['name']}" for name in ("postmaster", "abuse", "hostmaster", "webmaster")]
        with stranger(mail) as session:
            assert session.rcpt("someone@good.test", *recipients) == [250] * 5, domain
    message = write("friend@good.test", "webmaster@elm.test")
    send_from_world(message, "friend@good.test", "webmaster@elm.test")
    mail.find("alice@oak.test", accounts["alice@oak.test"], str(message["Message-ID"]))


# -- M14


@pytest.mark.parametrize("source", [STRANGER4, STRANGER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "recipient",
    [
        "helga@oak.test",
        "HELGA@oak.test",
        "helga+tag@oak.test",
        '"helga"@oak.test',
        "inside@oak.test",
        "inside@ash.test",
        "colleagues@oak.test",
    ],
)
def test_an_internal_address_refuses_mail_from_outside(mail: MailHost, recipient: str, source: str) -> None:
    for sender in ("someone@good.test", "bob@oak.test", ""):
        code, text = told(mail, recipient, sender, source)
        assert code >= 500, text
    code, text = told(mail, recipient, source=source)
    assert code == 554
    assert text.endswith("This address takes mail from its own users only"), text


def test_an_internal_address_hears_from_its_own_users_and_from_the_host(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    for recipient in ("helga@oak.test", "inside@ash.test"):
        message = write("bob@oak.test", recipient)
        mail.submit("bob@oak.test", accounts["bob@oak.test"], message)
        mail.find("helga@oak.test", accounts["helga@oak.test"], str(message["Message-ID"]))
    message = write("root@mail.oak.test", "helga@oak.test")
    host.check_output("printf %%s %s | sendmail helga@oak.test", message.as_string(policy=message.policy.clone(linesep="\n")))
    mail.find("helga@oak.test", accounts["helga@oak.test"], str(message["Message-ID"]))


# -- A2


@pytest.mark.parametrize("recipient", ["help@oak.test", "help@xn--bcher-kva.test", "help@ash.test"])
def test_an_alias_of_every_domain_is_in_each(mail: MailHost, accounts: dict[str, str], recipient: str) -> None:
    message = write("friend@good.test", recipient)
    send_from_world(message, "friend@good.test", recipient)
    mail.find("alice@oak.test", accounts["alice@oak.test"], str(message["Message-ID"]))


def test_an_alias_of_one_domain_is_in_no_other(mail: MailHost) -> None:
    assert told(mail, "jobs@elm.test")[0] == 250
    assert told(mail, "jobs@oak.test")[0] == 550


# -- A4


@pytest.mark.parametrize(
    ("login", "sender"),
    [
        ("alice@oak.test", "staff@oak.test"),
        ("frieda@oak.test", "staff@ash.test"),
        ("helga@oak.test", "bob@oak.test"),
        ("helga@oak.test", "jobs@elm.test"),
    ],
)
def test_members_and_whom_the_inventory_names_send_as_an_address(mail: MailHost, accounts: dict[str, str], login: str, sender: str) -> None:
    with submission(mail, 587, login, accounts[login]) as session:
        assert session.rcpt(sender, "carol@oak.test") == [250, 250]


@pytest.mark.parametrize(
    ("login", "sender"),
    [
        ("helga@oak.test", "staff@oak.test"),
        ("alice@oak.test", "colleagues@oak.test"),
        ("bob@oak.test", "helga@oak.test"),
        ("erin@elm.test", "jobs@elm.test"),
    ],
)
def test_others_do_not(mail: MailHost, accounts: dict[str, str], login: str, sender: str) -> None:
    with submission(mail, 587, login, accounts[login]) as session:
        assert session.rcpt(sender, "carol@oak.test") == [250, 553]
