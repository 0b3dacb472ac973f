# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Dovecot passwd-files, in the language of 2.3 and of 2.4; both ways, and strict.

A user's line is `address:hash::::::extra fields`. Seen to work with both releases:

- quota: `userdb_quota_rule=*:storage=<n>B` (2.3), `userdb_quota_storage_size=<n>B` (2.4); 0 is unlimited in both.
  2.4 ignores the field where `storage_size` stands inside the named `quota` filter: a default belongs outside of it.
- junk filing off: `userdb_sieve_env_junk_filing=no` (2.3), `userdb_sieve_environment/junk_filing=no` (2.4). A global
  script reads it with `require ["environment", "vnd.dovecot.environment"]` (enabled by `sieve_global_extensions`) as
  `environment :is "vnd.dovecot.config.junk_filing" "no"`.

What few mailboxes have is an *extra*: a name of `EXTRAS` and a text without white space.

A deny file has a line `address:` for each refused one; a passdb with `deny = yes` needs no more.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import Invalid
from .maps import check_address

__all__ = ["DENIABLE", "EXTRAS", "VERSIONS", "User", "check_extras", "parse_names", "parse_users", "render_names", "render_users"]

DENIABLE: Final = ("imap", "pop3", "sieve", "smtp")
# version → fields for quota (bytes) and for junk that stays in the inbox
VERSIONS: Final[Mapping[str, tuple[str, str]]] = {
    "2.3": ("userdb_quota_rule=*:storage={}B", "userdb_sieve_env_junk_filing=no"),
    "2.4": ("userdb_quota_storage_size={}B", "userdb_sieve_environment/junk_filing=no"),
}
# {SCHEME} and what crypt(3) and its kin are made of: no colon, white space or control character.
_HASH: Final = re.compile(r"\{[A-Z0-9][A-Z0-9._-]*\}[!-9;-~]+", re.ASCII)
# name → how the fields are written for 2.3 and for 2.4 (the last one is read back), and what a value may be
_RETENTION: Final = "userdb_namespace/inbox/mailbox/{}/{}={{0}}s"
EXTRAS: Final[Mapping[str, tuple[str, str, str]]] = {
    "junk_retention": (_RETENTION.format("Junk", "autoexpunge"), _RETENTION.format("Junk", "mailbox_autoexpunge"), r"\d+"),
    "trash_retention": (_RETENTION.format("Trash", "autoexpunge"), _RETENTION.format("Trash", "mailbox_autoexpunge"), r"\d+"),
    "acl_groups": ("userdb_acl_groups={0}", "userdb_acl_groups={0}", r"[a-z0-9._+=@,-]+"),
    "public_quota": ("userdb_quota2_rule=*:storage={0}B", "userdb_public_quota={0}B", r"\d+"),
    # Of an address that stands for a public folder: its mail goes there. The domain's public quota is summed where all its folders lie.
    "folder": (
        "userdb_home=/var/vmail/.public userdb_mail=maildir:/var/vmail/.public/%d:INBOX=/var/vmail/.public/{0}",
        "userdb_home=/var/vmail/.public userdb_mail_path=/var/vmail/.public/%{{user|domain}} userdb_mail_inbox_path=/var/vmail/.public/{0}",
        r"[a-z0-9.-]+/\.[A-Za-z0-9._&,+-]+",
    ),
    # Its only value, "yes", is not written.
    "deleted_to_trash": ("userdb_lazy_expunge=Trash", "userdb_lazy_expunge_mailbox=Trash", "yes"),
}
_QUOTA: Final = re.compile(r"userdb_quota_(?:rule=\*:storage|storage_size)=(\d+)B")


@dataclass(frozen=True)
class User:
    """One mailbox as Dovecot sees it; `quota` in bytes, 0 is unlimited."""

    password: str
    quota: int
    junk_filing: bool
    extras: Mapping[str, str] = field(default_factory=dict)


def check_extras(extras: Mapping[str, str]) -> None:
    """Raises Invalid for a name that is unknown, or a value that would be read as anything but itself."""
    for name, value in extras.items():
        if name not in EXTRAS or not isinstance(value, str) or not re.fullmatch(EXTRAS[name][2], value, re.ASCII):
            raise Invalid(f"extras: {name} is unknown, or not what it may be")


def _line(address: str, user: User, version: str) -> str:
    if not _HASH.fullmatch(user.password):
        raise Invalid(f"{address}: the password hash is not {{SCHEME}} and a hash")
    quota, junk = VERSIONS[version]
    check_extras(user.extras)
    formats = {name: EXTRAS[name][list(VERSIONS).index(version)] for name in sorted(user.extras)}
    fields = [
        quota.format(user.quota),
        *([] if user.junk_filing else [junk]),
        *(text.format(user.extras[name]) for name, text in formats.items()),
    ]
    return f"{check_address(address)}:{user.password}::::::{' '.join(fields)}\n"


def _readers() -> dict[str, tuple[str, re.Pattern[str]]]:
    """Key of a field → the extra that it tells, and its value."""
    found = {}
    for name, (*formats, value) in EXTRAS.items():
        for text in formats:
            last = text.rpartition(" ")[2]
            found[last.partition("=")[0]] = name, re.compile(re.escape(last).replace(r"\{0\}", f"({value})"), re.ASCII)
    return found


_READERS: Final = _readers()


def _extras(fields: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in fields:
        name, pattern = _READERS.get(text.partition("=")[0], ("", _HASH))
        if name and (match := pattern.fullmatch(text)):
            found[name] = match[1] if match.groups() else "yes"
    return found


def render_users(users: Mapping[str, User], version: str) -> str:
    """Text of the file for that Dovecot, sorted. Raises Invalid where a line would be read as anything but itself."""
    return "".join(_line(address, user, version) for address, user in sorted(users.items()))


# One run asks the same texts again and again.
@functools.lru_cache(maxsize=4)
def parse_users(text: str) -> Mapping[str, User]:
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
            junk_filing="junk_filing=no" not in extra,
            extras=_extras(extra.split(" ")[1:]),
        )
    return users


def render_names(addresses: Iterable[str]) -> str:
    """Text of a deny file, sorted."""
    return "".join(f"{check_address(address)}:\n" for address in sorted(addresses))


@functools.lru_cache(maxsize=32)
def parse_names(text: str) -> frozenset[str]:
    """Addresses in a passwd-file."""
    return frozenset(line.split(":", 1)[0].lower() for line in text.split("\n") if line.strip() and not line.startswith("#"))
