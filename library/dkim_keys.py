#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Makes the DKIM private keys of a host those of the inventory; the work is in module_utils/mailwright/dkim.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.dkim_step import key_step
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError

DOCUMENTATION = r"""
module: dkim_keys
short_description: Make and keep the DKIM private keys of a host
description:
  - Missing keys are made, or written as given; existing ones stay. None of them signs by that; see M(dkim_signing).
  - A key of another kind under a declared selector is refused, since the published record would no longer fit it.
  - Keys that are not asked for any more are retired, and removed when no mail can be on its way that was signed with them. Their files
    go to the directory C(archive) below O(path).
  - Files are C(<domain>.<selector>.key), in a form that Rspamd reads, and C(state.json), which says what each key is used for.
options:
  keys:
    description:
      - Every key, C({domain, selector, algorithm, bits, private_key, shared}).
      - C(algorithm) is C(rsa) or C(ed25519). C(bits) (2048 to 4096) is for C(rsa). C(private_key) is a PEM from the vault, or null.
      - Without a C(selector) (null) it is named by date, and the key is one that can be rotated.
      - With C(shared) all domains that ask for such a key have the same one.
    type: json
    required: true
  rotate:
    description: Make a successor for each key without a declared selector that signs, however old it is.
    type: bool
    default: false
  rotation_age:
    description: Make a successor for keys that have been signing for so many seconds; 0 for none.
    type: int
    default: 0
  rotate_domains:
    description: Only keys of these domains are rotated or revoked; empty for all.
    type: list
    elements: str
    default: []
  revoke:
    description: A selector whose keys are not to be trusted any more. Their records say so from now on, and they sign no more.
    type: str
    default: ""
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
  diff_mode: {support: full, details: One line per key with its kind, its state and the public record; never the key.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Make the DKIM keys
  dkim_keys:
    keys:
      - {domain: example.org, selector: null, algorithm: rsa, bits: 2048, private_key: null, shared: false}
      - {domain: example.org, selector: null, algorithm: ed25519, bits: null, private_key: null, shared: false}
  no_log: "{{ mail_hide_secrets }}"
"""

RETURN = r"""
added:
  description: Names of the records of new keys.
  type: list
  elements: str
  returned: success
changed_names:
  description: Names of the records whose key was replaced by the given one, retired, revoked or taken into use again.
  type: list
  elements: str
  returned: success
prepared:
  description: Names of the records of keys that are to sign and did not before, once they are published.
  type: list
  elements: str
  returned: success
made:
  description: Names of the records of keys that were made in this run, so that nobody can have published them yet.
  type: list
  elements: str
  returned: success
removed:
  description: Names of the records of keys that are gone, and of other files that went to the archive.
  type: list
  elements: str
  returned: success
records:
  description: The TXT records that must be in the DNS, C({name, type, value}).
  type: list
  elements: dict
  returned: success
zone:
  description: The same as lines of a zone file.
  type: list
  elements: str
  returned: success
digest:
  description: SHA-256 of the files, their owners and modes; empty while there are none.
  type: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "keys": {"type": "json", "required": True, "no_log": True},
    "rotate": {"type": "bool", "default": False},
    "rotation_age": {"type": "int", "default": 0},
    "rotate_domains": {"type": "list", "elements": "str", "default": []},
    "revoke": {"type": "str", "default": ""},
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
    invocation = {"module_args": {key: given[key] for key in ARGUMENTS if key != "keys"}}
    try:
        with key_step(given, Path(given["path"]), check_mode=module.check_mode) as make:
            told = make()
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    module.exit_json(**told, invocation=invocation)


if __name__ == "__main__":
    main()
