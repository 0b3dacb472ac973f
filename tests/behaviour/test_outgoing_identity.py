"""S5: the name that outgoing mail greets with and the addresses it leaves from; O9: IPv6 everywhere, and nobody relays by it."""

from __future__ import annotations

import email
import socket
from pathlib import Path

import pytest
from correspondent import MailHost, write
from edits import edited_lab
from handshake import PORTS
from hosts import world_mailbox
from testinfra.host import Host
from wire import STRANGER6, Session

HELO, IPV4, IPV6 = "client130.world.test", "198.51.100.30", "2001:db8:25::30"


def received(mail: MailHost, accounts: dict[str, str]) -> str:
    """The Received header of a message of alice's at a server of the world."""
    message = write("alice@oak.test", "friend@good.test")
    mail.submit("alice@oak.test", accounts["alice@oak.test"], message)
    raw = world_mailbox("good.test", "friend", str(message["Message-ID"]))
    return " ".join(str(email.message_from_bytes(raw)["Received"]).split())


def test_mail_leaves_with_the_name_and_from_the_address_declared(
    mail: MailHost, accounts: dict[str, str], host: Host, tmp_path: Path
) -> None:
    assert received(mail, accounts).startswith("from mail.oak.test (")
    tags = ["--tags", "validate,postfix"]
    with edited_lab(tmp_path, *tags) as site:
        text = f"mail_hostname: mail.oak.test\nmail_helo_name: {HELO}\nmail_source_addresses: [{IPV4}, '{IPV6}']\n"
        site.edit("group_vars/mail/mail.yml", "mail_hostname: mail.oak.test\n", text)
        status, output = site.run(*tags)
        assert status != 0
        assert f"mail_source_addresses: {IPV4}: Cannot assign requested address" in output
        try:
            host.check_output("ip addr add %s/24 dev host0; ip addr add %s/64 dev host0 nodad", IPV4, IPV6)
            site.changed(*tags)
            found = received(mail, accounts)
            assert found.startswith(f"from {HELO} (")
            assert f"[{IPV4}]" in found or f"[IPv6:{IPV6}]" in found
        finally:
            host.run("ip addr del %s/24 dev host0; ip addr del %s/64 dev host0", IPV4, IPV6)


@pytest.mark.parametrize("port", PORTS, ids=PORTS.values())
def test_every_service_answers_over_ipv6(mail: MailHost, port: int) -> None:
    mail.socket(port, ipv6=True, source=STRANGER6).close()


def test_ipv6_neighbours_on_the_link_cannot_relay(mail: MailHost, host: Host) -> None:
    """Link-local addresses are strangers, too; those of everybody else are in test_relay.py."""
    link_local = host.check_output("ip -6 -o addr show dev host0 scope link").split()[3].partition("/")[0]
    with socket.create_connection((f"{link_local}%br0", 25), 40) as stream:
        session = Session(stream, mail)
        assert session.reply()[0] == 220
        session.hello()
        assert session.rcpt("someone@good.test", "bob@good.test")[-1] == 554
