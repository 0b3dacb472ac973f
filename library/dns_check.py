#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Checks the DNS of a host and its mail domains; the work is in module_utils/mailwright/dns_check.py and live.py."""

from __future__ import annotations

import json
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright import findings, host_dns

try:
    from ansible.module_utils.mailwright import live
    from ansible.module_utils.mailwright.authority import Client

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: dns_check
short_description: Compare the live DNS with what the inventory calls for
description:
  - Asks every authoritative name server for every expected record, and looks at what receivers and senders make of them; connects to
    port 25 of the host and fetches the MTA-STS policies. Changes nothing.
options:
  dns:
    description: The part C(dns) of the compiled inventory.
    type: json
    required: true
  trust:
    description: Certificate authorities beside those of the system, PEM.
    type: str
    default: ''
attributes:
  check_mode: {support: full}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Check the DNS
  dns_check:
    dns: "{{ mail.dns }}"
"""

RETURN = r"""
findings:
  description: Everything found, C({severity, kind, domain, name, detail, servers, cause, cure}); the list of kinds is in docs/dns-check.md.
  type: list
  elements: dict
  returned: success
report:
  description: The same for people.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {"dns": {"type": "json", "required": True}, "trust": {"type": "str", "default": ""}}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # Echoing the whole inventory with the findings would be of use to nobody.
    invocation = {"module_args": {}}
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("python3-dnspython"), exception=IMPORT_ERROR, invocation=invocation)
    dns = json.loads(module.params["dns"])
    try:
        found = live.check(dns, host_dns.known(), Client(), module.params["trust"])
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    rows = [finding.as_dict() for finding in found]
    module.exit_json(changed=False, findings=rows, report=list(findings.lines(rows)), invocation=invocation)


if __name__ == "__main__":
    main()
