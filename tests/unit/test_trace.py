"""Which lines of the journal belong to one message. The lines are those of real daemons (Postfix 3.7, Rspamd 3.4, Dovecot 2.3)."""

from __future__ import annotations

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.trace import Event, Query, timeline, trace

SCORES = "[0.10/15.00] [MIME_UNKNOWN(0.10){text/plain;},ARC_NA(0.00){},FROM_NO_DN(0.00){}]"
RSPAMD = "#6005(rspamd_proxy) <40763a>; proxy; rspamd_task_write_log: id: <1@good.test>, qid: <4jWtDF3FX0zYCJ2>, ip: 198.51.100.21"
LINES = [
    ("postfix/smtpd", "4jWtDF3FX0zYCJ2: client=mx.good.test[198.51.100.21]"),
    ("postfix/cleanup", "4jWtDF3FX0zYCJ2: message-id=<1@good.test>"),
    ("postfix/cleanup", "4jWtDF3FX0zYCZZ: message-id=<2@good.test>"),
    ("rspamd", f"{RSPAMD}, from: <grace@good.test>, (default: F (no action): {SCORES}), len: 260, time: 5ms, rcpts: <frieda@oak.test>"),
    ("postfix/qmgr", "4jWtDF3FX0zYCJ2: from=<grace@good.test>, size=310, nrcpt=2 (queue active)"),
    ("dovecot", "lmtp(frieda@oak.test)<61><CCy5>: sieve: msgid=<1@good.test>: stored mail into mailbox 'INBOX'"),
    ("dovecot", "lmtp(frieda@oak.test)<61><CCy6>: sieve: msgid=<2@good.test>: stored mail into mailbox 'INBOX'"),
    (
        "postfix/lmtp",
        "4jWtDF3FX0zYCJ2: to=<frieda@oak.test>, relay=mail.oak.test[private/dovecot-lmtp], delay=0.08, delays=0.01/0.02/0.03/0.01,"
        " dsn=2.0.0, status=sent (250 2.0.0 <frieda@oak.test> CCy5 Saved)",
    ),
    ("postfix/forwarded/cleanup", "4jWtDF42vmzYCNv: replace: header Received: from mail.oak.test"),
    ("postfix/forwarded/cleanup", "4jWtDF42vmzYCNv: message-id=<1@good.test>"),
    (
        "postfix/forward/smtp",
        "4jWtDF3FX0zYCJ2: to=<pal@plain.test.forward.invalid>, orig_to=<frieda@oak.test>, relay=127.0.0.1[127.0.0.1]:10027, delay=0.12,"
        " delays=0.01/0.09/0.01/0.01, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4jWtDF42vmzYCNv)",
    ),
    (
        "postfix/smtp",
        "4jWtDF42vmzYCNv: to=<pal@plain.test>, relay=none, delay=0.09, delays=0.01/0.05/0.03/0, dsn=5.4.4, status=bounced (Host not found)",
    ),
    ("postfix/cleanup", "4jWtDF4TtCzYCP1: message-id=<3@mail.oak.test>"),
    ("postfix/bounce", "4jWtDF42vmzYCNv: sender non-delivery notification: 4jWtDF4TtCzYCP1"),
    ("postfix/qmgr", "4jWtDF4TtCzYCP1: from=<>, size=2698, nrcpt=1 (queue active)"),
    (
        "postfix/smtpd",
        "NOQUEUE: reject: RCPT from client110.world.test[198.51.100.110]: 550 5.1.1 <nobody@oak.test>: Recipient address rejected:"
        " User unknown; from=<grace@good.test> to=<nobody@oak.test> proto=ESMTP helo=<client.world.test>",
    ),
    ("postfix/qmgr", "4jWtDF3FX0zYCJ2: removed"),
    ("postfix/smtpd", "disconnect from mx.good.test[198.51.100.21] ehlo=2"),
]
EVENTS = [Event(1_795_267_357_000_000 + 1000 * number, program, text) for number, (program, text) in enumerate(LINES)]
STORY = [
    "<1@good.test> 4jWtDF3FX0zYCJ2 4jWtDF42vmzYCNv 4jWtDF4TtCzYCP1",
    "  postfix/smtpd: 4jWtDF3FX0zYCJ2 received from mx.good.test[198.51.100.21]",
    "  postfix/cleanup: 4jWtDF3FX0zYCJ2 Message-ID <1@good.test>",
    "  rspamd: filter: (no action), score 0.10 of 15.00: MIME_UNKNOWN(0.10){text/plain;}",
    "  postfix/qmgr: 4jWtDF3FX0zYCJ2 queued: from <grace@good.test>, 310 bytes, recipients: 2",
    "  dovecot: frieda@oak.test: stored mail into mailbox 'INBOX'",
    "  postfix/lmtp: 4jWtDF3FX0zYCJ2 to <frieda@oak.test>: sent by mail.oak.test[private/dovecot-lmtp]:"
    " 250 2.0.0 <frieda@oak.test> CCy5 Saved",
    "  postfix/forwarded/cleanup: 4jWtDF42vmzYCNv Message-ID <1@good.test>",
    "  postfix/forward/smtp: 4jWtDF3FX0zYCJ2 to <pal@plain.test.forward.invalid> for <frieda@oak.test>: sent by 127.0.0.1[127.0.0.1]:10027:"
    " 250 2.0.0 Ok: queued as 4jWtDF42vmzYCNv",
    "  postfix/smtp: 4jWtDF42vmzYCNv to <pal@plain.test>: bounced: Host not found",
    "  postfix/cleanup: 4jWtDF4TtCzYCP1 Message-ID <3@mail.oak.test>",
    "  postfix/bounce: 4jWtDF42vmzYCNv sender non-delivery notification: 4jWtDF4TtCzYCP1",
    "  postfix/qmgr: 4jWtDF4TtCzYCP1 queued: from <>, 2698 bytes, recipients: 1",
    "  postfix/qmgr: 4jWtDF3FX0zYCJ2 out of the queue",
]


