"""The firewall's rules: default deny on both families, SSH never locked out, other tables never touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from rendering import ROOT, render

filter_loader.add_directory(str(ROOT / "filter_plugins"))

RULES = "/etc/mailwright/firewall.nft"
SSH = {"ansible_facts": {"env": {"SSH_CONNECTION": "192.0.2.7 50000 198.51.100.10 2222"}}}


def rendered(**variables: object) -> dict[str, str]:
    return render("firewall", **{"ansible_facts": {}, **variables})


def test_what_is_not_named_is_dropped() -> None:
    assert "type filter hook input priority filter; policy drop;" in rendered()[RULES]


def test_the_services_are_open_on_both_families() -> None:
    assert "    tcp dport { 25, 80, 443, 465, 587, 993, 995, 4190 } accept\n" in rendered()[RULES]


def test_only_this_project_s_own_table_is_ever_emptied() -> None:
    text = rendered()[RULES]
    assert "flush" not in text
    assert re.findall(r"(?m)^delete .*$", text) == ["delete table inet mailwright"]
    assert set(re.findall(r"table \w+ (\w+)", text)) == {"mailwright"}


def test_neighbour_discovery_comes_before_anything_that_could_drop_it() -> None:
    text = rendered()[RULES]
    for kind in ("nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-advert"):
        assert text.index(kind) < text.index("invalid : drop")


def test_the_ssh_port_in_use_stays_open() -> None:
    text = rendered(**SSH)[RULES]
    assert "ip saddr { 0.0.0.0/0 } tcp dport { 22, 2222 } accept" in text
    assert "ip6 saddr { ::/0 } tcp dport { 22, 2222 } accept" in text


def test_ssh_sources_are_merged_and_kept_by_family() -> None:
    text = rendered(firewall_ssh_sources=["192.0.2.0/25", "192.0.2.128/25", "192.0.2.9", "2001:db8::1"])[RULES]
    assert "ip saddr { 192.0.2.0/24 } tcp dport { 22 } accept" in text
    assert "ip6 saddr { 2001:db8::1/128 } tcp dport { 22 } accept" in text


def test_a_family_without_sources_gets_no_ssh_rule() -> None:
    assert "ip6 saddr { }" not in rendered(firewall_ssh_sources=["192.0.2.0/24"])[RULES]


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "example.org", "1.2.3.4 } accept; ip saddr { 0.0.0.0/0", "1.2.3.4/33", ""])
def test_a_source_that_is_no_network_is_refused(wrong: str) -> None:
    with pytest.raises(AnsibleError, match="no address and no network"):
        rendered(firewall_ssh_sources=[wrong])


@pytest.mark.parametrize(
    ("client", "sources", "expected"),
    [
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.2.7", ["198.51.100.0/24", "::/0"], False),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("2001:db8::7", ["0.0.0.0/0"], False),
        ("192.0.2.7", [], False),
    ],
)
def test_the_preflight_knows_who_would_be_locked_out(client: str, sources: list[str], expected: bool) -> None:
    engine = Templar(loader=DataLoader(), variables={"client": client, "sources": sources})
    assert engine.template(trust_as_template("{{ client | address_in(sources) }}")) is expected


def test_switched_off_it_takes_its_own_table_away() -> None:
    text = "".join(line for line in rendered(firewall_enabled=False)[RULES].splitlines(True) if not line.startswith("#"))
    assert text == "table inet mailwright\ndelete table inet mailwright\n"


VARIANTS = {
    "default": {},
    "off": {"firewall_enabled": False},
    "ssh": SSH,
    "narrow": {"firewall_ssh_sources": ["192.0.2.0/24", "192.0.2.7", "2001:db8::/32"], "firewall_ports": []},
    "closed": {"firewall_ssh_sources": []},
    "rules": {"firewall_rules": ["ip saddr 192.0.2.0/24 tcp dport 9100 accept", "udp dport { 51820 } accept"]},
}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
@pytest.mark.parametrize("name", VARIANTS)
def test_nft_accepts_the_rules(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(rendered(**VARIANTS[name])[RULES])
    done = subprocess.run(["unshare", "--net", "nft", "--check", "--file", tmp_path / "rules"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_the_script_is_good_shell(tmp_path: Path) -> None:
    (tmp_path / "firewall").write_text(rendered()["/usr/local/lib/mailwright/firewall"])
    subprocess.run(["sh", "-n", tmp_path / "firewall"], check=True)


def test_the_documented_ports_are_the_default() -> None:
    specs = (ROOT / "roles/firewall/meta/argument_specs.yml").read_text()
    assert "default: [25, 80, 443, 465, 587, 993, 995, 4190]" in specs
