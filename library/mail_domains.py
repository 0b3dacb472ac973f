#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Stages the mail domains of a host; the work is in module_utils/mailwright/staging.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.staging import stage

DOCUMENTATION = r"""
module: mail_domains
short_description: Stage the domains a host receives mail for
description:
  - Takes the whole list, compares it with what is live, and stages the difference. M(mail_activate) makes it live.
  - Writes the Postfix table C(virtual_domains).
options:
  domains:
    description: Every domain, C({name}), in lower case and as A-labels.
    type: json
    required: true
  removal_limit:
    description: How many domains one run may remove.
    type: int
    default: 1
  removal_percent:
    description: Which share of them one run may remove, where that is more; never all of them.
    type: int
    default: 10
  removals_allowed:
    description: Whether it may remove any number of them.
    type: bool
    default: false
  path:
    description: Directory below which everything of Mailwright lies on the host.
    type: path
    default: /var/lib/mailwright
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per domain.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Stage the domains
  mail_domains:
    domains: [{name: example.org}]
"""

RETURN = r"""
added:
  description: Domains that are new.
  type: list
  elements: str
  returned: success
changed_names:
  description: Domains that were there with other contents.
  type: list
  elements: str
  returned: success
removed:
  description: Domains that are gone.
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
to_reload:
  description: Services that have to be reloaded for new domains.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "domains": {"type": "json", "required": True},
    "removal_limit": {"type": "int", "default": 1},
    "removal_percent": {"type": "int", "default": 10},
    "removals_allowed": {"type": "bool", "default": False},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # The rows are not sent back.
    invocation = {"module_args": {"path": module.params["path"]}}
    try:
        staged = stage(Directory(Path(module.params["path"])), "mail_domains", module.params, check_mode=module.check_mode)
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    module.exit_json(**staged.result(lines=module._diff), invocation=invocation)


if __name__ == "__main__":
    main()
