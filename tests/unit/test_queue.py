"""Selection of messages in the queue, and what postsuper is told about them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.queue import QueueError, Selection, act, parse, read, report

NOW = 1_795_267_357


def row(queue_id: str, queue: str, sender: str, *recipients: str, age: int = 60, reason: str = "no answer") -> str:
    found = [{"address": recipient, "delay_reason": reason} for recipient in recipients]
    fields = {"queue_id": queue_id, "queue_name": queue, "arrival_time": NOW - age, "message_size": 310, "sender": sender}
    return json.dumps({**fields, "forced_expire": False, "recipients": found})


OUTPUT = "\n".join(
    [
        row("4jWtDF3FX0zYCJ2", "deferred", "Alice@oak.test", "x@one.test", "y@two.test"),
        row("4jWtDF3FX0zYCJ3", "hold", "bob@oak.test", "x@one.test", age=7200),
        row("4jWtDF3FX0zYCJ4", "active", "MAILER-DAEMON", "x@sub.one.test", age=10),
    ]
)


class Postfix:
    """Answers postqueue, and keeps what postsuper was told."""

    def __init__(self, status: int = 0, output: str = OUTPUT) -> None:
        self.status = status
        self.output = output
        self.told: list[tuple[Sequence[str], str]] = []

    def __call__(self, command: Sequence[str], *, text: str = "") -> tuple[int, str]:
        if command[0] == "postsuper":
            self.told.append((command, text))
        return self.status, self.output


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), "342"),
        (Selection(sender="alice@oak.test"), "2"),
        (Selection(sender="oak.test"), "32"),
        (Selection(sender="@oak.test"), "32"),
        (Selection(sender="ak.test"), ""),
        (Selection(sender="<>"), "4"),
        (Selection(recipient="ONE.test"), "32"),
        (Selection(recipient="y@two.test"), "2"),
        (Selection(sender="oak.test", recipient="two.test"), "2"),
        (Selection(seconds=3600), "3"),
        (Selection(queue="hold"), "3"),
        (Selection(ids=frozenset({"4jWtDF3FX0zYCJ4", "4jWtDF3FX0zYCJ9"})), "4"),
    ],
)
def test_messages_are_selected_by_all_that_is_said(selection: Selection, expected: str) -> None:
    found = [message for message in read(Postfix()) if selection.fits(message, NOW)]
    assert {message.id[-1] for message in found} == set(expected)
    assert [message.arrived for message in found] == sorted(message.arrived for message in found)


@pytest.mark.parametrize(
    ("action", "option", "expected"), [("retry", "-r", "42"), ("hold", "-h", "42"), ("release", "-H", "3"), ("delete", "-d", "342")]
)
def test_only_messages_that_it_concerns_are_acted_on_and_none_in_check_mode(action: str, option: str, expected: str) -> None:
    postfix = Postfix()
    assert len(act(postfix, action, read(postfix), check_mode=True)) == len(expected)
    assert postfix.told == []
    act(postfix, action, read(postfix))
    ((command, text),) = postfix.told
    assert list(command) == ["postsuper", option, "-"]
    assert {line[-1] for line in text.split()} == set(expected)


def test_where_nothing_is_concerned_postfix_is_not_asked() -> None:
    postfix = Postfix()
    assert act(postfix, "release", [message for message in parse(OUTPUT) if message.queue != "hold"]) == []
    assert postfix.told == []


def test_what_postfix_says_instead_of_an_answer_is_told() -> None:
    with pytest.raises(QueueError, match="mail system is down"):
        read(Postfix(69, "postqueue: fatal: mail system is down"))
    with pytest.raises(QueueError, match="cannot be read"):
        read(Postfix(0, '{"queue_id": 1}'))
    with pytest.raises(QueueError, match="fatal"):
        act(Postfix(1, "postsuper: fatal"), "delete", parse(OUTPUT))


@pytest.mark.parametrize("wrong", ["ALL", "-", "../x", "4jWtDF3FX0zYCJ2\nALL", ""])
def test_what_is_no_queue_id_never_reaches_postsuper(wrong: str) -> None:
    with pytest.raises(Invalid, match="not a queue id"):
        Selection(ids=frozenset({wrong}))


def test_the_report_says_who_waits_and_why() -> None:
    assert report("list", parse(OUTPUT)[:2], NOW) == [
        "list: 2 messages",
        "4jWtDF3FX0zYCJ3 hold, 2 h, 310 bytes, from bob@oak.test",
        "  to x@one.test: no answer",
        "4jWtDF3FX0zYCJ2 deferred, 1 min, 310 bytes, from Alice@oak.test",
        "  to x@one.test: no answer",
        "  to y@two.test: no answer",
    ]
