#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Stages the mailboxes of a host; the work is in module_utils/mailwright/staging.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.staging import stage

DOCUMENTATION = r"""
module: mail_mailboxes
short_description: Stage the mailboxes of a host
description:
  - Takes the whole list, compares it with what is live, and stages the difference. M(mail_activate) makes it live.
  - Writes Dovecot's C(users) and C(deny-imap), C(deny-pop3), C(deny-sieve), C(deny-smtp), and the Postfix table C(virtual_mailboxes).
  - A password in clear text is hashed on the host with ARGON2ID (python3-argon2); the hash stays as long as it verifies.
  - Which extra fields C(users) has for quota and junk filing, and how Dovecot's configuration must be to honour them, is told
    in module_utils/mailwright/passwd_file.py.
options:
  mailboxes:
    description:
      - Every mailbox, C({address, password, password_hash, password_update, quota_bytes, denied_protocols, enabled, junk_filing, extras}).
      - C(password) or C(password_hash) is null; with C(password_update=on_create) a hash that the host has stays.
      - C(quota_bytes) 0 is unlimited. C(denied_protocols) are out of C(imap), C(pop3), C(sieve) and C(smtp) (submission).
      - C(extras) are what few mailboxes have, texts by the names of C(EXTRAS) in module_utils/mailwright/passwd_file.py.
      - A mailbox that is not C(enabled) stays known and is refused for every protocol.
    type: json
    required: true
  dovecot_version:
    description: The Dovecot that reads the files.
    type: str
    choices: ['2.3', '2.4']
    required: true
  removal_limit:
    description: How many mailboxes one run may remove.
    type: int
    default: 3
  removal_percent:
    description: Which share of them one run may remove, where that is more; never all of them.
    type: int
    default: 10
  removals_allowed:
    description: Whether it may remove any number of them.
    type: bool
    default: false
  path:
    description: Directory below which everything of Mailwright lies on the host.
    type: path
    default: /var/lib/mailwright
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: One line per mailbox; passwords and hashes are masked.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Stage the mailboxes
  mail_mailboxes:
    dovecot_version: "2.4"
    mailboxes:
      - address: alice@example.org
        password: "{{ vault_passwords['alice@example.org'] }}"
        password_hash: null
        password_update: always
        quota_bytes: 5368709120
        denied_protocols: [pop3]
        enabled: true
        junk_filing: true
        extras: {junk_retention: "2592000"}
  no_log: "{{ mail_hide_secrets }}"
"""

RETURN = r"""
added:
  description: Addresses that are new.
  type: list
  elements: str
  returned: success
changed_names:
  description: Addresses that were there with other contents.
  type: list
  elements: str
  returned: success
removed:
  description: Addresses that are gone.
  type: list
  elements: str
  returned: success
unchanged:
  description: How many stay as they are.
  type: int
  returned: success
rewritten:
  description: Files whose text was not ours although it said the same, put right.
  type: list
  elements: str
  returned: success
digest:
  description: SHA-256 of the files as they are to be.
  type: str
  returned: success
to_archive:
  description: Removed mailboxes that have mail, which M(mail_activate) archives.
  type: list
  elements: str
  returned: success
to_restore:
  description: Mailboxes whose mail comes back from the archive.
  type: list
  elements: str
  returned: success
"""

ARGUMENTS: dict[str, Any] = {
    "mailboxes": {"type": "json", "required": True, "no_log": True},
    "dovecot_version": {"type": "str", "choices": ["2.3", "2.4"], "required": True},
    "removal_limit": {"type": "int", "default": 3},
    "removal_percent": {"type": "int", "default": 10},
    "removals_allowed": {"type": "bool", "default": False},
    "path": {"type": "path", "default": "/var/lib/mailwright"},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    # no_log keeps the rows out of the journal. Masking every text of theirs wherever it occurs in the result would blank addresses,
    # and tell a password that equals one: nothing secret is in the result to begin with.
    module.no_log_values.clear()
    # The rows are not sent back.
    invocation = {"module_args": {"path": module.params["path"]}}
    try:
        staged = stage(Directory(Path(module.params["path"])), "mail_mailboxes", module.params, check_mode=module.check_mode)
    except (Invalid, LockedError, OSError) as error:
        module.fail_json(msg=str(error), invocation=invocation)
    module.exit_json(**staged.result(lines=module._diff), invocation=invocation)


if __name__ == "__main__":
    main()
