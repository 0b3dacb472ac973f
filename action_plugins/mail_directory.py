# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes a host's mail data and DKIM keys those of the inventory: runs the modules whose part differs, then makes all live in one step.

Reads the rows that `mail_preflight` registered as they are: templating them costs more than all the rest. What the host has already
(see `host_seals`) is not sent again.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from ansible.module_utils.mailwright.seal import code_version, secret_seal  # noqa: E402


class ActionModule(ActionBase):
    """`mail_directory:` with `dovecot_version`, in a play of which `mail` has the compiled rows."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result holds, by module, the names that were added, changed and removed; nothing secret."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(argument_spec={"dovecot_version": {"type": "str", "required": True}})
        requests = requests_of(variables["mail"], options["dovecot_version"])
        known = variables.get("ansible_facts", {}).get("directory_seals", {"salt": "", "lists": {}})
        salt = known["salt"] or secrets.token_hex(16)
        code = code_version(PROJECT)
        seals = {module: secret_seal(request, salt, code) for module, request in requests.items()}
        kept = {module: found for module, found in known["lists"].items() if found["seal"] == seals.get(module)}
        result.update(changed=False, lists={}, diff=[])
        for module, request in requests.items():
            if module not in kept:
                done = self._work(result, module, request, variables)
                kept[module] = {"seal": seals[module], "digest": done["digest"]}
                names = ("added", "changed_names", "removed", "rewritten", "records")
                result["lists"][module] = {name: done[name] for name in names if name in done}
        if result["lists"]:
            done = self._work(result, "mail_activate", {"seals": {"salt": salt, "lists": kept}}, variables)
            result.update({name: done[name] for name in ("generation", "kept", "files", "reload")})
        return result

    def _work(self, result: dict[str, Any], module: str, request: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run one module and add what it did to the result. Raises AnsibleActionFail with the module's message."""
        done: dict[str, Any] = self._execute_module(module_name=module, module_args=request, task_vars=variables)
        if done.get("failed"):
            raise AnsibleActionFail(f"{module}: {done.get('msg', 'failed')}", result={k: done[k] for k in ("exception",) if k in done})
        result["changed"] = result["changed"] or done["changed"]
        # What was staged was shown when it was.
        if done["changed"] and not (module == "mail_activate" and result["diff"]):
            result["diff"].append(done["diff"])
        return done


def requests_of(mail: dict[str, Any], dovecot_version: str) -> dict[str, dict[str, Any]]:
    """{module: its arguments}, in the order in which they run."""
    return {
        "dkim_keys": {"keys": mail["dkim_keys"]},
        "mail_mailboxes": {"mailboxes": mail["mailboxes"], "dovecot_version": dovecot_version},
        "mail_aliases": {"aliases": mail["aliases"]},
        "mail_maps": {"maps": mail["maps"], "patterns": mail["alias_patterns"]},
        "mail_domains": {"domains": mail["domains"]},
    }
