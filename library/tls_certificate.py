#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Puts a TLS key and certificate live as a pair; the work is in module_utils/mailwright/certificate.py."""

from __future__ import annotations

import datetime as dt
import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright.files import LockedError, host_lock

try:
    from ansible.module_utils.mailwright import certificate

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: tls_certificate
short_description: Keep a usable TLS key and certificate live
description:
  - Key and chain are checked before they reach the disk, as a pair, and exchanged in one step (a symbolic link is renamed).
  - The running services among O(units) are reloaded when the pair changes, and only then.
options:
  source:
    description:
      - Where the pair comes from. With V(acme) and without O(obtain) a provisional self-signed pair is made where there is
        none, so that the web server can start and answer the ACME server.
    type: str
    choices: [acme, provided, self_signed]
    required: true
  names:
    description: Host names the certificate must have, the main one first.
    type: list
    elements: str
    required: true
  path:
    description: Where services find C(privkey.pem) and C(fullchain.pem); becomes a symbolic link to a directory beside it.
    type: path
    default: /var/lib/mailwright/tls/default
  certificate:
    description: For V(provided), the certificate and its intermediates as PEM text, in any order.
    type: str
  private_key:
    description: For V(provided), the key as PEM text, without a passphrase.
    type: str
  units:
    description: Services that use the pair.
    type: list
    elements: str
    default: [postfix.service, dovecot.service, nginx.service]
  obtain:
    description: Ask the ACME server (by certbot, HTTP-01) where there is no certificate, or not the right one.
    type: bool
    default: false
  acme_directory:
    description: Address of the ACME server's directory.
    type: str
  acme_ca_file:
    description: File on the host with the authorities that vouch for the ACME server itself, where it is a private one.
    type: path
  acme_email:
    description: Address the ACME server is given; none by default. It is never passed on to the EFF.
    type: str
  webroot:
    description: Directory below which the web server serves C(/.well-known/acme-challenge/).
    type: path
    default: /var/www/acme
  reuse_key:
    description: Keep the key on renewal, so that a TLSA record of it stays true.
    type: bool
    default: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: Names, issuer, end and fingerprints; never the key.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Serve a self-signed certificate
  tls_certificate:
    source: self_signed
    names: [mail.example.org]
"""

RETURN = r"""
added:
  description: Names the certificate now has and had not.
  type: list
  elements: str
  returned: always
removed:
  description: Names the certificate had and has not now.
  type: list
  elements: str
  returned: always
reason:
  description: Why there is another certificate, or empty.
  type: str
  returned: always
reloaded:
  description: Services that were reloaded.
  type: list
  elements: str
  returned: always
not_after:
  description: End of the certificate's life, ISO 8601, UTC; empty where it is not known yet.
  type: str
  returned: always
"""

ARGUMENTS: dict[str, Any] = {
    "source": {"type": "str", "choices": ["acme", "provided", "self_signed"], "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
    "path": {"type": "path", "default": "/var/lib/mailwright/tls/default"},
    "certificate": {"type": "str"},
    "private_key": {"type": "str", "no_log": True},
    "units": {"type": "list", "elements": "str", "default": ["postfix.service", "dovecot.service", "nginx.service"]},
    "obtain": {"type": "bool", "default": False},
    "acme_directory": {"type": "str"},
    "acme_ca_file": {"type": "path"},
    "acme_email": {"type": "str"},
    "webroot": {"type": "path", "default": "/var/www/acme"},
    "reuse_key": {"type": "bool", "default": True},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        ARGUMENTS,
        supports_check_mode=True,
        required_if=[("source", "provided", ["certificate", "private_key"]), ("obtain", True, ["acme_directory"])],
    )
    given = module.params
    if IMPORT_ERROR:
        # On a bare host in check mode the packages are not there yet: nothing can be, so everything would be new.
        if module.check_mode:
            module.exit_json(changed=True, added=given["names"], removed=[], reason="there is none", reloaded=[], not_after="")
        module.fail_json(msg=missing_required_lib("python3-cryptography"), exception=IMPORT_ERROR)
    request = certificate.Request(
        source=given["source"],
        names=[name.lower() for name in given["names"]],
        live=Path(given["path"]),
        certificate=(given["certificate"] or "").encode(),
        private_key=(given["private_key"] or "").encode(),
        units=given["units"],
        acme_directory=given["acme_directory"] or "",
        acme_ca_file=given["acme_ca_file"] or "",
        acme_email=given["acme_email"] or "",
        webroot=given["webroot"],
        reuse_key=given["reuse_key"],
    )
    work = certificate.obtain if given["obtain"] else certificate.install
    now = dt.datetime.now(dt.UTC)
    try:
        if module.check_mode:
            outcome = work(request, now, check_mode=True)
        else:
            with host_lock():
                outcome = work(request, now)
    except (certificate.CertificateError, LockedError, OSError) as error:
        module.fail_json(msg=str(error))
    for text in outcome.warnings:
        module.warn(text)
    before, after = outcome.before, outcome.after
    had, has = (set(before.names) if before else set()), (set(after.names) if after else set(request.names))
    module.exit_json(
        changed=outcome.changed,
        added=sorted(has - had),
        removed=sorted(had - has),
        reason=outcome.reason,
        reloaded=outcome.reloaded,
        not_after=after.not_after.isoformat() if after else "",
        # Trees may watch the certificate: from here on each is compared on the host (see host_facts).
        **({"ansible_facts": {"tree_seals": {}}} if outcome.changed else {}),
        diff={
            "before_header": given["path"],
            "after_header": given["path"],
            "before": before.describe() if before else "",
            "after": after.describe() if after else f"a new certificate for {', '.join(request.names)}: {outcome.reason}\n",
        },
    )


if __name__ == "__main__":
    main()
