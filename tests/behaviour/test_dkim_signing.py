"""Which mail leaves with whose signature, judged by dkimpy against the world's DNS."""

from __future__ import annotations

import email
import secrets
from collections.abc import Iterator

import correspondent
import dkim
import dns.resolver
import hosts
import pytest
from correspondent import MailHost, until
from filtering import forget_greylisting, letter, offer
from mailstore import imap, sieve
from testinfra.host import Host
from wire import submission

ALICE, BOB, DAVE, GRACE = "alice@oak.test", "bob@oak.test", "dave@elm.test", "grace@good.test"


def signatures(raw: bytes) -> set[tuple[str, str]]:
    """(domain, algorithm) of every DKIM signature; each must verify."""
    found = set()
    for number, header in enumerate(email.message_from_bytes(raw).get_all("DKIM-Signature", [])):
        tags = dict(tag.strip().split("=", 1) for tag in header.replace("\n", "").replace("\r", "").split(";") if tag.strip())
        assert dkim.DKIM(raw).verify(idx=number, dnsfunc=_txt), tags
        found.add((tags["d"], tags["a"]))
    return found


def _txt(name: bytes, timeout: int = 5) -> bytes:
    answer = dns.resolver.resolve(name.decode(), "TXT", lifetime=timeout)
    return b"".join(answer[0].strings)


def sent(mail: MailHost, accounts: dict[str, str], login: str, sender: str, header_from: str) -> bytes:
    """What Grace gets of a message submitted by `login` with this envelope sender and this From."""
    message_id, text = letter(to=GRACE, sender=header_from)
    with submission(mail, 465, login, accounts[login]) as session:
        assert session.rcpt(sender, GRACE) == [250, 250]
        assert session.data(text) == 250
    return hosts.world_mailbox("good.test", "grace", message_id)


def test_mail_of_a_user_is_signed_by_every_key_of_the_domain(mail: MailHost, accounts: dict[str, str]) -> None:
    raw = sent(mail, accounts, ALICE, ALICE, ALICE)
    assert signatures(raw) == {("oak.test", "rsa-sha256"), ("oak.test", "ed25519-sha256")}


def test_every_domain_signs_its_own_mail(mail: MailHost, accounts: dict[str, str]) -> None:
    assert {domain for domain, _ in signatures(sent(mail, accounts, DAVE, DAVE, DAVE))} == {"elm.test"}


def test_a_change_on_the_way_is_noticed(mail: MailHost, accounts: dict[str, str]) -> None:
    raw = sent(mail, accounts, ALICE, ALICE, ALICE)
    for old, new in [(b"Good morning", b"Bad morning"), (b"\nSubject: About", b"\nSubject: Without"), (b"\nFrom: ", b"\nFrom: x")]:
        assert old in raw
        with pytest.raises((AssertionError, dkim.DKIMException)):
            signatures(raw.replace(old, new, 1))


def test_a_second_from_added_on_the_way_is_noticed(mail: MailHost, accounts: dict[str, str]) -> None:
    raw = sent(mail, accounts, ALICE, ALICE, ALICE)
    with pytest.raises((AssertionError, dkim.DKIMException)):
        signatures(b"From: somebody@bank.test\r\n" + raw)


@pytest.mark.parametrize("header_from", [DAVE, "mallory@elm.test", "somebody@sub.oak.test", GRACE])
def test_no_domain_signs_for_the_user_of_another(mail: MailHost, accounts: dict[str, str], header_from: str) -> None:
    assert signatures(sent(mail, accounts, ALICE, ALICE, header_from)) == set()


def test_without_an_envelope_sender_only_the_logins_domain_signs(mail: MailHost, accounts: dict[str, str]) -> None:
    assert signatures(sent(mail, accounts, ALICE, "", DAVE)) == set()
    assert {domain for domain, _ in signatures(sent(mail, accounts, ALICE, "", ALICE))} == {"oak.test"}


def test_mail_from_outside_is_never_signed(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    forget_greylisting(host)
    message_id, message = letter()
    assert offer(mail, message, ALICE) == 250
    assert signatures(mail.find(ALICE, accounts[ALICE], message_id)) == set()


def test_mail_from_outside_with_our_from_gets_neither_in_nor_signed(mail: MailHost, host: Host) -> None:
    forget_greylisting(host)
    assert offer(mail, letter(sender=ALICE)[1], BOB) in range(500, 600)


def test_a_vacation_reply_is_signed(mail: MailHost, accounts: dict[str, str]) -> None:
    with sieve(mail, BOB, accounts[BOB]) as scripts:
        scripts.use(f'require ["vacation"]; vacation :days 1 :handle "{secrets.token_hex(8)}" "I am away.";')
        question = correspondent.write(GRACE, BOB, subject="Are you there?")
        correspondent.send_from_world(question, GRACE, BOB)
        mail.find(BOB, accounts[BOB], str(question["Message-ID"]))
        raw = until("the reply", lambda: replies_to(str(question["Message-ID"])))
    assert {domain for domain, _ in signatures(raw)} == {"oak.test"}


def replies_to(message_id: str) -> bytes:
    """What Grace got in answer."""
    try:
        names = hosts.run_on_world(
            "grep", "-rlE", f"^In-Reply-To: .?{message_id.strip('<>')}", "/var/mail/world/good.test/grace/new/"
        ).split()
    except hosts.subprocess.CalledProcessError:
        return b""
    return hosts.run_on_world("cat", names[0].decode()) if names else b""


def test_a_bounce_is_signed(mail: MailHost, accounts: dict[str, str]) -> None:
    recipient = "nobody@no-such-host.good.test"
    message_id, text = letter(to=recipient, sender=ALICE)
    with submission(mail, 465, ALICE, accounts[ALICE]) as session:
        assert session.rcpt(ALICE, recipient) == [250, 250]
        assert session.data(text) == 250

    def bounce() -> bytes:
        with imap(mail, ALICE, accounts[ALICE]) as session:
            session.select("INBOX", readonly=True)
            for number in session.search(None, "FROM", '"MAILER-DAEMON"')[1][0].split():
                raw = session.fetch(number.decode(), "(RFC822)")[1][0][1]
                if message_id.encode() in raw:
                    return raw
        return b""

    assert {domain for domain, _ in signatures(until("the bounce", bounce))} == {"oak.test"}


@pytest.fixture(params=["static", "always_deny"])
def unseen(request: pytest.FixtureRequest, host: Host) -> Iterator[None]:
    """The mail host's resolver says that elm.test's key records do not exist, or says nothing."""
    host.check_output("unbound-control local_zone _domainkey.elm.test. %s", request.param)
    try:
        yield
    finally:
        host.check_output("unbound-control local_zone_remove _domainkey.elm.test.")


def test_a_resolver_that_does_not_see_the_record_now_costs_no_signature(mail: MailHost, accounts: dict[str, str], unseen: None) -> None:
    assert signatures(sent(mail, accounts, DAVE, DAVE, DAVE)) == {("elm.test", "rsa-sha256"), ("elm.test", "ed25519-sha256")}


def test_keys_are_for_the_filter_alone(host: Host) -> None:
    for path in host.check_output("ls /var/lib/mailwright/dkim/*.key").split():
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "_rspamd", 0o640)
    assert host.run("runuser -u nobody -- ls /var/lib/mailwright/dkim").rc != 0
