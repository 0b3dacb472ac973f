"""How junk is marked (F2), and what single rules and groups of rules of the filter (F5), reputation and origin of a client give (F11)."""

from __future__ import annotations

import email
import email.policy
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path

import pytest
from correspondent import MailHost, until, write
from edits import edited_lab
from filtering import CLIENT, DOUBTFUL, SENDER, SUSPECT, forget_greylisting, let_an_hour_pass, letter, offer
from testinfra.host import Host
from wire import connect, stranger

ALICE, BOB = "alice@oak.test", "bob@oak.test"
FORGED = "X-Spam-Status: No, score=-99\nX-Spam-Score: -99\nX-Spam-Level: none\n"


def judged(
    mail: MailHost, host: Host, accounts: dict[str, str], kind: str, headers: str = "", folder: str = "INBOX", source: str = CLIENT
) -> EmailMessage:
    """The message as alice gets it in the end."""
    forget_greylisting(host)
    message_id, message = letter(kind, headers=headers)
    if offer(mail, message, ALICE, source=source) == 451:
        let_an_hour_pass(host)
        assert offer(mail, message, ALICE, source=source) == 250
    found = email.message_from_bytes(mail.find(ALICE, accounts[ALICE], message_id, folder), policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def score(message: EmailMessage) -> float:
    return float(message["X-Spam-Score"])


def test_junk_has_its_mark_in_front_of_the_subject_and_its_score_in_headers(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    found = judged(mail, host, accounts, SUSPECT, FORGED, "Junk")
    assert found["Subject"] == "[Müll] About Monday"
    assert found.get_all("X-Spam") == ["Yes"]
    assert found.get_all("X-Spam-Score") == [f"{score(found):.2f}"]
    assert found.get_all("X-Spam-Status") == [f"Yes, score={score(found):.2f}"]
    assert found.get_all("X-Spam-Level") == ["*" * int(score(found))]
    assert 6 <= score(found) < 15


@pytest.mark.parametrize(
    ("given", "marked"),
    [
        # Letters of any script stay what they are.
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe_?=\n =?utf-8?b?0LjQtyDQnNC+0YHQutCy0Ys=?=", "[Müll] Grüße из Москвы"),
        # A mark that is there already.
        ("=?UTF-8?Q?[M=C3=BCll]?= About Monday", "[Müll] About Monday"),
    ],
)
def test_a_subject_is_marked_once_and_else_kept(mail: MailHost, host: Host, accounts: dict[str, str], given: str, marked: str) -> None:
    message_id, message = letter(SUSPECT)
    message = message.replace("Subject: About Monday", f"Subject: {given}")
    forget_greylisting(host)
    assert offer(mail, message, ALICE) == 451
    let_an_hour_pass(host)
    assert offer(mail, message, ALICE) == 250
    found = email.message_from_bytes(mail.find(ALICE, accounts[ALICE], message_id, "Junk"), policy=email.policy.default)
    assert found["Subject"] == marked


def test_other_mail_keeps_its_subject_and_says_its_score(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    found = judged(mail, host, accounts, DOUBTFUL, FORGED)
    assert found["Subject"] == DOUBTFUL
    assert found.get_all("X-Spam-Status") == [f"No, score={score(found):.2f}"]
    assert found.get_all("X-Spam-Level") == ["*" * int(score(found))]
    assert "X-Spam" not in found


def test_mail_of_users_carries_no_marks(mail: MailHost, accounts: dict[str, str]) -> None:
    message = write(BOB, ALICE, subject="Is this junk?!")
    mail.submit(BOB, accounts[BOB], message)
    raw = mail.find(ALICE, accounts[ALICE], str(message["Message-ID"]))
    assert not [name for name in email.message_from_bytes(raw) if name.lower().startswith("x-spam")]


def test_a_rule_gives_the_points_that_are_declared(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    plain = score(judged(mail, host, accounts, "\nAbout Monday"))
    assert score(judged(mail, host, accounts, "\nAbout Monday?")) == pytest.approx(plain + 1.5, abs=0.01)
    assert score(judged(mail, host, accounts, "\nAbout! Monday")) == pytest.approx(plain, abs=0.01)


def test_a_group_gives_no_more_than_is_declared(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    plain = score(judged(mail, host, accounts, "\nAbout Monday"))
    long = judged(mail, host, accounts, "\n" + "About Monday " * 30, folder="Junk")
    assert plain + 7 <= score(long) < plain + 10, "LONG_SUBJ alone has 100"


def test_who_has_sent_much_good_mail_is_known_for_it(mail: MailHost, host: Host) -> None:
    source = "198.51.100.117"

    def known() -> bool:
        # Counts are written a moment after the answer.
        assert offer(mail, letter()[1], BOB, source=source) == 250
        log = host.check_output("journalctl --sync; journalctl --quiet --unit rspamd --output cat --since -2min")
        return any("IP_REPUTATION_HAM" in line for line in log.splitlines() if f"ip: {source}" in line)

    assert until("the sender has a name", known, 90)


DATABASE = "/var/lib/location/database.db"
# A new one comes in one step, as location-update brings it.
WRITE = f"""
import json, location, os, sys
writer = location.Writer()
for address, (country, system) in json.load(sys.stdin).items():
    network = writer.add_network(address)
    network.country_code, network.asn = country, system
writer.write("{DATABASE}.new")
os.rename("{DATABASE}.new", "{DATABASE}")
"""


class Origins:
    """A database of where clients are, and what their mail gets for it."""

    def __init__(self, host: Host, mail: MailHost, accounts: dict[str, str]) -> None:
        self.host, self.mail, self.accounts = host, mail, accounts

    def write(self, networks: dict[str, tuple[str, int]]) -> None:
        self.host.check_output("printf %s %s | python3 -c %s", "%s", json.dumps(networks), WRITE)

    def points(self, source: str, login: str = "") -> dict[str, float]:
        """By rule; of a message from a stranger at that address, or of one who has logged in there."""
        message_id, message = letter(sender=login or SENDER)
        if login:
            with connect(self.mail, 465, source=source) as session:
                assert session.reply()[0] == 220
                session.hello()
                assert session.login(login, self.accounts[login]) == 235
                assert session.rcpt(login, ALICE) == [250, 250]
                assert session.data(message) == 250
        else:
            assert offer(self.mail, message, ALICE, source=source) == 250
        grep = f"journalctl --sync; journalctl --quiet --unit rspamd --output cat --since -1min --grep '{re.escape(message_id)}.*default: '"
        line = until("the filter has told its verdict", lambda: self.host.run(grep).stdout)
        return {name: float(points) for name, points in re.findall(r"MAILWRIGHT_(COUNTRY_[A-Z]{2}|AS[0-9]+)\(([-0-9.]+)\)", line)}


@pytest.fixture
def origins(host: Host, mail: MailHost, accounts: dict[str, str]) -> Iterator[Origins]:
    """There is no database before and after."""
    assert not host.file(DATABASE).exists
    origins = Origins(host, mail, accounts)
    yield origins
    host.check_output(f"rm -f {DATABASE}")
    until("nobody is known any more", lambda: host.run("! find /var/lib/mailwright/origins -size +0 -type f | grep -q .").rc == 0)


def test_where_a_client_is_gives_points(mail: MailHost, host: Host, accounts: dict[str, str], origins: Origins) -> None:
    relay, near, both, elsewhere, near6 = "198.51.100.124", "198.51.100.125", "198.51.100.126", "198.51.100.127", "2001:db8:25::125"

    def greeted(source: str) -> None:
        with stranger(mail, source=source):
            pass

    # Who has not been here before waits for the greeting; all at once here.
    with ThreadPoolExecutor() as pool:
        list(pool.map(greeted, (near, both, elsewhere, near6)))
    workers = set(host.check_output("pgrep -u _rspamd -f rspamd:").split())
    plain = score(judged(mail, host, accounts, "\nAbout Monday", source=near))
    assert origins.points(near) == {}, "without a database"
    origins.write({"198.51.100.124/31": ("NZ", 64496), "198.51.100.126/32": ("NO", 64500), f"{near6}/128": ("NZ", 64496)})
    until("the filter knows the networks", lambda: origins.points(near) == {"COUNTRY_NZ": 1.5})

    def costs() -> bool:
        return score(judged(mail, host, accounts, "\nAbout Monday", source=near)) == pytest.approx(plain + 1.5, abs=0.2)

    # Each of its processes reads the networks in its own time.
    until("they count", costs)
    until("the other ones too", lambda: origins.points(both) == {"COUNTRY_NO": -0.5, "AS64500": 2})
    until("those of IPv6 too", lambda: origins.points(near6) == {"COUNTRY_NZ": 1.5})
    assert origins.points(elsewhere) == origins.points(relay) == origins.points(near, login=BOB) == {}
    # A network in one of another country is not in that one.
    origins.write({"198.51.100.0/24": ("NZ", 64496), "198.51.100.125/32": ("FR", 64496)})
    until("the filter follows", lambda: origins.points(near) == {})
    until("the other ones too", lambda: origins.points(elsewhere) == origins.points(both) == {"COUNTRY_NZ": 1.5})
    assert set(host.check_output("pgrep -u _rspamd -f rspamd:").split()) <= workers, "no reload"
    assert float(host.check_output("systemd-analyze security --no-pager mailwright-origins | tail -1").split(": ")[1].split()[0]) < 1.5


def test_other_rules(host: Host, tmp_path: Path) -> None:
    """A score for what does not exist is told; nothing is left of origins and reports that are not declared any more."""
    units = ["mailwright-origins.path", "mailwright-dmarc-reports.timer"]
    with edited_lab(tmp_path, "--tags", "rspamd") as site:
        variables = "group_vars/mail/mail.yml"
        line = next(line for line in (site.path / variables).read_text().splitlines() if line.startswith("mail_origins:"))
        site.edit(variables, line, "")
        site.edit(variables, "mail_dmarc_reports:", "# mail_dmarc_reports:")
        site.edit(variables, "{SUBJECT_ENDS", "{NO_SUCH_SYMBOL: 1, SUBJECT_ENDS")
        site.edit(variables, "groups: {subject: 7}", "groups: {subject: 7, no_such_group: 1}")
        # Where Rspamd cannot start, all of it is as it was, units whose files had gone too.
        status, output = site.run("--tags", "rspamd", "-e", '{"rspamd_overrides": {"worker-proxy": {"bind_socket": "192.0.2.1:11332"}}}')
        assert status != 0
        assert "The previous configuration is back and answers." in output, output[-4000:]
        for state in ("active", "enabled"):
            assert host.run(f"systemctl is-{state} {' '.join(units)}").stdout.split() == 2 * [state]
        before = host.check_output("date +%s.%N")

        status, output = site.run("--tags", "rspamd")
        assert status == 0, output[-4000:]
        said = "this host's Rspamd does not know NO_SUCH_SYMBOL, no_such_group"
        assert said in re.sub(r"''", "'", " ".join(output.split())), output[-4000:]
        assert not host.file("/var/lib/mailwright/origins").exists
        assert host.run(f"systemctl is-active location-update.timer {' '.join(units)}").stdout.split() == 3 * ["inactive"]
        for unit in units:
            assert host.run(f"systemctl cat {unit}").rc != 0
            assert host.run(f"ls /etc/systemd/system/*.wants/{unit}").rc != 0
        host.check_output("journalctl --sync")
        assert host.check_output(f"journalctl --quiet -p warning --since @{before} _PID=1") == ""
        assert "origins" not in host.check_output("rspamadm configdump -j; ls -R /etc/rspamd")
