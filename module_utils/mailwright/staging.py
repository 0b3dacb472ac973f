# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From the rows of the inventory to the files of the mail data, staged for the next activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .contents import alias_rows, domain_rows, field_rows, mailbox_row, mailbox_rows, map_rows
from .directory import Activation, Directory, Limit, Staged
from .errors import Invalid
from .hashing import Credential, resolve
from .layout import ALIAS_NAMES, ALIASES, DENY, DOMAINS, MAILBOXES, MAPS, OWNERS, PASSWORDS, PATTERNS, PRESENT, RELAY_DOMAINS, USERS
from .maps import check_address, check_domain, check_key, check_targets, check_value, parse_map, render_map, render_patterns
from .passwd_file import DENIABLE, User, check_extras, parse_users, render_names, render_users
from .plan import keyed, make_plan, rows_of
from .proofs import Proofs

__all__ = [
    "make_live",
    "stage",
    "stage_aliases",
    "stage_domains",
    "stage_mailboxes",
    "stage_maps",
]


def stage(directory: Directory, label: str, given: Mapping[str, Any], *, check_mode: bool = False) -> Staged:
    """Stage one list: `label` is the module of library/ that documents the options `given`. Raises as those below do."""
    limit = Limit(given["removal_limit"], given["removal_percent"], given["removals_allowed"]) if "removal_limit" in given else None
    match label:
        case "mail_domains":
            return stage_domains(directory, rows_of(given["domains"], list), limit, check_mode=check_mode)
        case "mail_aliases":
            return stage_aliases(directory, rows_of(given["aliases"], list), check_mode=check_mode)
        case "mail_maps":
            patterns, passwords = (rows_of(given[name], list) for name in ("patterns", "passwords"))
            return stage_maps(directory, rows_of(given["maps"], dict), patterns, passwords, check_mode=check_mode)
        case _:
            return stage_mailboxes(directory, rows_of(given["mailboxes"], list), given["dovecot_version"], limit, check_mode=check_mode)


def make_live(
    directory: Directory,
    lists: Mapping[str, Any],
    seals: Mapping[str, Any],
    keep: int,
    days: int,
    *,
    keys: Callable[[], dict[str, Any]] | None = None,
    check_mode: bool = False,
) -> tuple[dict[str, Staged], dict[str, Any] | None, Activation]:
    """Stage the `lists`, `{label: options}`, make them live, and have the DKIM keys made; what became of each.

    `seals` is `{salt, wanted: {label: seal}, kept: {label: {seal, digest}}}`: of lists that are given here, and of others that are live
    already, of which nothing else may go live in their place. Raises as `stage`, `keys` and Directory.activate do.
    """
    staged = {label: stage(directory, label, lists[label], check_mode=check_mode) for label in OWNERS if label in lists}
    digests = {label: found.digest for label, found in staged.items()}
    expected = {label: entry["digest"] for label, entry in seals["kept"].items()} | digests
    done = directory.activate(keep=keep, days=days, expected=expected, check_mode=check_mode)
    # Last: a thousand take longer than all else and are in the making meanwhile, and a refused change leaves none.
    made = keys() if keys else None
    digests |= {"dkim_keys": made["digest"]} if made else {}
    kept = {**seals["kept"], **{label: {"seal": seals["wanted"][label], "digest": digest} for label, digest in digests.items()}}
    if not check_mode:
        directory.keep_seals(seals["salt"], kept)
    return staged, made, done


def stage_domains(directory: Directory, rows: Iterable[Any], limit: Limit | None = None, *, check_mode: bool = False) -> Staged:
    """`[{name}]` → virtual_domains. Raises Invalid, LockedError, OSError, as the others below do."""
    desired = keyed("domains", rows, "name", ("name",), lambda row: check_domain(row["name"]))
    plan = make_plan(domain_rows(directory.read), {name: {} for name in desired})
    if limit:
        limit.check("domains", plan)
    staged = directory.stage("mail_domains", {DOMAINS: render_map(dict.fromkeys(desired, PRESENT))}, plan, check_mode=check_mode)
    staged.consequences["to_reload"] = ["postfix"] if plan.added and (directory.root / DOMAINS).exists() else []
    return staged


def stage_aliases(directory: Directory, rows: Iterable[Any], *, check_mode: bool = False) -> Staged:
    """`[{address, to}]` → virtual_aliases; `@example.org` is a catch-all (virtual(5)). All others by name, for Dovecot."""

    def read(row: dict[str, Any]) -> str:
        address = row["address"]
        if address.startswith("@"):
            check_domain(address[1:])
        else:
            check_address(address)
        return check_targets(row["to"])

    desired = keyed("aliases", rows, "address", ("address", "to"), read)
    plan = make_plan(alias_rows(directory.read), field_rows("to", desired))
    texts = {
        ALIASES: render_map(desired),
        # An entry to itself keeps a mailbox from its domain's catch-all.
        ALIAS_NAMES: render_names(address for address, to in desired.items() if address[0] != "@" and to != address),
    }
    return directory.stage("mail_aliases", texts, plan, check_mode=check_mode)


