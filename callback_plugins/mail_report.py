# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Writes what a run changes on each host, or in check mode would, and what it found, as one JSON document; `playbooks/*.py` read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.executor.stats import AggregateStats
from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback import CallbackBase

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from ansible.module_utils.mailwright.report import add_result, new_host  # noqa: E402

DOCUMENTATION = r"""
name: mail_report
type: notification
short_description: Write what a run changes as JSON
description:
  - Names of domains, mailboxes, aliases, table entries, files and services, as the modules report them. No secrets.
options:
  path:
    description: File to write, mode 0600. Without it nothing is written.
    type: path
    env: [{name: MAILWRIGHT_REPORT}]
author: Mailwright contributors
"""


class CallbackModule(CallbackBase):
    """Collects results; has nothing to say itself."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "mail_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[str, Any] = {}
        self._checks: dict[str, Any] = {}
        self._problems: list[tuple[str, str]] = []

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        name = result.host.get_name()
        if result.task.action == "dns_check":
            self._checks[name] = result.result["findings"]
        elif name != "localhost":
            host = self._hosts.setdefault(name, new_host())
            add_result(host, result.task.action, result.task.get_name(), result.result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._problems.append((result.host.get_name(), str(result.result.get("msg", result.result.get("censored", "failed")))))

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._problems.append((result.host.get_name(), f"unreachable: {result.result.get('msg', '')}"))

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        path = self.get_option("path")
        if path:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"hosts": self._hosts, "checks": self._checks, "problems": self._problems}, file, indent=2)