def story(query: Query) -> list[str]:
    """The timeline without times."""
    lines = timeline(trace(query, lambda: EVENTS))
    return [line[:2] + line[26:] if line.startswith("  2026-11-21 13:22:37.") else line for line in lines]


@pytest.mark.parametrize(
    "query",
    [
        Query(message_id="<1@good.test>"),
        Query(message_id="1@good.test"),
        Query(queue_id="4jWtDF42vmzYCNv"),
        Query(queue_id="4jWtDF4TtCzYCP1"),
        Query(message_id="1@good.test", recipient="pal@plain.test"),
        Query(recipient="plain.test"),
        Query(sender="GRACE@good.test", recipient="frieda@oak.test"),
        Query(sender="<>"),
    ],
)
def test_all_ids_and_lines_of_a_message_are_found_from_each_of_its_sides(query: Query) -> None:
    assert story(query) == STORY


def test_a_refused_recipient_is_found_by_address_beside_messages() -> None:
    (one,) = trace(Query(recipient="nobody@oak.test"), lambda: EVENTS)
    assert (one.message_id, one.queue_ids, len(one.events)) == ("", [], 1)
    assert [found.message_id for found in trace(Query(sender="good.test"), lambda: EVENTS)] == ["1@good.test", ""]
    assert timeline(trace(Query(recipient="nobody@good.test"), lambda: EVENTS)) == ["nothing was found"]


def test_what_cannot_be_looked_for_is_said() -> None:
    with pytest.raises(Invalid, match="nothing to look for"):
        Query()
    with pytest.raises(Invalid, match="not a queue id"):
        Query(queue_id="4jW tDF")


def test_control_characters_of_a_sender_do_not_reach_the_terminal() -> None:
    event = Event(0, "postfix/cleanup", "4jWtDF3FX0zYCJ2: message-id=<\x1b[31m@good.test>")
    assert timeline(trace(Query(queue_id="4jWtDF3FX0zYCJ2"), lambda: [event]))[1].endswith("Message-ID <?[31m@good.test>")
