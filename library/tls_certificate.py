#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Puts TLS keys and certificates live as pairs; the work is in module_utils/mailwright/certificates.py."""

from __future__ import annotations

import datetime as dt
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.mailwright.files import LockedError, host_lock

try:
    from ansible.module_utils.mailwright import acme, certificate, certificates, rollover

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = r"""
module: tls_certificate
short_description: Keep usable TLS keys and certificates live
description:
  - Keys and chains are checked before they reach the disk, as pairs, and each is exchanged in one step (a symbolic link is renamed).
  - The running services among O(units) are reloaded when a pair changes, and only then, once. C(/usr/local/lib/mailwright/reload-services)
    does it, which the role certificates installs.
  - A name for which the ACME server gives nothing never keeps the others from theirs; it is told in RV(missing).
options:
  source:
    description:
      - Where pairs come from that are not in O(provided). With V(acme) and without O(obtain) a provisional self-signed pair is made where
        there is none, so that the web server can start and answer the ACME server. With V(provided) too, such ones are self-signed.
    type: str
    choices: [acme, provided, self_signed]
    required: true
  certificates:
    description: All that the host is to have. V(default) is for clients that ask for none of the others' names.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: V(default), or the mail domain it is for.
        type: str
        required: true
      names:
        description: Host names the certificate must have, the main one first.
        type: list
        elements: str
        required: true
      mail_names:
        description: Those of them that mail services answer to.
        type: list
        elements: str
        default: []
  path:
    description: Below it services find C(NAME/privkey.pem) and C(NAME/fullchain.pem); NAME is a symbolic link to a directory beside it.
    type: path
    default: /var/lib/mailwright/tls
  provided:
    description: Pairs that are at hand.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Which of O(certificates) it is.
        type: str
        required: true
      certificate:
        description: The certificate and its intermediates as PEM text, in any order.
        type: str
        required: true
      private_key:
        description: The key as PEM text, without a passphrase.
        type: str
        required: true
  units:
    description: Services that use the pairs.
    type: list
    elements: str
    default: [postfix.service, dovecot.service, nginx.service]
  named_in:
    description: Configuration of these services. What it still names is not removed.
    type: list
    elements: path
    default: [/etc/nginx/nginx.conf, /etc/dovecot/dovecot.conf]
  obtain:
    description: Ask the ACME server, by certbot, for what is missing or not right, and remove what is in O(certificates) no more.
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
  challenge:
    description: How names are proved. V(http-01) needs port 80, V(dns-01) O(dns_updates).
    type: str
    choices: [http-01, dns-01]
    default: http-01
  announced:
    description: Names whose addresses this run published just now, or in check mode would publish, which a resolver may not know yet.
    type: list
    elements: str
    default: []
  webroot:
    description: Directory below which the web server serves C(/.well-known/acme-challenge/).
    type: path
    default: /var/www/acme
  dns_updates:
    description: Name servers that take updates by RFC 2136, for V(dns-01).
    type: list
    elements: dict
    default: []
    suboptions:
      zones:
        description: Zones the server takes updates of.
        type: list
        elements: str
        required: true
      server:
        description: Its name or address.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        default: 53
      key_name:
        description: Name of the TSIG key.
        type: str
        required: true
      algorithm:
        description: Algorithm of the key.
        type: str
        default: hmac-sha256
      secret:
        description: The key in Base64.
        type: str
        required: true
  dns_propagation:
    description: Seconds between an update and the question of the ACME server, in which all name servers of a zone learn of it.
    type: int
    default: 60
  reuse_key:
    description: Keep keys on renewal, so that TLSA records of them stay true.
    type: bool
    default: true
  rotate:
    description:
      - Begin to change the key of the certificate V(default), unless that is under way. With O(obtain), each run goes on with it as far
        as the name servers of O(tlsa_names) allow, so that there always is a TLSA record of the key in use.
    type: bool
    default: false
  tlsa_names:
    description: Where TLSA records of that key are.
    type: list
    elements: str
    default: []
  wait:
    description: Seconds for which a change of the key waits for its next step.
    type: int
    default: 0
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: Names, issuer, end and fingerprints; never the key.}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: Serve a self-signed certificate
  tls_certificate:
    source: self_signed
    certificates:
      - {name: default, names: [mail.example.org]}
"""

RETURN = r"""
next_key:
  description: What a change of the key waits for, or empty.
  type: str
  returned: always
changes:
  description: Certificates that are others now, the names they gained and lost, the reason and the end (ISO 8601, UTC; empty if unknown).
  type: list
  elements: dict
  returned: always
removed:
  description: Certificates that are no longer wanted.
  type: list
  elements: str
  returned: always
reloaded:
  description: Services that were reloaded.
  type: list
  elements: str
  returned: always
missing:
  description: What could not be had from the ACME server, why, and the cure.
  type: list
  elements: str
  returned: always
"""

