#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Stages the further lookup tables of Postfix; the work is in module_utils/mailwright/staging.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.staging import stage

DOCUMENTATION = r"""
module: mail_maps
short_description: Stage the further lookup tables of Postfix
description:
  - Takes the whole list, compares it with what is live, and stages the difference. M(mail_activate) makes it live.
  - Writes the tables of docs/architecture.md but those of the other modules, C(virtual_alias_patterns) and C(relay_passwords).
options:
  maps:
    description: Entries C({key, value}) by the name of the table. A table that is not given becomes empty.
    type: json
    required: true
  patterns:
    description: Aliases C({pattern, to}) by regular expression (PCRE), matched against whole addresses; the first match wins.
    type: json
    default: '[]'
  passwords:
    description:
      - Entries C({key, value}) of C(relay_passwords), which only root can read.
      - The key is a next hop or a sender, the value C(user:password).
    type: json
    default: '[]'
  path:
    description: Directory below which everything of Mailwright lies on the host.
    type: path
    default: /var/lib/mailwright
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per entry.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Stage the lookup tables
  mail_maps:
    maps:
      transports: [{key: partner.example, value: "smtp:[mx.partner.example]:25"}]
    patterns: [{pattern: 'team-[a-z]+@example\.org', to: [alice@example.org]}]
    passwords: [{key: "[smtp.provider.example]:587", value: "example:{{ vault_smarthost_password }}"}]
  no_log: "{{ mail_hide_secrets }}"
"""

RETURN = r"""
added:
  description: Entries, as table and key, that are new.
  type: list
  elements: str
  returned: success
changed_names:
  description: Entries, as table and key, that were there with other contents.
  type: list
  elements: str
  returned: success
removed:
  description: Entries, as table and key, that are gone.
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
  description: Services that have to be reloaded for new patterns.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "maps": {"type": "json", "required": True},
    "patterns": {"type": "json", "default": "[]"},
    "passwords": {"type": "json", "default": "[]", "no_log": True},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # As in mail_mailboxes: no_log keeps the rows out of the journal, and nothing secret is in the result to begin with.
    module.no_log_values.clear()
    # The rows are not sent back.
    invocation = {"module_args": {"path": module.params["path"]}}
    try:
        staged = stage(Directory(Path(module.params["path"])), "mail_maps", module.params, check_mode=module.check_mode)
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    module.exit_json(**staged.result(lines=module._diff), invocation=invocation)


if __name__ == "__main__":
    main()
