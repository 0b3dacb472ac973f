# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Words of mail_ldap. They reach configuration files of Postfix and of both Dovecots, which quote differently: what any of them could
read as anything but itself is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Final

from . import names
from .errors import Invalid

__all__ = ["attribute", "condition", "dn", "filter_text", "password", "server"]

_LIMIT: Final = 255
_SERVER: Final = re.compile(r"ldaps://([^:/\[\]]+|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?/?", re.ASCII)
# Quotes, escapes, comments and variables of the files.
_SPECIAL: Final = frozenset("\"'\\$%#`")


def _plain(text: str, what: str) -> str:
    for character in text:
        if not " " <= character <= "~" or character in _SPECIAL:
            raise Invalid(f"character {character!r} not allowed in {what}", "printable ASCII but for \" ' \\ $ % # `")
    if text != text.strip():
        raise Invalid("white space at an end")
    if not 1 <= len(text) <= _LIMIT:
        raise Invalid(f"not 1 to {_LIMIT} characters")
    return text


def server(text: str) -> str:
    """`ldaps://host`, with a port if it is not the usual one."""
    if text.startswith("ldap://"):
        raise Invalid("STARTTLS: once it has failed, Dovecot never comes back to a server", "write ldaps://")
    match = _SERVER.fullmatch(text)
    if match is None:
        raise Invalid("not ldaps://host, with or without :port")
    host = names.server(match[1].strip("[]"))
    port = int(match[2]) if match[2] else None
    if port is not None and not 1 <= port <= 65535:
        raise Invalid("not a port from 1 to 65535")
    return f"ldaps://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port else "")


def dn(text: str) -> str:
    """A distinguished name (RFC 4514) of plain words."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*=[^,=]+(, ?[A-Za-z][A-Za-z0-9-]*=[^,=]+)*", _plain(text, "a distinguished name")) is None:
        raise Invalid("not a distinguished name", "such as ou=people,dc=example,dc=org")
    return text


def attribute(text: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", text, re.ASCII) is None:
        raise Invalid("not the name of an attribute", "such as mail")
    return text


def filter_text(text: str) -> str:
    """A search filter in one pair of parentheses (RFC 4515)."""
    depths = list(itertools.accumulate({"(": 1, ")": -1}.get(character, 0) for character in _plain(text, "a filter")))
    if min(depths[:-1], default=0) < 1 or depths[-1] != 0 or text[0] != "(" or text[-1] != ")" or "()" in text:
        raise Invalid("not a filter in one pair of parentheses", "such as (objectClass=inetOrgPerson)")
    return text


def password(text: str) -> str:
    return _plain(text, "this password")


def condition(user_filter: str, address: str, domains: Iterable[str]) -> str:
    """Who is a user: an entry with an address in one of the domains. No name begins with a dot: a mailbox's directory is called like it."""
    places = "".join(f"({address}=*@{name})" for name in domains)
    return f"(&{user_filter}(|{places})(!({address}=.*)))"
