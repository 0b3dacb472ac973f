#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Keeps the records of a mail host in the DNS; the work is in module_utils/mailwright/dns_update.py."""

from __future__ import annotations

import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError, host_lock
from ansible.module_utils.mailwright.plan import rows_of

try:
    from ansible.module_utils.mailwright import certificate, dns_update, host_dns, records

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: dns_publish
short_description: Keep the DNS records of a mail host on its primary name servers
description:
  - Makes the records that the inventory and the host's keys call for, by dynamic update (RFC 2136) with TSIG. Only differences are sent,
    one message for each zone, which is carried out as a whole or not at all.
  - Touches nothing but records that it made itself, which a marker in the zone (TXT of C(_mailwright)) lists, or that are just as
    expected. What others have in the place of a record is a warning.
  - A server or zone that fails is a warning as well, and the others go on.
options:
  dns:
    description: The rows C(dns) of the compiled inventory.
    type: json
    required: true
  updates:
    description: The rows C(dns_updates), with the keys.
    type: json
    required: true
  seal:
    description: Digest of the request, kept on the host; see M(host_facts).
    type: str
    default: ""
  prepared:
    description: Names of the records of DKIM keys that the run prepared. In check mode there may be no such key yet; then the name is told.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full, details: Servers are asked, and nothing is changed.}
  diff_mode: {support: full, details: One line for each record that is added or removed.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Publish the DNS records
  dns_publish:
    dns: "{{ mail.dns | to_json }}"
    updates: "{{ mail.dns_updates | to_json }}"
  no_log: true
"""

RETURN = r"""
zones:
  description: Zones that were looked at.
  type: list
  elements: str
  returned: success
lines:
  description: Records added and removed, as in a zone file with a sign in front.
  type: list
  elements: str
  returned: success
dkim_names:
  description: Names of the DKIM records among those that were added; in check mode also of keys that the run would prepare.
  type: list
  elements: str
  returned: success
failed_zones:
  description: Zones and servers that could not be worked on, and why.
  type: list
  elements: str
  returned: success
conflicts:
  description: Records that could not be made because of others' in their place.
  type: list
  elements: str
  returned: success
notes:
  description: Names that no server of the list has.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "dns": {"type": "json", "required": True},
    "updates": {"type": "json", "required": True, "no_log": True},
    "seal": {"type": "str", "default": ""},
    "prepared": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    given = module.params
    # no_log keeps the keys out of the journal; masking each of its texts would blank zone names in the result, which holds no secret.
    module.no_log_values.clear()
    dkim_names: list[str] = []
    invocation = {"module_args": {"seal": given["seal"]}}
    if IMPORT_ERROR:
        if module.check_mode:
            module.exit_json(
                changed=True,
                zones=[],
                lines=[],
                failed_zones=[],
                conflicts=[],
                dkim_names=[],
                notes=["python3-dnspython is not installed yet"],
                diff={"prepared": "(what the name servers have can be told once the packages are installed)\n"},
                invocation=invocation,
            )
        module.fail_json(msg=missing_required_lib("python3-dnspython"), exception=IMPORT_ERROR, invocation=invocation)
    try:
        dns, updates = rows_of(given["dns"], dict), rows_of(given["updates"], list)
        with host_lock():
            wanted = records.expected(dns, host_dns.known())
            before = host_dns.remembered().get("zones", [])
            done = dns_update.publish(updates, dns["hostname"], wanted, before, check_mode=module.check_mode)
            if module.check_mode:
                dkim_names = [name for name in given["prepared"] if records.zone_of(name, done.zones) in done.zones]
                unmade = sorted({*dkim_names} - {record.name for record in wanted})
                done.lines += [f"+ {name}. {dns['ttl']} TXT (of a key that is still to be made)" for name in unmade]
            else:
                # Zones that failed this time are still to be looked at when nothing of ours belongs there any more.
                zones = sorted({*done.zones, *(before if done.failed else ())})
                host_dns.remember(given["seal"], zones, complete=not (done.failed or done.conflicts))
    except (Invalid, LockedError, OSError, certificate.CertificateError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    added = [line.split()[1].rstrip(".") for line in done.lines if line.startswith("+")]
    for text in (*done.failed, *done.conflicts):
        module.warn(f"DNS: {text}")
    module.exit_json(
        changed=bool(done.lines),
        zones=done.zones,
        lines=done.lines,
        failed_zones=done.failed,
        conflicts=done.conflicts,
        notes=done.notes,
        dkim_names=sorted({*dkim_names, *(name for name in added if "._domainkey." in name)}),
        diff={"prepared": "".join(f"{line}\n" for line in done.lines)},
        invocation=invocation,
    )


if __name__ == "__main__":
    main()
