#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Lists, shows, releases or deletes messages in quarantine; the work is in module_utils/mailwright/quarantine.py."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.commands import run
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.quarantine import QuarantineError, check_ids, read, release, remove, report, select, text_of
from ansible.module_utils.mailwright.reader import duration

DOCUMENTATION = r"""
module: mail_quarantine
short_description: Look at messages in quarantine, and release or delete them
description:
  - Messages that the filter has put into the quarantine's mailbox (C(mail_quarantine)).
options:
  mailbox:
    description: Address of the quarantine's mailbox.
    type: str
    required: true
  action:
    description:
      - V(list) and V(show), which shows whole messages, change nothing. V(release) delivers to all whom a message was for, without
        filtering it again. V(delete) destroys it; nobody is told.
    type: str
    choices: [list, show, release, delete]
    default: list
  ids:
    description: Ids of messages, as V(list) and the notifications tell them. For all but V(list), these or O(older_than) are needed.
    type: list
    elements: str
    default: []
  older_than:
    description: Least age, such as V(2h) or V(30d).
    type: str
    default: ""
attributes:
  check_mode: {support: full, details: Tells which messages would be meant.}
  diff_mode: {support: none}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Delete what nobody has asked for
  mail_quarantine:
    mailbox: quarantine@example.org
    action: delete
    older_than: 30d
"""

RETURN = r"""
messages:
  description: The messages, oldest first, each with C(id), C(received), C(reason), C(sender), C(recipients), C(author) and C(subject).
  type: list
  elements: dict
  returned: success
report:
  description: The same as lines for people; of O(action=show) the messages themselves.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "mailbox": {"type": "str", "required": True},
    "action": {"type": "str", "choices": ["list", "show", "release", "delete"], "default": "list"},
    "ids": {"type": "list", "elements": "str", "default": []},
    "older_than": {"type": "str", "default": ""},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    options = module.params
    action, mailbox = options["action"], options["mailbox"]
    try:
        check_ids(options["ids"])
        seconds = duration(options["older_than"]) if options["older_than"] else 0
        if action != "list" and not options["ids"] and not seconds:
            raise Invalid(f"{action} needs ids or older_than", "list shows the ids")
        found = select(read(run, mailbox), options["ids"], seconds)
        missing = sorted(set(options["ids"]) - {held.id for held in found})
        if missing and not seconds:
            raise Invalid(f"not in quarantine: {', '.join(missing)}", "it may have been released or deleted already")
        lines = report(action, found)
        for held in found:
            if action == "show":
                lines += text_of(run, mailbox, held).encode(errors="replace").decode(errors="replace").splitlines()
            elif action != "list" and not module.check_mode:
                {"release": release, "delete": remove}[action](run, mailbox, held)
    except (Invalid, QuarantineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=action in ("release", "delete") and bool(found), messages=[vars(held) for held in found], report=lines)


if __name__ == "__main__":
    main()
