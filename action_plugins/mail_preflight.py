# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Check the whole inventory of a host on the controller and return its compiled rows. No host is contacted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

_PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(_PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(_PROJECT / "module_utils"))

# These need the path above, hence E402.
from ansible.module_utils.mailwright import inventory, names  # noqa: E402
from ansible.module_utils.mailwright.compile import compile_rows  # noqa: E402
from ansible.module_utils.mailwright.model import check  # noqa: E402
from ansible.module_utils.mailwright.reader import Reader  # noqa: E402
from ansible.module_utils.mailwright.schema import SHARED  # noqa: E402
from ansible.module_utils.mailwright.variables import check_variables  # noqa: E402


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
        where = f"host {variables.get('inventory_hostname')}"
        roles = inventory.load_roles(_PROJECT / "roles")
        with inventory.without_garbage_collection():
            # Lines are for messages: most runs need none.
            for lines in (False, True):
                source = inventory.Inventory(self._loader, self._templar.template)
                reader = Reader(source.resolve, source.locate)
                directory = variables.get("inventory_dir")
                files = source.domain_files(Path(directory) / "domains", lines=lines) if directory else []
                check_variables(reader, variables, roles, where)
                model = check(reader, variables, files, in_clear=source.in_clear, where=where, complete=not source.problems)
                if not source.problems and not reader.report.problems and not reader.report.warnings:
                    break
            if directory:
                reader.report.warnings += source.competing_groups(Path(directory), self._groups(variables), variables, SHARED)
        for warning in reader.report.warnings:
            self._display.warning(warning)
        problems = inventory.sort_problems([*source.problems, *reader.report.problems])
        if problems or model is None:
            # One by one: Ansible shows each once, however many hosts share the file.
            for problem in inventory.fold_vault_problems(problems):
                self._display.error(str(problem))
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            return {**result, "failed": True, "msg": f"The inventory has {count}, each on a line of its own. No host was contacted."}
        if variables.get("inventory_hostname") == next(iter(variables.get("ansible_play_hosts") or ()), None):
            for name in model.domains:
                if (shown := names.unicode_domain(name)) != name:
                    self._display.display(f"{shown} is served as {name}")
        # Passwords are in it. A failure is shown: it has them masked.
        hidden = model.settings["hide_secrets"]
        rows = compile_rows(model)
        # As text: Ansible copies results several times over, and a text costs nothing to copy.
        rows["directory"] = {
            name: json.dumps(rows.pop(name)) for name in ("mailboxes", "aliases", "maps", "alias_patterns", "relay_passwords")
        }
        return {**result, **rows, "changed": False, "_ansible_no_log": hidden}

    def _groups(self, variables: dict[str, Any]) -> list[Any]:
        """The host's groups but `all`. Without Ansible's own objects (another strategy) there are none, and one warning less."""
        manager = getattr(self._task, "_variable_manager", None)
        host = manager and manager._inventory and manager._inventory.get_host(variables.get("inventory_hostname"))
        return [group for group in host.get_groups() if group.name != "all"] if host else []
