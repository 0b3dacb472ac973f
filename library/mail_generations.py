#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Lists what mail data a host had, and makes it live again; the work is in module_utils/mailwright/directory.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory, describe
from ansible.module_utils.mailwright.errors import ActivationError, Invalid
from ansible.module_utils.mailwright.files import LockedError

DOCUMENTATION = r"""
module: mail_generations
short_description: List the generations of mail data on a host, or make one live again
description:
  - Without O(live) lists what each kept generation changed, and when. Names only, no secrets.
  - With O(live) makes a copy of that generation the newest one, and makes it live as M(mail_activate) does.
  - It needs nothing of the inventory's mail data. What it makes live stays so until M(mail_activate) runs for other data.
options:
  live:
    description: Number of a generation, or V(previous) for the one before the newest.
    type: str
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
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per name; secrets are masked.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Undo the last change of mail data
  mail_generations:
    live: previous
"""

RETURN = r"""
generations:
  description:
    - What is on the host, newest first; the first one is live unless a run was interrupted. C(generation) is the number, C(time) when it
      was made (UTC), C(copy_of) which older one it repeats, C(summary) by module what was C(added), C(changed_names) and C(removed).
  type: list
  elements: dict
  returned: success
report:
  description: The same as lines for people.
  type: list
  elements: str
  returned: success
generation:
  description: Number of the generation that is live, 0 before the first.
  type: int
  returned: success
files:
  description: Files that were written, relative to O(path).
  type: list
  elements: str
  returned: with O(live)
reload:
  description: Services that were reloaded.
  type: list
  elements: str
  returned: with O(live)
archived:
  description: Removed mailboxes whose mail was moved to the archive.
  type: list
  elements: str
  returned: with O(live)
restored:
  description: Mailboxes whose mail came back from the archive.
  type: list
  elements: str
  returned: with O(live)
summary:
  description: By module, the names that were C(added), C(changed_names) and C(removed).
  type: dict
  returned: with O(live)
kept:
  description: Numbers of all generations on the host, oldest first.
  type: list
  elements: int
  returned: with O(live)
"""

ARGUMENTS: dict[str, Any] = {
    "live": {"type": "str"},
    "keep": {"type": "int", "default": 10},
    "archive_days": {"type": "int", "default": 30},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    directory, live = Directory(Path(module.params["path"])), module.params["live"]
    result: dict[str, Any] = {"changed": False, "generation": directory.live()}
    try:
        if live is not None:
            if live != "previous" and not live.isdecimal():
                raise Invalid("live: a number or previous is expected")
            done = directory.roll_back(
                None if live == "previous" else int(live),
                keep=module.params["keep"],
                days=module.params["archive_days"],
                check_mode=module.check_mode,
            )
            result = done.result(lines=module._diff)
        history = directory.history()
    except (ActivationError, Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error))
    generations = [{key: row.get(key) for key in ("generation", "time", "copy_of", "summary")} for row in history]
    report = [describe(row, result["generation"]) for row in history]
    module.exit_json(**result, generations=generations, report=report)


if __name__ == "__main__":
    main()
