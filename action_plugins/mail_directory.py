# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes a host's mail data and DKIM keys those of the inventory, in one round trip.

Reads the rows that `mail_preflight` registered as they are: templating them costs more than all the rest. What the host has already
(see `host_facts`) is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
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

# {module: {its option: rows of the preflight}}
LISTS = {
    "mail_mailboxes": {"mailboxes": "mailboxes"},
    "mail_domains": {"domains": "domains"},
    "mail_aliases": {"aliases": "aliases"},
    "mail_maps": {"maps": "maps", "patterns": "alias_patterns", "passwords": "relay_passwords"},
}
KEYS = {"dkim_keys": {"keys": "dkim_keys"}}
# What a person has thought up, in rows as JSON.
PASSWORDS = {"mail_mailboxes": '"password": "', "mail_maps": '"relay_passwords": [{'}
# What is told of each list.
TOLD = ("added", "changed_names", "removed", "rewritten", "to_archive", "to_restore", "to_reload")
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
        mail = variables["mail"]
        rows = {**{name: json.dumps(mail[name]) for name in ("dkim_keys", "domains")}, **mail["directory"]}
        known = variables.get("ansible_facts", {}).get("directory_seals", {"salt": "", "lists": {}})
        salt = known["salt"] or secrets.token_hex(16)
        wanted = self._seals(rows, options["dovecot_version"], salt)
        kept = {module: found for module, found in known["lists"].items() if found["seal"] == wanted.get(module)}
        result.update(changed=False, lists={}, diff=[])
        if kept.keys() >= wanted.keys():
            return result
        # No part of the seals: they say nothing of what is to be live.
        share = {key: options[key] for key in ("removal_percent", "removals_allowed")}
        limits = {
            "mail_mailboxes": {"dovecot_version": options["dovecot_version"], "removal_limit": options["removal_limit"], **share},
            "mail_domains": {"removal_limit": options["domain_removal_limit"], **share},
        }
        # The rows are JSON already.
        lists = {
            module: _mapping({**{option: rows[name] for option, name in given.items()}, **_texts(limits.get(module, {}))})
            for module, given in {**LISTS, **KEYS}.items()
            if module not in kept
        }
        seals = json.dumps({"salt": salt, "wanted": wanted, "kept": kept})
        others = {"keep": options["generations_kept"], "archive_days": options["archive_days"]}
        # A plan, and the report of a run that is to make one, tell who changes.
        others["all_names"] = self._task.check_mode or bool(os.environ.get("MAILWRIGHT_REPORT"))
        done = self._work(result, "mail_directory", {"lists": _mapping(lists), "seals": seals, **others}, variables)
        for module, found in done["lists"].items():
            self._tell(result, module, found)
        if "dkim_keys" in lists:
            # For the roles dns and dkim, later in this run.
            keys = done["lists"]["dkim_keys"]
            result["ansible_facts"] = {"dns_seal": "", "dkim_pending": True, "dkim_prepared": keys["prepared"], "dkim_made": keys["made"]}
        activation = done["activation"]
        result.update({name: activation[name] for name in ("generation", "kept", "files", "reload", "archived", "restored")})
        # What was staged was shown when it was.
        if self._task.diff and activation["changed"] and not result["diff"]:
            result["diff"].append(activation["diff"])
        return result

    def _seals(self, rows: dict[str, str], version: str, salt: str) -> dict[str, str]:
        """Digests of all that is asked for, by module."""
        code = code_version(PROJECT)
        seals = {}
        for module, given in {**LISTS, **KEYS}.items():
            # A seal goes over the digests of the rows: to quote megabytes once more takes longer than to read them.
            request = [version, *(hashlib.sha256(rows[name].encode()).hexdigest() for name in given.values())]
            text = "".join(f'"{name}": {rows[name]}' for name in given.values())
            guessable = module in PASSWORDS and PASSWORDS[module] in text
            seals[module] = secret_seal(request, salt, code) if guessable else seal(request, code)
        return seals

    def _tell(self, result: dict[str, Any], module: str, done: dict[str, Any]) -> None:
        """Add what became of one list."""
        result["lists"][module] = {name: done[name] for name in TOLD if name in done}
        if self._task.diff and done["changed"]:
            result["diff"].append(done["diff"])

    def _work(self, result: dict[str, Any], module: str, request: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run one module and add what it did to the result. Raises AnsibleActionFail with the module's message."""
        done: dict[str, Any] = self._execute_module(module_name=module, module_args=request, task_vars=variables)
        if done.get("failed"):
            raise AnsibleActionFail(f"{module}: {done.get('msg', 'failed')}", result={k: done[k] for k in ("exception",) if k in done})
        result["changed"] = result["changed"] or done["changed"]
        return done


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in values.items()}


def _mapping(texts: dict[str, str]) -> str:
    """JSON of a mapping from that of its values."""
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}"
