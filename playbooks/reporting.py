# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Runs a playbook with the callback `mail_report`, for the scripts beside this file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "module_utils"))


def document_of(playbook: str, *arguments: str) -> dict[str, Any]:
    """What the callback wrote, `problems` filled also where Ansible itself failed; then its output is on standard error."""
    with tempfile.TemporaryDirectory(prefix="mailwright-report-") as directory:
        file = Path(directory) / "report.json"
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_CALLBACKS_ENABLED": "mail_report",
            "MAILWRIGHT_REPORT": str(file),
        }
        command = [Path(sys.executable).parent / "ansible-playbook", PROJECT / playbook, *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)  # noqa: S603 -- the caller's own words
        document: dict[str, Any] = {"hosts": {}, "checks": {}, "problems": []}
        if file.exists():
            document.update(json.loads(file.read_text()))
    if done.returncode and not document["problems"]:
        sys.stderr.buffer.write(done.stdout)
        document["problems"] = [("ansible-playbook", f"exit code {done.returncode}")]
    return document
