"""What is there over IPv4 is there over IPv6, and no more (O9)."""

from __future__ import annotations

import smtplib
import ssl

from correspondent import MailHost, until, write
from hosts import MAIL_IPV6
from wire import STRANGER6, stranger


def test_ipv6_everywhere_without_opening_a_relay(mail: MailHost, accounts: dict[str, str]) -> None:
    """O9: submission, delivery and every service over IPv6 alone; a stranger's mail is for our people, not for elsewhere."""
    trusting = ssl.create_default_context(cafile=str(mail.ca_file))
    message = write("alice@oak.test", "bob@oak.test")
    with smtplib.SMTP(MAIL_IPV6, 587, local_hostname="client101.world.test", timeout=30) as session:
        session._host = mail.hostname  # type: ignore[attr-defined]
        session.starttls(context=trusting)
        session.login("alice@oak.test", accounts["alice@oak.test"])
        session.send_message(message)
    assert mail.find("bob@oak.test", accounts["bob@oak.test"], str(message["Message-ID"]))
    with stranger(mail, source=STRANGER6) as session:
        assert session.rcpt("someone@good.test", "bob@good.test")[-1] >= 500
    with stranger(mail, source=STRANGER6) as session:
        assert session.rcpt("someone@good.test", "bob@oak.test")[-1] == 250
    for port in (465, 993, 995, 4190, 443):
        until(f"port {port} answers", lambda port=port: mail.socket(port, ipv6=True).close() is None, 5)
