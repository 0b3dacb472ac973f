"""I9: a client that floods the host with connections is told so and logged, and nobody else notices."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from correspondent import MailHost, until
from filtering import forget_greylisting, letter
from testinfra.host import Host
from wire import connect, stranger, submission

FLOODER = "198.51.100.128"
# A botnet: each of these keeps below the limit of one client.
BOTS = [f"198.51.100.{number}" for number in range(131, 137)]
CLIENT, SENDER = "198.51.100.129", "someone@client129.world.test"
LIMIT = 20
BUSY = "421 4.7.0 Error: too many connections\r\n"


def dial(mail: MailHost, source: str, port: int = 25) -> socket.socket:
    return socket.create_connection((mail.ipv4, port), 10, (source, 0))


def delivers(mail: MailHost, source: str) -> float:
    """A message from another server, to be taken; how long it took."""
    begun = time.monotonic()
    with stranger(mail, source=source) as session:
        assert session.rcpt(SENDER, "bob@oak.test") == [250, 250]
        assert session.data(letter(to="bob@oak.test", sender=SENDER)[1]) == 250
    return time.monotonic() - begun


def first_line(stream: socket.socket) -> str:
    """What it was told first: postscreen has a word for everybody at once."""
    stream.settimeout(30)
    return stream.recv(512).decode()


@pytest.mark.usefixtures("_known")
def test_a_client_that_floods_shuts_nobody_else_out(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    calm = delivers(mail, CLIENT)
    since = host.check_output("date +'%F %T'")
    with contextlib.ExitStack() as open_ones, ThreadPoolExecutor(30) as pool:
        flood = [open_ones.enter_context(one) for one in pool.map(lambda _: dial(mail, FLOODER), range(60))]
        told = list(pool.map(first_line, flood))
        refused = [line for line in told if line.startswith("421")]
        assert set(refused) == {BUSY}
        assert len(refused) == 60 - LIMIT
        # Others: a server that was here before, a server that was not, and a person who sends.
        bots = [open_ones.enter_context(one) for one in pool.map(lambda number: dial(mail, BOTS[number % 6]), range(108))]
        assert delivers(mail, CLIENT) < 5 + 5 * calm
        assert [line for line in pool.map(first_line, bots) if line.startswith("421")] == []
        with submission(mail, 465, "alice@oak.test", accounts["alice@oak.test"]) as session:
            assert session.rcpt("alice@oak.test", "bob@oak.test") == [250, 250]

    def log() -> str:
        return host.check_output("journalctl --quiet --output cat --since %s _COMM=postscreen", since)

    until("the log says so", lambda: re.search(rf"NOQUEUE: reject: CONNECT from \[{FLOODER}\].*too many connections", log()))
    assert "ports busy" not in log()

    # Nothing is held against anybody once it is over.
    def greeting() -> str:
        with dial(mail, FLOODER) as stream:
            return first_line(stream)

    until("the flooder is greeted again", lambda: greeting().startswith("220"))


def greeted(mail: MailHost, source: str) -> bool:
    with connect(mail, source=source) as session:
        return session.reply()[0] == 220


@pytest.fixture
def _known(mail: MailHost, host: Host) -> None:
    """The honest client has been here before; postscreen remembers."""
    forget_greylisting(host)
    assert greeted(mail, CLIENT)
