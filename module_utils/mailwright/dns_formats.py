# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""DNS records for people and for other programs: a table, zone files, JSON, octoDNS. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from .names import unicode_domain
from .records import Record, quoted, zone_of

__all__ = ["FORMATS", "by_zone", "octodns", "render", "table", "zone_file"]

FORMATS: Final = ("table", "zone", "json", "octodns")
_VALUE_WIDTH: Final = 100
# RFC 1035, 5.1: what stands there until somebody says who serves the zone. `invalid` never exists (RFC 6761).
_NOBODY: Final = "ns.invalid."
# What a record is for, in the order of the table.
_PURPOSES: Final[Mapping[str, str]] = {
    "address": "where the host is",
    "reverse": "name of its addresses, at whoever gave you these",
    "mx": "where mail goes",
    "spf": "who may send",
    "dkim": "keys that mail is signed with",
    "dmarc": "what others do with forged mail",
    "dmarc-report": "consent to get the reports of another domain",
    "mta-sts": "others insist on TLS",
    "tls-report": "who hears of TLS failures",
    "tlsa": "key of the host (DANE; only in a signed zone)",
    "caa": "who may issue its certificates",
    "client": "settings for mail programs",
}


def by_zone(records: Iterable[Record], zones: Collection[str]) -> dict[str, list[Record]]:
    """Records by the zone they belong into; those in zones of others are left out."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if not record.elsewhere and (zone := zone_of(record.name, zones)) is not None:
            found.setdefault(zone, []).append(record)
    return found


def table(records: Sequence[Record], missing: Sequence[str] = ()) -> str:
    """For people: by domain, and what each is for. Long values are cut; the other forms have them whole."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.domain, []).append(record)
    lines: list[str] = []
    for domain, rows in groups.items():
        shown = unicode_domain(domain)
        lines += ["", shown if shown == domain else f"{shown} ({domain})", ""]
        width = max(len(row.name) for row in rows)
        order = list(_PURPOSES)
        last = ""
        for row in sorted(rows, key=lambda row: (order.index(row.purpose), row.name)):
            if row.purpose != last:
                lines.append(f"  {_PURPOSES[row.purpose]}")
                last = row.purpose
            value = row.data if row.type != "TXT" else row.value
            value = value if len(value) <= _VALUE_WIDTH else value[: _VALUE_WIDTH - 1] + "…"
            lines.append(f"    {row.name:{width}}  {row.type:5}  {value}" + ("  (its owner publishes this)" if row.elsewhere else ""))
    if missing:
        lines += ["", "Not in this list:", *(f"  {text}" for text in missing)]
    return "\n".join(lines).lstrip("\n") + "\n"


def zone_file(zone: str, records: Sequence[Record], missing: Sequence[str] = ()) -> str:
    """A zone with these records and nothing else (RFC 1035, 5)."""
    ttl = records[0].ttl if records else 3600
    lines = [
        f"; What Mailwright expects in {zone}. Into an existing zone take everything but the SOA and NS records.",
        *(f"; Not in this file: {text}" for text in missing),
        f"$ORIGIN {zone}.",
        f"$TTL {ttl}",
        f"@ IN SOA {_NOBODY} hostmaster.invalid. 1 3600 900 1209600 300",
        f"@ IN NS {_NOBODY}",
        *(f"{_relative(record.name, zone)} {record.ttl} IN {record.type} {_wrapped(record)}" for record in sorted(records)),
    ]
    return "\n".join(lines) + "\n"


def _relative(name: str, zone: str) -> str:
    return "@" if name == zone else name.removesuffix(f".{zone}")


def _wrapped(record: Record) -> str:
    """Long texts in parentheses, one string in each line (RFC 1035, 5.1)."""
    if record.type != "TXT" or len(record.value.encode()) <= 255:
        return record.data
    return "(\n    " + quoted(record.value).replace('" "', '"\n    "') + "\n)"


def octodns(zone: str, records: Sequence[Record]) -> str:
    """A zone for octoDNS's YamlProvider, as JSON, which is YAML too."""
    found: dict[str, list[dict[str, Any]]] = {}
    sets: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records):
        sets.setdefault((record.name, record.type), []).append(record)
    for (name, kind), rows in sets.items():
        label = "" if name == zone else name.removesuffix(f".{zone}")
        values = [_octodns_value(record) for record in rows]
        content = {"value": values[0]} if kind in ("CNAME", "PTR") else {"values": values}
        found.setdefault(label, []).append({"ttl": rows[0].ttl, "type": kind, **content})
    return json.dumps({name: rows[0] if len(rows) == 1 else rows for name, rows in sorted(found.items())}, indent=2) + "\n"


def _octodns_value(record: Record) -> str | dict[str, str | int]:
    words = record.data.split()
    match record.type:
        case "TXT":
            # octoDNS makes the strings itself.
            return record.value.replace("\\", "\\\\")
        case "MX":
            return {"preference": int(words[0]), "exchange": words[1]}
        case "SRV":
            return {"priority": int(words[0]), "weight": int(words[1]), "port": int(words[2]), "target": words[3]}
        case "TLSA":
            numbers = {"certificate_usage": int(words[0]), "selector": int(words[1]), "matching_type": int(words[2])}
            return {**numbers, "certificate_association_data": words[3]}
        case "CAA":
            flags, tag, value = record.value.split(" ", 2)
            return {"flags": int(flags), "tag": tag, "value": value.strip('"')}
        case _:
            return record.data


_OCTODNS_CONFIG: Final = """\
# octoDNS: from these files to a hosted provider. Put yours in place of `target`; docs/dns.md tells how. octoDNS removes from a zone
# what no source has: name a source of yours with the zone's other records beside this one.
providers:
  mailwright:
    class: octodns.provider.yaml.YamlProvider
    directory: {directory}
    default_ttl: {ttl}
    enforce_order: false
    escaped_semicolons: false
  target:
    class: octodns.provider.yaml.YamlProvider
    directory: {directory}-target
    default_ttl: {ttl}
    escaped_semicolons: false
zones:
{zones}"""


def render(form: str, records: Sequence[Record], zones: Collection[str], missing: Sequence[str], directory: str) -> dict[str, str]:
    """Files of one form: their names below `directory`, and texts."""
    zoned = by_zone(records, zones)
    if form == "zone":
        return {f"{zone}.zone": zone_file(zone, rows, missing) for zone, rows in sorted(zoned.items())}
    if form == "json":
        rows = [
            {**{key: getattr(record, key) for key in ("name", "type", "value", "ttl", "purpose", "domain", "elsewhere")}}
            for record in records
        ]
        return {"records.json": json.dumps({"records": rows, "missing": list(missing)}, indent=1, ensure_ascii=False) + "\n"}
    if form == "octodns":
        ttl = records[0].ttl if records else 3600
        names = "".join(f"  {zone}.:\n    sources: [mailwright]\n    targets: [target]\n" for zone in sorted(zoned))
        files = {f"octodns/{zone}.yaml": octodns(zone, rows) for zone, rows in zoned.items()}
        return {"octodns.yaml": _OCTODNS_CONFIG.format(directory=json.dumps(f"{directory}/octodns")[1:-1], ttl=ttl, zones=names), **files}
    return {"records.txt": table(records, missing)}
