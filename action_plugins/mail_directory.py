# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes a host's mail data and DKIM keys those of the inventory: runs the modules whose part differs, then makes all live in one step.

Reads the rows that `mail_preflight` registered as they are: templating them costs more than all the rest. What the host has already
(see `host_facts`) is not sent again.
"""

from __future__ import annotations

import json
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
from ansible.module_utils.mailwright.seal import code_version, seal, secret_seal  # noqa: E402

# The modules in the order in which they run: {argument: rows of the preflight}.
# First those that refuse too many removals: until then nothing is written but what is staged.
REQUESTS = {
    "mail_mailboxes": {"mailboxes": "mailboxes"},
    "mail_domains": {"domains": "domains"},
    "mail_aliases": {"aliases": "aliases"},
    "mail_maps": {"maps": "maps", "patterns": "alias_patterns", "passwords": "relay_passwords"},
    "dkim_keys": {"keys": "dkim_keys"},
}
# Lists that may hold what a person has thought up.
GUESSABLE = ("mail_mailboxes", "mail_maps")
OPTIONS: dict[str, Any] = {
    "dovecot_version": {"type": "str", "required": True},
    "generations_kept": {"type": "int", "required": True},
    "archive_days": {"type": "int", "required": True},
    "removal_limit": {"type": "int", "required": True},
    "domain_removal_limit": {"type": "int", "required": True},
    "removal_percent": {"type": "int", "required": True},
    "removals_allowed": {"type": "bool", "required": True},
}


class ActionModule(ActionBase):
    """`mail_directory:` with OPTIONS, in a play of which `mail` has the compiled rows."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result holds, by module, the names that were added, changed and removed; nothing secret."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(argument_spec=OPTIONS)
        version = {"dovecot_version": options["dovecot_version"]}
        mail = variables["mail"]
        rows = {**{name: json.dumps(mail[name]) for name in ("dkim_keys", "domains")}, **mail["directory"]}
        known = variables.get("ansible_facts", {}).get("directory_seals", {"salt": "", "lists": {}})
        salt = known["salt"] or secrets.token_hex(16)
        code = code_version(PROJECT)
        wanted = {module: [version, *(rows[name] for name in arguments.values())] for module, arguments in REQUESTS.items()}
        seals = {
            module: secret_seal(request, salt, code) if module in GUESSABLE else seal(request, code) for module, request in wanted.items()
        }
        kept = {module: found for module, found in known["lists"].items() if found["seal"] == seals.get(module)}
        result.update(changed=False, lists={}, diff=[])
        # No part of the seals: they say nothing of what is to be live.
        share = {key: options[key] for key in ("removal_percent", "removals_allowed")}
        limits = {
            "mail_mailboxes": {**version, "removal_limit": options["removal_limit"], **share},
            "mail_domains": {"removal_limit": options["domain_removal_limit"], **share},
        }
        for module, arguments in REQUESTS.items():
            if module not in kept:
                request = {argument: rows[name] for argument, name in arguments.items()} | limits.get(module, {})
                done = self._work(result, module, request, variables)
                kept[module] = {"seal": seals[module], "digest": done["digest"]}
                names = ("added", "changed_names", "removed", "rewritten", "zone", "to_archive", "to_restore", "to_reload")
                result["lists"][module] = {name: done[name] for name in names if name in done}
        if result["lists"]:
            request = {"seals": {"salt": salt, "lists": kept}, "keep": options["generations_kept"], "archive_days": options["archive_days"]}
            done = self._work(result, "mail_activate", request, variables)
            result.update({name: done[name] for name in ("generation", "kept", "files", "reload", "archived", "restored")})
        return result

    def _work(self, result: dict[str, Any], module: str, request: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run one module and add what it did to the result. Raises AnsibleActionFail with the module's message."""
        done: dict[str, Any] = self._execute_module(module_name=module, module_args=request, task_vars=variables)
        if done.get("failed"):
            raise AnsibleActionFail(f"{module}: {done.get('msg', 'failed')}", result={k: done[k] for k in ("exception",) if k in done})
        result["changed"] = result["changed"] or done["changed"]
        # What was staged was shown when it was.
        if self._task.diff and done["changed"] and not (module == "mail_activate" and result["diff"]):
            result["diff"].append(done["diff"])
        return done
