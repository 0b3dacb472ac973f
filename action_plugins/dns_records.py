# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Tells every DNS record of a host: asks it once for what only it knows, and writes or shows the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# These need the path above, hence E402.
from ansible.module_utils.mailwright import dns_formats  # noqa: E402
from ansible.module_utils.mailwright.records import Known, expected, unknown, zones  # noqa: E402

OPTIONS: dict[str, Any] = {
    "format": {"type": "str", "choices": list(dns_formats.FORMATS), "default": "table"},
    "directory": {"type": "path", "required": True},
    "offline": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """`dns_records:` with OPTIONS, in a play of which `mail` has the compiled rows."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """A table goes to the screen; files of other forms are named there."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(argument_spec=OPTIONS)
        dns = variables["mail"]["dns"]
        known, why = (None, "") if options["offline"] else self._ask(variables)
        if why:
            self._display.warning(f"{dns['hostname']} could not be asked for what only it knows: {why}")
        records, missing = expected(dns, known), unknown(dns, known)
        place = Path(options["directory"]).resolve() / variables["inventory_hostname"]
        files = dns_formats.render(options["format"], records, zones(dns), missing, str(place))
        if options["format"] == "table":
            self._display.display("".join(files.values()))
            return {**result, "changed": False}
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        self._display.display(f"{len(records)} records of {dns['hostname']}: {', '.join(str(place / name) for name in list(files)[:1])}")
        if len(files) > 1:
            self._display.display(f"and {len(files) - 1} files beside it")
        for text in missing:
            self._display.display(f"not in them: {text}")
        return {**result, "changed": False, "files": [str(place / name) for name in files]}

    def _ask(self, variables: dict[str, Any]) -> tuple[Known | None, str]:
        """What the host knows, or why it could not be asked."""
        try:
            done = self._execute_module(module_name="dns_facts", module_args={}, task_vars=variables)
        except AnsibleConnectionFailure as error:
            return None, str(error).strip().splitlines()[-1] if str(error).strip() else "no connection"
        if done.get("failed") or done.get("unreachable"):
            return None, str(done.get("msg", "failed")).strip()
        found = done["known"]
        return Known(found["dkim"], found["tlsa"], found["addresses"]), ""
