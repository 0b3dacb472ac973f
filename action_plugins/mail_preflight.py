# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Check the whole inventory of a host on the controller and return its compiled rows. No host is contacted."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

_PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(_PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(_PROJECT / "module_utils"))

# These need the path above, hence E402.
from ansible.module_utils.mailwright import inventory, names  # noqa: E402
from ansible.module_utils.mailwright.builder import check  # noqa: E402
from ansible.module_utils.mailwright.compile import compile_rows  # noqa: E402
from ansible.module_utils.mailwright.reader import Reader  # noqa: E402
from ansible.module_utils.mailwright.schema import SHARED  # noqa: E402
from ansible.module_utils.mailwright.variables import check_variables, overridden  # noqa: E402

# As the role reads it: links are followed, a vault is opened.
FILE_TEXT = "{{{{ lookup('ansible.builtin.file', {}) }}}}"


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
        packer = self._pack_modules(variables)
        failed = True
        try:
            result = self._check(result, variables)
            failed = bool(result.get("failed"))
        finally:
            if packer and failed:
                os.kill(packer, signal.SIGKILL)
                os.waitpid(packer, 0)
        return result

    def _pack_modules(self, variables: dict[str, Any]) -> int:
        """Pack the modules that the run needs next, while this process checks the inventory; the process that does, or 0.

        Ansible packs a module when it is first used in a run, which takes half a second, and keeps it until the run ends.
        """
        names = variables.get("mailwright_modules", [])
        if not names or variables.get("inventory_hostname") != variables["ansible_play_hosts"][0] or (os.cpu_count() or 1) < 2:
            return 0
        if child := os.fork():
            return child
        # Whatever goes wrong here goes wrong again, and is told, where the module is used.
        with contextlib.suppress(BaseException):
            for name in names:
                self._configure_module(module_name=name, module_args={}, task_vars=variables)
        os._exit(0)

    def _check(self, result: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """The whole check, and the rows that come of it."""
        where = f"host {variables.get('inventory_hostname')}"
        roles = inventory.load_roles(_PROJECT / "roles")
        with inventory.without_garbage_collection():
            # Lines are for messages: most runs need none, and the others those of few files.
            messages = ""
            while True:
                source = inventory.Inventory(self._loader, self._templar.template)
                reader = Reader(source.resolve, source.locate)
                directory = variables.get("inventory_dir")
                files = source.domain_files(Path(directory) / "domains", messages) if directory else []
                check_variables(reader, variables, roles, where)
                model = check(reader, variables, files, in_clear=source.in_clear, where=where, complete=not source.problems)
                told = map(str, [*source.problems, *reader.report.problems, *reader.report.warnings])
                before, messages = messages, "\n".join(told)
                if before or not any(file.where in messages for file in files):
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
        with inventory.without_garbage_collection():
            rows = {**compile_rows(model), "overrides": overridden(reader, variables)}
        faults = self._certificate_faults(rows["certificates"], variables)
        if faults:
            for text in faults:
                self._display.error(f"{where}: {text}")
            return {**result, "failed": True, "msg": "A provided certificate cannot be used. No host was contacted."}
        # As text: Ansible copies results several times over, and a text costs nothing to copy.
        rows["directory"] = {
            name: json.dumps(rows.pop(name)) for name in ("mailboxes", "aliases", "maps", "alias_patterns", "relay_passwords")
        }
        return {**result, **rows, "changed": False, "_ansible_no_log": hidden}

    def _certificate_faults(self, rows: list[dict[str, Any]], variables: dict[str, Any]) -> list[str]:
        """What speaks against the certificates that the inventory provides."""
        known = {name: self._templar.template(value) for name, value in variables.items() if name.startswith("certificates_")}
        given: list[tuple[str, dict[str, Any]]] = [("certificates_provided", one) for one in known.get("certificates_provided") or []]
        if known.get("certificates_source") == "provided":
            own = {}
            for key in ("certificate", "private_key"):
                own[key] = known.get(f"certificates_{key}")
                file = known.get(f"certificates_{key}_file")
                if not own[key] and file:
                    try:
                        own[key] = str(self._templar.template(trust_as_template(FILE_TEXT.format(json.dumps(str(file))))))
                    except AnsibleError as error:
                        return [f"certificates_{key}_file: {error.message}"]
            given.append(("certificates_certificate", {"name": "default", **own}))
        if not given:
            return []
        # Only here: it needs python3-cryptography.
        from ansible.module_utils.mailwright.certificates import check_provided

        pairs = {str(one["name"]): (str(one["private_key"] or ""), str(one["certificate"] or "")) for _, one in given}
        faults = check_provided(rows, pairs, dt.datetime.now(dt.UTC))
        return [f"{variable}: {one['name']}: {faults[one['name']]}" for variable, one in given if one["name"] in faults]

    def _groups(self, variables: dict[str, Any]) -> list[Any]:
        """The host's groups but `all`. Without Ansible's own objects (another strategy) there are none, and one warning less."""
        manager = getattr(self._task, "_variable_manager", None)
        host = manager and manager._inventory and manager._inventory.get_host(variables.get("inventory_hostname"))
        return [group for group in host.get_groups() if group.name != "all"] if host else []
