# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Check the whole inventory of a host on the controller and return its compiled rows. No host is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# Ansible offers a project's module_utils to modules only; plugins are told where they are.
_MODULE_UTILS = str(Path(__file__).resolve().parent.parent / "module_utils")
if _MODULE_UTILS not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_MODULE_UTILS)

from ansible.module_utils.mailwright.compile import compile_rows  # noqa: E402  (needs the path above)
from ansible.module_utils.mailwright.inventory import Source, load_domain_files  # noqa: E402
from ansible.module_utils.mailwright.model import check  # noqa: E402


class ActionModule(ActionBase):
    """`mail_preflight:` without arguments; register it as `mail`."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        variables = task_vars or {}
        source = Source(self._templar.template)
        directory = variables.get("inventory_dir")
        files, problems = load_domain_files(self._loader, str(Path(directory) / "domains")) if directory else ([], [])
        model, report = check(
            variables,
            files,
            resolve=source.resolve,
            locate=source.locate,
            in_clear=source.in_clear,
            where=f"host {variables.get('inventory_hostname')}",
            complete=not problems,
        )
        problems += report.problems
        for warning in report.warnings:
            self._display.warning(warning)
        if problems or model is None:
            noun = "problem" if len(problems) == 1 else "problems"
            result["failed"] = True
            result["msg"] = f"The inventory has {len(problems)} {noun}; nothing was changed.\n" + "\n".join(map(str, problems))
            return result
        # Passwords are in it. A failure is shown: it has them masked.
        return {**result, **compile_rows(model), "changed": False, "_ansible_no_log": True}
