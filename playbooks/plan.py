#!/usr/bin/env python3
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Tell what a run of site.yml would change, and change nothing. Exit code: 0 nothing, 2 changes, 1 error.

plan.py -i INVENTORY [--json] [further arguments of ansible-playbook, such as --limit or -e]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from mailwright.report import is_changed, render  # noqa: E402


def main(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    with tempfile.TemporaryDirectory(prefix="mailwright-plan-") as directory:
        file = Path(directory) / "report.json"
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_CALLBACKS_ENABLED": "mail_report",
            "MAILWRIGHT_REPORT": str(file),
        }
        command = [Path(sys.executable).parent / "ansible-playbook", PROJECT / "site.yml", "--check", "--diff"]
        command += [argument for argument in arguments if argument != "--json"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)  # noqa: S603 -- the caller's own words
        document = json.loads(file.read_text()) if file.exists() else {"hosts": {}, "problems": []}
    if done.returncode and not document["problems"]:
        sys.stderr.buffer.write(done.stdout)
        document["problems"] = [("ansible-playbook", f"exit code {done.returncode}")]
    print(json.dumps(document, indent=2, ensure_ascii=False) if "--json" in arguments else render(document), end="")
    if document["problems"]:
        return 1
    return 2 if any(is_changed(host) for host in document["hosts"].values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
