#!/usr/bin/env python3
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Compare the live DNS with what the inventory calls for, and change nothing.

Exit code: 0 nothing but notices, 2 errors or warnings, 1 not everything could be checked.

dns_check.py -i INVENTORY [--json] [further arguments of ansible-playbook, such as --limit]
"""

from __future__ import annotations

import json
import sys

from reporting import document_of

# isort: split
# Found by what is imported above.
from mailwright.findings import is_bad, render


def main(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    found = document_of("playbooks/dns-check.yml", *(argument for argument in arguments if argument != "--json"))
    document = {key: found[key] for key in ("checks", "problems")}
    if not document["checks"] and not document["problems"]:
        document["problems"] = [("dns-check", "no host was checked")]
    print(json.dumps(document, indent=2, ensure_ascii=False) if "--json" in arguments else render(document), end="")
    if document["problems"]:
        return 1
    return 2 if any(map(is_bad, document["checks"].values())) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
