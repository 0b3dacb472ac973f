"""The resolver's trees for the Internet, a private root and a hostile inventory, and what Unbound says to them where it is installed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rendering import render

CONF = "/etc/unbound/unbound.conf"
HINTS = "/etc/unbound/root.hints"
PROBE = "/usr/local/lib/mailwright/resolver-probe"
ANCHOR = ". IN DS 64348 13 2 316AD8DDA67B84C5575241D539243458DBE12CE41532547DD18124C11E8F5ACA"
PRIVATE: dict[str, Any] = {
    "resolver_root_hints": [{"name": "ns.root.test.", "addresses": ["198.51.100.2", "2001:db8:25::2"]}],
    "resolver_trust_anchors": [ANCHOR],
}
FORWARDED: dict[str, Any] = {"resolver_forwarders": ["192.0.2.1", "2001:db8::1@5353"], "resolver_private_domains": ["corp.example"]}
HOSTILE: dict[str, Any] = {
    "resolver_root_hints": [{"name": "a\n. 1 IN NS b.", "addresses": ["198.51.100.2\nevil"]}],
    "resolver_trust_anchors": [f'{ANCHOR}"\n    interface: 0.0.0.0'],
    "resolver_forwarders": ["192.0.2.1\n    forward-first: yes"],
    "resolver_private_domains": ['x"\n    interface: 0.0.0.0'],
}


def options(text: str) -> dict[str, list[str]]:
    """Option → its values; the comments left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*([a-z0-9-]+):\s*(.*)", line):
            found.setdefault(match[1], []).append(match[2].strip('"'))
    return found


@pytest.mark.parametrize("variables", [{}, PRIVATE, FORWARDED, HOSTILE])
def test_unbound_listens_on_loopback_only(variables: dict[str, Any]) -> None:
    conf = options(render("resolver", "unbound", **variables)[CONF])
    assert conf["interface"] == ["127.0.0.1", "::1"]
    assert [rule for rule in conf["access-control"] if rule.endswith("allow")] == ["127.0.0.0/8 allow", "::1 allow"]


@pytest.mark.parametrize("variables", [{}, PRIVATE, FORWARDED])
def test_nothing_is_believed_without_validation(variables: dict[str, Any]) -> None:
    conf = options(render("resolver", "unbound", **variables)[CONF])
    assert conf["module-config"] == ["validator iterator"]
    assert conf["val-permissive-mode"] == ["no"]
    assert len(conf.get("auto-trust-anchor-file", []) + conf.get("trust-anchor", [])) == 1


def test_nothing_is_included_from_elsewhere() -> None:
    assert not [name for name in options(render("resolver", "unbound")[CONF]) if name.startswith("include")]


def test_the_internets_root_comes_from_debian() -> None:
    tree = render("resolver", "unbound")
    assert HINTS not in tree
    assert options(tree[CONF])["root-hints"] == ["/usr/share/dns/root.hints"]
    assert "local-zone" not in options(tree[CONF])


def test_a_private_root_answers_for_its_own_special_names() -> None:
    tree = render("resolver", "unbound", **PRIVATE)
    conf = options(tree[CONF])
    assert conf["trust-anchor"] == [ANCHOR]
    assert 'test." nodefault' in conf["local-zone"]
    assert [line.split() for line in tree[HINTS].splitlines() if line and not line.startswith(";")] == [
        [".", "3600000", "IN", "NS", "ns.root.test."],
        ["ns.root.test.", "3600000", "IN", "A", "198.51.100.2"],
        ["ns.root.test.", "3600000", "IN", "AAAA", "2001:db8:25::2"],
    ]


def test_blocklists_may_answer_with_loopback_addresses() -> None:
    assert not [net for net in options(render("resolver", "unbound")[CONF])["private-address"] if net.startswith("127")]


def test_forwarders_are_asked_in_place_of_the_root() -> None:
    conf = options(render("resolver", "unbound", **FORWARDED)[CONF])
    assert conf["forward-addr"] == FORWARDED["resolver_forwarders"]
    assert "root-hints" not in conf


def test_text_of_the_inventory_adds_no_line() -> None:
    tame = {**PRIVATE, **FORWARDED, "resolver_forwarders": ["::1"]}
    hostile, harmless = (render("resolver", "unbound", **values) for values in (HOSTILE, tame))
    assert hostile[CONF].count("\n") == harmless[CONF].count("\n")
    assert len([line for line in hostile[HINTS].splitlines() if line.startswith(". ")]) == 1


def test_the_system_asks_unbound_alone() -> None:
    text = render("resolver", "resolv")["/etc/resolv.conf"]
    assert re.findall(r"(?m)^nameserver (\S+)$", text) == ["127.0.0.1"]


def test_the_probe_is_a_program_that_names_the_cure() -> None:
    text = render("resolver", "unbound")[PROBE]
    assert text.startswith("#!/usr/bin/python3\n")
    ast.parse(text)
    assert "resolver_forwarders" in text


@pytest.mark.skipif(not shutil.which("unbound-checkconf"), reason="needs unbound")
@pytest.mark.parametrize("variables", [PRIVATE, FORWARDED])
def test_unbound_accepts_the_file(tmp_path: Path, variables: dict[str, Any]) -> None:
    tree = render("resolver", "unbound", **variables)
    (tmp_path / "root.hints").write_text(tree.get(HINTS, ""))
    (tmp_path / "unbound.conf").write_text(tree[CONF].replace("/etc/unbound/", f"{tmp_path}/"))
    subprocess.run(["unbound-checkconf", tmp_path / "unbound.conf"], check=True)
