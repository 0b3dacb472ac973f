#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""All mail data of a host in one round trip; the work is in module_utils/mailwright/staging.py."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import ActivationError, Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.plan import rows_of
from ansible.module_utils.mailwright.staging import make_live

DOCUMENTATION = r"""
module: mail_directory
short_description: Stage several lists of mail data and make them live
description:
  - Does what M(mail_domains), M(mail_mailboxes), M(mail_aliases), M(mail_maps), M(dkim_keys) and M(mail_activate) do, in one round trip.
  - In a play it is an action of the same name, which sends only the lists that are not live already (docs/architecture.md).
options:
  lists:
    description: By the name of the module, all options of each list that is sent. What is not sent stays as it is.
    type: json
    required: true
  seals:
    description:
      - C({salt, wanted, kept}). C(wanted) has, by module, a digest of what the lists are made from, and C(kept) both that and the
        digest of the files of those that are not sent. Kept for M(host_facts) where those files are live.
    type: json
    required: true
  keep:
    description: How many generations are kept beside the live one.
    type: int
    default: 10
  archive_days:
    description: Days for which the mail of removed mailboxes is kept.
    type: int
    default: 30
  path:
    description: Directory below which everything of Mailwright lies on the host.
    type: path
    default: /var/lib/mailwright
  all_names:
    description: Return all names that were added, changed or removed; else the first 1000 of each.
    type: bool
    default: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per entry; secrets are masked.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Make two domains live
  mail_directory:
    lists:
      mail_domains:
        domains: [{name: example.org}, {name: example.net}]
        removal_limit: 1
        removal_percent: 10
        removals_allowed: false
    seals: {salt: "", wanted: {mail_domains: ""}, kept: {}}
"""

RETURN = r"""
lists:
  description: The results of the modules, by name; see I(all_names).
  type: dict
  returned: success
activation:
  description: The result of M(mail_activate), without its C(summary).
  type: dict
  returned: success
"""

NAMES = ("added", "changed_names", "removed")
SHOWN = 1000

ARGUMENTS: dict[str, Any] = {
    "lists": {"type": "json", "required": True, "no_log": True},
    "seals": {"type": "json", "required": True, "no_log": True},
    "keep": {"type": "int", "default": 10},
    "archive_days": {"type": "int", "default": 30},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
    "all_names": {"type": "bool", "default": True},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # As in mail_mailboxes: no_log keeps the rows out of the journal, and nothing secret is in the result to begin with.
    module.no_log_values.clear()
    given = module.params
    # Rows by the hundred thousand and no garbage among them: looking for some takes longer than the work.
    gc.disable()
    # The rows are not sent back.
    invocation = {"module_args": {"path": given["path"]}}
    try:
        lists = rows_of(given["lists"], dict)
        with _keys(lists.get("dkim_keys"), given["path"], module.check_mode) as keys:
            staged, made, done = make_live(
                Directory(Path(given["path"])),
                lists,
                rows_of(given["seals"], dict),
                given["keep"],
                given["archive_days"],
                keys=keys,
                check_mode=module.check_mode,
            )
    except (ActivationError, Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    told = {label: found.result(lines=module._diff) for label, found in staged.items()} | ({"dkim_keys": made} if made else {})
    activation = done.result(lines=module._diff)
    # Who changed is told in `lists`, where it was staged now.
    del activation["summary"]
    if not given["all_names"]:
        # To send hundreds of thousands back takes seconds.
        for found in told.values():
            found.update({name: found[name][:SHOWN] for name in NAMES})
    changed = any(found["changed"] for found in (*told.values(), activation))
    module.exit_json(changed=changed, lists=told, activation=activation, invocation=invocation)


def _keys(options: dict[str, Any] | None, path: str, check_mode: bool) -> contextlib.AbstractContextManager[Any]:
    if options is None:
        return contextlib.nullcontext()
    # Only here: python3-cryptography takes a while to load.
    from ansible.module_utils.mailwright.dkim_step import key_step

    return key_step(options, Path(path) / "dkim", check_mode=check_mode)


if __name__ == "__main__":
    main()
