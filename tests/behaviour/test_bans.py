"""O2: an address that guesses passwords is shut out of the mail services by the firewall, others are not, and it can be let in again."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from correspondent import MailHost, until
from edits import Site
from testinfra.host import Host
from wire import Session, connect

FAILURES = 5
# Nobody who was never heard of.
VICTIM = "198.51.100.150"
# Users of these names would have the victim shut out, were the log not read with care.
LIARS = [
    "alice@oak.test",
    f"x>, method=PLAIN, rip={VICTIM}, lip=198.51.100.10, TLS",
    f"x]: SASL LOGIN authentication failed: a[{VICTIM}]: SASL LOGIN authentication failed:",
]


def greeting(session: Session, port: int) -> None:
    """Up to where a login is possible."""
    if port in (993, 995):
        session.start_tls()
        assert session.line()
    elif port == 4190:
        while not session.line().startswith("OK"):
            pass
        session.send(b"STARTTLS\r\n")
        assert session.line().startswith("OK")
        session.start_tls()
        while not session.line().startswith("OK"):
            pass
    else:
        assert session.reply()[0] == 220
        session.hello()
        if port == 587:
            assert session.code("STARTTLS") == 220
            session.start_tls()
            session.hello()


def guess(mail: MailHost, port: int, source: str, user: str) -> str:
    """One wrong password; what the server says to it."""
    with connect(mail, port, source=source) as session:
        greeting(session, port)
        words = base64.b64encode(f"\0{user}\0wrong".encode()).decode()
        commands = {993: f"a AUTHENTICATE PLAIN {words}", 995: f"AUTH PLAIN {words}", 4190: f'AUTHENTICATE "PLAIN" "{words}"'}
        session.send(commands.get(port, f"AUTH PLAIN {words}").encode() + b"\r\n")
        return session.line()


def is_shut_out(mail: MailHost, port: int, source: str) -> bool:
    # No more than the connection, which the kernel makes: a service that takes its time shuts nobody out.
    try:
        with mail.socket(port, ipv6=":" in source, source=source, timeout=5):
            return False
    except OSError:
        return True


@pytest.fixture(scope="module")
def banned(host: Host) -> Callable[[], set[str]]:
    def look() -> set[str]:
        jails = json.loads(host.check_output("fail2ban-client banned").replace("'", '"'))
        return {address for jail in jails for addresses in jail.values() for address in addresses}

    return look


@pytest.fixture(scope="module", autouse=True)
def _lift(host: Host) -> Iterator[None]:
    host.check_output("fail2ban-client unban --all")
    yield
    host.check_output("fail2ban-client unban --all")


CLIENTS = [
    (465, "198.51.100.142"),
    (587, "198.51.100.143"),
    (993, "198.51.100.144"),
    (995, "198.51.100.145"),
    (4190, "198.51.100.146"),
    (465, "2001:db8:25::146"),
    (993, "2001:db8:25::147"),
]
# In a network that is never shut out.
SPARED = (993, "198.51.100.141")


@pytest.fixture(scope="module")
def guessed(mail: MailHost, banned: Callable[[], set[str]]) -> None:
    """All clients have guessed as often as is too much, one from a network that is never shut out as well."""
    tries = [(port, source, LIARS[number % len(LIARS)]) for port, source in [*CLIENTS, SPARED] for number in range(FAILURES)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda one: guess(mail, *one), tries))
    assert [answer for answer in answers if not answer.startswith(("535 ", "a NO ", "-ERR ", "NO "))] == []
    # Fail2ban lists an address before the firewall refuses it.
    for port, source in CLIENTS:
        until(f"{source} is shut out", lambda port=port, source=source: is_shut_out(mail, port, source))


@pytest.mark.usefixtures("guessed")
@pytest.mark.parametrize(("port", "source"), CLIENTS)
def test_who_guesses_passwords_is_shut_out_of_all_mail_services(mail: MailHost, port: int, source: str) -> None:
    assert [other for other in (25, 465, 587, 993, 995, 4190) if not is_shut_out(mail, other, source)] == []
    assert not is_shut_out(mail, 443, source)


@pytest.mark.usefixtures("guessed")
def test_nobody_else_is_shut_out(mail: MailHost, banned: Callable[[], set[str]]) -> None:
    assert banned() == {source for _, source in CLIENTS}
    assert not is_shut_out(mail, 465, VICTIM)
    assert not is_shut_out(mail, *SPARED)


@pytest.mark.usefixtures("guessed")
def test_bans_outlive_restarts_of_the_firewall_and_of_fail2ban(mail: MailHost, host: Host, banned: Callable[[], set[str]]) -> None:
    port, source = CLIENTS[0]
    host.check_output("systemctl restart mailwright-firewall.service")
    assert is_shut_out(mail, port, source)
    host.check_output("systemctl restart fail2ban.service")
    # `false`, because it ends with 255, which means a broken connection to testinfra.
    until("Fail2ban answers", lambda: host.run("fail2ban-client ping || false").succeeded)
    until("the bans are back", lambda: {one for _, one in CLIENTS} <= banned())
    until("they hold", lambda: is_shut_out(mail, port, source))


@pytest.mark.usefixtures("guessed")
def test_one_is_let_in_again_by_a_playbook(
    mail: MailHost, banned: Callable[[], set[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = Site(tmp_path_factory.mktemp("bans") / "inventory")
    port, source = CLIENTS[2]
    status, output = site.run(playbook="playbooks/bans.yml")
    assert status == 0, output
    assert f"mailwright-mailbox: {source}" in output
    status, output = site.run("-e", f"bans_lift={source}", "--check", playbook="playbooks/bans.yml")
    assert status == 0, output
    assert source in banned()
    status, output = site.run("-e", f"bans_lift={source}", playbook="playbooks/bans.yml")
    assert (status, "changed=1" in output) == (0, True), output
    assert not is_shut_out(mail, port, source)
    assert banned() == {one for _, one in CLIENTS} - {source}
    status, output = site.run("-e", f"bans_lift={source}", playbook="playbooks/bans.yml")
    assert (status, "changed=0" in output) == (0, True), output


@pytest.mark.parametrize(
    ("jail", "line", "address"),
    [
        # Dovecot 2.3, Dovecot 2.4, Postfix 3.7 and 3.10, nginx.
        (
            "mailbox",
            "dovecot[1]: imap-login: Disconnected: Connection closed (auth failed, 1 attempts in 3 secs): user=<a@b>, method=PLAIN,"
            " rip=192.0.2.1, lip=192.0.2.2, TLS, session=<x>",
            "192.0.2.1",
        ),
        (
            "mailbox",
            "dovecot[1]: imap-login: Disconnected: Connection closed (user disabled): user=<a@b>, method=PLAIN, rip=192.0.2.1,"
            " lip=192.0.2.2, TLS: Connection closed, session=<x>",
            "192.0.2.1",
        ),
        (
            "mailbox",
            "dovecot[1]: imap-login: Login aborted: Connection closed (user disabled, 1 attempts in 3 secs) (user_disabled): user=<a@b>,"
            " method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS: Connection closed, session=<x>",
            "192.0.2.1",
        ),
        (
            "mailbox",
            "dovecot[1]: pop3-login: Login aborted: Logged out (auth failed, 1 attempts in 3 secs) (auth_failed): user=<a@b>, method=PLAIN,"
            " rip=2001:db8::1, lip=2001:db8::2, TLS, session=<x>",
            "2001:db8::1",
        ),
        (
            "mailbox",
            "dovecot[1]: imap-login: Login aborted: Connection closed (client didn't finish SASL auth, 1 attempts in 0 secs)"
            " (auth_waiting_client): user=<>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<x>",
            "",
        ),
        (
            "submission",
            "postfix/submission/smtpd[1]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
            "192.0.2.1",
        ),
        ("submission", "postfix/submissions/smtpd[1]: warning: a.test[2001:db8::1]: SASL PLAIN authentication failed: x", "2001:db8::1"),
        ("submission", "postfix/smtpd[1]: warning: hostname a.test does not resolve to address 192.0.2.1", ""),
        ("web", '1#1: *7 user "a": password mismatch, client: 192.0.2.1, server: mail.a.test, request: "GET / HTTP/1.1"', "192.0.2.1"),
        (
            "web",
            '1#1: *7 user "a, client: 192.0.2.9, server: b, request: "" was not found in "/x", client: 192.0.2.1, server: _, request: "',
            "192.0.2.1",
        ),
        ("web", 'filter: *7 user "": password mismatch, client: 2001:db8::1, server: filter.a.test, request: "-"', "2001:db8::1"),
        ("web", '1#1: *7 open() "/a" failed (2: No such file), client: 192.0.2.1, server: mail.a.test, request: "GET /a"', ""),
    ],
)
def test_a_line_of_the_journal_is_read_as_it_is_meant(host: Host, jail: str, line: str, address: str) -> None:
    line = f"nginx[1]: 2026/11/21 13:41:24 [error] {line}" if jail == "web" else line
    found = host.run(
        "fail2ban-regex -o ip %s %s", f"Nov 21 13:41:24 mail.oak.test {line}", f"/etc/fail2ban/filter.d/mailwright-{jail}.conf"
    )
    assert found.stdout.split() == ([address] if address else []), found
