#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Teaches the filter, tells what it has learned, has it forget; the work is in module_utils/mailwright/learning.py."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.commands import run
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.learning import KINDS, LearningError, folder_path, forget, statistics, teach

DOCUMENTATION = r"""
module: mail_learning
short_description: Teach the filter what is spam and what is not, and look at what it has learned
description:
  - The action plugin of the same name runs the module again and again until all folders are done, and tells how far it is.
  - What was learned before is not learned again, so that a run that was killed is simply repeated.
options:
  action:
    description:
      - V(statistics) changes nothing. V(spam) and V(ham) teach the messages of a folder. V(reset) forgets all that was ever learned.
    type: str
    choices: [statistics, spam, ham, reset]
    default: statistics
  mailboxes:
    description: Addresses whose folder is learned from.
    type: list
    elements: str
    default: []
  folder:
    description: The folder, as in V(Junk) or V(INBOX).
    type: str
    default: ""
  all:
    description: Must be true for V(reset).
    type: bool
    default: false
  after:
    description: For the action plugin, the message to go on after.
    type: str
    default: ""
  seconds:
    description: For the action plugin, the time after which to report.
    type: float
    default: 5
attributes:
  check_mode: {support: full, details: Counts messages and teaches none.}
  diff_mode: {support: none}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Learn what somebody has collected
  mail_learning:
    action: spam
    mailboxes: [alice@example.org]
    folder: Junk
"""

RETURN = r"""
statistics:
  description: Messages learned as C(spam) and as C(ham), and C(tokens), the words that are remembered.
  type: dict
  returned: success
batch:
  description: >-
    Messages that were C(learned), C(known) before, too C(short), that C(failed) and that are C(left); C(next) is where to go on.
  type: dict
  returned: where a folder was learned from
folders:
  description: For each folder (as C(mailbox) and C(folder)) the counts of batch, all its batches together.
  type: list
  elements: dict
  returned: where folders were learned from, by the action plugin
report:
  description: The same as lines for people.
  type: list
  elements: str
  returned: success, by the action plugin
"""

ARGUMENTS: dict[str, Any] = {
    "action": {"type": "str", "choices": ["statistics", *KINDS, "reset"], "default": "statistics"},
    "mailboxes": {"type": "list", "elements": "str", "default": []},
    "folder": {"type": "str", "default": ""},
    "all": {"type": "bool", "default": False},
    "after": {"type": "str", "default": ""},
    "seconds": {"type": "float", "default": 5},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    options = module.params
    action = options["action"]
    result: dict[str, Any] = {"changed": False}
    try:
        if action in KINDS:
            if len(options["mailboxes"]) != 1 or not options["folder"]:
                raise Invalid("one mailbox and a folder are needed")
            path = folder_path(options["mailboxes"][0], options["folder"])
            batch = teach(action, path, after=options["after"], seconds=options["seconds"], check_mode=module.check_mode)
            result = {"changed": batch.learned > 0 or (module.check_mode and batch.left > 0), "batch": vars(batch)}
        elif action == "reset":
            if not options["all"]:
                raise Invalid("all that the filter has ever learned would be forgotten", "say all: true")
            if not module.check_mode:
                forget(run)
            result = {"changed": True}
        # Between two batches nobody asks.
        if not result.get("batch", {}).get("next"):
            result["statistics"] = statistics(run)
    except (Invalid, LearningError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
