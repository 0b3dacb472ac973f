"""S6: destinations that want little at a time."""

from __future__ import annotations

import pytest
from correspondent import MailHost, until, world_mailbox, write
from hosts import run_on_world
from testinfra.host import Host

# As inventories/lab declares them; of the lanes' other limits the role's defaults.
TURTLE_DELAY = 3.0
LIMITS = {
    "polite_destination_concurrency_limit": "2",
    "polite_destination_recipient_limit": "20",
    "polite_destination_rate_delay": "0s",
    "turtle_destination_concurrency_limit": "1",
    "turtle_destination_recipient_limit": "5",
    "turtle_destination_rate_delay": "3s",
}


def arrivals(mail: MailHost, accounts: dict[str, str], domain: str) -> list[float]:
    """When each of three messages of alice, sent at once, was written by the world's server, in seconds."""
    messages = [write("alice@oak.test", f"friend@{domain}") for _ in range(3)]
    for message in messages:
        mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    for message in messages:
        world_mailbox(run_on_world, domain, "friend", message["Message-ID"])
    found = []
    for message in messages:
        name = (
            run_on_world("grep", "-rlF", "--", message["Message-ID"].strip("<>"), f"/var/mail/world/{domain}/friend/").decode().split()[0]
        )
        found.append(int(name.rpartition("/")[2].partition(".")[0]) / 1e9)
    return sorted(found)


def test_the_turtle_pauses_between_deliveries(mail: MailHost, accounts: dict[str, str]) -> None:
    times = arrivals(mail, accounts, "slow.good.test")
    # Each is written some time after it was received, on a busy machine later than the next one's turn.
    assert times[-1] - times[0] > 2 * TURTLE_DELAY - 2, times


def test_other_destinations_do_not_wait(mail: MailHost, accounts: dict[str, str]) -> None:
    for domain in ("polite.good.test", "good.test"):
        times = arrivals(mail, accounts, domain)
        assert times[-1] - times[0] < TURTLE_DELAY, domain


@pytest.mark.parametrize(("domain", "lane"), [("slow.good.test", "turtle"), ("polite.good.test", "polite")])
def test_a_destination_uses_its_lane(mail: MailHost, accounts: dict[str, str], host: Host, domain: str, lane: str) -> None:
    message = write("alice@oak.test", f"somebody@{domain}")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    world_mailbox(run_on_world, domain, "somebody", message["Message-ID"])
    found = "journalctl --quiet --since -2min --output short | grep -F 'to=<somebody@%s>' | grep -cF 'postfix/%s/smtp['"
    until("it is in the log", lambda: host.run(found, domain, lane).succeeded)


def test_the_turtle_carries_few_recipients_at_a_time(mail: MailHost, accounts: dict[str, str]) -> None:
    deliveries = {}
    for domain in ("slow.good.test", "good.test"):
        message = write("alice@oak.test", "a list of friends: ;")
        recipients = [f"friend{number}@{domain}" for number in range(7)]
        mail.submit("alice@oak.test", accounts["alice@oak.test"], message, None, *recipients)
        for number in range(7):
            world_mailbox(run_on_world, domain, f"friend{number}", message["Message-ID"])
        names = run_on_world("grep", "-rlF", "--", message["Message-ID"].strip("<>"), f"/var/mail/world/{domain}/").decode().split()
        deliveries[domain] = len({name.rpartition(".")[2] for name in names})
    assert deliveries == {"slow.good.test": 2, "good.test": 1}, "queue ids over there"


def test_the_lanes_have_the_limits_declared(host: Host) -> None:
    found = dict(line.split(" = ") for line in host.check_output(f"postconf {' '.join(LIMITS)}").splitlines())
    assert found == LIMITS
