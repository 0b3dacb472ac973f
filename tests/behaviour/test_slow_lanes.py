"""S6: destinations that want little at a time."""

from __future__ import annotations

import re

import pytest
from correspondent import MailHost, until, write
from hosts import run_on_world, world_mailbox
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


def deliveries(mail: MailHost, accounts: dict[str, str], host: Host, domain: str) -> list[tuple[float, float]]:
    """Of three messages of alice, sent at once: when each was delivered, and how long it had waited for its turn, in seconds.

    As this host's log tells: what the world's server takes to write them down is its own business.
    """
    began = host.check_output("date +%s.%N")
    for _ in range(3):
        mail.submit("alice@oak.test", accounts["alice@oak.test"], write("alice@oak.test", f"friend@{domain}"))
    sent = rf"^(\d+\.\d+) .* to=<friend@{re.escape(domain)}>, .*delays=[^/]+/([^/]+)/.* status=sent"
    log = f"journalctl --quiet --output short-unix --since @{began} | grep -F '/smtp[' || true"

    def found() -> list[tuple[float, float]]:
        rows = re.findall(sent, host.check_output(log), re.MULTILINE)
        return sorted((float(time), float(waited)) for time, waited in rows) if len(rows) >= 3 else []

    return until(f"three messages are delivered to {domain}", found)


def test_the_turtle_pauses_between_deliveries(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    times = [time for time, _ in deliveries(mail, accounts, host, "slow.good.test")]
    # Postfix's timers know whole seconds.
    assert times[-1] - times[0] > 2 * (TURTLE_DELAY - 1), times


def test_other_destinations_do_not_wait(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    for domain in ("polite.good.test", "good.test"):
        found = deliveries(mail, accounts, host, domain)
        assert max(waited for _, waited in found) < TURTLE_DELAY, (domain, found)


@pytest.mark.parametrize(("domain", "lane"), [("slow.good.test", "turtle"), ("polite.good.test", "polite")])
def test_a_destination_uses_its_lane(mail: MailHost, accounts: dict[str, str], host: Host, domain: str, lane: str) -> None:
    message = write("alice@oak.test", f"somebody@{domain}")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    world_mailbox(domain, "somebody", message["Message-ID"])
    found = "journalctl --quiet --since -2min --output short | grep -F 'to=<somebody@%s>' | grep -cF 'postfix/%s/smtp['"
    until("it is in the log", lambda: host.run(found, domain, lane).succeeded)


def test_the_turtle_carries_few_recipients_at_a_time(mail: MailHost, accounts: dict[str, str]) -> None:
    parts = {}
    for domain in ("slow.good.test", "good.test"):
        message = write("alice@oak.test", "a list of friends: ;")
        recipients = [f"friend{number}@{domain}" for number in range(7)]
        mail.submit("alice@oak.test", accounts["alice@oak.test"], message, None, *recipients)
        for number in range(7):
            world_mailbox(domain, f"friend{number}", message["Message-ID"])
        # Other mail may come while it looks.
        look = f"grep -rlsF -- '{message['Message-ID'].strip('<>')}' /var/mail/world/{domain}/*/new/ || true"
        names = run_on_world("sh", "-c", look).decode().split()
        parts[domain] = len({name.rpartition(".")[2] for name in names})
    assert parts == {"slow.good.test": 2, "good.test": 1}, "queue ids over there"


def test_the_lanes_have_the_limits_declared(host: Host) -> None:
    found = dict(line.split(" = ") for line in host.check_output(f"postconf {' '.join(LIMITS)}").splitlines())
    assert found == LIMITS
