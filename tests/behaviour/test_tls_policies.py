"""S7: TLS to the world is as strict as its policy says: mail waits for what must be right, and goes where it need not be."""

from __future__ import annotations

import email
import json
from collections.abc import Callable, Iterator

import pytest
from correspondent import MailHost, until, world_mailbox, write
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hosts import HOME, run_on, run_on_world
from testinfra.host import Host

TLSA = "_25._tcp.mx.smart.test"


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
            host.check_output("postsuper -d %s", entry["queue_id"])


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
    raw = world_mailbox(run_on_world, domain, local, message_id)
    return " ".join(str(email.message_from_bytes(raw)["Received"]).split())


def test_a_policy_delivers_to_a_server_with_a_good_certificate(send: Callable[[str], str], host: Host) -> None:
    assert "using TLS" in received("strict@secure.good.test", send("strict@secure.good.test"))
    log = host.check_output("journalctl --quiet --since -1min --output cat --grep 'TLS connection established to mx.good.test'")
    assert "Verified TLS connection established to mx.good.test[" in log


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


def public_key_digest() -> str:
    """Of the server's certificate: matching type 1, selector 1 (RFC 6698)."""
    certificate = x509.load_pem_x509_certificate((HOME / "ca/mx.smart.test.pem").read_bytes())
    key = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key)
    return digest.finalize().hex()


@pytest.fixture
def publish(host: Host) -> Iterator[Callable[[str], None]]:
    """Publish a TLSA record with this digest for the server of smart.test, and wait until the mail host goes by it."""

    def replace(digest: str | None) -> None:
        record = {"name": TLSA, "type": "TLSA", "value": f"3 1 1 {digest}" if digest else None, "ttl": 2}
        run_on("world", "/usr/local/lib/world/publish.py", stdin=json.dumps([record]).encode())
        asked = "posttls-finger -c -l dane -L summary,verbose smart.test 2>&1"

        def goes_by_it() -> bool:
            said = host.run(asked).stdout
            return digest.upper() in said.upper() if digest else "TLSA record" not in said

        until("the mail host goes by what is published", goes_by_it)
        # A client that is still there remembers what it saw (tlsa cache of smtp(8)).
        host.check_output("postfix reload")

    yield replace
    replace(None)


def test_a_published_key_is_enforced_and_a_wrong_one_lets_mail_wait(
    send: Callable[[str], str], publish: Callable[[str], None], host: Host
) -> None:
    publish(public_key_digest())
    assert "using TLS" in received("dane@smart.test", send("dane@smart.test"))
    log = host.check_output("journalctl --quiet --since -1min --output cat --grep 'TLS connection established to mx.smart.test.*:25'")
    assert "Verified TLS connection" in log
    publish("0" * 64)
    send("wrong@smart.test")
    assert "Server certificate not " in waits_because(host, "wrong@smart.test")
