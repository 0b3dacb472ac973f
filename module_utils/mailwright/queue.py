# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Postfix's queue: what waits and why, selected by who it is from, who it is to, how long it waits; and what to do with it.

Reads `postqueue -j` (postqueue(1)) and acts through `postsuper` (postsuper(1)) by queue id, so only on what was listed.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .commands import shorten
from .errors import Invalid, show
from .names import is_meant

__all__ = ["ACTIONS", "Message", "QueueError", "Selection", "act", "parse", "read", "report"]

# What is done to a message: how postsuper is told, and the queues whose messages it concerns.
ACTIONS: Final = {
    "retry": ("-r", frozenset({"deferred", "incoming", "active"})),
    "hold": ("-h", frozenset({"deferred", "incoming", "active"})),
    "release": ("-H", frozenset({"hold"})),
    "delete": ("-d", frozenset({"deferred", "incoming", "active", "hold"})),
}
PICKUP: Final = "/var/spool/postfix/public/pickup"
# Messages told one by one.
SHOWN: Final = 100
# Queue ids as Postfix makes them, short or long (postconf(5), enable_long_queue_ids).
_ID: Final = re.compile(r"[0-9A-Za-z]{5,32}", re.ASCII)


class Run(Protocol):
    """What runs a command: its status and what it printed."""

    def __call__(self, command: Sequence[str], *, text: str = "") -> tuple[int, str]: ...


class QueueError(Exception):
    """Postfix did not answer or refused; the message has what it said."""


@dataclass(frozen=True)
class Message:
    """A message in the queue. `recipients` are those who have not got it yet, each with the reason of the last try, or none."""

    id: str
    queue: str
    arrived: int
    size: int
    sender: str
    recipients: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Selection:
    """Which messages are meant: all of those that every given property fits.

    `sender` and `recipient` are an address, a domain (without its subdomains), or `<>` for bounces; `seconds` is the least age.
    """

    sender: str = ""
    recipient: str = ""
    seconds: int = 0
    queue: str = ""
    ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for wrong in sorted(found for found in self.ids if not _ID.fullmatch(found)):
            raise Invalid(f"{show(wrong)} is not a queue id")

    def fits(self, message: Message, now: float) -> bool:
        """Whether the message is meant."""
        return (
            (not self.ids or message.id in self.ids)
            and (not self.queue or message.queue == self.queue)
            and now - message.arrived >= self.seconds
            and (not self.sender or is_meant(self.sender, message.sender))
            and (not self.recipient or any(is_meant(self.recipient, address) for address, _ in message.recipients))
        )

    @property
    def is_everything(self) -> bool:
        """Whether nothing was said about which."""
        return self == Selection()


def parse(output: str) -> list[Message]:
    """Messages as `postqueue -j` prints them, one JSON object a line; oldest first."""
    return sorted(
        (_message(json.loads(line)) for line in output.splitlines() if line.strip()), key=lambda message: (message.arrived, message.id)
    )


def _message(row: dict[str, Any]) -> Message:
    sender = "" if row["sender"] == "MAILER-DAEMON" else row["sender"]
    recipients = tuple((found["address"], found.get("delay_reason", "")) for found in row["recipients"])
    return Message(row["queue_id"], row["queue_name"], row["arrival_time"], row["message_size"], sender, recipients)


def read(run: Run) -> list[Message]:
    """What is in the queue now. Raises QueueError."""
    status, output = run(["postqueue", "-j"])
    if status != 0:
        raise QueueError(f"postqueue -j: {shorten(output)}")
    try:
        return parse(output)
    except (ValueError, KeyError, TypeError) as error:
        raise QueueError(f"postqueue -j printed what cannot be read: {error}") from error


def act(run: Run, action: str, messages: Iterable[Message], *, check_mode: bool = False) -> list[Message]:
    """Do it to all of the messages that it concerns; returns them. One that is gone meanwhile is passed over. Raises QueueError."""
    option, queues = ACTIONS[action]
    found = [message for message in messages if message.queue in queues]
    if found and not check_mode:
        status, output = run(["postsuper", option, "-"], text="".join(f"{message.id}\n" for message in found))
        if status != 0:
            raise QueueError(f"postsuper {option}: {shorten(output)}")
        if action == "retry":
            _wake_pickup()
    return found


def _wake_pickup() -> None:
    """Requeued messages wait for pickup(8), which looks by itself once a minute only."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as pickup:
        pickup.settimeout(5)
        pickup.connect(PICKUP)
        # TRIGGER_REQ_WAKEUP
        pickup.sendall(b"W")


def report(action: str, messages: Sequence[Message], now: float) -> list[str]:
    """Lines for people: how many, and each message with those who wait for it."""
    lines = [f"{action}: {len(messages)} {'message' if len(messages) == 1 else 'messages'}"]
    for message in messages[:SHOWN]:
        lines.append(f"{message.id} {message.queue}, {_span(now - message.arrived)}, {message.size} bytes, from {message.sender or '<>'}")
        lines += [f"  to {address}{f': {reason}' if reason else ''}" for address, reason in message.recipients]
    if len(messages) > SHOWN:
        lines.append(f"… and {len(messages) - SHOWN} more")
    return lines


def _span(seconds: float) -> str:
    """A time in its largest unit, roughly."""
    for name, unit in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
