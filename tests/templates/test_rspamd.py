"""The Rspamd tree for a small, a full and a hostile inventory, and what Rspamd says to it where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rendering import SETTINGS, render

BASE = "/etc/rspamd"
FULL_MAIL: dict[str, Any] = {
    "dkim_keys": [
        {"domain": "oak.test", "selector": "mw-rsa", "algorithm": "rsa", "bits": 2048, "private_key": "SECRET"},
        {"domain": "oak.test", "selector": "mw-ed25519", "algorithm": "ed25519", "bits": None, "private_key": None},
        {"domain": "elm.test", "selector": "s2026", "algorithm": "rsa", "bits": 2048, "private_key": None},
    ],
    "spam_settings": [{"recipient": "@elm.test", "greylist": 3.0, "junk": 5.0, "reject": 12.0}],
    "settings": {**SETTINGS, "networks": ["192.0.2.0/24", "2001:db8::/32"]},
}
FULL: dict[str, Any] = {
    "rspamd_online_enabled": False,
    "rspamd_overrides": {
        "options": {"dns": {"timeout": 2}, "local_addrs": ["127.0.0.1"]},
        "worker-proxy": {"count": 4},
        "classifier-bayes": {"min_learns": 10},
        "dkim_signing": {"sign_local": False},
        "group": {"headers": {"symbols": {"MISSING_MID": {"weight": 4.0}}}},
    },
}
NASTY = 'a"; } worker "normal" { enabled = true; }\n.include "/etc/shadow"\n${DBDIR} \\'


def assignments(text: str) -> dict[str, Any]:
    """The `"key" = JSON;` lines of the files made of one mapping."""
    return {match[1]: json.loads(match[2]) for match in re.finditer(r'(?m)^"([^"]+)" = (.*);$', text)}


def sections(text: str) -> dict[str, Any]:
    """The `"section" {JSON}` lines of the overrides."""
    return {match[1]: json.loads(match[2]) for match in re.finditer(r'(?m)^"([^"]+)" (\{.*\})$', text)}


def test_the_filter_listens_for_this_host_only() -> None:
    tree = render("rspamd")
    proxy, controller = (assignments(tree[f"{BASE}/override.d/worker-{name}.inc"]) for name in ("proxy", "controller"))
    assert proxy["bind_socket"] == "127.0.0.1:11332"
    assert controller["bind_socket"] == "/run/rspamd/controller.sock mode=0660 owner=_rspamd group=_rspamd"
    assert controller["secure_ip"] == []
    assert assignments(tree[f"{BASE}/override.d/worker-normal.inc"])["enabled"] is False


def test_only_loopback_and_declared_networks_are_our_own() -> None:
    assert assignments(render("rspamd")[f"{BASE}/override.d/options.inc"])["local_addrs"] == ["127.0.0.0/8", "::1"]
    options = assignments(render("rspamd", mail=FULL_MAIL)[f"{BASE}/override.d/options.inc"])
    assert options["local_addrs"] == ["127.0.0.0/8", "::1", "192.0.2.0/24", "2001:db8::/32"]


def test_what_postfix_accepts_is_not_too_large_for_the_filter() -> None:
    assert assignments(render("rspamd")[f"{BASE}/override.d/options.inc"])["max_message"] > SETTINGS["message_size_limit"]


def test_a_scan_that_takes_too_long_defers_the_message() -> None:
    options = assignments(render("rspamd")[f"{BASE}/override.d/options.inc"])
    assert options["soft_reject_on_timeout"] is True
    assert options["task_timeout"] <= 10


def test_every_key_of_a_domain_signs() -> None:
    text = render("rspamd", mail=FULL_MAIL)[f"{BASE}/local.d/dkim_signing.conf"]
    assert re.findall(r'selector = "([^"]+)"; path = "([^"]+)"', text) == [
        ("s2026", "/var/lib/mailwright/dkim/elm.test.s2026.key"),
        ("mw-rsa", "/var/lib/mailwright/dkim/oak.test.mw-rsa.key"),
        ("mw-ed25519", "/var/lib/mailwright/dkim/oak.test.mw-ed25519.key"),
    ]
    assert "check_pubkey = true;" in text
    assert "allow_pubkey_mismatch = false;" in text


def test_no_private_key_is_in_the_configuration() -> None:
    assert not [path for path, text in render("rspamd", mail=FULL_MAIL).items() if "SECRET" in text]


def test_scores_of_domains_and_mailboxes_are_plain_data() -> None:
    text = render("rspamd", mail=FULL_MAIL)[f"{BASE}/mailwright/spam_settings.json"]
    assert json.loads(text) == FULL_MAIL["spam_settings"]


def test_overrides_win_over_our_own_settings() -> None:
    tree = render("rspamd", **FULL)
    options = assignments(tree[f"{BASE}/override.d/options.inc"])
    assert options["dns"]["timeout"] == 2
    assert options["dns"]["retransmits"] == 2
    assert options["local_addrs"] == ["127.0.0.1"]
    assert assignments(tree[f"{BASE}/override.d/worker-proxy.inc"])["count"] == 4
    overrides = sections(tree[f"{BASE}/mailwright/overrides.conf"])
    assert overrides == {
        "classifier": {"bayes": {"min_learns": 10}},
        "dkim_signing": {"sign_local": False},
        "group": {"headers": {"symbols": {"MISSING_MID": {"weight": 4.0}}}},
    }


def test_without_the_internet_nothing_is_fetched() -> None:
    tree = render("rspamd", rspamd_online_enabled=False)
    assert not [path for path, text in tree.items() if re.search(r"https?://", text)]
    assert "fuzzy_check" not in assignments(tree[f"{BASE}/override.d/options.inc"])["filters"]
    assert "fuzzy_check" in assignments(render("rspamd")[f"{BASE}/override.d/options.inc"])["filters"]


def test_text_of_an_override_stays_text() -> None:
    tree = render("rspamd", rspamd_overrides={"dkim_signing": {NASTY: NASTY}, "options": {"tempdir": NASTY}, NASTY: {}})
    assert assignments(tree[f"{BASE}/override.d/options.inc"])["tempdir"] == NASTY
    lines = [line for line in tree[f"{BASE}/mailwright/overrides.conf"].splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    assert all(line.startswith('"') for line in lines)


@pytest.mark.skipif(not shutil.which("rspamadm"), reason="needs rspamd")
@pytest.mark.parametrize("variables", [{}, {"mail": FULL_MAIL, **FULL}])
def test_rspamd_accepts_the_tree(tmp_path: Path, variables: dict[str, Any]) -> None:
    stage = tmp_path / "rspamd"
    shutil.copytree(BASE, stage)
    for path, text in render("rspamd", **variables).items():
        if path.startswith(BASE):
            target = stage / Path(path).relative_to(BASE)
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
    folders = [f"--var={name}={stage}" for name in ("CONFDIR", "LOCAL_CONFDIR")]
    subprocess.run(["rspamadm", *folders, "configtest", "-c", stage / "rspamd.conf"], check=True)
