"""What is in quarantine: what is read of it, which messages are meant, and what leaves it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.quarantine import QuarantineError, check_ids, read, release, report, select

BOX = "quarantine@oak.test"
NOW = 1_795_267_357
TEXT = (
    "text:\nReturn-Path: <a@b.test>\nDelivered-To: quarantine@oak.test\nX-Quarantine-Recipients: x@oak.test,\n y@oak.test\n"
    "From: A <a@b.test>\r\nSubject: Hello\r\n\r\nCaf\udce9 X-Quarantine-Id: part of the text\n.\n\n\f"
)


def row(number: int, *, sender: str = "<a@b.test>", recipients: str = "x@oak.test, y@oak.test", age: int = 60) -> dict[str, str]:
    return {
        "hdr.x-quarantine-id": f"{number:032x}",
        "hdr.x-quarantine-reason": "virus Lab.EICAR",
        "hdr.x-quarantine-sender": sender,
        "hdr.x-quarantine-recipients": recipients,
        "hdr.x-quarantine-notify": "",
        "hdr.from": "A <a@b.test>",
        "hdr.subject": "Hello",
        "date.saved.unixtime": str(NOW - age),
    }


class Host:
    """Answers doveadm and keeps what sendmail was given."""

    def __init__(self, *rows: dict[str, str], sendmail: int = 0) -> None:
        self.rows, self.sendmail = rows, sendmail
        self.commands: list[Sequence[str]] = []
        self.sent = ""

    def __call__(self, command: Sequence[str], *, text: str = "", exact: bool = False) -> tuple[int, str]:
        self.commands.append(command)
        if command[0] != "doveadm":
            self.sent = text
            return self.sendmail, "no"
        return 0, json.dumps(self.rows) if "json" in command else TEXT if exact else ""


def test_what_the_filter_did_not_put_there_is_not_shown() -> None:
    rows = [row(1, age=10), row(2), {**row(3), "hdr.x-quarantine-id": "x"}, row(4, recipients=""), row(5, sender="<-oX@b.test -v>")]
    assert [held.id[-1] for held in read(Host(*rows), BOX)] == ["2", "1"]


def test_messages_are_meant_by_id_and_age() -> None:
    held = read(Host(row(1), row(2, age=7200)), BOX)
    assert [one.id[-1] for one in select(held, [f"{1:032x}"], 0, NOW)] == ["1"]
    assert [one.id[-1] for one in select(held, [], 3600, NOW)] == ["2"]
    assert report("list", held)[1].endswith("virus Lab.EICAR, from a@b.test (A <a@b.test>) to x@oak.test, y@oak.test: Hello")
    with pytest.raises(Invalid, match="is not an id"):
        check_ids(["1 OR ALL"])


def test_a_released_message_is_as_it_came_and_goes_to_all() -> None:
    host = Host(row(1))
    release(host, BOX, read(host, BOX)[0])
    assert host.commands[-2] == ["/usr/sbin/sendmail", "-G", "-i", "-f", "a@b.test", "--", "x@oak.test", "y@oak.test"]
    assert host.sent == "From: A <a@b.test>\nSubject: Hello\n\nCaf\udce9 X-Quarantine-Id: part of the text\n.\n"
    assert host.commands[-1][:2] == ["doveadm", "expunge"]


def test_what_cannot_be_sent_stays_in_quarantine() -> None:
    host = Host(row(1, sender="<>"), sendmail=75)
    with pytest.raises(QuarantineError, match="sendmail: no"):
        release(host, BOX, read(host, BOX)[0])
    assert not [command for command in host.commands if "expunge" in command]
    assert "<>" in host.commands[-1]
