"""Users of a directory (OpenLDAP, on the world's machine) beside those of the inventory, which wins (M19)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from correspondent import MailHost, send_from_world, until, write
from edits import answer
from mailstore import imap
from test_imap import PROTOCOLS, attempt, logs_in
from testinfra.host import Host
from wire import submission

LISA, LENA, MALLORY = "lisa@xn--bcher-kva.test", "lena@elm.test", "mallory@elm.test"
JOERG, DAVE = "joerg@xn--bcher-kva.test", "dave@elm.test"
PASSWORD = "{}-opens-the-lab"
LISAS, LENAS, MALLORYS = (PASSWORD.format(name) for name in ("lisa", "lena", "mallory"))
# Of the mail host's account there.
SECRET = "reads:the<directory>"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_user_of_the_directory_logs_in_with_the_password_there(mail: MailHost, protocol: str) -> None:
    assert logs_in(mail, protocol, LISA, LISAS)
    assert not logs_in(mail, protocol, LISA, "wrong")


@pytest.mark.parametrize(
    ("to", "login", "password"),
    [
        (LISA, LISA, LISAS),
        ("Orders+x@xn--bcher-kva.test", LISA, LISAS),
        ("hotline@xn--bcher-kva.test", LISA, LISAS),
        (LENA, LENA, LENAS),
    ],
    ids=["by the address", "by an alias", "by an alias of the inventory", "where there is a catch-all"],
)
def test_mail_reaches_a_user_of_the_directory(mail: MailHost, to: str, login: str, password: str) -> None:
    message = write("friend@good.test", to)
    send_from_world(message, "friend@good.test", to)
    assert mail.find(login, password, str(message["Message-ID"]))


def test_the_catch_all_still_gets_the_rest(mail: MailHost, accounts: dict[str, str]) -> None:
    message = write("friend@good.test", "anything@elm.test")
    send_from_world(message, "friend@good.test", "anything@elm.test")
    assert mail.find(DAVE, accounts[DAVE], str(message["Message-ID"]))


def quota(mail: MailHost, login: str, password: str) -> int:
    """KiB."""
    with imap(mail, login, password) as session:
        lines = session.getquotaroot("INBOX")[1][1]
    (limit,) = [int(line.split(b"STORAGE ")[1].split()[1].rstrip(b")")) for line in lines if line and b"STORAGE" in line]
    return limit


def test_the_quota_is_that_of_the_directory_or_the_usual_one(mail: MailHost) -> None:
    assert quota(mail, LISA, LISAS) == 2048
    assert quota(mail, LENA, LENAS) == 5 * 2**20


@pytest.mark.parametrize(
    ("login", "password", "sender", "code"),
    [
        (LISA, LISAS, LISA, 250),
        (LISA, LISAS, "orders@xn--bcher-kva.test", 250),
        (LISA, LISAS, JOERG, 553),
        (LISA, LISAS, LENA, 553),
        (MALLORY, MALLORYS, MALLORY, 250),
        (MALLORY, MALLORYS, DAVE, 553),
        (MALLORY, MALLORYS, "jobs@elm.test", 553),
    ],
)
def test_a_user_of_the_directory_sends_as_itself_and_its_aliases_only(
    mail: MailHost, login: str, password: str, sender: str, code: int
) -> None:
    with submission(mail, 465, login, password) as session:
        assert session.rcpt(sender, "alice@oak.test")[-1] == code


def test_what_the_inventory_says_of_an_address_wins(mail: MailHost, accounts: dict[str, str]) -> None:
    assert attempt(mail, JOERG, accounts[JOERG]) == ""
    assert "AUTHENTICATIONFAILED" in attempt(mail, JOERG, "joerg-of-the-directory")
    assert quota(mail, JOERG, accounts[JOERG]) == 5 * 2**20
    message = write("friend@good.test", DAVE)
    send_from_world(message, "friend@good.test", DAVE)
    assert mail.find(DAVE, accounts[DAVE], str(message["Message-ID"]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_alias_of_the_inventory_is_nobodys_login(mail: MailHost, protocol: str) -> None:
    assert not logs_in(mail, protocol, "Jobs@elm.test", PASSWORD.format("jobs"))


def test_mail_to_an_alias_of_the_inventory_follows_it(mail: MailHost, accounts: dict[str, str]) -> None:
    message = write("friend@good.test", "jobs@elm.test")
    send_from_world(message, "friend@good.test", "jobs@elm.test")
    assert mail.find("erin@elm.test", accounts["erin@elm.test"], str(message["Message-ID"]))


@pytest.mark.parametrize("address", ["fred@xn--bcher-kva.test", "oscar@oak.test", "..@xn--bcher-kva.test"])
def test_who_is_no_user_of_the_declared_domains_gets_neither_mail_nor_in(mail: MailHost, address: str) -> None:
    local = {".": "dots"}.get(address[0], address.partition("@")[0])
    assert "AUTHENTICATIONFAILED" in attempt(mail, address, PASSWORD.format(local))
    assert answer(mail, address) in (501, 550, 553)
    assert answer(mail, "taken@oak.test") == 550


@pytest.mark.parametrize("login", ["lis*@xn--bcher-kva.test", "*", f"{LISA})(uid=*", "x)(|(mail=*@xn--bcher-kva.test"])
def test_a_login_is_no_part_of_a_filter(mail: MailHost, login: str) -> None:
    assert not logs_in(mail, "smtp", login, LISAS)
    assert not logs_in(mail, "sieve", login, LISAS)


@pytest.fixture(params=["down", "with another's certificate"])
def unusable(request: pytest.FixtureRequest, world: Host, host: Host) -> Iterator[None]:
    """The directory cannot be asked, or not be trusted."""
    if request.param == "down":
        world.check_output("systemctl stop people")
    else:
        world.check_output("sed -i s/ldap.world.test/mx.smart.test/ /etc/world/slapd.conf && systemctl restart people")
    try:
        yield
    finally:
        world.check_output("sed -i s/mx.smart.test/ldap.world.test/ /etc/world/slapd.conf && systemctl restart people")
        world.check_output("until ss -ltn | grep -q :636; do sleep 0.1; done")


def test_without_the_directory_its_users_wait_and_nobody_is_unknown(
    mail: MailHost, accounts: dict[str, str], host: Host, unusable: None
) -> None:
    assert answer(mail, LISA) == 451
    assert answer(mail, "nobody-at-all@xn--bcher-kva.test") == 451
    assert answer(mail, "anything@elm.test") == 451
    assert answer(mail, "nobody-at-all@oak.test") == 550
    assert answer(mail, JOERG) == 250
    assert "UNAVAILABLE" in attempt(mail, LISA, LISAS)
    assert attempt(mail, JOERG, accounts[JOERG]) == ""


def test_once_the_directory_is_back_its_users_are(mail: MailHost) -> None:
    assert until("a login", lambda: attempt(mail, LISA, LISAS) == "", 90)
    assert until("the address", lambda: answer(mail, LISA) == 250, 90)


def test_the_password_of_the_directory_is_for_the_daemons_alone(host: Host) -> None:
    files = host.check_output("grep -rlF %s /etc /run /var/lib/mailwright /var/lib/dovecot || true", SECRET).split()
    assert {"/etc/postfix/ldap_mailboxes.cf", "/etc/postfix/ldap_aliases.cf"} < set(files)
    for path in files:
        assert host.file(path).mode in (0o600, 0o640)
        assert host.run("runuser -u nobody -- cat %s", path).rc != 0
        assert host.run("runuser -u vmail -- cat %s", path).rc != 0
    assert host.run("runuser -u vmail -- doveconf -n").stdout.count(SECRET) == 0
    assert host.run("journalctl --quiet --grep %s", SECRET).stdout == ""
