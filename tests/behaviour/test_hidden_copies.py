"""D6: copies of mail to a domain, of mail from a domain, of everything; each once, and nobody hears of them."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from correspondent import MailHost, send_from_world, until, write
from edits import edited_lab
from hosts import run_on_world, world_mailbox
from test_addresses import copies, delivered
from testinfra.host import Host

ARCHIVE = "archive@oak.test"


class Archive:
    """The mailbox that copies go to."""

    def __init__(self, mail: MailHost, host: Host, password: str) -> None:
        self.mail = mail
        self.host = host
        self.password = password

    def has(self, message: EmailMessage, parts: int = 1) -> int:
        """How many of a message it has once all of it has been delivered; the sending server makes a part for each domain."""
        message_id = str(message["Message-ID"])
        logged = f"journalctl -q -o cat --since -5min --grep {message_id.strip('<>')!r} | grep -c message-id= || true"
        until("the host has the message", lambda: int(self.host.check_output(logged)) >= parts)
        delivered(self.host, message_id)
        return copies(self.mail, ARCHIVE, self.password, message_id)


@pytest.fixture
def archive(mail: MailHost, host: Host, accounts: dict[str, str]) -> Archive:
    return Archive(mail, host, accounts[ARCHIVE])


def arrive(*recipients: str) -> EmailMessage:
    message = write("stranger@good.test", ", ".join(recipients))
    send_from_world(message, "stranger@good.test", *recipients)
    return message


def sent(mail: MailHost, accounts: dict[str, str], sender: str, *recipients: str) -> EmailMessage:
    message = write(sender, ", ".join(recipients))
    mail.submit(sender, accounts[sender], message, sender, *recipients)
    return message


@pytest.mark.parametrize("recipients", [["erin@elm.test"], ["whoever@elm.test"], ["erin@elm.test", "dave@elm.test", "bob@oak.test"]])
def test_mail_to_a_domain_is_copied_once(archive: Archive, recipients: list[str]) -> None:
    parts = {recipient.partition("@")[2] for recipient in recipients}
    assert archive.has(arrive(*recipients), len(parts)) == 1


def test_mail_to_other_domains_is_not(mail: MailHost, accounts: dict[str, str], archive: Archive) -> None:
    assert archive.has(arrive("bob@oak.test")) == 0
    assert archive.has(sent(mail, accounts, "erin@elm.test", "bob@oak.test", "friend@good.test")) == 0


def test_mail_from_a_domain_is_copied_once_wherever_it_goes(mail: MailHost, accounts: dict[str, str], archive: Archive) -> None:
    sender = "joerg@xn--bcher-kva.test"
    assert archive.has(sent(mail, accounts, sender, "friend@good.test", "bob@oak.test")) == 1
    assert archive.has(sent(mail, accounts, sender, "erin@elm.test")) == 1, "two rules, one copy"
    assert archive.has(arrive(sender)) == 0


def test_the_sender_and_the_recipient_see_nothing_of_the_copy(mail: MailHost, accounts: dict[str, str], archive: Archive) -> None:
    message = arrive("erin@elm.test")
    assert archive.has(message) == 1
    raw = mail.find("erin@elm.test", accounts["erin@elm.test"], str(message["Message-ID"]))
    assert b"archive" not in raw
    copy = email.message_from_bytes(mail.find(ARCHIVE, accounts[ARCHIVE], str(message["Message-ID"])), policy=email.policy.default)
    assert str(copy["Return-Path"]) == "<stranger@good.test>"


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[None]:
    """Copies of everything, until the test is over; to an address outside that refuses them, of what elm.test gets."""
    with edited_lab(tmp_path, "--tags", "postfix") as site:
        site.edit("domains/elm.test.yml", "hidden_copy: archive@oak.test", "hidden_copy: gone@oak.test")
        with (site.path / "group_vars/mail/mail.yml").open("a") as file:
            file.write(f"\nmail_hidden_copy: {ARCHIVE}\n")
        site.changed("--tags", "postfix")
        yield


def test_everything_can_be_copied_and_a_copy_that_fails_is_nobodys_business(
    mail: MailHost, host: Host, accounts: dict[str, str], archive: Archive, everything: None
) -> None:
    assert archive.has(arrive("bob@oak.test")) == 1
    for recipient in (ARCHIVE, "archive+tag@oak.test", "journal@ash.test"):
        assert archive.has(arrive(recipient)) == 1, "the copy's own address has it already"
    assert archive.has(arrive("partner@oak.test")) == 1, "forwarded: copied on the way in, not again on the way out"
    assert archive.has(sent(mail, accounts, "alice@oak.test", "friend@good.test")) == 1
    assert archive.has(sent(mail, accounts, "alice@oak.test", "nopop@oak.test", "bob@oak.test", "friend@good.test")) == 1
    message = arrive("erin@elm.test")
    assert archive.has(message) == 0, "the domain's own copy takes the place of the common one"
    until(
        "the copy has failed",
        lambda: "status=bounced" in host.check_output("journalctl -q -o cat --since -2min --grep 'nobody@does-not-exist.test' || true"),
    )
    # What comes later has arrived: so would a bounce have.
    later = write("alice@oak.test", "stranger@good.test")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], later)
    world_mailbox("good.test", "stranger", str(later["Message-ID"]))
    bounces = run_on_world("sh", "-c", f"grep -rlF '{str(message['Message-ID']).strip('<>')}' /var/mail/world/good.test/stranger || true")
    assert bounces == b""
