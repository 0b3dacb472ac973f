"""S4: mail leaves through a server that wants a login, chosen by recipient, by sender, or for everything else."""

from __future__ import annotations

import email
from collections.abc import Iterator

import pytest
from correspondent import MailHost, until, write
from edits import CANARY, Site, edited_lab
from hosts import world_mailbox
from testinfra.host import Host

JOERG = "joerg@xn--bcher-kva.test"
VARIABLES = "group_vars/mail/mail.yml"


def way(mail: MailHost, accounts: dict[str, str], sender: str, recipient: str) -> str:
    """How a server of the world got a message of a user: its own Received header."""
    message = write(sender, recipient)
    mail.submit(sender, accounts[sender], message)
    local, _, domain = recipient.rpartition("@")
    return arrival(world_mailbox(domain, local, message["Message-ID"]))


def arrival(raw: bytes) -> str:
    return " ".join(str(email.message_from_bytes(raw)["Received"]).split())


@pytest.mark.parametrize(
    ("sender", "recipient", "login"),
    [
        ("robot@oak.test", "friend@good.test", "news"),
        (JOERG, "friend@good.test", "relay"),
        ("alice@oak.test", "friend@via.good.test", "relay"),
        ("robot@oak.test", "friend@via.good.test", "relay"),
    ],
    ids=["by sender address", "by sender domain", "by recipient domain", "recipient before sender"],
)
def test_mail_takes_the_smarthost_of_the_inventory_with_its_login(
    mail: MailHost, accounts: dict[str, str], sender: str, recipient: str, login: str
) -> None:
    received = way(mail, accounts, sender, recipient)
    assert "by mx.smart.test" in received
    assert "with ESMTPSA" in received, "AUTH and TLS"
    assert f"Authenticated sender: {login}" in received


@pytest.mark.parametrize(
    ("sender", "recipient", "server"),
    [
        ("alice@oak.test", "friend@good.test", "mx.good.test"),
        ("robot@oak.test", "friend@polite.good.test", "mx.good.test"),
        ("robot@oak.test", "known@birch.test", "mx.birch.test"),
    ],
    ids=["no rule", "a transport before the sender", "a relayed domain before all"],
)
def test_other_mail_takes_its_own_way_without_a_login(
    mail: MailHost, accounts: dict[str, str], sender: str, recipient: str, server: str
) -> None:
    received = way(mail, accounts, sender, recipient)
    assert f"by {server}" in received
    assert "Authenticated sender" not in received


@pytest.mark.parametrize("sender", ["robot@oak.test", JOERG])
def test_mail_for_own_domains_never_leaves_for_a_smarthost(mail: MailHost, accounts: dict[str, str], sender: str) -> None:
    message = write(sender, "bob@oak.test")
    mail.submit(sender, accounts[sender], message)
    assert b"mx.smart.test" not in mail.find("bob@oak.test", accounts["bob@oak.test"], message["Message-ID"])


def test_the_smarthosts_certificate_is_verified_before_the_login(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    way(mail, accounts, "robot@oak.test", "friend@good.test")
    log = host.check_output(
        "journalctl --sync; journalctl --quiet --since -1min --output cat --grep 'TLS connection established to mx.smart.test.*:587'"
    )
    assert log
    assert all(line.startswith("Verified TLS") for line in log.splitlines()), log


def test_only_root_reads_the_passwords_and_nobody_prints_them(host: Host) -> None:
    found = host.check_output(
        "grep -rlaF -e news-opens-the-relay -e relay-opens-the-relay /etc /var/lib /var/spool /run 2>/dev/null || true"
    ).split()
    assert found
    assert {name.rpartition("/")[2] for name in found} == {"relay_passwords", "relay_passwords.lmdb"}
    for name in found:
        file = host.file(name)
        assert (file.user, file.mode) == ("root", 0o600), name
    assert host.run("journalctl --quiet | grep -F opens-the-relay").stdout == ""


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An inventory to be edited; afterwards the lab's own is live again."""
    with edited_lab(tmp_path_factory.mktemp("smarthosts"), "--tags", "accounts") as site:
        yield site


def make_default(site: Site, host: str, password: str) -> str:
    """Run with a smarthost for everything else; what the run prints at its most talkative."""
    text = (site.path / VARIABLES).read_text()
    entry = f'  - {{next_hop: "[{host}]", port: 587, user: relay, password: {password}}} # default\n'
    lines = [line for line in text.splitlines(keepends=True) if not line.endswith("# default\n")]
    start = lines.index("mail_relays:\n") + 1
    (site.path / VARIABLES).write_text("".join([*lines[:start], entry, *lines[start:]]))
    status, output = site.run("--tags", "accounts", "--diff", "-vvv")
    assert status == 0, output[-4000:]
    return output


def test_a_password_waits_for_tls_and_a_smarthost_for_everything_takes_the_rest(
    mail: MailHost, accounts: dict[str, str], host: Host, edited: Site
) -> None:
    output = make_default(edited, "mx.plain.test", CANARY)
    assert "relay_passwords [mx.plain.test]:587" in output
    message = write("alice@oak.test", "friend@good.test")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    refused = "TLS is required, but was not offered by host mx.plain.test"
    until("the message waits for TLS", lambda: refused in host.check_output("postqueue -j"))
    assert CANARY not in output + make_default(edited, "mx.smart.test", "relay-opens-the-relay")
    assert host.run("journalctl --quiet | grep -F %s", CANARY).stdout == ""

    def gone() -> bool:
        # The queue manager asks for the route of the same address only once in half a minute.
        host.check_output("postqueue -f")
        return "friend@good.test" not in host.check_output("postqueue -j")

    until("the message leaves by the new smarthost", gone, 120)
    received = arrival(world_mailbox("good.test", "friend", message["Message-ID"]))
    assert "by mx.smart.test" in received
    assert "Authenticated sender: relay" in received
    # The narrower rules are as before.
    assert "Authenticated sender: news" in way(mail, accounts, "robot@oak.test", "friend@good.test")
    assert "by mx.good.test" in way(mail, accounts, "alice@oak.test", "friend@polite.good.test")
    test_mail_for_own_domains_never_leaves_for_a_smarthost(mail, accounts, "alice@oak.test")
