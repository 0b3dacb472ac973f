#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes staged mail data live; the work is in module_utils/mailwright/directory.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import ActivationError, Invalid
from ansible.module_utils.mailwright.files import LockedError

DOCUMENTATION = r"""
module: mail_activate
short_description: Make everything that was staged live in one step
description:
  - Commits what M(mail_domains), M(mail_mailboxes), M(mail_aliases) and M(mail_maps) staged as one generation, and brings the files
    that the daemons read to it in an order in which no address valid before and after is refused in between.
  - When that fails the former generation is made live again. When a run is killed, the next one completes a whole generation.
  - Files that are missing, or that somebody else changed, are put right. Where there is nothing to do, no process is started.
  - Sessions of removed or denied mailboxes end; mail of removed ones moves to an archive, and back when they are declared again in time.
  - Data needs no reload. Only new alias patterns and new domains do, and only where Postfix runs.
  - In check mode the other modules stage nothing, and report their changes themselves; this one reports what would be repaired.
options:
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
  diff_mode: {support: full, details: The lines of what was staged; secrets are masked.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Make what was staged live
  mail_activate:
"""

RETURN = r"""
generation:
  description: Number of the generation that is live, 0 before the first.
  type: int
  returned: success
kept:
  description: Numbers of all generations on the host, oldest first.
  type: list
  elements: int
  returned: success
files:
  description: Files that were written, relative to O(path).
  type: list
  elements: str
  returned: success
reload:
  description: Services that were reloaded.
  type: list
  elements: str
  returned: success
archived:
  description: Removed mailboxes whose mail was moved to the archive.
  type: list
  elements: str
  returned: success
restored:
  description: Mailboxes whose mail came back from the archive.
  type: list
  elements: str
  returned: success
summary:
  description: By module, the names that were C(added), C(changed_names) and C(removed).
  type: dict
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "keep": {"type": "int", "default": 10},
    "archive_days": {"type": "int", "default": 30},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    directory = Directory(Path(module.params["path"]))
    try:
        done = directory.activate(keep=module.params["keep"], days=module.params["archive_days"], check_mode=module.check_mode)
    except (ActivationError, Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**done.result(lines=module._diff), invocation={"module_args": {"path": module.params["path"]}})


if __name__ == "__main__":
    main()
