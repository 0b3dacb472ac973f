"""Runs on the mail host, beside a copy of module_utils/mailwright: makes one state of flip.test after the other live, as the role does.

Standard input has one line for each change, `STATE` or `relay STATE`; standard output answers each with a line of JSON. What was live
at the start is kept beside it, and `back` makes it live again.
"""

from __future__ import annotations

import json
import os
import sys
import time

from mailwright import layout, staging
from mailwright.directory import Directory
from mailwright.maps import parse_map, parse_patterns
from mailwright.passwd_file import DENIABLE, parse_names, parse_users

DOMAIN = "flip.test"
MOVING = "x@flop.test"
VERSION = sys.argv[1]
HASH = sys.argv[2]
KEEP = 1000


def mailbox(
    address: str, password: str, quota: int = 0, junk_filing: bool = True, denied: tuple[str, ...] = (), extras: object = None
) -> dict[str, object]:
    return {
        "address": address,
        "password": None,
        "password_hash": password,
        "password_update": "always",
        "quota_bytes": quota,
        "denied_protocols": list(denied),
        "enabled": True,
        "junk_filing": junk_filing,
        "extras": extras or {},
    }


def aliases(state: int) -> dict[str, str]:
    """Who is an alias in an even and in an odd state. A catch-all needs an entry of each mailbox to itself, as compile.py makes it."""
    if state % 2 == 0:
        return {"a": "one", "c": "one"}
    return {"b": "two", "": "two", "a": "a", "one": "one", "two": "two"}


def make_live(state: int) -> None:
    where = Directory()
    users = {name: user for name, user in parse_users(where.read(layout.USERS)).items() if not name.endswith(f"@{DOMAIN}")}
    denied = {protocol: parse_names(where.read(name)) for protocol, name in layout.DENY.items()}
    rows = [
        mailbox(name, user.password, user.quota, user.junk_filing, tuple(p for p in DENIABLE if name in denied[p]), user.extras)
        for name, user in users.items()
    ]
    rows += [mailbox(f"{name}@{DOMAIN}", HASH) for name in ("one", "two", "b" if state % 2 == 0 else "a")]
    table = {name: to for name, to in parse_map(where.read(layout.ALIASES)).items() if not name.endswith(f"@{DOMAIN}")}
    table |= {f"{name}@{DOMAIN}": f"{to}@{DOMAIN}" for name, to in aliases(state).items()}
    staging.stage_mailboxes(where, rows, VERSION)
    staging.stage_aliases(where, [{"address": name, "to": to.split(", ")} for name, to in table.items()])
    staging.stage_domains(where, [{"name": name} for name in {*parse_map(where.read(layout.DOMAINS)), DOMAIN}])
    where.activate(keep=KEEP)


def make_domain_live(state: int, next_hop: str) -> None:
    """In an even state flop.test is relayed, in an odd one it is local."""
    where = Directory()
    users = {name: user for name, user in parse_users(where.read(layout.USERS)).items() if name != MOVING}
    denied = {protocol: parse_names(where.read(name)) for protocol, name in layout.DENY.items()}
    rows = [
        mailbox(name, user.password, user.quota, user.junk_filing, tuple(p for p in DENIABLE if name in denied[p]), user.extras)
        for name, user in users.items()
    ]
    name = MOVING.partition("@")[2]
    maps = {table: parse_map(where.read(f"postfix/{table}")) for table in layout.MAPS}
    relayed = {
        "relay_domains": {name: "OK"},
        "relay_recipients": {MOVING: "DUNNO", name: "550 5.1.1 unknown"},
        "transports": {name: f"relay:{next_hop}"},
    }
    for table, entries in relayed.items():
        maps[table] = {key: value for key, value in maps[table].items() if key not in entries} | (entries if state % 2 == 0 else {})
    patterns = [
        {"pattern": key.removeprefix("/^(?:").removesuffix(")$/"), "to": to.split(", ")}
        for key, to in parse_patterns(where.read(layout.PATTERNS)).items()
    ]
    domains = parse_map(where.read(layout.DOMAINS)).keys() - {name} | ({name} if state % 2 else set())
    as_rows = {table: [{"key": key, "value": value} for key, value in entries.items()] for table, entries in maps.items()}
    passwords = [{"key": key, "value": value} for key, value in parse_map(where.read(layout.PASSWORDS)).items()]
    staging.stage_mailboxes(where, [*rows, mailbox(MOVING, HASH)] if state % 2 else rows, VERSION)
    staging.stage_maps(where, as_rows, patterns, passwords)
    staging.stage_domains(where, [{"name": name} for name in domains])
    where.activate(keep=KEEP)


for line in sys.stdin:
    start = time.time()
    if line.startswith("back"):
        Directory().roll_back(int(line.split()[1]), keep=KEEP)
    elif line.startswith("relay"):
        make_domain_live(int(line.split()[1]), sys.argv[3])
    elif line.strip() != "which":
        make_live(int(line))
    print(json.dumps({"start": start, "end": time.time(), "generation": Directory().live(), "process": os.getpid()}), flush=True)
