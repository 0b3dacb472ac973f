#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Follows messages through a mail host by its journal; the work is in module_utils/mailwright/trace.py."""

from __future__ import annotations

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.reader import duration
from ansible.module_utils.mailwright.trace import Query, journal, timeline, trace

DOCUMENTATION = r"""
module: mail_trace
short_description: Follow messages through Postfix, Rspamd and Dovecot
description:
  - Reads the journal of the mail services. Nothing is changed.
  - Gives all messages that every given option fits, those refused at RCPT as well if only addresses are given.
options:
  message_id:
    description: The header Message-ID, with or without angle brackets.
    type: str
    default: ""
  queue_id:
    description: A queue id of Postfix.
    type: str
    default: ""
  sender:
    description: Envelope sender, as an address, a domain (without its subdomains), or V(<>) for bounces.
    type: str
    default: ""
  recipient:
    description: Recipient before or after aliases, as an address or a domain (without its subdomains).
    type: str
    default: ""
  since:
    description: How far back the journal is read, such as V(2h) or V(7d).
    type: str
    default: 2d
  limit:
    description: How many messages are given at most, the latest.
    type: int
    default: 20
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: See what became of a message
  mail_trace:
    message_id: <1234@example.org>
"""

RETURN = r"""
messages:
  description:
    - The messages, oldest first, each with C(message_id), C(queue_ids) and its C(events), which have C(time) (µs since 1970),
      C(program) and C(text) as in the journal.
  type: list
  elements: dict
  returned: success
found:
  description: How many there are, beyond the limit too.
  type: int
  returned: success
report:
  description: The same as lines for people.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "message_id": {"type": "str", "default": ""},
    "queue_id": {"type": "str", "default": ""},
    "sender": {"type": "str", "default": ""},
    "recipient": {"type": "str", "default": ""},
    "since": {"type": "str", "default": "2d"},
    "limit": {"type": "int", "default": 20},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    options = module.params
    try:
        query = Query(options["message_id"], options["queue_id"], options["sender"], options["recipient"])
        found = trace(query, partial(journal, duration(options["since"])))
    except (Invalid, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    shown = found[-max(options["limit"], 1) :]
    report = timeline(shown)
    if len(shown) < len(found):
        report.insert(0, f"the latest {len(shown)} of {len(found)} messages")
    messages = [{**vars(one), "events": [event._asdict() for event in one.events]} for one in shown]
    module.exit_json(changed=False, messages=messages, found=len(found), report=report)


if __name__ == "__main__":
    main()
