"""S7: TLS to the world is as strict as its policy says: mail waits for what must be right, and goes where it need not be."""

from __future__ import annotations

import email
import json
from collections.abc import Callable, Iterator

import pytest
from correspondent import MailHost, until, write
from hosts import world_mailbox
from testinfra.host import Host


@pytest.fixture
def send(mail: MailHost, accounts: dict[str, str], host: Host) -> Iterator[Callable[[str], str]]:
    """Alice writes to an address; returns the Message-ID. What still waits afterwards is thrown away."""
    recipients = []

    def submit(recipient: str) -> str:
        message = write("alice@oak.test", recipient)
        recipients.append(recipient)
        mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
        return str(message["Message-ID"])

    yield submit
    for line in host.check_output("postqueue -j").splitlines():
        entry = json.loads(line)
        if any(recipient["address"] in recipients for recipient in entry["recipients"]):
            host.run("postsuper -d %s", entry["queue_id"])  # it may have left by now


def waits_because(host: Host, recipient: str) -> str:
    """Why a message to the recipient is deferred."""

    def reason() -> str:
        entries = map(json.loads, host.check_output("postqueue -j").splitlines())
        reasons = [r.get("delay_reason", "") for entry in entries for r in entry["recipients"] if r["address"] == recipient]
        return reasons[0] if reasons else ""

    return until(f"mail to {recipient} is deferred", reason)


def received(recipient: str, message_id: str) -> str:
    """The Received header that the world's server wrote."""
    local, _, domain = recipient.rpartition("@")
    raw = world_mailbox(domain, local, message_id)
    return " ".join(str(email.message_from_bytes(raw)["Received"]).split())


def test_a_policy_delivers_to_a_server_with_a_good_certificate(send: Callable[[str], str], host: Host) -> None:
    assert "using TLS" in received("strict@secure.good.test", send("strict@secure.good.test"))
    assert "Verified TLS connection established to mx.good.test[" in connections(host, "mx.good.test")


@pytest.mark.parametrize(
    ("domain", "reason"),
    [("secure.expired.test", "Server certificate not"), ("secure.plain.test", "TLS is required, but was not offered")],
    ids=["expired certificate", "no TLS"],
)
def test_a_policy_lets_mail_wait_for_a_server_that_cannot_keep_it(send: Callable[[str], str], host: Host, domain: str, reason: str) -> None:
    send(f"strict@{domain}")
    assert reason in waits_because(host, f"strict@{domain}")
    assert not host.run(f"test -e /var/mail/world/{domain}/strict").succeeded


@pytest.mark.parametrize(("domain", "tls"), [("expired.test", True), ("plain.test", False)])
def test_without_a_policy_the_same_servers_get_mail(send: Callable[[str], str], domain: str, tls: bool) -> None:
    assert ("using TLS" in received(f"lenient@{domain}", send(f"lenient@{domain}"))) is tls


# What destinations demand themselves; the world's side of it is in molecule/shared/laboratory/world.py.


def connections(host: Host, server: str) -> str:
    """What Postfix has logged of its TLS connections to a server."""
    host.check_output("journalctl --sync")
    return host.check_output("journalctl --quiet --since -2min --output cat --grep %s", f"TLS connection established to {server}\\[")


def test_dane_delivers_to_a_server_whose_key_is_the_published_one(send: Callable[[str], str], host: Host) -> None:
    assert "using TLS" in received("dane@dane.good.test", send("dane@dane.good.test"))
    assert "Verified TLS connection established to mx-dane.good.test[" in connections(host, "mx-dane.good.test")


@pytest.mark.parametrize("domain", ["wrongdane.good.test", "wrongboth.good.test"], ids=["alone", "with a policy that would be kept"])
def test_dane_lets_mail_wait_for_a_server_with_another_key(send: Callable[[str], str], host: Host, domain: str) -> None:
    send(f"strict@{domain}")
    assert "Server certificate not " in waits_because(host, f"strict@{domain}")


