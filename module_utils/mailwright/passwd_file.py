# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Dovecot passwd-files, in the language of 2.3 and of 2.4; both ways, and strict.

A user's line is `address:hash::::::extra fields`. Seen to work with both releases:

- quota: `userdb_quota_rule=*:storage=<n>B` (2.3), `userdb_quota_storage_size=<n>B` (2.4); 0 is unlimited in both.
  2.4 ignores the field where `storage_size` stands inside the named `quota` filter: a default belongs outside of it.
- junk filing off: `userdb_sieve_env_junk_filing=no` (2.3), `userdb_sieve_environment/junk_filing=no` (2.4). A global
  script reads it with `require ["environment", "vnd.dovecot.environment"]` (enabled by `sieve_global_extensions`) as
  `environment :is "vnd.dovecot.config.junk_filing" "no"`.

A deny file has a line `address:` for each refused one; a passdb with `deny = yes` needs no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import Invalid
from .maps import check_address

__all__ = ["DENIABLE", "VERSIONS", "User", "parse_names", "parse_users", "render_names", "render_users"]

DENIABLE: Final = ("imap", "pop3", "sieve", "smtp")
# version → fields for quota (bytes) and for junk that stays in the inbox
VERSIONS: Final[Mapping[str, tuple[str, str]]] = {
    "2.3": ("userdb_quota_rule=*:storage={}B", "userdb_sieve_env_junk_filing=no"),
    "2.4": ("userdb_quota_storage_size={}B", "userdb_sieve_environment/junk_filing=no"),
}
# {SCHEME} and what crypt(3) and its kin are made of: no colon, white space or control character.
_HASH: Final = re.compile(r"\{[A-Z0-9][A-Z0-9._-]*\}[!-9;-~]+", re.ASCII)
_QUOTA: Final = re.compile(r"userdb_quota_(?:rule=\*:storage|storage_size)=(\d+)B")


@dataclass(frozen=True)
class User:
    """One mailbox as Dovecot sees it; `quota` in bytes, 0 is unlimited."""

    password: str
    quota: int
    junk_filing: bool


def _line(address: str, user: User, version: str) -> str:
    if not _HASH.fullmatch(user.password):
        raise Invalid(f"{address}: the password hash is not {{SCHEME}} and a hash")
    quota, junk = VERSIONS[version]
    extra = quota.format(user.quota) + ("" if user.junk_filing else f" {junk}")
    return f"{check_address(address)}:{user.password}::::::{extra}\n"


def render_users(users: Mapping[str, User], version: str) -> str:
    """Text of the file for that Dovecot, sorted. Raises Invalid where a line would be read as anything but itself."""
    return "".join(_line(address, user, version) for address, user in sorted(users.items()))


def parse_users(text: str) -> dict[str, User]:
    """Users of a file in either language; an unknown extra field is passed over, and so is lost on the next write."""
    users: dict[str, User] = {}
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(":", 7)
        extra = parts[7] if len(parts) > 7 else ""
        quota = _QUOTA.search(extra)
        users[parts[0].lower()] = User(
            password=parts[1] if len(parts) > 1 else "",
            quota=int(quota[1]) if quota else 0,
            junk_filing=not extra.endswith("junk_filing=no"),
        )
    return users


def render_names(addresses: Iterable[str]) -> str:
    """Text of a deny file, sorted."""
    return "".join(f"{check_address(address)}:\n" for address in sorted(addresses))


def parse_names(text: str) -> set[str]:
    """Addresses in a passwd-file."""
    return {line.split(":", 1)[0].lower() for line in text.split("\n") if line.strip() and not line.startswith("#")}
