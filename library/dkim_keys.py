#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes the DKIM private keys of a host those of the inventory; the work is in module_utils/mailwright/dkim.py."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError, directory_digest
from ansible.module_utils.mailwright.plan import rows_of

try:
    from ansible.module_utils.mailwright import dkim

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: dkim_keys
short_description: Make and keep the DKIM private keys of a host
description:
  - Missing keys are made, or written as given; existing ones stay. A key of another kind under an existing selector is refused,
    since the published record would no longer fit it.
  - Keys of domains or selectors that are no longer in the list go to the directory C(archive) below O(path).
  - Files are C(<domain>.<selector>.key), in a form that Rspamd reads.
options:
  keys:
    description:
      - Every key, C({domain, selector, algorithm, bits, private_key}).
      - C(algorithm) is C(rsa) or C(ed25519). C(bits) (2048 to 4096) is for C(rsa). C(private_key) is a PEM from the vault, or null.
    type: json
    required: true
  path:
    description: Directory of the key files, mode 0750.
    type: path
    default: /var/lib/mailwright/dkim
  owner:
    description: Owner of directory and files.
    type: str
    default: root
  group:
    description: Group of directory and files, which may read them.
    type: str
    default: _rspamd
attributes:
  check_mode: {support: full, details: The records of keys that would be made are not known yet.}
  diff_mode: {support: full, details: One line per key with its kind and the public record; never the key.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Make the DKIM keys
  dkim_keys:
    keys:
      - {domain: example.org, selector: mw-rsa, algorithm: rsa, bits: 2048, private_key: null}
      - {domain: example.org, selector: mw-ed25519, algorithm: ed25519, bits: null, private_key: null}
  no_log: "{{ mail_hide_secrets }}"
"""

RETURN = r"""
added:
  description: Names of the records of new keys.
  type: list
  elements: str
  returned: success
changed_names:
  description: Names of the records whose key was replaced by the given one.
  type: list
  elements: str
  returned: success
removed:
  description: Names of the files that went to the archive.
  type: list
  elements: str
  returned: success
records:
  description: The TXT record of every key there is, C({name, type, value}).
  type: list
  elements: dict
  returned: success
zone:
  description: The same as lines of a zone file.
  type: list
  elements: str
  returned: success
digest:
  description: SHA-256 of the files, their owners and modes; empty while there is no directory.
  type: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "keys": {"type": "json", "required": True, "no_log": True},
    "path": {"type": "path", "default": "/var/lib/mailwright/dkim"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "_rspamd"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    given = module.params
    # no_log keeps the rows out of the journal; masking each of their texts would blank domains in the result, which holds no secret.
    module.no_log_values.clear()
    invocation = {"module_args": {key: given[key] for key in ("path", "owner", "group")}}
    if IMPORT_ERROR:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("python3-cryptography"), exception=IMPORT_ERROR, invocation=invocation)
        # On a bare host in check mode the package is not there yet, and neither is any key.
        names = sorted(f"{row.get('selector')}._domainkey.{row.get('domain')}" for row in rows_of(given["keys"], list))
        diff = {"prepared": "".join(f"+ {name}\n" for name in names)}
        module.exit_json(
            changed=bool(names), added=names, changed_names=[], removed=[], records=[], zone=[], digest="", diff=diff, invocation=invocation
        )
    path = Path(given["path"])
    try:
        done = dkim.apply(rows_of(given["keys"], list), path, given["owner"], given["group"], check_mode=module.check_mode)
        digest = directory_digest(path, "*.key") if path.is_dir() else ""
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    diff = {"prepared": "".join(f"{line}\n" for line in done.plan.lines())}
    zone = [dkim.zone_line(row["name"], row["value"]) for row in done.records]
    module.exit_json(
        changed=done.changed, **done.plan.names(), records=done.records, zone=zone, digest=digest, diff=diff, invocation=invocation
    )


if __name__ == "__main__":
    main()
