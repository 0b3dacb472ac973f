"""O4, O5: what waits in the queue and what became of a message, told and acted on by the playbooks as people run them."""

from __future__ import annotations

import contextlib
import json
import re
import uuid

import pytest
from correspondent import MailHost, send_from_world, until, write
from edits import Site
from hosts import world_mailbox
from testinfra.host import Host
from wire import stranger

# A TLS policy of the lab keeps mail to it waiting.
WAITS = "secure.expired.test"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("queue") / "inventory")


def run(site: Site, playbook: str, *arguments: str, **variables: str) -> str:
    """Output of a playbook that succeeds."""
    words = [word for name, value in variables.items() for word in ("-e", json.dumps({name: value}))]
    status, output = site.run(*words, *arguments, playbook=f"playbooks/{playbook}.yml")
    assert status == 0, output
    return output


def waiting(host: Host, sender: str, queue: str = "deferred") -> list[str]:
    """Queue ids of messages of that sender; there is a recipient for whom delivery was tried, and failed."""
    rows = [json.loads(line) for line in host.check_output("postqueue -j").splitlines()]
    rows = [row for row in rows if row["sender"] == sender and row["queue_name"] == queue]
    return [row["queue_id"] for row in rows if all("delay_reason" in found for found in row["recipients"])]


@pytest.fixture
def stuck(mail: MailHost, host: Host, accounts: dict[str, str]) -> tuple[str, str]:
    """All that waits: a message of alice's, which the tests are about, and one of bob's, which nobody may touch. Their queue ids."""
    host.check_output("postsuper -d ALL")
    for sender in ("alice@oak.test", "bob@oak.test"):
        mail.submit(sender, accounts[sender], write(sender, f"somebody@{WAITS}"))
    return tuple(until(f"{sender} waits", lambda sender=sender: waiting(host, sender))[0] for sender in ("alice@oak.test", "bob@oak.test"))


def test_a_waiting_message_is_listed_with_the_reason_held_released_retried_and_deleted(
    host: Host, site: Site, stuck: tuple[str, str]
) -> None:
    ours, other = stuck
    listed = run(site, "queue", queue_recipient=WAITS)
    assert re.search(rf"{ours} deferred, \d+ s, \d+ bytes, from alice@oak\.test\s+to somebody@{WAITS}: Server certificate not", listed)
    assert other in listed
    assert ours not in run(site, "queue", queue_older_than="1h")

    assert "changed=1" in run(site, "queue", queue_action="hold", queue_sender="alice@oak.test")
    assert ours in run(site, "queue", queue_name="hold")
    assert "changed=0" in run(site, "queue", queue_action="retry", queue_sender="alice@oak.test")
    assert "changed=1" in run(site, "queue", queue_action="release", queue_sender="alice@oak.test")

    assert "changed=1" in run(site, "queue", queue_action="retry", queue_sender="alice@oak.test")
    (again,) = until("it is tried again", lambda: [found for found in waiting(host, "alice@oak.test") if found != ours])

    assert again in run(site, "queue", "--check", queue_action="delete", queue_sender="oak.test", queue_ids=[again])
    assert waiting(host, "alice@oak.test") == [again]
    assert "changed=1" in run(site, "queue", queue_action="delete", queue_sender="alice@oak.test")
    assert waiting(host, "alice@oak.test") == []
    assert waiting(host, "bob@oak.test") == [other]
    run(site, "queue", queue_action="delete", queue_ids=[other])


def test_the_whole_queue_is_deleted_only_if_that_is_said(host: Host, site: Site, stuck: tuple[str, str]) -> None:
    status, output = site.run("-e", "queue_action=delete", playbook="playbooks/queue.yml")
    assert status != 0
    assert "delete without a selection would be the whole queue; say which messages, or all: true" in output
    assert waiting(host, "alice@oak.test") == [stuck[0]]
    run(site, "queue", queue_action="delete", queue_all="true")
    assert host.check_output("postqueue -j") == ""


def test_a_message_is_followed_from_the_client_through_the_filter_to_each_recipient(host: Host, site: Site) -> None:
    message = write("grace@good.test", "frieda@oak.test")
    send_from_world(message, "grace@good.test", "frieda@oak.test")
    world_mailbox("good.test", "friend", str(message["Message-ID"]))
    steps = [
        r"received from mx\.good\.test\[",
        r"rspamd: filter: \(no action\), score \S+ of ",
        r"queued: from <grace@good\.test>, \d+ bytes, recipients: \d",
        r"dovecot: frieda@oak\.test: stored mail into mailbox 'INBOX'",
        r"to <bob@oak\.test> for <frieda@oak\.test>: sent by ",
        # The lane of forwarded mail gives it another queue id, by which it leaves.
        r"queued: from <SRS0=[^>]*=good\.test=grace@mail\.oak\.test>",
        r"to <friend@good\.test.*>: sent by mx\.good\.test\[\S+\]:25: 250 ",
        "out of the queue",
    ]

    told = ""

    def missing() -> list[str]:
        nonlocal told
        told = run(site, "trace", trace_message_id=str(message["Message-ID"]))
        return [step for step in steps if not re.search(step, told)]

    # There are copies, which arrive and leave the queue in their own time.
    with contextlib.suppress(TimeoutError):
        until("all of it is told", lambda: not missing())
    assert [step for step in steps if not re.search(step, told)] == []
    times = re.findall(r"^ +(\d{4}-\S+ \S+) \S+:", told, re.MULTILINE)
    assert times == sorted(times)
    # By one of its queue ids the same is found.
    queue_id = re.search(r">: sent by mx\.good", told) and re.findall(r"(\w{5,32}) out of the queue", told)[-1]
    assert str(message["Message-ID"]) in run(site, "trace", trace_queue_id=queue_id)


def test_a_message_that_was_refused_is_found_by_its_addresses(mail: MailHost, site: Site) -> None:
    recipient = f"nobody-{uuid.uuid4().hex}@oak.test"
    with stranger(mail) as session:
        assert session.rcpt("grace@good.test", recipient)[-1] == 550
    told = run(site, "trace", trace_recipient=recipient, trace_since="1h")
    assert re.search(rf"NOQUEUE: reject: RCPT from \S+: 550 5\.1\.1 <{recipient}>", told)
    assert "nothing was found" in run(site, "trace", trace_recipient=f"other-{recipient}", trace_since="1h")


def test_words_of_a_hostile_message_are_neither_evaluated_nor_sent_to_the_terminal(mail: MailHost, site: Site) -> None:
    marker = uuid.uuid4().hex
    with stranger(mail) as session:
        session.rcpt("grace@good.test", "alice@oak.test")
        session.data(f"From: grace@good.test\nTo: alice@oak.test\nMessage-ID: <{marker}{{{{7*7}}}}\x1b[31m@good.test>\n\nHello\n")
    told = run(site, "trace", trace_sender="grace@good.test", trace_since="1h")
    assert f"<{marker}{{{{7*7}}}}" in told
    assert "\x1b" not in told
