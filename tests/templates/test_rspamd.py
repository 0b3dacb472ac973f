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
    "legal_notes": {"elm.test": {"text": ["Elm"], "html": ["Elm"]}},
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


def test_the_web_interface_listens_for_this_host_and_asks_for_a_password() -> None:
    web = {"host": "filter.oak.test", "password_hash": "$2$one$two", "enable_password_hash": None, "networks": []}
    controller = assignments(render("rspamd", mail={"filter_web": web})[f"{BASE}/override.d/worker-controller.inc"])
    assert controller["bind_socket"][1:] == ["127.0.0.1:11334"]
    assert controller["secure_ip"] == []
    assert (controller["password"], controller["enable_password"]) == ("$2$one$two", "$2$none$none")


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


def test_keys_sign_that_are_published() -> None:
    text = render("rspamd", mail=FULL_MAIL)[f"{BASE}/local.d/dkim_signing.conf"]
    assert '.include(try=true) "/var/lib/mailwright/dkim/signing.conf"' in text
    assert "check_pubkey = true;" in text
    assert "allow_pubkey_mismatch = true;" in text


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


def test_marks_and_scores_are_plain_data_and_absent_when_not_declared() -> None:
    tree = render("rspamd")
    assert json.loads(tree[f"{BASE}/mailwright/marks.json"]) == json.loads(tree[f"{BASE}/mailwright/scores.json"]) == {}
    assert f"{BASE}/mailwright/scores.conf" not in tree
    declared = {
        **SETTINGS,
        "spam_marks": {"subject": NASTY, "status": False, "score": True, "level": False},
        "spam_scores": {"symbols": {"MISSING_TO": 0.5}, "groups": {"headers": 5.0}},
    }
    tree = render("rspamd", mail={"settings": declared})
    assert json.loads(tree[f"{BASE}/mailwright/marks.json"]) == {"subject": NASTY, "score": True}
    assert json.loads(tree[f"{BASE}/mailwright/scores.json"]) == {"MISSING_TO": 0.5}
    assert 'group "headers" { max_score = 5.0; }' in tree[f"{BASE}/mailwright/scores.conf"]


def test_reputation_is_kept_only_where_it_is_declared() -> None:
    assert f"{BASE}/local.d/reputation.conf" not in render("rspamd")
    tree = render("rspamd", mail={"settings": {**SETTINGS, "reputation": True}})
    assert tree[f"{BASE}/local.d/reputation.conf"].count("outbound = false;") == 3
    assert "IP_REPUTATION_SPAM { weight = 4.0; }" in tree[f"{BASE}/mailwright/scores.conf"]


def test_origins_are_known_only_where_they_are_declared() -> None:
    assert not [path for path, text in render("rspamd").items() if "origins" in path or "origins" in text or "location" in path]
    origins = {"countries": {"CN": 3.0, "NO": -1.0}, "networks": {"AS64500": 4.0}, "updates": True}
    tree = render("rspamd", mail={"settings": {**SETTINGS, "origins": origins}})
    assert json.loads(tree[f"{BASE}/mailwright/origins.json"]) == {"CN": 3, "NO": -1, "AS64500": 4}
    assert "mailwright/origins.lua" in tree[f"{BASE}/rspamd.local.lua"]
    assert "ExecStart=/usr/local/lib/mailwright/origins CN NO AS64500\n" in tree["/etc/systemd/system/mailwright-origins.service"]
    assert "PathChanged=/var/lib/location/database.db\n" in tree["/etc/systemd/system/mailwright-origins.path"]
    assert "ProtectSystem=strict" in tree["/etc/systemd/system/location-update.service.d/mailwright.conf"]
    subprocess.run(["sh", "-n"], input=tree["/usr/local/lib/mailwright/origins"], text=True, check=True)
    assert tree["/usr/local/lib/mailwright/origins"].startswith("#!/bin/sh\n")


def rules(text: str) -> dict[str, dict[str, str]]:
    """The rules of force_actions.conf."""
    found = re.findall(r"(?m)^  ([A-Z_]+) \{\n((?:    .*\n)+)  \}$", text)
    return {name: dict(re.findall(r"(?m)^    (\w+) = (.*);$", body)) for name, body in found}


def test_only_what_has_a_consequence_is_a_rule_and_a_trusted_forwarder_is_excepted() -> None:
    found = rules(render("rspamd")[f"{BASE}/local.d/force_actions.conf"])
    assert set(found) == {"DMARC_REJECT", "DMARC_QUARANTINE"}
    assert json.loads(found["DMARC_REJECT"]["action"]) == "reject"
    assert "DMARC" in found["DMARC_REJECT"]["message"]
    assert found["DMARC_QUARANTINE"]["least"] == "true"
    assert all(rule["expression"].endswith(' & !MAILWRIGHT_ARC_TRUSTED"') for rule in found.values())


def test_every_result_can_have_every_consequence() -> None:
    for action, name in (("junk", "add header"), ("defer", "soft reject"), ("reject", "reject")):
        chosen = {
            method: dict.fromkeys(results, action) if method != "arc" else results for method, results in SETTINGS["authentication"].items()
        }
        found = rules(render("rspamd", mail={"settings": {**SETTINGS, "authentication": chosen}})[f"{BASE}/local.d/force_actions.conf"])
        assert len(found) == 11
        assert {json.loads(rule["action"]) for rule in found.values()} == {name}
        assert {json.loads(rule.get("message", '"…, try again later"')).endswith("try again later") for rule in found.values()} == {
            action != "reject"
        }


def test_results_are_kept_and_reported_only_where_that_is_declared() -> None:
    tree = render("rspamd")
    assert "enabled = false;" in tree[f"{BASE}/local.d/dmarc.conf"]
    assert not [path for path in tree if "dmarc-reports" in path]
    reports = {"organisation": NASTY, "from": "reports@oak.test"}
    tree = render("rspamd", mail={"settings": {**SETTINGS, "dmarc_reports": reports}})
    text = tree[f"{BASE}/local.d/dmarc.conf"]
    assert "enabled = true;" in text
    assert json.loads(re.findall(r"(?m)^  org_name = (.*);$", text)[0]) == NASTY
    assert len([path for path in tree if "dmarc-reports" in path]) == 2


def test_trusted_sealers_are_plain_words() -> None:
    chosen = {**SETTINGS["authentication"], "arc": {"trusted_sealers": ["a.test", "b.test"]}}
    lua = render("rspamd", mail={"settings": {**SETTINGS, "authentication": chosen}})[f"{BASE}/rspamd.local.lua"]
    assert 'ipairs({"a.test", "b.test", })' in lua
    assert "ipairs({})" in render("rspamd")[f"{BASE}/rspamd.local.lua"]


def test_legal_notes_are_plain_data_and_nothing_is_loaded_without_them() -> None:
    tree = render("rspamd")
    assert not [path for path in tree if "legal_note" in path]
    assert "legal_note" not in tree[f"{BASE}/rspamd.local.lua"]
    tree = render("rspamd", mail={"domains": [{"name": "oak.test"}], "legal_notes": {"oak.test": {"text": [NASTY], "html": [NASTY]}}})
    data = json.loads(tree[f"{BASE}/mailwright/legal_notes.json"])
    assert data == {"own_domains": ["oak.test", "mail.oak.test"], "notes": {"oak.test": {"text": [NASTY], "html": [NASTY]}}}
    assert not [path for path, text in tree.items() if "/etc/shadow" in text and not path.endswith("legal_notes.json")]
    assert "legal_note.lua" in tree[f"{BASE}/rspamd.local.lua"]
