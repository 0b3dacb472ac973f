# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Messages in quarantine: listed, shown, released to those whom they were for, deleted. They lie in one mailbox's folder Junk.

Reads and expunges by doveadm(1), and gives what is released to sendmail(1): the filter lets pass what this host itself sends.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .commands import shorten
from .errors import Invalid, show

__all__ = ["Held", "QuarantineError", "check_ids", "read", "release", "remove", "report", "select", "text_of"]

FOLDER: Final = "Junk"
HEADERS: Final = ("id", "reason", "sender", "recipients", "notify")
SHOWN: Final = 100
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
# What the filter lets into the quarantine (quarantine.lua).
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+", re.ASCII)


class Run(Protocol):
    """What runs a command: its status and what it printed."""

    def __call__(self, command: Sequence[str], *, text: str = "", exact: bool = False) -> tuple[int, str]: ...


class QuarantineError(Exception):
    """Dovecot or Postfix refused; the message has what it said."""


@dataclass(frozen=True)
class Held:
    """A message in quarantine; `received` in seconds since 1970, `sender` empty for bounces."""

    id: str
    received: int
    reason: str
    sender: str
    recipients: tuple[str, ...]
    author: str
    subject: str


def check_ids(ids: Sequence[str]) -> None:
    """Raises Invalid for what is no id of a message in quarantine."""
    for wrong in (found for found in ids if not _ID.fullmatch(found)):
        raise Invalid(f"{show(wrong)} is not an id of a message in quarantine")


def _doveadm(run: Run, *arguments: str, exact: bool = False) -> str:
    status, output = run(["doveadm", *arguments], exact=exact)
    if status != 0:
        raise QuarantineError(f"doveadm {arguments[0]}: {shorten(output)}")
    return output


def read(run: Run, mailbox: str) -> list[Held]:
    """What is in quarantine now, oldest first. Raises QuarantineError."""
    fields = [*(f"hdr.x-quarantine-{name}" for name in HEADERS), "hdr.from", "hdr.subject", "date.saved.unixtime"]
    query = ["mailbox", FOLDER, "header", "x-quarantine-id", ""]
    output = _doveadm(run, "-f", "json", "fetch", "-u", mailbox, " ".join(fields), *query)
    found = (_held(row) for row in json.loads(output or "[]"))
    return sorted((held for held in found if held is not None), key=lambda held: (held.received, held.id))


def _held(row: Mapping[str, Any]) -> Held | None:
    """None for what the filter has not put there."""
    values = {name: " ".join(str(row.get(f"hdr.x-quarantine-{name}", "")).split()) for name in HEADERS}
    sender = values["sender"].removeprefix("<").removesuffix(">")
    recipients = tuple(address.strip() for address in values["recipients"].split(",") if address.strip())
    addresses = [*recipients, *([sender] if sender else [])]
    if not _ID.fullmatch(values["id"]) or not recipients or not all(_ADDRESS.fullmatch(address) for address in addresses):
        return None
    author, subject = (" ".join(str(row.get(f"hdr.{name}", "")).split()) for name in ("from", "subject"))
    return Held(values["id"], int(row.get("date.saved.unixtime") or 0), values["reason"], sender, recipients, author, subject)


def select(held: Sequence[Held], ids: Sequence[str], seconds: int, now: float | None = None) -> list[Held]:
    """Those with one of the ids, if there are any, and of at least that age."""
    at = time.time() if now is None else now
    return [one for one in held if (not ids or one.id in ids) and at - one.received >= seconds]


def text_of(run: Run, mailbox: str, held: Held) -> str:
    """The message as it came in, without the headers of the quarantine. Raises QuarantineError."""
    output = _doveadm(run, "fetch", "-u", mailbox, "text", "mailbox", FOLDER, "header", "x-quarantine-id", held.id, exact=True)
    _, mark, text = output.replace("\r\n", "\n").partition("text:\n")
    if not mark:
        raise QuarantineError(f"{held.id} cannot be read")
    head, gap, body = text.removesuffix("\n\f").partition("\n\n")
    head = re.sub(r"(?mi)^(?:x-quarantine-[a-z]+|delivered-to|return-path):.*\n(?:[ \t].*\n)*", "", f"{head}\n")
    return f"{head.removesuffix(chr(10))}{gap}{body}"


def release(run: Run, mailbox: str, held: Held) -> None:
    """To all whom it was for; then it is in quarantine no more. Raises QuarantineError."""
    text = text_of(run, mailbox, held)
    status, output = run(["/usr/sbin/sendmail", "-G", "-i", "-f", held.sender or "<>", "--", *held.recipients], text=text)
    if status != 0:
        raise QuarantineError(f"sendmail: {shorten(output)}")
    remove(run, mailbox, held)


def remove(run: Run, mailbox: str, held: Held) -> None:
    """Destroyed. Raises QuarantineError."""
    _doveadm(run, "expunge", "-u", mailbox, "mailbox", FOLDER, "header", "x-quarantine-id", held.id)


def report(action: str, held: Sequence[Held]) -> list[str]:
    """Lines for people: how many, and each message."""
    lines = [f"{action}: {len(held)} {'message' if len(held) == 1 else 'messages'}"]
    for one in held[:SHOWN]:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.received))
        lines.append(
            f"{one.id} {when}, {one.reason}, from {one.sender or '<>'} ({one.author}) to {', '.join(one.recipients)}: {one.subject}"
        )
    if len(held) > SHOWN:
        lines.append(f"… and {len(held) - SHOWN} more")
    return lines
