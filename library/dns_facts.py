#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What only the host knows of its DNS records; the work is in module_utils/mailwright/host_dns.py."""

from __future__ import annotations

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible.module_utils.mailwright import certificate, host_dns
    from ansible.module_utils.mailwright.errors import Invalid

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: dns_facts
short_description: Tell the public part of a mail host's keys, and its addresses
description:
  - Returns the records of its DKIM keys, the digests of its TLS keys, and the addresses that the whole Internet can reach.
  - Writes nothing. Has to run as root.
options: {}
attributes:
  check_mode: {support: full}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Ask the host what only it knows
  dns_facts:
"""

RETURN = r"""
known:
  description: C(dkim), C({name, value}) of each key; C(tlsa), digests by certificate; C(addresses).
  returned: success
  type: dict
"""


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("python3-cryptography"), exception=IMPORT_ERROR)
    try:
        module.exit_json(changed=False, known=host_dns.known_as_json(host_dns.known()))
    except (OSError, Invalid, certificate.CertificateError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
