"""O15: every line of docs/errors.md is one that this host writes. All of them are provoked at once, then each is looked for."""

from __future__ import annotations

import contextlib
import re
import secrets
import ssl
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from correspondent import MailHost, until
from filtering import BAD, DOUBTFUL, forget_greylisting, letter, offer
from handshake import handshake, old_client
from mailstore import deliver
from test_bans import guess
from testinfra.host import Host
from wire import connect, submission

LINES = [found[1] for found in re.finditer(r"^\| `(.+?)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)]
FRIEND = "MAIL FROM:<friend@good.test>"
# What strangers say after the greeting, each in a session of its own.
TALKS = [
    [FRIEND, "RCPT TO:<somebody@good.test>"],
    [FRIEND, *(f"RCPT TO:<{name}@oak.test>" for name in ("no-such-user", "disabled", "robot", "helga"))],
    [FRIEND, "RCPT TO:<bob>", "RCPT TO:<carol@oak.test>"],
    # The server behind is asked about a name once, and its answer remembered.
    [FRIEND, "RCPT TO:<no-such-user@birch.test>", f"RCPT TO:<no-such-user-{secrets.token_hex(4)}@yew.test>"],
    ["MAIL FROM:<a@does-not-exist.test>", "RCPT TO:<bob@oak.test>"],
    ["MAIL FROM:<friend>", "RCPT TO:<bob@oak.test>"],
    ["MAIL FROM:<alice@oak.test>", "RCPT TO:<bob@oak.test>"],
    ["MAIL FROM:<a@rude.test>", "RCPT TO:<alice@oak.test>"],
    ["EHLO printer", FRIEND, "RCPT TO:<bob@oak.test>"],
    ["EHLO bad_name!", FRIEND, "RCPT TO:<bob@oak.test>"],
    [f"{FRIEND} SIZE=999999999"],
    ["MAIL FROM:<>", "RCPT TO:<bob@oak.test>", "RCPT TO:<alice@oak.test>", "DATA"],
    ["MAIL FROM: friend@good.test"],
    ["NOOP\r\nNOOP"],
    ["NONSENSE"] * 11,
    [FRIEND, "RCPT TO:<bob@oak.test>", "DATA"],
]
# Carol's megabyte.
FILL = "(printf 'Subject: filler\\r\\n\\r\\n'; yes | head -c 1040000) | doveadm save -u carol@oak.test -m INBOX"
EMPTY = "doveadm expunge -u carol@oak.test mailbox INBOX ALL"


def talk(mail: MailHost, commands: list[str], source: str = "198.51.100.110") -> None:
    with connect(mail, source=source) as session:
        session.reply()
        session.hello()
        for command in commands:
            session.command(command)


def early(mail: MailHost) -> None:
    with connect(mail, source="198.51.100.138") as session:
        session.send(b"EHLO early.test\r\n")
        session.replies()


def listed(mail: MailHost) -> None:
    with connect(mail, source="198.51.100.150") as session:
        session.replies()


def crowd(mail: MailHost, port: int) -> None:
    """One connection more than a client may have; whichever is served last is the one too many."""
    with contextlib.ExitStack() as open_ones:
        sessions = [open_ones.enter_context(connect(mail, port, source="198.51.100.137")) for _ in range(21)]
        for session in sessions:
            session.line()


def shake(mail: MailHost, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError), handshake(mail, 465, context):
        pass


def guesses(mail: MailHost, port: int, source: str, times: int, user: str = "alice@oak.test") -> None:
    # The last one may already be shut out.
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            guess(mail, port, source, user)


def send(mail: MailHost, password: str, *recipients: str) -> None:
    with submission(mail, 465, "alice@oak.test", password) as session:
        session.rcpt("alice@oak.test", *recipients)
        session.data("From: alice@oak.test\nSubject: guide\n\nHello\n")
        session.rcpt("bob@oak.test", "carol@oak.test")


def eager(mail: MailHost, password: str) -> None:
    """To more people at once than this login may write to in an hour, so that none of it counts."""
    with submission(mail, 465, "nosieve@oak.test", password) as session:
        session.rcpt("nosieve@oak.test", *(f"bob+{number}@oak.test" for number in range(5)))
        session.data("From: nosieve@oak.test\nSubject: guide\n\nHello\n")


def uninvited(mail: MailHost) -> None:
    with submission(mail, 465) as session:
        session.rcpt("alice@oak.test", "bob@oak.test")


@pytest.fixture(scope="module")
def journal(mail: MailHost, host: Host, accounts: dict[str, str]) -> Iterator[Callable[[], str]]:
    """What the host wrote since all of it was provoked."""
    cursor = host.check_output("journalctl --quiet --sync; journalctl --quiet -n 0 --show-cursor").partition("cursor: ")[2].strip()
    host.check_output(EMPTY)
    host.check_output(FILL)
    deliver(host, "carol@oak.test", b"Subject: filler\r\n\r\n" + b"x\r\n" * 4000)
    forget_greylisting(host)
    without_from = "".join(line for line in letter()[1].splitlines(keepends=True) if not line.startswith("From:"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = old_client(ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
    blocked = "someone@client114.world.test"
    work: list[Callable[[], object]] = [
        *(lambda commands=commands: talk(mail, commands) for commands in TALKS),
        lambda: talk(mail, [FRIEND, "RCPT TO:<bob@oak.test>"], "198.51.100.120"),
        lambda: early(mail),
        lambda: listed(mail),
        lambda: crowd(mail, 25),
        lambda: crowd(mail, 587),
        lambda: shake(mail, old),
        lambda: shake(mail, ssl.create_default_context()),
        lambda: guesses(mail, 465, "198.51.100.139", 1),
        lambda: guesses(mail, 993, "198.51.100.147", 5, "nobody@oak.test"),
        lambda: send(
            mail,
            accounts["alice@oak.test"],
            *("guide@does-not-exist.test", "guide@secure.plain.test", "guide@wrongdane.good.test", "guide@bogus.test"),
        ),
        lambda: uninvited(mail),
        lambda: eager(mail, accounts["nosieve@oak.test"]),
        lambda: offer(mail, letter(sender="friend@good.test")[1], "alice@oak.test", sender="friend@good.test"),
        lambda: offer(mail, letter(BAD, to="dave@elm.test")[1], "dave@elm.test"),
        lambda: offer(mail, without_from, "alice@oak.test"),
        lambda: offer(mail, letter(sender=blocked)[1], "alice@oak.test", sender=blocked),
        lambda: offer(mail, letter(DOUBTFUL)[1], "alice@oak.test"),
    ]
    try:
        with ThreadPoolExecutor(len(work)) as pool:
            list(pool.map(lambda one: one(), work))
        yield lambda: host.check_output("journalctl --sync; journalctl --quiet --output cat --after-cursor %s", cursor)
    finally:
        host.check_output(EMPTY)
        host.check_output("fail2ban-client unban --all")
        host.run("postqueue -j | grep guide@ | cut -d'\"' -f8 | postsuper -d -")


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_guide_is_one_of_the_journal(journal: Callable[[], str], line: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
    until(line, lambda: pattern.search(journal()))


def test_the_guide_is_read() -> None:
    assert len(LINES) >= 40
