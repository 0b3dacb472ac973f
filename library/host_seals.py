#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What of Mailwright's work on a host is untouched, in one round trip; the work is in module_utils/mailwright."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright import tree
from ansible.module_utils.mailwright.directory import Directory

DOCUMENTATION = r"""
module: host_seals
short_description: Find out what on a host is as it was left
description:
  - Compares everything that earlier runs made (configuration trees with their units, mail data) with what they recorded of it.
  - Returns, as facts, a seal for each thing that is untouched, a digest of the request that made it.
    M(config_tree) and M(mail_directory) that ask for just the same again need no round trip of their own.
  - Writes nothing.
attributes:
  check_mode: {support: full}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: See what is as it was left
  host_seals:
  no_log: true
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: success
  type: dict
  contains:
    tree_seals:
      description: Seals by name of a M(config_tree).
      type: dict
    directory_seals:
      description: Seals and digests of the lists of M(mail_directory), by the module that stages each, and the salt for new ones.
      type: dict
"""


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    facts = {"tree_seals": {}, "directory_seals": {}}
    for name, look in (("tree_seals", tree.standing), ("directory_seals", Directory().standing)):
        try:
            facts[name] = look()
        # Whatever it is: the tasks themselves will say, each in its place.
        except (OSError, ValueError, tree.TreeError, tree.UnitError) as error:
            module.warn(f"{name}: {error}")
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