def stage_maps(
    directory: Directory, maps: Mapping[str, Any], patterns: Iterable[Any], passwords: Iterable[Any] = (), *, check_mode: bool = False
) -> Staged:
    """`{name: [{key, value}]}` → the tables of MAPS, `[{pattern, to}]` → virtual_alias_patterns, `[{key, value}]` → relay_passwords.

    A table not given is empty.
    """
    if unknown := sorted(set(maps) - set(MAPS)):
        raise Invalid(f"maps: {', '.join(unknown)}: known are {', '.join(MAPS)}")
    texts = {}
    tables = [*((f"maps.{name}", f"postfix/{name}", maps.get(name) or []) for name in MAPS), ("passwords", PASSWORDS, passwords)]
    for what, name, rows in tables:
        texts[name] = render_map(keyed(what, rows, "key", ("key", "value"), _secret_entry if name == PASSWORDS else _entry))
    pairs = keyed("alias_patterns", patterns, "pattern", ("pattern", "to"), lambda row: (row["pattern"], check_targets(row["to"])))
    texts[PATTERNS] = render_patterns(list(pairs.values()))
    plan = make_plan(map_rows(directory.read), map_rows(texts.__getitem__))
    staged = directory.stage("mail_maps", texts, plan, ("password",), check_mode=check_mode)
    new_domains = parse_map(texts[RELAY_DOMAINS]).keys() - parse_map(directory.read(RELAY_DOMAINS)).keys()
    reload = _differs(directory.root / PATTERNS, texts[PATTERNS]) or (new_domains and (directory.root / RELAY_DOMAINS).exists())
    staged.consequences["to_reload"] = ["postfix"] if reload else []
    return staged


def _differs(path: Path, text: str) -> bool:
    """Whether the file is there and says something else."""
    return path.exists() and path.read_text() != text


def _entry(row: dict[str, Any]) -> str:
    check_key(row["key"])
    return check_value(row["value"])


def _secret_entry(row: dict[str, Any]) -> str:
    check_key(row["key"])
    try:
        return check_value(row["value"])
    except Invalid:
        raise Invalid("value: cannot be a value of a lookup table") from None


def stage_mailboxes(
    directory: Directory, rows: Iterable[Any], version: str, limit: Limit | None = None, *, check_mode: bool = False
) -> Staged:
    """Rows of docs/architecture.md → users, deny files, virtual_mailboxes. Disabled mailboxes stay known, refused for every protocol."""
    desired = keyed("mailboxes", rows, "address", _MAILBOX, _mailbox)
    current = parse_users(directory.read(USERS))
    hashes = resolve(
        {address: wanted.credential for address, wanted in desired.items()},
        {address: user.password for address, user in current.items()},
        check_mode=check_mode,
        proofs=Proofs(directory.store / "passwords.json"),
    )
    users = {address: User(hashes[address], wanted.quota, wanted.junk_filing, wanted.extras) for address, wanted in desired.items()}
    texts = {
        USERS: render_users(users, version),
        MAILBOXES: render_map(dict.fromkeys(users, PRESENT)),
        **{DENY[p]: render_names(address for address, wanted in desired.items() if p in wanted.denied) for p in DENIABLE},
    }
    plan = make_plan(
        mailbox_rows(directory.read),
        {address: mailbox_row(user, desired[address].denied) for address, user in users.items()},
    )
    if limit:
        limit.check("mailboxes", plan)
    staged = directory.stage("mail_mailboxes", texts, plan, ("password",), check_mode=check_mode)
    staged.consequences["to_archive"] = [address for address in plan.removed if directory.archive.has_mail(address)]
    staged.consequences["to_restore"] = sorted(directory.archive.addresses() & users.keys())
    return staged


@dataclass(frozen=True)
class _Wanted:
    credential: Credential
    quota: int
    junk_filing: bool
    denied: frozenset[str]
    extras: Mapping[str, str]


_MAILBOX: Final = (
    "address",
    "password",
    "password_hash",
    "password_update",
    "quota_bytes",
    "denied_protocols",
    "enabled",
    "junk_filing",
    "extras",
)


def _mailbox(row: dict[str, Any]) -> _Wanted:
    check_address(row["address"])
    for key in ("password", "password_hash"):
        if row[key] is not None and (not isinstance(row[key], str) or not row[key]):
            raise Invalid(f"{key}: a text or null is expected")
    if row["password_update"] not in ("always", "on_create"):
        raise Invalid("password_update: always or on_create is expected")
    if type(row["quota_bytes"]) is not int or row["quota_bytes"] < 0:
        raise Invalid("quota_bytes: a number of bytes is expected, 0 for no limit")
    for key in ("enabled", "junk_filing"):
        if type(row[key]) is not bool:
            raise Invalid(f"{key}: true or false is expected")
    denied = row["denied_protocols"]
    if not isinstance(denied, list) or not set(denied) <= set(DENIABLE):
        raise Invalid(f"denied_protocols: a list out of {', '.join(DENIABLE)} is expected")
    if not isinstance(row["extras"], dict):
        raise Invalid("extras: a mapping is expected")
    check_extras(row["extras"])
    return _Wanted(
        credential=Credential(row["password"], row["password_hash"], row["password_update"]),
        extras=row["extras"],
        quota=row["quota_bytes"],
        junk_filing=row["junk_filing"],
        denied=frozenset(denied if row["enabled"] else DENIABLE),
    )
