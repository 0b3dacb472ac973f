# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What the files of the mail data say, as named rows that two states are compared by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from .layout import ALIASES, DENY, DOMAINS, MAPS, PASSWORDS, PATTERNS, USERS
from .maps import parse_map, parse_patterns
from .passwd_file import DENIABLE, User, parse_names, parse_users
from .plan import Plan, Row, make_plan

__all__ = [
    "CONTENTS",
    "Read",
    "alias_rows",
    "compare",
    "domain_rows",
    "field_rows",
    "mailbox_row",
    "mailbox_rows",
    "map_rows",
]

Read = Callable[[str], str]


def domain_rows(read: Read) -> Mapping[str, Row]:
    return {name: {} for name in parse_map(read(DOMAINS))}


def alias_rows(read: Read) -> Mapping[str, Row]:
    return field_rows("to", parse_map(read(ALIASES)))


def map_rows(read: Read) -> Mapping[str, Row]:
    rows = {f"{name} {key}": {"value": value} for name in MAPS for key, value in parse_map(read(f"postfix/{name}")).items()}
    # The field's name says whether its value is shown.
    rows.update({f"relay_passwords {key}": {"password": value} for key, value in parse_map(read(PASSWORDS)).items()})
    return {**rows, **{f"alias_patterns {key}": {"value": value} for key, value in parse_patterns(read(PATTERNS)).items()}}


def mailbox_rows(read: Read) -> Mapping[str, Row]:
    denied = {protocol: parse_names(read(name)) for protocol, name in DENY.items()}
    users = parse_users(read(USERS))
    return {address: mailbox_row(user, {p for p in DENIABLE if address in denied[p]}) for address, user in users.items()}


def mailbox_row(user: User, denied: Collection[str]) -> dict[str, str]:
    return {
        "password": user.password,
        "quota": f"{user.quota} bytes" if user.quota else "unlimited",
        "denied": " ".join(sorted(denied)),
        "junk_filing": "yes" if user.junk_filing else "no",
        **user.extras,
    }


def field_rows(field_name: str, values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {field_name: value} for name, value in values.items()}


# label → its rows, and which of their fields are secret
CONTENTS: Final[Mapping[str, tuple[Callable[[Read], Mapping[str, Row]], tuple[str, ...]]]] = {
    "mail_domains": (domain_rows, ()),
    "mail_mailboxes": (mailbox_rows, ("password",)),
    "mail_aliases": (alias_rows, ()),
    "mail_maps": (map_rows, ("password",)),
}


def compare(current: Read, desired: Read) -> dict[str, Plan]:
    return {label: make_plan(rows(current), rows(desired)) for label, (rows, _) in CONTENTS.items()}
