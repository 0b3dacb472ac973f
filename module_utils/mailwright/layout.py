# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Which files hold the mail data, who makes each, and the order in which they may change."""

from __future__ import annotations

import grp
from collections.abc import Mapping
from typing import Final

from .errors import Invalid
from .passwd_file import DENIABLE

__all__ = [
    "ALIASES",
    "ALIAS_NAMES",
    "DENY",
    "DOMAINS",
    "MAILBOXES",
    "MAPS",
    "ORDER",
    "OWNERS",
    "PASSWORDS",
    "PATTERNS",
    "PRESENT",
    "RELAY_DOMAINS",
    "USERS",
    "group_id",
    "group_of",
    "is_database",
    "mode_of",
]

DENY: Final = {protocol: f"dovecot/deny-{protocol}" for protocol in DENIABLE}
USERS: Final = "dovecot/users"
# Whom no directory (LDAP) lets in: their mail goes elsewhere.
ALIAS_NAMES: Final = "dovecot/aliases"
ALIASES: Final = "postfix/virtual_aliases"
PATTERNS: Final = "postfix/virtual_alias_patterns"
DOMAINS: Final = "postfix/virtual_domains"
RELAY_DOMAINS: Final = "postfix/relay_domains"
MAILBOXES: Final = "postfix/virtual_mailboxes"
# Logins at smarthosts; only root reads it, as smtp(8) does before it gives root up.
PASSWORDS: Final = "postfix/relay_passwords"
# The order in which entries appear: who is refused before who is accepted, users before addresses, addresses before domains.
# Entries disappear in the opposite order.
ORDER: Final = (
    *DENY.values(),
    ALIAS_NAMES,
    USERS,
    "postfix/blocked_clients",
    "postfix/blocked_helos",
    "postfix/blocked_senders",
    "postfix/blocked_recipients",
    "postfix/relay_recipients",
    "postfix/recipient_access",
    "postfix/internal_recipients",
    "postfix/allowed_clients",
    "postfix/allowed_helos",
    "postfix/allowed_senders",
    "postfix/allowed_recipients",
    MAILBOXES,
    PATTERNS,
    ALIASES,
    "postfix/sender_logins",
    "postfix/tls_policies",
    PASSWORDS,
    "postfix/sender_transports",
    "postfix/forward_routes",
    "postfix/transports",
    "postfix/own_domains",
    RELAY_DOMAINS,
    DOMAINS,
)
# What mail_maps owns beside the passwords and patterns: all that no other list makes.
MAPS: Final = tuple(
    name.removeprefix("postfix/")
    for name in ORDER
    if name.startswith("postfix/") and name not in (MAILBOXES, PATTERNS, ALIASES, PASSWORDS, DOMAINS)
)
# Which module stages what.
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "mail_mailboxes": (*DENY.values(), USERS, MAILBOXES),
    "mail_aliases": (ALIASES, ALIAS_NAMES),
    "mail_maps": (*(f"postfix/{name}" for name in MAPS), PASSWORDS, PATTERNS),
    "mail_domains": (DOMAINS,),
}
PRESENT: Final = "OK"


def is_database(name: str) -> bool:
    return name.startswith("postfix/") and name != PATTERNS


def mode_of(name: str) -> int:
    return 0o600 if name == PASSWORDS else 0o640


def group_of(name: str) -> str:
    return name.partition("/")[0]


def group_id(name: str) -> int:
    """The group's number. Raises Invalid where its package is not installed."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Invalid(f"there is no group {name} on this host: its package is not installed") from None