def test_dane_comes_before_a_policy_that_only_names_could_keep(send: Callable[[str], str], host: Host) -> None:
    """RFC 8461, 2: the certificate has another name, but the key is the published one."""
    assert "using TLS" in received("dane@both.good.test", send("dane@both.good.test"))
    assert "Verified TLS connection established to mx-dane.good.test[" in connections(host, "mx-dane.good.test")
    asked = "postmap -q %s socketmap:inet:127.0.0.1:8461:postfix"
    assert host.check_output(asked, "both.good.test") == "dane-only"
    assert host.check_output(asked, "wrongboth.good.test") == "dane-only"


@pytest.mark.parametrize("domain", ["sts.good.test", "sts-wildcard.good.test"])
def test_an_enforced_policy_delivers_to_the_server_that_it_names(send: Callable[[str], str], host: Host, domain: str) -> None:
    assert host.check_output("postmap -q %s socketmap:inet:127.0.0.1:8461:postfix", domain).startswith("secure match=")
    assert "using TLS" in received(f"strict@{domain}", send(f"strict@{domain}"))
    assert "Verified TLS connection established to mx.good.test[" in connections(host, "mx.good.test")


@pytest.mark.parametrize(
    ("domain", "reasons"),
    [
        ("sts-wrong.good.test", ("Server certificate not verified", "server unavailable or unable to receive mail")),
        ("sts.expired.test", ("Server certificate not",)),
        ("sts.plain.test", ("TLS is required, but was not offered",)),
    ],
    ids=["wrong name", "expired certificate", "no TLS"],
)
def test_an_enforced_policy_lets_mail_wait_for_a_server_that_cannot_keep_it(
    send: Callable[[str], str], host: Host, domain: str, reasons: tuple[str, ...]
) -> None:
    send(f"strict@{domain}")
    why = waits_because(host, f"strict@{domain}")
    assert any(reason in why for reason in reasons), why


def test_a_policy_in_testing_delivers_to_a_server_that_cannot_keep_it(send: Callable[[str], str], host: Host) -> None:
    assert "using TLS" in received("lenient@sts-testing.expired.test", send("lenient@sts-testing.expired.test"))


@pytest.mark.parametrize(
    "domain",
    ["wrongdane-eased.good.test", "sts-eased.good.test", "sts.under.good.test"],
    ids=["DANE", "MTA-STS", "MTA-STS of a subdomain"],
)
def test_what_is_declared_here_wins_over_what_the_destination_demands(send: Callable[[str], str], domain: str) -> None:
    assert "using TLS" in received(f"lenient@{domain}", send(f"lenient@{domain}"))


def test_mail_waits_while_policies_cannot_be_asked_for_and_then_goes_on(send: Callable[[str], str], host: Host) -> None:
    host.check_output("systemctl stop postfix-mta-sts-resolver.service")
    try:
        message_id = send("later@sts.good.test")
        assert "TLS configuration problem" in waits_because(host, "later@sts.good.test")
    finally:
        host.check_output("systemctl start postfix-mta-sts-resolver.service")
    asked = "postmap -q sts.good.test socketmap:inet:127.0.0.1:8461:postfix"
    until("policies can be asked for again", lambda: host.run(asked).succeeded)
    host.check_output("postqueue -f")
    received("later@sts.good.test", message_id)


def test_nobody_else_may_ask_for_policies_or_write_them(host: Host) -> None:
    listening = {line.split()[3] for line in host.check_output("ss -Hlnt").splitlines()}
    assert {address for address in listening if address.endswith(":8461")} == {"127.0.0.1:8461"}
    assert set(host.check_output("ps -o user= -C mta-sts-daemon,python3 | sort -u").split()) >= {"_mta-sts"}
    cache = host.file("/var/lib/mta-sts/cache.db")
    assert (cache.user, cache.mode & 0o077) == ("_mta-sts", 0)
