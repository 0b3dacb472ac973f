#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Has the filter sign with the DKIM keys whose records are proven to be published; the work is in module_utils/mailwright/dkim_*.py."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.units import UnitError

try:
    from ansible.module_utils.mailwright import dkim_switch

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: dkim_signing
short_description: Sign with the DKIM keys that are published
description:
  - Asks every authoritative name server for the records of the keys that do not sign yet. A key whose record all of them answer begins to
    sign, and the one it replaces is retired. What does not answer proves nothing, and is no error.
  - Writes the signing set, which Rspamd includes, and reloads Rspamd once where it is another one.
options:
  path:
    description: Directory of the key files and their state, see M(dkim_keys).
    type: path
    default: /var/lib/mailwright/dkim
  group:
    description: Group that may read the signing set.
    type: str
    default: _rspamd
  queue_lifetime:
    description: Seconds for which this host tries to deliver. Retired keys stay two days longer, for the queues of other servers.
    type: int
    required: true
  rotation_age:
    description: For the report only, the age in seconds at which keys are replaced; 0 for none.
    type: int
    default: 0
  timeout:
    description: Seconds to wait for an answer; every server is asked twice.
    type: float
    default: 2
  announced:
    description: In check mode, names of records that the run would publish before this task.
    type: list
    elements: str
    default: []
  unpublished:
    description: Names of records that nobody can have published yet, because their keys are new. They are not asked for.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full, details: The name servers are asked all the same.}
  diff_mode: {support: full, details: One line per key whose state changes.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Sign with the keys that are published
  dkim_signing:
    queue_lifetime: 432000
"""

RETURN = r"""
signing:
  description: Names of the records of keys that began to sign.
  type: list
  elements: str
  returned: success
retired:
  description: Names of the records of keys that have ceased to.
  type: list
  elements: str
  returned: success
missing:
  description: For each record that is not proven, its line for a zone file, and who answers what.
  type: list
  elements: str
  returned: success
outlook:
  description: The state of every key and its next step.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "default": "/var/lib/mailwright/dkim"},
    "group": {"type": "str", "default": "_rspamd"},
    "queue_lifetime": {"type": "int", "required": True},
    "rotation_age": {"type": "int", "default": 0},
    "timeout": {"type": "float", "default": 2},
    "announced": {"type": "list", "elements": "str", "default": []},
    "unpublished": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    given = module.params
    if IMPORT_ERROR:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("python3-dnspython"), exception=IMPORT_ERROR)
        # A bare host in check mode.
        module.exit_json(changed=False, signing=[], retired=[], missing=[], outlook=[])
    switch = dkim_switch.Switch(Path(given["path"]), given["group"], given["queue_lifetime"], timeout=given["timeout"])
    try:
        done = switch.run(check_mode=module.check_mode, announced=given["announced"], unpublished=given["unpublished"])
    except (Invalid, LockedError, OSError, UnitError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=done.changed,
        signing=done.signing,
        retired=done.retired,
        missing=done.missing,
        outlook=switch.outlook(done, given["rotation_age"]),
        diff={"prepared": "".join(f"{line}\n" for line in done.plan.lines())},
    )


if __name__ == "__main__":
    main()
