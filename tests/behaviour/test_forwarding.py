"""M6: mail that others wrote goes on to elsewhere, with a sender that SPF allows and that leads back; nobody else's sender changes."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage

import dkim
import dns.resolver
import pytest
from correspondent import MailHost, judge, send_from_world, until, write
from hosts import world_mailbox
from testinfra.host import Host
from wire import stranger

# Its SPF record names its own server only.
SENDER = "stranger@expired.test"


def forwarded(recipient: str, at: str = "friend@good.test", sender: str = SENDER) -> bytes:
    """Send a message from the world, and return it as it arrives where it is forwarded to."""
    message = write(SENDER, recipient)
    send_from_world(message, sender, recipient)
    return received(message, at)


def received(message: EmailMessage, at: str) -> bytes:
    user, _, domain = at.partition("@")
    return world_mailbox(domain, user, str(message["Message-ID"]))


def return_path(raw: bytes) -> str:
    return str(email.message_from_bytes(raw, policy=email.policy.default)["Return-Path"]).strip("<> ")


@pytest.fixture(scope="module")
def srs(mail: MailHost) -> str:
    """A sender that the host made up for a forwarded message."""
    return return_path(forwarded("partner@oak.test"))


@pytest.mark.parametrize(
    ("recipient", "at"),
    [
        ("partner@oak.test", "friend@good.test"),
        ("partner@ash.test", "friend@good.test"),
        ("gunnar@oak.test", "friend@good.test"),
        ("frieda@oak.test", "friend@good.test"),
        ("frieda@oak.test", "pal@plain.test"),
        ("away@oak.test", "pal@plain.test"),
    ],
    ids=["alias", "alias domain", "mailbox", "one of several", "transport", "transport alone"],
)
def test_forwarded_mail_passes_spf_dkim_and_dmarc_at_the_next_server(mail: MailHost, recipient: str, at: str) -> None:
    raw = forwarded(recipient, at)
    assert re.fullmatch(r"SRS0=[\w+/]+=\w+=expired\.test=stranger@mail\.oak\.test", return_path(raw)), return_path(raw)
    found = judge(raw)
    assert (found.spf, found.dkim, found.dmarc) == ("pass", "pass", "pass")
    assert b"forward.invalid" not in raw


def test_forwarded_mail_is_sealed_with_what_was_found_when_it_came_in(mail: MailHost, accounts: dict[str, str]) -> None:
    raw = forwarded("partner@oak.test")
    outcome, _, reason = dkim.arc_verify(raw, dnsfunc=dkim_records)
    assert outcome == b"pass", reason
    (seen,) = email.message_from_bytes(raw).get_all("ARC-Authentication-Results", [])
    assert "d=oak.test" in str(email.message_from_bytes(raw)["ARC-Seal"])
    assert {"dkim=pass", "spf=pass", "dmarc=pass"} <= set(seen.replace(";", " ").split())
    message = write(SENDER, "bob@oak.test")
    send_from_world(message, SENDER, "bob@oak.test")
    assert b"ARC-Seal" not in mail.find("bob@oak.test", accounts["bob@oak.test"], str(message["Message-ID"]))


def dkim_records(name: bytes, timeout: int = 5) -> bytes:
    return b"".join(dns.resolver.resolve(name.decode(), "TXT", lifetime=timeout)[0].strings)


def test_the_mailbox_keeps_a_copy_if_it_is_to_and_the_copy_has_the_senders_own_address(
    mail: MailHost, host: Host, accounts: dict[str, str]
) -> None:
    message = write(SENDER, "frieda@oak.test, gunnar@oak.test")
    send_from_world(message, SENDER, "frieda@oak.test", "gunnar@oak.test")
    received(message, "friend@good.test")
    for name in ("frieda", "bob"):
        raw = mail.find(f"{name}@oak.test", accounts[f"{name}@oak.test"], str(message["Message-ID"]))
        assert return_path(raw) == SENDER
    session = mail.imap("gunnar@oak.test", accounts["gunnar@oak.test"])
    session.select("INBOX", readonly=True)
    assert session.search(None, "HEADER", "Message-ID", str(message["Message-ID"]))[1] == [b""]
    session.logout()


def test_what_our_own_people_send_keeps_its_sender_forwarded_or_not(mail: MailHost, accounts: dict[str, str]) -> None:
    for recipient, at in (("partner@oak.test", "friend@good.test"), ("grace@plain.test", "grace@plain.test")):
        message = write("alice@oak.test", recipient)
        mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
        raw = received(message, at)
        assert return_path(raw) == "alice@oak.test"
        assert judge(raw).spf == "pass"


def test_a_forwarded_bounce_stays_one(mail: MailHost) -> None:
    # pipe(8), by which the world's servers deliver, has this name for the empty sender.
    assert return_path(forwarded("partner@oak.test", sender="")) == "MAILER-DAEMON"


def test_an_answer_to_the_made_up_sender_reaches_the_original_one(mail: MailHost, srs: str) -> None:
    for recipient in (srs, srs.lower()):
        message = write("mailer-daemon@good.test", recipient)
        send_from_world(message, "", recipient)
        assert b"mailer-daemon@good.test" in received(message, SENDER)


def test_the_original_sender_is_told_when_forwarded_mail_cannot_be_delivered(mail: MailHost) -> None:
    message = write(SENDER, "gone@oak.test")
    send_from_world(message, SENDER, "gone@oak.test")
    raw = received(message, SENDER)
    bounce = email.message_from_bytes(raw, policy=email.policy.default)
    assert bounce.get_content_type() == "multipart/report"
    assert b"nobody@does-not-exist.test" in raw
    assert b"forward.invalid" not in raw


@pytest.mark.parametrize("spoil", ["hash", "time", "domain", "user", "tag", "host"])
def test_a_forged_made_up_sender_is_refused_at_once(mail: MailHost, srs: str, spoil: str) -> None:
    local, _, host = srs.partition("@")
    tag, digest, stamp, domain, user = local.split("=")
    other = "B" if stamp[0] != "B" else "C"
    forged = {
        "hash": [tag, ("A" if digest[0].upper() != "A" else "B") + digest[1:], stamp, domain, user],
        "time": [tag, digest, other + stamp[1:], domain, user],
        "domain": [tag, digest, stamp, "good.test", user],
        "user": [tag, digest, stamp, domain, "victim"],
        "tag": ["SRS1", digest, stamp, domain, user],
        "host": [tag, digest, stamp, domain, user],
    }[spoil]
    recipient = f"{'='.join(forged)}@{'oak.test' if spoil == 'host' else host}"
    with stranger(mail) as session:
        assert session.rcpt("", recipient) == [250, 550]
    with stranger(mail) as session:
        assert session.rcpt("", srs) == [250, 250]


def test_without_its_helper_forwarded_mail_waits_and_other_mail_does_not(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    waiting = write(SENDER, "partner@oak.test")
    host.check_output("systemctl stop postsrsd.service")
    try:
        send_from_world(waiting, SENDER, "partner@oak.test")
        other = write(SENDER, "bob@oak.test")
        send_from_world(other, SENDER, "bob@oak.test")
        mail.find("bob@oak.test", accounts["bob@oak.test"], str(other["Message-ID"]))
        own = write("alice@oak.test", "friend@good.test")
        mail.submit("alice@oak.test", accounts["alice@oak.test"], own)
        received(own, "friend@good.test")
        until("it is deferred", lambda: "127.0.0.1" in host.check_output("postqueue -j | grep stranger@expired.test || true"))
    finally:
        host.check_output("systemctl start postsrsd.service")
    until("PostSRSd answers again", lambda: host.socket("tcp://127.0.0.1:10001").is_listening)
    host.check_output("postqueue -f")
    assert return_path(received(waiting, "friend@good.test")).startswith("SRS0=")


def test_the_secret_is_the_services_alone_and_not_in_its_arguments(host: Host) -> None:
    secret = host.file("/etc/postsrsd.secret").content_string.strip()
    assert len(secret) >= 24
    assert secret not in host.check_output("ps -eo args")
    assert set(host.check_output("ps -o user= -C postsrsd").split()) == {"postsrsd"}
