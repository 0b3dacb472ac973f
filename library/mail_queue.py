#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Lists, retries, holds, releases or deletes messages in Postfix's queue; the work is in module_utils/mailwright/queue.py."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.commands import run
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.queue import QueueError, Selection, act, read, report
from ansible.module_utils.mailwright.reader import duration

DOCUMENTATION = r"""
module: mail_queue
short_description: Look at Postfix's queue, and retry, hold, release or delete messages
description:
  - Acts on messages that every given option fits. A message that is delivered meanwhile is left alone.
options:
  action:
    description:
      - V(list) changes nothing. V(retry) has deferred messages tried at once, through the address tables as they are now. V(hold) keeps
        messages from being delivered until V(release). V(delete) destroys them; nobody is told.
    type: str
    choices: [list, retry, hold, release, delete]
    default: list
  sender:
    description: Envelope sender, as an address, a domain (without its subdomains), or V(<>) for bounces.
    type: str
    default: ""
  recipient:
    description: A recipient that still waits, as an address or a domain (without its subdomains). The whole message is meant.
    type: str
    default: ""
  older_than:
    description: Least age, such as V(30m), V(2h) or V(1d 12h).
    type: str
    default: ""
  queue:
    description: In which queue (qmgr(8)); empty is any.
    type: str
    choices: ["", incoming, active, deferred, hold]
    default: ""
  ids:
    description: Queue ids.
    type: list
    elements: str
    default: []
  all:
    description: Whether V(delete) and V(hold) may be without any selection, for the whole queue.
    type: bool
    default: false
attributes:
  check_mode: {support: full, details: Tells which messages would be meant.}
  diff_mode: {support: none}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Delete what a broken program left behind
  mail_queue:
    action: delete
    sender: robot@example.org
    older_than: 1h
"""

RETURN = r"""
messages:
  description:
    - The messages, oldest first. C(recipients) are those who have not got it yet, each with C(address) and the C(reason) of the last try.
  type: list
  elements: dict
  returned: success
report:
  description: The same as lines for people.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "action": {"type": "str", "choices": ["list", "retry", "hold", "release", "delete"], "default": "list"},
    "sender": {"type": "str", "default": ""},
    "recipient": {"type": "str", "default": ""},
    "older_than": {"type": "str", "default": ""},
    "queue": {"type": "str", "choices": ["", "incoming", "active", "deferred", "hold"], "default": ""},
    "ids": {"type": "list", "elements": "str", "default": []},
    "all": {"type": "bool", "default": False},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    options, now = module.params, time.time()
    action = options["action"]
    try:
        seconds = duration(options["older_than"]) if options["older_than"] else 0
        selection = Selection(options["sender"], options["recipient"], seconds, options["queue"], frozenset(options["ids"]))
        if action in ("delete", "hold") and selection.is_everything and not options["all"]:
            raise Invalid(f"{action} without a selection would be the whole queue", "say which messages, or all: true")
        found = [message for message in read(run) if selection.fits(message, now)]
        if action != "list":
            found = act(run, action, found, check_mode=module.check_mode)
    except (Invalid, QueueError) as error:
        module.fail_json(msg=str(error))
    messages = [{**vars(message), "recipients": [{"address": a, "reason": r} for a, r in message.recipients]} for message in found]
    module.exit_json(changed=action != "list" and bool(found), messages=messages, report=report(action, found, now))


if __name__ == "__main__":
    main()
