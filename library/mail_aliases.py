#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Stages the aliases of a host; the work is in module_utils/mailwright/staging.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.staging import stage

DOCUMENTATION = r"""
module: mail_aliases
short_description: Stage the aliases of a host
description:
  - Takes the whole list, compares it with what is live, and stages the difference. M(mail_activate) makes it live.
  - Writes the Postfix table C(virtual_aliases), see virtual(5), and their names for Dovecot, C(aliases).
options:
  aliases:
    description: Every alias, C({address, to}); C(to) is a list of addresses, an address C(@example.org) is a catch-all.
    type: json
    required: true
  path:
    description: Directory below which everything of Mailwright lies on the host.
    type: path
    default: /var/lib/mailwright
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per alias.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Stage the aliases
  mail_aliases:
    aliases: [{address: sales@example.org, to: [alice@example.org, ops@partner.example]}]
"""

RETURN = r"""
added:
  description: Aliases that are new.
  type: list
  elements: str
  returned: success
changed_names:
  description: Aliases that were there with other contents.
  type: list
  elements: str
  returned: success
removed:
  description: Aliases that are gone.
  type: list
  elements: str
  returned: success
unchanged:
  description: How many stay as they are.
  type: int
  returned: success
rewritten:
  description: Files whose text was not ours although it said the same, put right.
  type: list
  elements: str
  returned: success
digest:
  description: SHA-256 of the files as they are to be.
  type: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "aliases": {"type": "json", "required": True},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # The rows are not sent back.
    invocation = {"module_args": {"path": module.params["path"]}}
    try:
        staged = stage(Directory(Path(module.params["path"])), "mail_aliases", module.params, check_mode=module.check_mode)
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    module.exit_json(**staged.result(lines=module._diff), invocation=invocation)


if __name__ == "__main__":
    main()
