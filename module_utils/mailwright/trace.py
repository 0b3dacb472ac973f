# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""One message followed through Postfix, Rspamd and Dovecot by what they wrote to the journal, told as a timeline.

A message has a Message-ID and one or more queue ids: Postfix makes a new one where it is forwarded, returned or requeued. Rspamd
names both, Dovecot the Message-ID. The journal is read twice to keep memory small: for ids that belong together, and for their lines.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .commands import ENVIRONMENT
from .errors import Invalid, show
from .names import is_meant

__all__ = ["Event", "Query", "Trace", "journal", "timeline", "trace"]

# postconf(5), enable_long_queue_ids: both forms.
_ID: Final = "[0-9A-Za-z]{5,32}"
_POSTFIX: Final = re.compile(rf"(?!NOQUEUE)({_ID}): (.*)", re.ASCII | re.DOTALL)
_RSPAMD: Final = re.compile(r"rspamd_task_write_log: id: <([^>]*)>, qid: <([^>]*)>")
_DOVECOT: Final = re.compile(r"\w+\(([^)]*)\).*?: (?:sieve: )?msgid=<?([^>\s]*)>?: (.*)", re.DOTALL)
_MESSAGE_ID: Final = re.compile(r"(?:resent-)?message-id=<?([^>\s]*)")
# Lines that may belong to a message; the journal has many others, which cost less to leave out there than here.
_OF_MESSAGES: Final = rf"^{_ID}: |NOQUEUE: |rspamd_task_write_log|msgid="
# A further queue id of the same message: handed to the lane of forwarded mail on this host, returned, requeued.
_RELATED: Final = (
    re.compile(rf"relay=(?:127\.0\.0\.1|::1)\[.*queued as ({_ID})\)"),
    re.compile(rf"sender [a-z -]*notification: ({_ID})"),
    re.compile(rf"orig_id=({_ID})"),
)
_FROM: Final = re.compile(r"\bfrom=<([^>]*)>")
_TO: Final = re.compile(r"to=<([^>]*)>")

# What a line means: part of its program's name, what it says, and how that is told. Other lines are told as they are.
_WORDS: Final = (
    ("smtpd", re.compile(r"client=(\S+), sasl_method=\S+, sasl_username=(\S+)"), r"received from \1, login \2"),
    ("smtpd", re.compile(r"client=(\S+?)(?:,.*)?"), r"received from \1"),
    ("pickup", re.compile(r"uid=(\d+) from=<(.*?)>.*"), r"submitted on the host by user \1 as <\2>"),
    ("cleanup", re.compile(r"message-id=(.*)"), r"Message-ID \1"),
    ("qmgr", re.compile(r"from=<(.*)>, size=(\d+), nrcpt=(\d+) .*"), r"queued: from <\1>, \2 bytes, recipients: \3"),
    ("qmgr", re.compile(r"removed"), "out of the queue"),
    ("", re.compile(r"to=<(.*?)>, orig_to=<(.*?)>, relay=(\S+), .*, status=(\S+) \((.*)\)"), r"to <\1> for <\2>: \4 by \3: \5"),
    ("", re.compile(r"to=<(.*?)>, relay=(\S+), .*, status=(\S+) \((.*)\)"), r"to <\1>: \3 by \2: \4"),
    ("rspamd", re.compile(r".*\(default: \S (\(.*?\)): \[(\S+?)/(\S+?)\] \[(.*)\]\), len: .*"), r"filter: \1, score \2 of \3: \4"),
)
# Told by another line: cleanup writes down the header that it makes anonymous.
_HIDDEN: Final = re.compile(r"replace: header Received: ")
# Symbols without weight.
_NOTHING: Final = re.compile(r"[A-Z0-9_]+\(0\.00\)\{[^}]*\},?")


class Event(NamedTuple):
    """A line of the journal; `time` in µs since 1970."""

    time: int
    program: str
    text: str


@dataclass(frozen=True)
class Query:
    """Which messages: by an id, or by envelope sender and recipient, each an address or a domain."""

    message_id: str = ""
    queue_id: str = ""
    sender: str = ""
    recipient: str = ""

    def __post_init__(self) -> None:
        if not (self.message_id or self.queue_id or self.sender or self.recipient):
            raise Invalid("nothing to look for", "give a Message-ID, a queue id, a sender or a recipient")
        if self.queue_id and not re.fullmatch(_ID, self.queue_id, re.ASCII):
            raise Invalid(f"{show(self.queue_id)} is not a queue id")


