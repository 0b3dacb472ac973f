# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Keeps the DNS records of a host on its name servers; leaves the host alone where it did just that already (see `host_facts`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from ansible.module_utils.mailwright.seal import code_version, seal  # noqa: E402


class ActionModule(ActionBase):
    """`dns_publish:` in a play of which `mail` has the compiled rows. `always`: whatever was done before."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result names records, zones and servers; nothing secret."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(argument_spec={"always": {"type": "bool", "default": False}})
        mail = variables["mail"]
        request = [mail["dns"], mail["dns_updates"]]
        # A TSIG key is random, so that a digest does not tell it.
        mine = seal(request, code_version(PROJECT))
        if not mail["dns_updates"] or (not options["always"] and variables.get("ansible_facts", {}).get("dns_seal") == mine):
            return {**result, "changed": False, "lines": [], "failed_zones": [], "conflicts": [], "notes": []}
        arguments = {"dns": json.dumps(request[0]), "updates": json.dumps(request[1]), "seal": mine}
        arguments["prepared"] = variables.get("ansible_facts", {}).get("dkim_prepared", [])
        done: dict[str, Any] = self._execute_module(module_name="dns_publish", module_args=arguments, task_vars=variables)
        if not done.get("failed") and not done["failed_zones"] and not done["conflicts"]:
            # A second task of this run has nothing to do, unless a key changes in between.
            done["ansible_facts"] = {"dns_seal": mine}
        return {**result, **done}