_CERTIFICATE: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
    "mail_names": {"type": "list", "elements": "str", "default": []},
}
_PROVIDED: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "certificate": {"type": "str", "required": True},
    "private_key": {"type": "str", "required": True, "no_log": True},
}
_DNS_UPDATES: dict[str, Any] = {
    "zones": {"type": "list", "elements": "str", "required": True},
    "server": {"type": "str", "required": True},
    "port": {"type": "int", "default": 53},
    # Not a secret, although it is called a key.
    "key_name": {"type": "str", "required": True, "no_log": False},
    "algorithm": {"type": "str", "default": "hmac-sha256"},
    "secret": {"type": "str", "required": True, "no_log": True},
}
ARGUMENTS: dict[str, Any] = {
    "source": {"type": "str", "choices": ["acme", "provided", "self_signed"], "required": True},
    "certificates": {"type": "list", "elements": "dict", "required": True, "options": _CERTIFICATE},
    "path": {"type": "path", "default": "/var/lib/mailwright/tls"},
    "provided": {"type": "list", "elements": "dict", "default": [], "options": _PROVIDED},
    "units": {"type": "list", "elements": "str", "default": ["postfix.service", "dovecot.service", "nginx.service"]},
    "named_in": {"type": "list", "elements": "path", "default": ["/etc/nginx/nginx.conf", "/etc/dovecot/dovecot.conf"]},
    "obtain": {"type": "bool", "default": False},
    "acme_directory": {"type": "str"},
    "acme_ca_file": {"type": "path"},
    "acme_email": {"type": "str"},
    "challenge": {"type": "str", "choices": ["http-01", "dns-01"], "default": "http-01"},
    "webroot": {"type": "path", "default": "/var/www/acme"},
    "dns_updates": {"type": "list", "elements": "dict", "default": [], "options": _DNS_UPDATES},
    "dns_propagation": {"type": "int", "default": 60},
    "announced": {"type": "list", "elements": "str", "default": []},
    # Neither they nor the next are secrets.
    "reuse_key": {"type": "bool", "default": True, "no_log": False},
    "rotate": {"type": "bool", "default": False},
    "tlsa_names": {"type": "list", "elements": "str", "default": []},
    "wait": {"type": "int", "default": 0},
}


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    given = module.params
    if IMPORT_ERROR:
        # On a bare host in check mode the packages are not there yet: nothing can be, so everything would be new.
        if module.check_mode:
            new = [{"name": one["name"], "added": one["names"], "removed": [], "reason": "there is none"} for one in given["certificates"]]
            changes = [{**one, "not_after": ""} for one in new]
            module.exit_json(changed=True, changes=changes, removed=[], reloaded=[], missing=[], next_key="")
        module.fail_json(msg=missing_required_lib("python3-cryptography"), exception=IMPORT_ERROR)
    request = request_of(given)
    work = certificates.obtain if given["obtain"] else certificates.install
    now = dt.datetime.now(dt.UTC)
    try:
        if module.check_mode:
            result = work(request, now, check_mode=True)
        else:
            with host_lock():
                result = work(request, now)
    except (certificate.CertificateError, LockedError, OSError) as error:
        module.fail_json(msg=str(error))
    for text in [*result.warnings, *result.missing]:
        module.warn(text)
    different = [outcome for outcome in result.outcomes if outcome.changed]
    module.exit_json(
        changed=result.changed,
        changes=[change_of(outcome) for outcome in different],
        removed=result.removed,
        reloaded=result.reloaded,
        missing=result.missing,
        next_key=result.next_key,
        # Trees may watch certificates: those that do are compared on the host from here on (see config_tree).
        **({"ansible_facts": {"trees_changed": True, "dns_seal": ""}} if result.changed else {}),
        diff=[difference(given["path"], outcome) for outcome in different],
    )


def request_of(given: dict[str, Any]) -> certificates.Request:
    """The parameters, for the work."""
    return certificates.Request(
        source=given["source"],
        certificates=[
            certificates.Certificate(
                one["name"], tuple(name.lower() for name in one["names"]), tuple(name.lower() for name in one["mail_names"])
            )
            for one in given["certificates"]
        ],
        path=Path(given["path"]),
        provided={one["name"]: (one["private_key"].encode(), one["certificate"].encode()) for one in given["provided"]},
        units=given["units"],
        named_in=[Path(file) for file in given["named_in"]],
        acme=acme.Acme(
            directory=given["acme_directory"],
            challenge=given["challenge"],
            ca_file=given["acme_ca_file"] or "",
            email=given["acme_email"] or "",
            webroot=given["webroot"],
            dns_updates=[acme.DnsUpdates(**updates) for updates in given["dns_updates"]],
            propagation=given["dns_propagation"],
            reuse_key=given["reuse_key"],
            announced=given["announced"],
        )
        if given["acme_directory"]
        else None,
        rotate=given["rotate"],
        tlsa_names=given["tlsa_names"],
        wait=given["wait"],
        ask=ask,
    )


def ask(names: Sequence[str]) -> list[rollover.Heard]:
    """What every name server says of these TLSA records."""
    # Only while a key changes: it needs python3-dnspython.
    from ansible.module_utils.mailwright.authority import Client

    answers = Client().ask_all([(name, "TLSA") for name in names])
    return [answer for by_server in answers.values() for answer in by_server.values()]


def change_of(outcome: certificates.Outcome) -> dict[str, Any]:
    """One certificate that is another one now."""
    before, after = outcome.before, outcome.after
    had, has = set(before.names if before else ()), set(after.names if after else outcome.certificate.names)
    return {
        "name": outcome.certificate.name,
        "added": sorted(has - had),
        "removed": sorted(had - has),
        "reason": outcome.reason,
        "not_after": after.not_after.isoformat() if after else "",
    }


def difference(path: str, outcome: certificates.Outcome) -> dict[str, str]:
    """One certificate's part of the diff."""
    header = f"{path}/{outcome.certificate.name}"
    names = ", ".join(outcome.certificate.names)
    return {
        "before_header": header,
        "after_header": header,
        "before": outcome.before.describe() if outcome.before else "",
        "after": outcome.after.describe() if outcome.after else f"a new certificate for {names}: {outcome.reason}\n",
    }


if __name__ == "__main__":
    main()
