"""D2, D3: domains that another server delivers, this host as their only or their second MX."""

from __future__ import annotations

import contextlib
import email
import uuid
from collections.abc import Iterator

import pytest
from correspondent import MailHost, until, write
from hosts import world_mailbox
from testinfra.host import Host
from wire import STRANGER4, STRANGER6, stranger, submission

# yew.test: its server is asked who exists. birch.test: its recipients are listed; this host is its second MX.
HIDDEN_SERVER = ("198.51.100.25", "2001:db8:25::25")


def answer(mail: MailHost, recipient: str, source: str = STRANGER4) -> tuple[int, str]:
    """What a stranger is told at RCPT."""
    with stranger(mail, source=source) as session:
        session.command("MAIL FROM:<someone@good.test>")
        return session.command(f"RCPT TO:<{recipient}>")


def settled(mail: MailHost, recipient: str) -> tuple[int, str]:
    """The same when the other server has been asked: a first answer may be "try again"."""
    found = answer(mail, recipient)
    if found[0] == 450:
        until(f"{recipient} is verified", lambda: answer(mail, recipient)[0] != 450)
        found = answer(mail, recipient)
    return found


@contextlib.contextmanager
def unreachable(host: Host, *addresses: str) -> Iterator[None]:
    """The mail host cannot reach these."""
    for address in addresses:
        host.check_output("ip route add unreachable %s", address)
    try:
        yield
    finally:
        for address in addresses:
            host.check_output("ip route del unreachable %s", address)


def hand_in(mail: MailHost, recipient: str) -> str:
    """A stranger's message is accepted at once; its Message-ID."""
    message = write("somebody@client110.world.test", recipient)
    with stranger(mail) as session:
        assert session.rcpt("somebody@client110.world.test", recipient) == [250, 250]
        assert session.data(message.as_string()) == 250
    return str(message["Message-ID"])


def test_mail_for_a_relayed_domain_reaches_its_server_under_verified_tls(mail: MailHost, host: Host) -> None:
    assert settled(mail, "known@yew.test")[0] == 250
    raw = world_mailbox("yew.test", "known", hand_in(mail, "known@yew.test"))
    received = str(email.message_from_bytes(raw)["Received"])
    assert f"from {mail.hostname}" in received
    assert "by mx.yew.test" in received
    assert "using TLS" in received
    log = host.check_output(
        "journalctl --sync; journalctl --quiet --since -3min --output cat --grep 'TLS connection established to mx.yew.test'"
    )
    assert "Verified TLS connection established to mx.yew.test[" in log


def test_as_second_mx_this_host_hands_mail_on_to_the_first(mail: MailHost) -> None:
    raw = world_mailbox("birch.test", "known", hand_in(mail, "known@birch.test"))
    assert "by mx.birch.test" in str(email.message_from_bytes(raw)["Received"])


def test_as_second_mx_this_host_keeps_mail_until_the_first_is_back(mail: MailHost, host: Host) -> None:
    with unreachable(host, "198.51.100.26", "2001:db8:25::26"):
        message_id = hand_in(mail, "known@birch.test")
        until("it waits in the queue", lambda: host.run("postqueue -j | grep -F known@birch.test | grep -F '\"deferred\"'").succeeded)
    host.check_output("postqueue -f")
    assert world_mailbox("birch.test", "known", message_id)


@pytest.mark.parametrize("source", [STRANGER4, STRANGER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("recipient", ["nobody@birch.test", "known2@birch.test", "nobody+tag@birch.test", "known@sub.birch.test"])
def test_a_recipient_that_is_not_listed_is_refused_at_once(mail: MailHost, source: str, recipient: str) -> None:
    code, text = answer(mail, recipient, source)
    assert code >= 500, text


@pytest.mark.parametrize(
    "recipient", ["known@birch.test", "KNOWN@Birch.test", "known+tag@birch.test", "postmaster@birch.test", "abuse@birch.test"]
)
def test_a_listed_recipient_and_the_rfc_2142_names_are_accepted(mail: MailHost, recipient: str) -> None:
    assert answer(mail, recipient)[0] == 250


def test_the_server_of_a_relayed_domain_is_asked_who_exists(mail: MailHost) -> None:
    assert settled(mail, "known@yew.test")[0] == 250
    code, text = settled(mail, f"nobody-{uuid.uuid4().hex[:8]}@yew.test")
    assert code == 550, text
    assert "mx.yew.test" not in text, "who stands behind is nobody's business"
    assert settled(mail, "abuse@yew.test")[0] == 550, "also for the names that are always accepted elsewhere"


def test_what_the_server_said_outlives_it_and_new_names_are_told_to_try_again(mail: MailHost, host: Host) -> None:
    assert settled(mail, "known@yew.test")[0] == 250
    with unreachable(host, *HIDDEN_SERVER):
        assert answer(mail, "known@yew.test")[0] == 250
        code, text = answer(mail, f"new-{uuid.uuid4().hex[:8]}@yew.test")
        assert 400 <= code < 500, text
    host.check_output("systemctl reload postfix")
    until("Postfix answers", lambda: answer(mail, "known@yew.test")[0] == 250)


def test_nothing_is_bounced_for_a_relayed_domain(host: Host) -> None:
    """After the tests above: no bounce was written because of a recipient there."""
    log = host.check_output("journalctl --quiet --since -10min --output cat --grep 'status=bounced' || true")
    assert not [line for line in log.splitlines() if ("@yew.test" in line or "@birch.test" in line) and "postfix/verify" not in line]


@pytest.mark.parametrize("port", [465, 587])
def test_own_users_are_told_about_unknown_recipients_too(mail: MailHost, accounts: dict[str, str], port: int) -> None:
    with submission(mail, port, "alice@oak.test", accounts["alice@oak.test"]) as session:
        assert session.rcpt("alice@oak.test", "known@birch.test", "nobody@birch.test") == [250, 250, 550]


def test_a_relayed_domain_may_write_to_us_from_its_own_server(mail: MailHost) -> None:
    """Its users do not log in here: their mail is not a forgery."""
    with stranger(mail) as session:
        assert session.rcpt("somebody-else@birch.test", "bob@oak.test") == [250, 250]


def test_a_relayed_domain_opens_no_relay(mail: MailHost) -> None:
    with stranger(mail) as session:
        assert session.rcpt("known@yew.test", "bob@good.test")[-1] == 554
