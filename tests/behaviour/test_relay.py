"""Port 25: who may bring what, seen by strangers over IPv4 and IPv6. Nothing leaves for elsewhere without a login."""

from __future__ import annotations

from typing import Any

import pytest
from correspondent import MailHost, until
from testinfra.host import Host
from wire import STRANGER4, STRANGER6, connect, stranger

SENDERS = [
    "",
    "someone@good.test",
    "alice@oak.test",
    "ALICE@OAK.TEST",
    "alice@sub.oak.test",
    "someone@[198.51.100.110]",
    "root@localhost",
    "alice@mail.oak.test",
]
ELSEWHERE = [
    "bob@good.test",
    "bob%good.test@oak.test",
    '"bob@good.test"@oak.test',
    "good.test!bob@oak.test",
    "@oak.test:bob@good.test",
    "alice@[198.51.100.10]",
    "alice@[127.0.0.1]",
    "alice@good.test@oak.test",
    '"bob%good.test"',
    "nobody-here@oak.test",
    "bob@good.test.",
    "bob@relay.oak.test",
]
FORGED = [
    "alice@oak.test",
    "ALICE@OAK.TEST",
    "Alice@Oak.Test",
    "alice+tag@oak.test",
    "nobody-here@oak.test",
    "alice@sub.oak.test",
    "alice@SUB.deeper.OAK.test",
    "joerg@xn--bcher-kva.test",
    "root@mail.oak.test",
    "root@MAIL.oak.test",
    "root@localhost",
]


@pytest.mark.parametrize("recipient", ELSEWHERE)
@pytest.mark.parametrize("source", [STRANGER4, STRANGER6], ids=["ipv4", "ipv6"])
def test_a_stranger_cannot_relay(mail: MailHost, source: str, recipient: str) -> None:
    for sender in SENDERS:
        with stranger(mail, source=source) as session:
            codes = session.rcpt(sender, recipient)
            assert codes[-1] >= 500, f"from {sender!r}: {codes}"


def test_the_hosts_own_public_addresses_are_strangers_too(mail: MailHost, host: Host) -> None:
    """Containers and other programs behind the host's address are not the loopback."""
    script = (
        "import smtplib,sys; s=smtplib.SMTP(sys.argv[1],25,local_hostname='client.world.test',source_address=(sys.argv[1],0),timeout=40);"
        "s.ehlo(); s.mail('someone@good.test'); print(s.rcpt('bob@good.test')[0])"
    )
    for address in (mail.ipv4, mail.ipv6):
        assert host.check_output("python3 -c %s %s", script, address) == "554"


@pytest.mark.parametrize("source", [STRANGER4, STRANGER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("sender", FORGED)
def test_a_stranger_cannot_send_in_our_name(mail: MailHost, source: str, sender: str) -> None:
    with stranger(mail, source=source) as session:
        assert session.rcpt(sender, "bob@oak.test")[-1] >= 500


@pytest.mark.parametrize(
    "recipient",
    [
        "alice@oak.test",
        "ALICE@Oak.Test",
        "alice+tag@oak.test",
        "team@oak.test",
        "ticket-17@oak.test",
        "anybody@elm.test",
        "joerg@xn--bcher-kva.test",
    ],
)
def test_addresses_of_the_inventory_are_accepted(mail: MailHost, recipient: str) -> None:
    with stranger(mail) as session:
        assert session.rcpt("someone@good.test", recipient) == [250, 250]


@pytest.mark.parametrize("name", ["postmaster", "PostMaster", "abuse"])
def test_postmaster_and_abuse_of_every_domain_hear_from_everybody(mail: MailHost, model: dict[str, Any], name: str) -> None:
    """RFC 5321 4.5.1: also from a sender whose domain does not exist, greeting with a poor name."""
    for domain in [domain["name"] for domain in model["domains"]] + [mail.hostname]:
        with stranger(mail, name="printer") as session:
            assert session.rcpt("someone@does-not-exist.test", f"{name}@{domain}") == [250, 250], domain


def test_a_bare_postmaster_is_accepted(mail: MailHost) -> None:
    with stranger(mail, name="printer") as session:
        assert session.rcpt("someone@does-not-exist.test", "Postmaster") == [250, 250]


@pytest.mark.parametrize("recipient", ["nobody-here@oak.test", "nobody-here+tag@oak.test", "ticket-x@oak.test", "root@mail.oak.test"])
def test_an_unknown_recipient_is_refused_at_once(mail: MailHost, recipient: str) -> None:
    with stranger(mail) as session:
        assert session.rcpt("someone@good.test", recipient) == [250, 550]


@pytest.mark.parametrize("recipient", ["robot@oak.test", "disabled@oak.test", "Robot@OAK.test", "robot+tag@oak.test"])
def test_send_only_and_disabled_mailboxes_take_no_mail(mail: MailHost, recipient: str) -> None:
    with stranger(mail) as session:
        code, text = session.command("MAIL FROM:<someone@good.test>")
        code, text = session.command(f"RCPT TO:<{recipient}>")
        assert code >= 500, text


def test_a_sender_whose_domain_does_not_exist_is_refused(mail: MailHost) -> None:
    with stranger(mail) as session:
        assert session.rcpt("someone@does-not-exist.test", "bob@oak.test") == [250, 550]


@pytest.mark.parametrize("command", ["VRFY alice@oak.test", "EXPN team@oak.test", "ETRN oak.test"])
def test_nobody_is_told_who_exists(mail: MailHost, command: str) -> None:
    with stranger(mail) as session:
        assert session.code(command) >= 450


def test_a_message_above_the_size_limit_is_refused_before_it_is_sent(mail: MailHost, model: dict[str, Any]) -> None:
    limit = model["settings"]["message_size_limit"]
    with stranger(mail) as session:
        assert f"SIZE {limit}" in session.hello()
        assert session.code(f"MAIL FROM:<someone@good.test> SIZE={limit + 1}") == 552


def test_authentication_is_not_offered_between_servers(mail: MailHost) -> None:
    with stranger(mail) as session:
        assert "AUTH" not in session.hello()
        assert session.login("alice@oak.test", "whatever") == 503
        assert session.code("STARTTLS") == 220
        session.start_tls()
        assert "AUTH" not in session.hello()
        assert session.login("alice@oak.test", "whatever") == 503


def test_who_talks_before_the_greeting_is_turned_away(mail: MailHost) -> None:
    with connect(mail, source="198.51.100.141") as session:
        session.send(b"EHLO spammer.world.test\r\n")
        code, text = session.reply()
        while code == 220:  # the first line of a greeting that never ends: the bait
            code, text = session.reply()
        assert code in {521, 0}, text
        assert session.replies() == []


def test_a_stranger_is_slowed_down_after_sixty_connections_in_a_minute(mail: MailHost) -> None:
    codes = []
    for _connection in range(62):
        with connect(mail, source="198.51.100.140") as session:
            codes.append(session.reply()[0])
            session.send(b"QUIT\r\n")
    assert codes[0] == 220
    assert codes[-1] in {421, 450}


def test_nothing_is_accepted_unscanned_while_the_filter_is_away(mail: MailHost, host: Host) -> None:
    host.check_output("systemctl stop rspamd.service")
    try:
        with connect(mail) as session:
            codes = [session.reply()[0]]
            if codes == [220]:
                session.hello()
                codes += session.rcpt("someone@good.test", "bob@oak.test")
    finally:
        host.check_output("systemctl start rspamd.service")
        until("Rspamd answers again", lambda: host.socket("tcp://127.0.0.1:11332").is_listening)
    assert 400 <= codes[-1] < 500
