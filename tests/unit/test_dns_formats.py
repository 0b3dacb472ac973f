"""DNS records as a table, zone files, JSON and octoDNS."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import dns.zone
import pytest
from ansible.module_utils.mailwright import dns_formats, records
from ansible.module_utils.mailwright.authority import value_of
from ansible.module_utils.mailwright.records import Record
from hypothesis import given
from hypothesis import strategies as st
from test_records import KNOWN, OAK, dns_rows

MOSS = "domain: moss.test\nparked: true"
CAA = {"issue": ["ca.example"], "account": "https://ca.example/acct/1", "report": "alice@oak.test"}
ROWS = dns_rows(OAK, MOSS, "domain: bücher.test\ndmarc: {reports: [x@reports.example]}", mail_caa=CAA, mail_tls_reports=["alice@oak.test"])
EXPECTED = records.expected(ROWS, KNOWN)
ZONES = records.zones(ROWS)


def read_back(zone: str, text: str) -> set[tuple[str, str, str, int]]:
    parsed = dns.zone.from_text(text, relativize=False, check_origin=False)
    return {
        (name.to_text(omit_final_dot=True), rdata.rdtype.name, value_of(rdata), ttl)
        for name, ttl, rdata in parsed.iterate_rdatas()
        if rdata.rdtype.name not in ("SOA", "NS")
    }


def as_set(rows: list[Record]) -> set[tuple[str, str, str, int]]:
    return {(row.name, row.type, row.value, row.ttl) for row in rows}


def test_zone_files_hold_the_same_records() -> None:
    zoned = dns_formats.by_zone(EXPECTED, ZONES)
    assert set(zoned) == {*ZONES, "2.0.192.in-addr.arpa", "0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"}
    assert sorted(row for rows in zoned.values() for row in rows) == sorted(row for row in EXPECTED if not row.elsewhere)
    for zone, rows in zoned.items():
        assert read_back(zone, dns_formats.zone_file(zone, rows, ["a note"])) == as_set(rows)


@given(st.lists(st.text(max_size=600).filter(lambda text: text.isprintable()), max_size=4))
def test_any_text_comes_back_from_a_zone_file(texts: list[str]) -> None:
    rows = [Record("x.oak.test", "TXT", text, 60, "spf", "oak.test") for text in dict.fromkeys(texts)]
    assert read_back("oak.test", dns_formats.zone_file("oak.test", rows)) == as_set(rows)


@pytest.mark.parametrize("command", [["named-checkzone", "-i", "local"], ["kzonecheck", "-o"]])
def test_the_checkers_of_name_servers_accept_them(command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    for zone, rows in dns_formats.by_zone(EXPECTED, ZONES).items():
        file = tmp_path / f"{zone}.zone"
        file.write_text(dns_formats.zone_file(zone, rows))
        done = subprocess.run([*command, zone, file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_octodns_accepts_and_copies_them(tmp_path: Path) -> None:
    from octodns.manager import Manager
    from octodns.provider.yaml import YamlProvider
    from octodns.zone import Zone

    files = dns_formats.render("octodns", EXPECTED, ZONES, [], str(tmp_path))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "octodns-target").mkdir()
    manager = Manager(config_file=str(tmp_path / "octodns.yaml"))
    manager.validate_configs(lenient=False)
    assert manager.sync(dry_run=False, force=True) > 0
    assert Manager(config_file=str(tmp_path / "octodns.yaml")).sync(dry_run=True) == 0
    copied = YamlProvider("copy", str(tmp_path / "octodns-target"), default_ttl=3600, escaped_semicolons=False)
    for name, rows in dns_formats.by_zone(EXPECTED, ZONES).items():
        zone = Zone(f"{name}.", [])
        copied.populate(zone)
        found = set()
        for record in zone.records:
            for rdata in record.values if hasattr(record, "values") else [record.value]:
                text = rdata.to_rdata_text()
                if record._type == "TXT":
                    text = rdata.replace("\\;", ";").replace("\\\\", "\\")
                found.add((record.fqdn.rstrip("."), record._type, text, record.ttl))
        assert found == {(row.name, row.type, row.value if row.type == "TXT" else row.data, row.ttl) for row in rows}


def test_json_has_all_there_is() -> None:
    (text,) = dns_formats.render("json", EXPECTED, ZONES, ["a note"], "").values()
    document = json.loads(text)
    assert document["missing"] == ["a note"]
    assert [Record(**row).data for row in document["records"]] == [row.data for row in EXPECTED]


def test_the_table_names_every_record_and_what_is_missing() -> None:
    text = dns_formats.table(EXPECTED, ["a note"])
    assert "\nbücher.test (xn--bcher-kva.test)\n" in text
    assert "\nNot in this list:\n  a note\n" in text
    for row in EXPECTED:
        assert any(line.split()[:2] == [row.name, row.type] and row.data[:40].strip('"') in line for line in text.splitlines()), row
    (foreign,) = [line for line in text.splitlines() if "reports.example" in line and "_report" in line]
    assert foreign.endswith("(its owner publishes this)")
