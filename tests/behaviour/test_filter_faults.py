"""With the filter, its memory or the resolver down, hung or killed: mail is deferred, nothing comes in unscanned, nothing is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from correspondent import MailHost, until
from filtering import GTUBE, REDIS, forget_greylisting, letter, offer
from test_policy import logged
from testinfra.host import Host
from wire import submission

ALICE, BOB = "alice@oak.test", "bob@oak.test"


@contextlib.contextmanager
def fault(host: Host, unit: str, kind: str = "stopped") -> Iterator[None]:
    """The unit is stopped, or hung: all its processes are there and do nothing."""
    begin, end = {"stopped": ("stop", "start"), "hung": ("kill --signal=STOP", "kill --signal=CONT")}[kind]
    host.check_output(f"systemctl {begin} {unit}")
    try:
        yield
    finally:
        host.check_output(f"systemctl {end} {unit}")


@pytest.fixture(autouse=True)
def works_before_and_after(mail: MailHost, host: Host) -> Iterator[None]:
    def works() -> bool:
        return host.run(f"{REDIS} PING").stdout.strip() == "PONG" and offer(mail, letter()[1], ALICE) == 250

    forget_greylisting(host)
    until("mail is accepted", works)
    yield
    until("mail is accepted again", works)


def has(mail: MailHost, accounts: dict[str, str], message_id: str, seconds: float) -> bool:
    try:
        return bool(mail.find(ALICE, accounts[ALICE], message_id, seconds=seconds))
    except TimeoutError:
        return False


@pytest.mark.parametrize("unit", ["rspamd", "redis-server"])
@pytest.mark.parametrize("kind", ["stopped", "hung"])
def test_mail_is_deferred_and_comes_in_later(mail: MailHost, accounts: dict[str, str], host: Host, unit: str, kind: str) -> None:
    message_id, message = letter()
    with fault(host, unit, kind):
        start = time.monotonic()
        assert offer(mail, message, ALICE) in range(400, 500)
        assert time.monotonic() - start < 40
    until("the same message is accepted", lambda: offer(mail, message, ALICE) == 250)
    assert has(mail, accounts, message_id, 60)


@pytest.mark.parametrize("unit", ["rspamd", "redis-server"])
def test_what_is_deferred_is_not_delivered_all_the_same(mail: MailHost, accounts: dict[str, str], host: Host, unit: str) -> None:
    message_id, message = letter()
    with fault(host, unit):
        assert offer(mail, message, ALICE) in range(400, 500)
    later, second = letter()
    until("mail is accepted again", lambda: offer(mail, second, ALICE) == 250)
    assert has(mail, accounts, later, 60)
    assert not has(mail, accounts, message_id, 0)


@pytest.mark.parametrize("unit", ["rspamd", "redis-server"])
def test_submission_is_deferred_too(mail: MailHost, accounts: dict[str, str], host: Host, unit: str) -> None:
    with fault(host, unit), submission(mail, 465) as session:
        codes = [session.login(BOB, accounts[BOB])]
        if codes[-1] == 235:
            codes += session.rcpt(BOB, ALICE)
        if codes[-1] == 250:
            codes.append(session.data(letter(sender=BOB)[1]))
        assert codes[-1] in range(400, 500), codes


def test_spam_does_not_slip_in_while_the_filter_restarts(mail: MailHost, host: Host) -> None:
    host.check_output("systemctl restart --no-block rspamd")
    codes = {offer(mail, letter(text=GTUBE)[1], ALICE)}
    until("spam is refused for good", lambda: codes.add(code := offer(mail, letter(text=GTUBE)[1], ALICE)) or code == 554)
    assert codes <= {451, 421, 554}


def test_a_reload_of_the_filter_defers_nothing(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    """Neither what comes meanwhile nor what was under way: a worker that is told to go finishes the sessions that it has."""
    with submission(mail, 465, BOB, accounts[BOB]) as early, submission(mail, 465, BOB, accounts[BOB]) as late:
        assert late.rcpt(BOB, ALICE) == [250, 250]
        host.check_output("systemctl reload rspamd")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert offer(mail, letter()[1], ALICE) == 250
        codes = [*early.rcpt(BOB, ALICE), early.data(letter(sender=BOB)[1]), late.data(letter(sender=BOB)[1])]
    assert codes == [250] * 4


@pytest.mark.parametrize("unit", ["rspamd", "redis-server"])
def test_it_comes_back_after_a_crash(mail: MailHost, host: Host, unit: str) -> None:
    host.check_output(f"systemctl kill --signal=KILL {unit}")
    until(f"{unit} runs again", lambda: host.run(f"systemctl is-active {unit}").rc == 0)
    until("mail is accepted again", lambda: offer(mail, letter()[1], ALICE) == 250)


@pytest.mark.parametrize("kind", ["stopped", "hung"])
def test_without_the_resolver_nothing_is_refused_for_good(mail: MailHost, host: Host, kind: str) -> None:
    with fault(host, "unbound", kind):
        start = time.monotonic()
        assert offer(mail, letter()[1], ALICE) < 500
        assert time.monotonic() - start < 60


def test_a_client_whose_name_cannot_be_looked_up_is_not_taken_for_one_without(mail: MailHost, host: Host) -> None:
    reverse = "51.198.in-addr.arpa"
    # Unbound asks nobody on the loopback: each look-up fails at once.
    host.check_output(f"unbound-control forward_add {reverse} 127.0.0.9 && unbound-control flush_zone {reverse}")
    try:
        message_id, message = letter()
        assert offer(mail, message, ALICE) == 250
    finally:
        host.check_output(f"unbound-control forward_remove {reverse} && unbound-control flush_zone {reverse}")
    found = logged(host, message_id.strip("<>"), "rspamd")
    assert "RDNS_DNSFAIL" in found
    assert "RDNS_NONE(2.00)" not in found
    assert "HFILTER_HOSTNAME_UNKNOWN(2.50)" not in found
