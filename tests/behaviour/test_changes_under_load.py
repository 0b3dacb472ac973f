"""Changes of mail data while mail flows: nothing refused, bounced, lost, doubled or misrouted; a killed run is made whole (O13).

MAILWRIGHT_CHANGES is the number of changes (10), MAILWRIGHT_RATE that of messages a second to try for (100).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import hosts
import pytest
from conftest import ROOT
from correspondent import WORLD, MailHost, until
from filtering import letter
from mailstore import imap
from testinfra.host import Host
from wire import Session, connect

CHANGES = int(os.environ.get("MAILWRIGHT_CHANGES", "10"))
RATE = float(os.environ.get("MAILWRIGHT_RATE", "100"))
# Clients of the bridge that Postfix's limits do not count.
SOURCES = {f"198.51.100.{n}": f"client{n}.world.test" for n in (103, 104, 105, 106)}
DOMAIN = "flip.test"
NAMES = ("a", "b", "c", "one", "two")
HASH = "{SHA512-CRYPT}$6$rounds=5000$saltsaltsaltsalt$" + "x" * 86
REMOTE = "/run/mailwright-test"


# Moves between the world's server of flop.test and a mailbox here.
MOVING = "x@flop.test"
SINK = "/run/mailwright-sink"
SINK_PORT = 2526


def targets(name: str, state: int) -> str:
    """The mailbox that mail to an address goes to, see change_driver.py."""
    if name == MOVING:
        return "x" if state % 2 else "sink"
    even = {"a": "one", "b": "b", "c": "one"}
    odd = {"a": "a", "b": "two", "c": "two"}
    return (odd if state % 2 else even).get(name, name)


class Driver:
    """A process on the mail host that makes states live."""

    def __init__(self, version: str) -> None:
        command = f"cd {REMOTE} && exec python3 -u change_driver.py {version} '{HASH}' '[{WORLD}]:{SINK_PORT}'"
        self.process = subprocess.Popen(
            ["ssh", "-F", str(hosts.HOME / "ssh/config"), "mail", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


@dataclass
class Sent:
    """One message and what became of it at port 25."""

    message_id: str
    name: str
    start: float
    end: float = 0.0
    answers: list[int] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return self.answers == [250, 250, 354, 250]


class Traffic:
    """Senders on connections of their own: half of them keep one, half open one for each message. All pipeline."""

    def __init__(self, mail: MailHost, names: tuple[str, ...] = NAMES, longest: float = 3600.0, senders: int = 12) -> None:
        self._names = names
        self._longest = longest
        self.mail = mail
        self.sent: list[Sent] = []
        self.faults: list[str] = []
        self._over = threading.Event()
        self._pause = senders / RATE
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(senders)]

    def __enter__(self) -> Traffic:
        self.start = time.time()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.time() - self.start

    def _run(self, number: int) -> None:
        source, name = list(SOURCES.items())[number % len(SOURCES)]
        due = time.monotonic()

        def over() -> bool:
            """Wait for the next message's turn; whether there is none."""
            nonlocal due
            due = max(due + self._pause, time.monotonic() - 1)
            return self._over.wait(max(0.0, due - time.monotonic()))

        try:
            while not self._over.is_set():
                with connect(self.mail, source=source) as session:
                    assert session.reply()[0] == 220
                    session.hello(name)
                    self._send(session, name)
                    until = time.monotonic() + self._longest
                    while number % 2 and not over() and time.monotonic() < until:
                        self._send(session, name)
                    session.command("QUIT")
                over()
        except Exception as error:
            self.faults.append(f"{source}: {error!r}")

    def _send(self, session: Session, client: str) -> None:
        name = random.choice(self._names)  # noqa: S311 - no secret
        to = name if "@" in name else f"{name}@{DOMAIN}"
        message_id, text = letter(to=to, sender=f"someone@{client}")
        sent = Sent(message_id, name, time.time())
        self.sent.append(sent)
        session.send(f"MAIL FROM:<someone@{client}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        sent.answers += [session.reply()[0] for _ in range(3)]
        if sent.answers[-1] == 354:
            session.send(text.replace("\n", "\r\n").encode() + b"\r\n.\r\n")
            sent.answers.append(session.reply()[0])
        sent.end = time.time()


@pytest.fixture(scope="module")
def version(host: Host) -> str:
    return "2.3" if host.check_output("dovecot --version").startswith("2.3") else "2.4"


@pytest.fixture
def driver(host: Host, version: str) -> Iterator[Driver]:
    """State 0 is live; afterwards what was live before is again, and nothing of flip.test is left."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(ROOT / "module_utils/mailwright", "mailwright", filter=lambda info: None if "__pycache__" in info.name else info)
        tar.add(ROOT / "tests/behaviour/change_driver.py", "change_driver.py")
    hosts.run_on("mail", "sh", "-c", f"mkdir -p {REMOTE} && tar -x -C {REMOTE}", stdin=buffer.getvalue())
    driver = Driver(version)
    before = driver.ask("which")["generation"]
    driver.ask("0")
    yield driver
    driver.close()
    last = Driver(version)
    last.ask(f"back {before}")
    last.close()
    host.check_output(
        f"rm -rf /var/vmail/{DOMAIN} /var/vmail/flop.test /var/vmail/.archive/*@{DOMAIN} /var/vmail/.archive/{MOVING} {REMOTE}"
    )


@pytest.fixture
def sink(world: Host) -> Iterator[None]:
    """The server of flop.test: takes everything, each message in a file."""
    world.check_output(f"rm -rf {SINK} && install -d -o nobody {SINK}")
    run = f"systemd-run --quiet --unit mailwright-sink --working-directory={SINK}"
    world.check_output(f"{run} /usr/sbin/smtp-sink -u nobody -d %H%M. {WORLD}:{SINK_PORT} 100")
    yield
    world.check_output(f"systemctl stop mailwright-sink; rm -rf {SINK}")


def queue(host: Host) -> list[str]:
    return [line for line in host.check_output("postqueue -j").splitlines() if DOMAIN in line or MOVING in line]


def delivered(host: Host) -> Counter[tuple[str, str]]:
    """(Message-ID, mailbox) → how often; a mailbox that is an alias now has its mail in the archive."""
    found: Counter[tuple[str, str]] = Counter()
    script = f"grep -rHi --include='[0-9]*' '^Message-ID:' /var/vmail/{DOMAIN} /var/vmail/flop.test /var/vmail/.archive 2>/dev/null; true"
    for line in host.check_output(script).splitlines():
        path, _, header = line.partition(":")
        parts = Path(path).relative_to("/var/vmail").parts
        name = parts[1].partition("@")[0] if parts[0] == ".archive" else parts[1]
        found[header.split(":", 1)[1].strip(), name] += 1
    for header in hosts.run_on_world("sh", "-c", f"grep -rhi '^Message-ID:' {SINK} 2>/dev/null; true").decode().splitlines():
        found[header.split(":", 1)[1].strip(), "sink"] += 1
    return found


def history(host: Host, message_id: str, since: str) -> list[str]:
    """What Postfix logged of a message."""
    journal = f"journalctl -q --utc -o short-precise -t postfix/cleanup -t postfix/lmtp -t postfix/qmgr --since '{since}'"
    lines = host.check_output(journal).splitlines()
    queue_ids = {line.split(": ")[1] for line in lines if message_id in line}
    return [line for line in lines if any(f" {queue_id}: " in line for queue_id in queue_ids)]


def judge(host: Host, traffic: Traffic, changes: list[tuple[int, float, float]]) -> None:
    """Nothing refused, bounced, lost or doubled; each message where a state that was live or becoming live says."""
    assert traffic.faults == []
    assert [sent for sent in traffic.sent if not sent.accepted] == []
    until("an empty queue", lambda: not queue(host), 120)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(traffic.start - 1))
    log = host.check_output(f"journalctl -q --utc -o cat -t postfix/lmtp -t postfix/bounce -t postfix/smtp --since '{since}'")
    assert not re.findall(rf"to=<(?:[^>]*@{DOMAIN}|{MOVING})>.*status=(?:bounced|deferred|expired).*", log)
    # One that moves from queue to queue while they are listed is in none of them.
    found = delivered(host)
    if missing := {sent.message_id for sent in traffic.sent} - {message_id for message_id, _ in found}:
        with contextlib.suppress(TimeoutError):
            until("the last messages", lambda: missing <= {message_id for message_id, _ in delivered(host)}, 20)
        found = delivered(host)
    places: dict[str, list[str]] = {}
    for (message_id, name), count in found.items():
        places.setdefault(message_id, []).extend([name] * count)
    wrong = []
    for sent in traffic.sent:
        # A state counts from when it begins to become live until its successor is live.
        states = [
            state
            for index, (state, start, _) in enumerate(changes)
            if start <= sent.end and (index + 1 == len(changes) or changes[index + 1][2] >= sent.start)
        ]
        right = {targets(sent.name, state) for state in states}
        at = places.get(sent.message_id, [])
        if len(at) != 1 or at[0] not in right:
            wrong.append((sent, at, sorted(right)))
    assert wrong == [], history(host, wrong[0][0].message_id, since)
    rate = len(traffic.sent) / traffic.seconds
    print(f"{len(traffic.sent)} messages at {rate:.0f}/s through {len(changes) - 1} changes")
    assert len(traffic.sent) >= 10 * (len(changes) - 1), "changes under load"


def warm_up(mail: MailHost) -> None:
    """Each client waits for postscreen once."""
    for source in SOURCES:
        with connect(mail, source=source) as session:
            assert session.reply()[0] == 220


def test_nothing_is_refused_bounced_lost_doubled_or_misrouted_while_data_changes(
    mail: MailHost, host: Host, driver: Driver, accounts: dict[str, str]
) -> None:
    warm_up(mail)
    changes = [(0, 0.0, 0.0)]
    with imap(mail, "alice@oak.test", accounts["alice@oak.test"]) as session:
        session.select()
        with Traffic(mail) as traffic:
            for state in range(1, CHANGES + 1):
                reached = len(traffic.sent) + 50
                until("fifty more messages", lambda reached=reached: traffic.faults or len(traffic.sent) >= reached)
                done = driver.ask(str(state))
                changes.append((state, done["start"], done["end"]))
        assert session.noop()[0] == "OK"
    judge(host, traffic, changes)


def test_a_domain_moves_between_a_relayed_server_and_here_under_load(mail: MailHost, host: Host, driver: Driver, sink: None) -> None:
    warm_up(mail)
    changes = [(0, 0.0, 0.0)]
    driver.ask("relay 0")
    with Traffic(mail, (MOVING, "one", "two"), longest=3) as traffic:
        for state in range(1, 5):
            reached = len(traffic.sent) + 50
            until("fifty more messages", lambda reached=reached: traffic.faults or len(traffic.sent) >= reached)
            done = driver.ask(f"relay {state}")
            changes.append((state, done["start"], done["end"]))
    judge(host, traffic, changes)


def test_a_run_that_is_killed_under_load_costs_no_mail_and_is_made_whole_by_the_next(
    mail: MailHost, host: Host, driver: Driver, version: str
) -> None:
    warm_up(mail)
    changes = [(0, 0.0, 0.0)]
    with Traffic(mail) as traffic:
        for state in range(1, max(3, CHANGES // 2) + 1):
            victim = Driver(version)
            start = time.time()
            process = victim.ask("which")["process"]
            assert victim.process.stdin
            stdin: IO[str] = victim.process.stdin
            stdin.write(f"{state}\n")
            stdin.flush()
            time.sleep(random.uniform(0, 0.4))  # noqa: S311 - any moment of the run
            host.run(f"kill -KILL {process}")
            victim.close()
            done = driver.ask(str(state))
            changes.append((state, start, done["end"]))
    judge(host, traffic, changes)
    assert not host.run("find /var/lib/mailwright -name '.mailwright-*' -o -name '.new-*' | grep .").stdout
