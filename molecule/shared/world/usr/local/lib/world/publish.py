#!/usr/bin/python3
"""Publish records in the lab's DNS: zones that are missing are made, signed and delegated; the sets named are replaced.

Reads JSON from standard input: `{"zones": [name], "records": [{"name", "type", "value", "ttl"}]}` or the list of records alone.
Several records of one name and type form one set; a `value` may be a list; an empty list or null removes the set. `bogus`: zones
whose delegation gets a digest that fits no key. With `--anchor`: prints the DS record of the root.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TTL = 2
# Sets of records in one message of at most 64 KiB.
BATCH = 50
NS = "ns.world.test."
GLUE = (("A", "198.51.100.2"), ("AAAA", "2001:db8:25::2"))
ZONES = Path("/var/lib/knot/zones")
LIST = Path("/etc/knot/zones.conf")
TSIG = Path("/etc/world/tsig.key")
_ENDS_WITH_NAME = {"CNAME", "DNAME", "MX", "NS", "PTR", "SRV"}

_LABEL = re.compile(r"[a-z0-9_*](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

Sets = dict[tuple[str, str], list[tuple[int, str]]]


class Refused(Exception):
    """What cannot be published, in a sentence."""


def plain(name: str) -> str:
    """A name in its canonical form: A-labels, lower case, no final dot; the root is the empty string."""
    name = name.rstrip(".").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError as error:
        raise Refused(f"{name!r} is no domain name: {error}") from error
    if name and (len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split("."))):
        raise Refused(f"{name!r} is no domain name")
    return name


def zone_above(name: str, zones: Iterable[str]) -> str | None:
    """The longest of the zones that holds the name."""
    holding = [zone for zone in zones if zone == "" or name == zone or name.endswith(f".{zone}")]
    return max(holding, key=len, default=None)


def zones_needed(zones: list[str], names: list[str], known: set[str]) -> list[str]:
    """All zones that must exist, parents first: those asked for, their top-level domains, and two labels for a homeless name."""
    needed = {plain(zone) for zone in zones}
    for name in names:
        above = zone_above(name, needed | known)
        if above is None or "." not in above:
            needed.add(".".join(name.split(".")[-2:]))
    for zone in list(needed):
        labels = zone.split(".")
        needed |= {"", labels[-1]}
        if labels[-1] == "arpa" and len(labels) > 1:
            needed.add(".".join(labels[-2:]))
    return sorted(needed, key=lambda zone: (zone.count("."), len(zone), zone))


def text(value: str) -> str:
    """A TXT value as strings of at most 255 octets; one already in quotes is left alone."""
    if value.startswith('"'):
        return value
    octets = value.encode()
    strings = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return " ".join('"' + "".join(_escaped(octet) for octet in string) + '"' for string in strings)


def _escaped(octet: int) -> str:
    character = chr(octet)
    if character in '"\\':
        return "\\" + character
    return character if 32 <= octet < 127 else f"\\{octet:03d}"


def sets_of(records: list[dict[str, Any]]) -> Sets:
    """Records grouped to sets, values in zone file form."""
    sets: Sets = {}
    for record in records:
        kind = record["type"].upper()
        values = record.get("value")
        values = [] if values is None else values if isinstance(values, list) else [values]
        found = sets.setdefault((plain(record["name"]), kind), [])
        for value in values:
            value = text(str(value)) if kind == "TXT" else str(value)
            if kind in _ENDS_WITH_NAME and not value.endswith("."):
                value += "."
            entry = (int(record.get("ttl") or TTL), value)
            if entry not in found:
                found.append(entry)
    return sets


def new_zone(zone: str) -> str:
    """The text of a zone file that holds what every zone has."""
    lines = [f"{zone}. {TTL} SOA {NS} hostmaster.world.test. {int(time.time())} 60 60 86400 {TTL}", f"{zone}. {TTL} NS {NS}"]
    if zone in ("", "test"):
        # The name server's address is needed above its own zone too.
        lines += [f"{NS} {TTL} {kind} {value}" for kind, value in GLUE]
    return "\n".join(lines) + "\n"


def update(zone: str, sets: Sets) -> str:
    """Words for knsupdate that replace the sets, so many at a time as a message of the DNS can hold."""
    lines = ["server 127.0.0.1", f"zone {zone}."]
    for number, ((name, kind), values) in enumerate(sets.items(), 1):
        lines.append(f"del {name}. {kind}")
        lines += [f"add {name}. {ttl} {kind} {value}" for ttl, value in values]
        if number % BATCH == 0 or number == len(sets):
            lines.append("send")
    return "\n".join([*lines, ""])


def configuration(zones: Iterable[str]) -> str:
    """The list of zones as Knot reads it."""
    rows = [f'  - domain: "{zone}."\n    file: {zone or "root"}.zone\n' for zone in zones]
    return "zone:\n" + "".join(rows) if rows else ""


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "error" in done.stderr.lower():
        raise Refused(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def keymgr(zone: str, *command: str) -> str:
    return run("setpriv", "--reuid=knot", "--regid=knot", "--clear-groups", "keymgr", f"{zone}.", *command)


def known_zones() -> list[str]:
    lines = LIST.read_text().splitlines()
    return [line.split('"')[1].removesuffix(".") for line in lines if "domain:" in line]


def delegation(zone: str) -> str:
    """The DS of a zone, SHA-256."""
    for line in keymgr(zone, "ds").splitlines():
        _, _, tag, algorithm, kind, digest = line.split()
        if kind == "2":
            return f"{tag} {algorithm} {kind} {digest}"
    raise Refused(f"{zone}. has no key")


def bogus(ds: str) -> str:
    return ds[:-1] + ("0" if ds[-1] != "0" else "1")


def wait_until_signed(zones: list[str]) -> None:
    deadline = time.monotonic() + 20
    for zone in zones:
        while True:
            read = subprocess.run(["knotc", "zone-read", f"{zone}.", "@", "RRSIG"], capture_output=True, text=True, check=False)
            if "RRSIG" in read.stdout:
                break
            if time.monotonic() > deadline:
                raise Refused(f"{zone}. does not load: {read.stderr.strip()}")
            time.sleep(0.02)


def make_zones(zones: list[str], known: list[str], broken: set[str]) -> None:
    """Write, load and sign new zones, then delegate them from their parents."""
    for zone in zones:
        file = ZONES / f"{zone or 'root'}.zone"
        file.write_text(new_zone(zone))
        os.chown(file, ZONES.stat().st_uid, ZONES.stat().st_gid)
    every = [*known, *zones]
    LIST.write_text(configuration(every))
    if "" in zones:
        # The root's key outlives this machine, so that its trust anchor stays what resolvers were given.
        key = "/run/knot/root.pem"
        run("install", "-o", "knot", "-m", "600", "/etc/world/dnssec.pem", key)
        keymgr("", "import-pem", key, "algorithm=ecdsap256sha256", "ksk=yes", "zsk=yes")
        Path(key).unlink()
    try:
        run("knotc", "reload")
        wait_until_signed(zones)
    except Refused:
        LIST.write_text(configuration(known))
        run("knotc", "reload")
        raise
    above: dict[str, Sets] = {}
    for zone in every:
        parent = zone_above(zone.partition(".")[2], every) or ""
        # A zone made between a known one and its parent takes over the delegation.
        if zone == "" or (zone not in zones and parent not in zones):
            continue
        ds = delegation(zone)
        sets = above.setdefault(parent, {})
        sets[zone, "NS"] = [(TTL, NS)]
        sets[zone, "DS"] = [(TTL, bogus(ds) if zone in broken else ds)]
    for parent, sets in above.items():
        run("knsupdate", "-k", str(TSIG), text=update(parent, sets))


def publish(document: dict[str, Any] | list[dict[str, Any]]) -> None:
    if isinstance(document, list):
        document = {"records": document}
    sets = sets_of(document.get("records") or [])
    known = known_zones()
    needed = zones_needed(document.get("zones") or [], [name for name, _ in sets], set(known))
    every = {*known, *needed}
    homes: dict[str, Sets] = {}
    for (name, kind), values in sets.items():
        homes.setdefault(zone_above(name, every) or "", {})[name, kind] = values
    missing = [zone for zone in needed if zone not in known]
    if missing:
        make_zones(missing, known, {plain(zone) for zone in document.get("bogus") or []})
    for zone, changed in homes.items():
        run("knsupdate", "-k", str(TSIG), text=update(zone, changed))


def main() -> None:
    if sys.argv[1:] == ["--anchor"]:
        print(f". IN DS {delegation('')}")
        return
    document = json.load(sys.stdin)
    # It may still be on its way up.
    run("systemctl", "start", "knot")
    with Path("/run/knot/publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        publish(document)


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(f"publish: {refused}")
