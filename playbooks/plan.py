#!/usr/bin/env python3
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Tell what a run of site.yml would change, and change nothing. Exit code: 0 nothing, 2 changes, 1 error.

plan.py -i INVENTORY [--json] [further arguments of ansible-playbook, such as --limit or -e]
"""

from __future__ import annotations

import json
import sys

from reporting import document_of

# isort: split
# Found by what is imported above.
from mailwright.report import is_changed, render


def main(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    found = document_of("site.yml", "--check", "--diff", *(argument for argument in arguments if argument != "--json"))
    document = {key: found[key] for key in ("hosts", "problems")}
    print(json.dumps(document, indent=2, ensure_ascii=False) if "--json" in arguments else render(document), end="")
    if document["problems"]:
        return 1
    return 2 if any(is_changed(host) for host in document["hosts"].values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
