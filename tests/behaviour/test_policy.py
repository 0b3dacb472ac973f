"""What port 25 and the filter accept by declared policy: greetings (I2), headers (I3), greylisting (I6), lists in the DNS (I7),
limits (I9, S9), and whose mail is let through or refused by its content's author (F8); with the exact answer and what the log says.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from correspondent import MailHost, until
from edits import edited_lab
from filtering import BAD, CLIENT, DOUBTFUL, GTUBE, REDIS, SENDER, SUSPECT, forget_greylisting, letter
from testinfra.host import Host
from wire import Session, connect, stranger, submission

ALICE, BOB = "alice@oak.test", "bob@oak.test"
ALLOWED, BLOCKED, HASTY = "someone@client113.world.test", "someone@client114.world.test", "someone@client115.world.test"
LIMITED = "nosieve@oak.test"


@pytest.fixture(autouse=True)
def nobody_is_greylisted(host: Host) -> Iterator[None]:
    forget_greylisting(host)
    yield
    forget_greylisting(host)


def logged(host: Host, text: str, *identifiers: str, also: str = "") -> str:
    """The first line that has it, and `also`; waits until it is there."""
    units = " ".join(f"--identifier {name}" for name in identifiers) if identifiers else "--unit rspamd"

    def look() -> str:
        lines = host.check_output(f"journalctl --quiet --since -2min --output cat {units}").splitlines()
        return next((line for line in lines if text in line and also in line), "")

    return until(f"the log says {text!r}", look)


def offer(mail: MailHost, message: str, *recipients: str, sender: str = SENDER, source: str = CLIENT) -> tuple[int, str]:
    """What a stranger is told after the final dot."""
    with stranger(mail, source=source, name="client112.world.test") as session:
        assert session.rcpt(sender, *recipients)[-1] == 250
        assert session.code("DATA") == 354
        return session.command(message.replace("\n", "\r\n") + "\r\n.")


# -- I2: greetings


def greet(mail: MailHost, name: str, recipient: str = ALICE) -> tuple[int, str]:
    with stranger(mail, name=name) as session:
        assert session.code(f"MAIL FROM:<{SENDER}>") == 250
        return session.command(f"RCPT TO:<{recipient}>")


@pytest.mark.parametrize("name", ["client.world.test", "no-such-name.world.test", "[198.51.100.110]", "mail.oak.test"])
def test_a_full_name_or_an_address_is_a_greeting(mail: MailHost, name: str) -> None:
    assert greet(mail, name)[0] == 250


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("printer", "5.5.2 <printer>: Helo command rejected: need fully-qualified hostname"),
        ("a..b", "5.5.2 <a..b>: Helo command rejected: Invalid name"),
        ("[198.51.100.999]", "5.5.2 <[198.51.100.999]>: Helo command rejected: invalid ip address"),
    ],
)
def test_what_is_no_full_name_is_refused(mail: MailHost, host: Host, name: str, answer: str) -> None:
    code, text = greet(mail, name)
    assert (code, text.lower()) == (501 if ".." in name or "[" in name else 504, answer.lower())
    assert "reject: RCPT" in logged(host, f"<{name}>: Helo command rejected", "postfix/smtpd")


@pytest.mark.parametrize("name", ["old-printer", "OLD-Printer", "a_b.polite.world.test", "srv-17"])
def test_a_greeting_that_is_excepted_by_name_or_pattern_is_taken(mail: MailHost, name: str) -> None:
    assert greet(mail, name)[0] == 250


@pytest.mark.parametrize("name", ["very-old-printer", "old-printer2", "srv-x", "xsrv-17"])
def test_what_only_looks_like_an_exception_is_not(mail: MailHost, name: str) -> None:
    assert greet(mail, name)[0] == 504


def test_an_exception_skips_no_other_check(mail: MailHost) -> None:
    with stranger(mail, name="old-printer") as session:
        assert session.rcpt("someone@does-not-exist.test", ALICE)[-1] == 550


def test_without_a_greeting_nothing_goes(mail: MailHost) -> None:
    with connect(mail) as session:
        assert session.reply()[0] == 220
        assert session.command(f"MAIL FROM:<{SENDER}>") == (503, "5.5.1 Error: send HELO/EHLO first")


# -- I3: headers


def without(header: str) -> str:
    message = letter(headers="X-Kept: yes\nDate: Mon, 5 Jan 2026 10:00:00 +0000\n" if header != "Date" else "")[1]
    return "\n".join(line for line in message.split("\n") if not line.startswith(f"{header}:"))


def test_mail_without_an_author_is_refused(mail: MailHost, host: Host) -> None:
    assert offer(mail, without("From"), ALICE) == (554, "5.7.1 Header From is missing (RFC 5322)")
    assert "milter-reject: END-OF-MESSAGE" in logged(host, "Header From is missing", "postfix/cleanup")


def test_mail_without_a_date_is_accepted_unless_declared_otherwise(mail: MailHost) -> None:
    assert offer(mail, without("Date"), ALICE)[0] == 250


def test_the_mail_program_of_a_user_may_leave_the_date_out(mail: MailHost, accounts: dict[str, str]) -> None:
    with submission(mail, 465, BOB, accounts[BOB]) as session:
        assert session.rcpt(BOB, ALICE) == [250, 250]
        assert session.data(f"From: {BOB}\nSubject: x\n\nx\n") == 250


# -- F8, I6: whom the filter trusts


def test_an_allowed_sender_is_neither_delayed_nor_refused_for_the_score(mail: MailHost, host: Host) -> None:
    assert offer(mail, letter(BAD, sender=ALLOWED)[1], "dave@elm.test", sender=ALLOWED)[0] == 250
    assert "MAILWRIGHT_ALLOWED" in logged(host, ALLOWED)
    forget_greylisting(host)
    assert offer(mail, letter(BAD)[1], "dave@elm.test") == (554, "5.7.1 Message refused as spam")


@pytest.mark.parametrize("author", ["x@client113.world.test", "X@deep.below.CLIENT113.world.test"])
def test_the_author_in_from_counts_and_subdomains_do(mail: MailHost, author: str) -> None:
    assert offer(mail, letter(SUSPECT, sender=author)[1], ALICE)[0] == 250


@pytest.mark.parametrize("author", ["x@notclient113.world.test", "x@world.test", "client113.world.test@good.example"])
def test_what_only_looks_like_an_allowed_domain_is_not(mail: MailHost, author: str) -> None:
    assert offer(mail, letter(SUSPECT, sender=author)[1], ALICE)[0] == 451


def test_mail_to_an_allowed_recipient_passes(mail: MailHost, host: Host) -> None:
    assert offer(mail, letter(SUSPECT)[1], "open@oak.test")[0] == 250
    assert "MAILWRIGHT_ALLOWED" in logged(host, "<open@oak.test>")


@pytest.mark.parametrize(
    ("envelope", "author"),
    [(BLOCKED, SENDER), (SENDER, BLOCKED), (SENDER, "x@below.client114.world.test"), ("Some+tag@client114.world.test", SENDER)],
)
def test_a_blocked_sender_is_refused(mail: MailHost, host: Host, envelope: str, author: str) -> None:
    assert offer(mail, letter(sender=author)[1], ALICE, sender=envelope) == (554, "5.7.1 Refused by local policy")
    assert "client114.world.test is blocked by mail_filter" in logged(host, "is blocked by mail_filter")


def test_allow_wins_over_block(mail: MailHost) -> None:
    good = "good@client114.world.test"
    assert offer(mail, letter(sender=good)[1], ALICE, sender=good)[0] == 250
    assert offer(mail, letter(sender=BLOCKED)[1], "open@oak.test", sender=BLOCKED)[0] == 250


def test_what_the_filter_refuses_by_rule_is_refused_from_allowed_senders_too(mail: MailHost) -> None:
    forged = "somebody@good.test"
    assert offer(mail, letter(sender=forged)[1], "open@oak.test")[0] == 554


def test_a_sender_or_client_can_be_excepted_from_greylisting_only(mail: MailHost, host: Host) -> None:
    assert offer(mail, letter(DOUBTFUL)[1], ALICE)[0] == 451
    forget_greylisting(host)
    assert offer(mail, letter(DOUBTFUL, sender=HASTY)[1], ALICE, sender=HASTY)[0] == 250
    assert offer(mail, letter(DOUBTFUL)[1], ALICE, source="198.51.100.116")[0] == 250
    assert offer(mail, letter(BAD, sender=HASTY)[1], "dave@elm.test", sender=HASTY)[0] == 554


# -- I7: lists in the DNS


def test_a_domain_on_a_list_costs_points(mail: MailHost, host: Host) -> None:
    listed = "someone@client117.world.test"
    assert offer(mail, letter(sender=listed)[1], ALICE, sender=listed)[0] == 451
    assert re.search(r"MAILWRIGHT_LIST_RHSBL_TEST\(5\.0+\)", logged(host, "MAILWRIGHT_LIST_RHSBL_TEST("))
    assert offer(mail, letter(text="See http://www.listed-link.com/offer")[1], ALICE)[0] == 451


def test_a_list_that_answers_with_an_error_costs_nothing(mail: MailHost, host: Host) -> None:
    refused = "someone@client118.world.test"
    message_id, message = letter(sender=refused)
    assert offer(mail, message, ALICE, sender=refused)[0] == 250
    line = logged(host, message_id, also="(default: ")
    assert "MAILWRIGHT_LIST_RHSBL_TEST" not in line


def test_a_list_that_lists_everything_and_one_that_is_gone_reject_nothing(mail: MailHost, host: Host) -> None:
    message_id, message = letter()
    assert offer(mail, message, ALICE)[0] == 250
    line = logged(host, message_id, also="(default: ")
    assert "MAILWRIGHT_LIST_EVERYTHING_TEST" in line
    assert "NOTHING_TEST" not in line


def test_before_the_greeting_two_lists_must_agree_and_errors_do_not_count(mail: MailHost, host: Host) -> None:
    with stranger(mail, source="198.51.100.149", name="client149.world.test") as session:
        assert session.rcpt(SENDER, ALICE) == [250, 250]
    with connect(mail, source="198.51.100.150") as session:
        # The banner's first line, and then the end.
        assert session.line().startswith("220-")
        assert re.match(r"(550|521) 5.7.1 Service unavailable; client \[198.51.100.150\] blocked using ", session.line())
    assert logged(host, "DNSBL rank 4 for [198.51.100.150]", "postfix/postscreen")


# -- S9: limits per login


def test_a_login_may_write_to_so_many_recipients_and_no_more(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    host.check_output(f"{REDIS} DEL mailwright:sending:{LIMITED}")

    def send(*recipients: str, login: str = LIMITED) -> tuple[int, str]:
        with submission(mail, 465, login, accounts[login]) as session:
            assert session.rcpt(login, *recipients)[-1] == 250
            assert session.code("DATA") == 354
            return session.command(letter(sender=login)[1].replace("\n", "\r\n") + "\r\n.")

    assert send(ALICE, BOB, "nopop@oak.test")[0] == 250
    assert send(ALICE, BOB) == (451, "4.7.1 Sending limit reached, try again later")
    assert f"{LIMITED} has reached its limit of 4 recipients per hour" in logged(host, "has reached its limit")
    assert send(ALICE)[0] == 250
    assert send(ALICE)[0] == 451
    assert send(ALICE, login=BOB)[0] == 250
    # An hour later a bucket of four has leaked four.
    host.check_output(f"{REDIS} HSET mailwright:sending:{LIMITED} at {int(time.time()) - 1800}")
    assert send(ALICE, BOB)[0] == 250
    assert send(ALICE)[0] == 451
    host.check_output(f"{REDIS} DEL mailwright:sending:{LIMITED}")


# -- I9: limits per client


def test_a_client_has_so_many_connections_at_the_same_time(mail: MailHost, host: Host) -> None:
    source = "198.51.100.130"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(mail, source=source))
        assert first.reply()[0] == 220
        others: list[Session] = [stack.enter_context(connect(mail, source=source)) for _ in range(20)]
        answers = [session.reply() for session in others]
    assert [code for code, _ in answers].count(220) == 19
    assert [text for code, text in answers if code == 421] == ["4.7.0 mail.oak.test Error: too many connections from 198.51.100.130"]
    assert logged(host, source, "postfix/postscreen", "postfix/smtpd")


# -- levels and switches that the lab does not have; these change the host and come last


def test_the_levels_of_greetings_and_greylisting_off(mail: MailHost, tmp_path: Path) -> None:
    settings = "group_vars/mail/mail.yml"
    with edited_lab(tmp_path) as site:
        site.edit(
            settings,
            "mail_helo: {",
            "mail_greylisting: false\nmail_missing_headers: {from: score}\nmail_helo: {level: strict, ",
        )
        assert site.changed() == 2
        # Processes that had begun before may still answer.
        until("Postfix greets by its new level", lambda: greet(mail, "mail.oak.test")[0] == 554)
        until("Rspamd delays nobody", lambda: offer(mail, letter(DOUBTFUL)[1], ALICE)[0] == 250)
        assert greet(mail, "client112.world.test")[0] == 250
        assert greet(mail, "old-printer")[0] == 250
        assert greet(mail, "no-such-name.world.test") == (550, "5.7.1 <no-such-name.world.test>: Helo command rejected: Host not found")
        assert greet(mail, "mail.oak.test") == (554, "5.7.1 <mail.oak.test>: Helo command rejected: You are not this host")
        assert greet(mail, "printer")[0] == 504
        assert greet(mail, "printer", "postmaster@oak.test")[0] == 250
        # I6, I3
        assert offer(mail, letter(DOUBTFUL)[1], ALICE)[0] == 250
        assert offer(mail, letter(SUSPECT)[1], ALICE)[0] == 250
        assert offer(mail, letter(text=GTUBE)[1], ALICE)[0] == 554
        assert offer(mail, without("From"), ALICE)[0] == 250
        site.edit(settings, "level: strict", "level: lenient")
        site.edit(settings, "{from: score}", "{date: reject}")
        assert site.changed() == 2
        until("Postfix greets by its new level", lambda: greet(mail, "mail.oak.test")[0] == 250)
        until("Rspamd wants a date", lambda: offer(mail, without("Date"), ALICE)[0] == 554)
        assert offer(mail, without("Date"), ALICE) == (554, "5.7.1 Header Date is missing (RFC 5322)")
        assert offer(mail, without("From"), ALICE)[0] == 554
        for name in ("printer", "no-such-name.world.test", "mail.oak.test", "[junk"):
            assert greet(mail, name)[0] == 250
