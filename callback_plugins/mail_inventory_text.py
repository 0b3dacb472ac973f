# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Tells file and line of what cannot be read in an inventory's variables, before Ansible stops there and says only what is wrong."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
from ansible import context
from ansible.playbook import Playbook
from ansible.plugins.callback import CallbackBase

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from ansible.module_utils.mailwright.inventory import variable_problems  # noqa: E402

DOCUMENTATION = r"""
name: mail_inventory_text
type: notification
short_description: Name file and line of what cannot be read in an inventory
description:
  - Looks at the files in C(group_vars) and C(host_vars) as a playbook starts; before its first task, for variables are read earlier.
author: Mailwright contributors
"""


class CallbackModule(CallbackBase):
    """Says nothing of what is as it should be, and stops nothing."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "mail_inventory_text"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        sources = [Path(source) for source in context.CLIARGS["inventory"] or ()]
        for directory in dict.fromkeys(source if source.is_dir() else source.parent for source in sources):
            for problem in variable_problems(directory):
                self._display.error(str(problem))