@dataclass
class Trace:
    """One message: its ids and its lines. One that was refused at RCPT has no ids."""

    message_id: str = ""
    queue_ids: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def journal(since: int) -> Iterator[Event]:
    """Lines of the mail services of the last `since` seconds, as they are read."""
    command = ["journalctl", "--quiet", "--output=json", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER", f"--since=-{since}s"]
    command += ["--unit=postfix*", "--unit=rspamd.service", "--unit=dovecot.service", "--case-sensitive=yes", f"--grep={_OF_MESSAGES}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=ENVIRONMENT) as process:  # noqa: S603 - no shell
        for line in process.stdout or ():
            row = json.loads(line)
            # Bytes that are no UTF-8 come as a list of numbers, and texts that are too long as null.
            text = row.get("MESSAGE") or ""
            text = text if isinstance(text, str) else bytes(text).decode(errors="replace")
            yield Event(int(row["__REALTIME_TIMESTAMP"]), row.get("SYSLOG_IDENTIFIER", ""), text)


def trace(query: Query, read: Callable[[], Iterable[Event]]) -> list[Trace]:
    """The messages that are meant, oldest first. `read` gives the journal, and is called twice."""
    found: list[Trace] = []
    message_ids: dict[str, str] = {}
    senders: dict[str, str] = {}
    recipients: dict[str, set[str]] = defaultdict(set)
    related: dict[str, set[str]] = defaultdict(set)
    for event in read():
        if "NOQUEUE: " in event.text:
            if not query.message_id and not query.queue_id and _concerns(query, _FROM.findall(event.text), _TO.findall(event.text)):
                found.append(Trace(events=[event]))
            continue
        queue_id, text = _postfix(event)
        if not queue_id:
            continue
        if match := _MESSAGE_ID.match(text):
            message_ids[queue_id] = match[1]
            related[match[1]].add(queue_id)
            related[queue_id].add(match[1])
        if match := _FROM.search(text):
            senders[queue_id] = match[1]
        recipients[queue_id].update(_TO.findall(text))
        for pattern in _RELATED:
            if match := pattern.search(text):
                related[queue_id].add(match[1])
                related[match[1]].add(queue_id)
    owners: dict[str, Trace] = {}
    wanted_id = query.message_id.strip("<>")
    for queue_id in set(recipients) | set(message_ids) | set(senders):
        meant = (
            (not wanted_id or message_ids.get(queue_id) == wanted_id)
            and (not query.queue_id or queue_id == query.queue_id)
            and _concerns(query, [senders[queue_id]] if queue_id in senders else [], recipients[queue_id])
        )
        if meant and queue_id not in owners:
            found.append(Trace())
            _own(found[-1], queue_id, related, owners)
    for event in read():
        queue_id, text = _postfix(event)
        owner = _owner(event, owners)
        if owner is None or _HIDDEN.match(text):
            continue
        owner.events.append(event)
        owner.message_id = owner.message_id or message_ids.get(queue_id, "")
        if queue_id and queue_id not in owner.queue_ids:
            owner.queue_ids.append(queue_id)
    return sorted((one for one in found if one.events), key=lambda one: one.events[0].time)


def _own(one: Trace, start: str, related: dict[str, set[str]], owners: dict[str, Trace]) -> None:
    """Enter the message under all ids that lead from one to another."""
    waiting = [start]
    while waiting:
        found = waiting.pop()
        if found not in owners:
            owners[found] = one
            waiting += related[found]


def _postfix(event: Event) -> tuple[str, str]:
    match = _POSTFIX.fullmatch(event.text) if event.program.startswith("postfix") else None
    return (match[1], match[2]) if match else ("", "")


def _owner(event: Event, owners: dict[str, Trace]) -> Trace | None:
    queue_id, _ = _postfix(event)
    if queue_id:
        return owners.get(queue_id)
    if match := _RSPAMD.search(event.text):
        return owners.get(match[2]) or owners.get(match[1])
    match = _DOVECOT.fullmatch(event.text) if event.program == "dovecot" else None
    return owners.get(match[2]) if match else None


def _concerns(query: Query, senders: Iterable[str], recipients: Iterable[str]) -> bool:
    return (not query.sender or any(is_meant(query.sender, one) for one in senders)) and (
        not query.recipient or any(is_meant(query.recipient, one) for one in recipients)
    )


def timeline(traces: list[Trace]) -> list[str]:
    """Lines for people: for each message its ids, and below what happened to it when (UTC)."""
    lines = []
    for one in traces:
        ids = [f"<{one.message_id}>"] if one.message_id else []
        lines.append(" ".join([*ids, *one.queue_ids]) or "refused")
        lines += [f"  {_time(event.time)} {event.program}: {_tell(event)}" for event in one.events]
    return lines or ["nothing was found"]


def _time(moment: int) -> str:
    return dt.datetime.fromtimestamp(moment / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _tell(event: Event) -> str:
    # Senders can put anything into a Message-ID.
    whole = "".join(char if char.isprintable() else "?" for char in event.text)
    queue_id, text = _postfix(event._replace(text=whole))
    text = text or whole
    mark = f"{queue_id} " if queue_id else ""
    if event.program == "dovecot" and (match := _DOVECOT.fullmatch(text)):
        return f"{match[1]}: {match[3]}"
    for program, pattern, words in _WORDS:
        match = pattern.fullmatch(text) if program in event.program else None
        if match:
            return mark + _NOTHING.sub("", match.expand(words)).replace(" by none: ", ": ").rstrip(",")
    return mark + text
