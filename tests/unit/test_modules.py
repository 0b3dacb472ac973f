"""Entry files of the mail data's modules: what Ansible gets back, and that no secret is in it."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.mailwright import directory, dkim, dkim_step
from ansible.module_utils.mailwright.archive import Archive
from ansible.module_utils.testing import patch_module_args

NAMES = ["mail_domains", "mail_mailboxes", "mail_aliases", "mail_maps", "mail_activate", "dkim_keys"]
DOCUMENTED = [*NAMES, "dns_check", "dkim_signing", "mail_directory", "mail_generations"]
SECRET = "geheim-4711"
ROWS: dict[str, dict[str, Any]] = {
    "mail_domains": {"domains": [{"name": "oak.test"}]},
    "mail_mailboxes": {
        "dovecot_version": "2.4",
        "mailboxes": [
            {
                "address": f"{SECRET}@oak.test" if index else "alice@oak.test",
                "password": SECRET,
                "password_hash": None,
                "password_update": "always",
                "quota_bytes": 0,
                "denied_protocols": [],
                "enabled": True,
                "junk_filing": True,
                "extras": {},
            }
            for index in range(2)
        ],
    },
    "mail_aliases": {"aliases": [{"address": "sales@oak.test", "to": ["alice@oak.test"]}]},
    "mail_maps": {
        "maps": {"transports": [{"key": "a.example", "value": "smtp:[b.example]"}]},
        "patterns": [],
        "passwords": [{"key": "[b.example]:587", "value": f"us:{SECRET}"}],
    },
    "mail_activate": {},
    "mail_generations": {},
    "dkim_keys": {
        "keys": [
            {"domain": "oak.test", "selector": "mw-ed25519", "algorithm": "ed25519", "bits": None, "private_key": None, "shared": False}
        ]
    },
}


LIMITS = {"removal_limit": 3, "removal_percent": 10, "removals_allowed": False}
ACCOUNT = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
LISTS = {
    "mail_mailboxes": {**ROWS["mail_mailboxes"], **LIMITS},
    "mail_domains": {**ROWS["mail_domains"], **LIMITS},
    "mail_aliases": ROWS["mail_aliases"],
    "mail_maps": ROWS["mail_maps"],
}
ROWS["mail_directory"] = {"lists": LISTS, "seals": {"salt": "5a17", "wanted": {name: f"seal of {name}" for name in LISTS}, "kept": {}}}


@pytest.fixture
def run(
    load_plugin: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Run a module as Ansible does, below a temporary root; what it prints, as a mapping."""
    real = directory.Directory

    @contextlib.contextmanager
    def unlocked() -> Iterator[None]:
        yield

    def build(source: Path, _configuration: Path) -> None:
        source.with_name(f"{source.name}.lmdb").write_text(source.read_text())

    def here(root: Path) -> directory.Directory:
        return real(
            root,
            build=build,
            reload=lambda _: False,
            lock=unlocked,
            group=lambda _: os.getgid(),
            archive=Archive(tmp_path / "vmail"),
            end=lambda _: None,
            drain=lambda _: None,
            await_dovecot=lambda newcomer: None,
        )

    def call(name: str, check_mode: bool = False, patches: dict[str, object] | None = None, **changes: object) -> dict[str, Any]:
        module = load_plugin(f"library/{name}.py")
        for attribute, value in (patches or {}).items():
            monkeypatch.setattr(module, attribute, value)
        if hasattr(module, "Directory"):
            monkeypatch.setattr(module, "Directory", here)
        else:
            changes = {**ACCOUNT, **changes}
        monkeypatch.setitem(dkim.apply.__kwdefaults__, "lock", unlocked)
        arguments = {**ROWS[name], "path": str(tmp_path / ("dkim" if name == "dkim_keys" else "mailwright")), **changes}
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode, "_ansible_diff": True}), pytest.raises(SystemExit):
            module.main()
        output = capsys.readouterr()
        assert output.err == ""
        return {**json.loads(output.out), "printed": output.out}

    return call


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_module_documents_exactly_its_arguments(load_plugin: Callable[[str], ModuleType], name: str) -> None:
    module = load_plugin(f"library/{name}.py")
    documented = yaml.safe_load(module.DOCUMENTATION)
    assert documented["module"] == name
    options = {key: {k: v for k, v in spec.items() if k != "description"} for key, spec in documented["options"].items()}
    assert options == {key: {k: v for k, v in spec.items() if k != "no_log"} for key, spec in module.ARGUMENTS.items()}
    assert yaml.safe_load(module.EXAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_returns_what_it_documents(
    load_plugin: Callable[[str], ModuleType], run: Callable[..., dict[str, Any]], name: str
) -> None:
    documented = set(yaml.safe_load(load_plugin(f"library/{name}.py").RETURN))
    assert set(run(name)) - {"changed", "diff", "invocation", "printed"} == documented


@pytest.mark.parametrize("name", NAMES)
def test_check_mode_returns_the_same_and_writes_nothing(run: Callable[..., dict[str, Any]], tmp_path: Path, name: str) -> None:
    checked = run(name, check_mode=True)
    assert list(tmp_path.iterdir()) == []
    done = run(name)
    assert checked["changed"] is done["changed"] is True
    assert all(checked[key] == done[key] for key in ("added", "changed_names", "removed") if key in done)


def test_a_second_run_reports_no_change(run: Callable[..., dict[str, Any]]) -> None:
    assert {name: run(name)["changed"] for name in NAMES} == dict.fromkeys(NAMES, True)
    assert {name: run(name)["changed"] for name in NAMES} == dict.fromkeys(NAMES, False)
    assert {name: run(name, check_mode=True)["changed"] for name in NAMES} == dict.fromkeys(NAMES, False)


def test_no_password_is_printed_and_an_address_like_one_is_not_blanked(run: Callable[..., dict[str, Any]]) -> None:
    done = run("mail_mailboxes")
    assert done["added"] == ["alice@oak.test", f"{SECRET}@oak.test"]
    assert SECRET not in done["printed"].replace(f"{SECRET}@oak.test", "")
    assert "argon2id" not in done["printed"]
    assert "password: ***" in done["diff"]["prepared"]
    activated = run("mail_activate")
    assert "password: ***" in activated["diff"]["prepared"]
    assert "argon2id" not in activated["printed"]


def test_the_password_of_a_smarthost_is_root_s_alone_and_printed_nowhere(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    done, activated = run("mail_maps"), run("mail_activate")
    assert "+ relay_passwords [b.example]:587: password: ***" in done["diff"]["prepared"]
    assert SECRET not in done["printed"] + activated["printed"]
    found = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]
    assert {path.name for path in found} == {"relay_passwords", "relay_passwords.lmdb"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    changed = run("mail_maps", passwords=[{"key": "[b.example]:587", "value": f"us:{SECRET}2"}])
    assert changed["changed_names"] == ["relay_passwords [b.example]:587"]
    assert SECRET not in changed["printed"]
    wrong = run("mail_maps", passwords=[{"key": "[b.example]:587", "value": f"us:{SECRET}\n"}])
    assert wrong["msg"] == "passwords[0]: value: cannot be a value of a lookup table"
    assert SECRET not in wrong["printed"]


def test_a_wrong_row_fails_with_its_index_and_without_its_password(run: Callable[..., dict[str, Any]]) -> None:
    rows = ROWS["mail_mailboxes"]["mailboxes"]
    done = run("mail_mailboxes", mailboxes=[rows[0], {**rows[0], "password": SECRET}])
    assert done["failed"]
    assert done["msg"] == "mailboxes[0] and mailboxes[1] are both alice@oak.test"
    assert SECRET not in done["printed"]


def test_a_bare_host_without_cryptography_passes_check_mode_only(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dkim_step, "MISSING", "python3-cryptography is needed")
    assert run("dkim_keys", check_mode=True)["added"] == ["mw-ed25519._domainkey.oak.test"]
    assert "cryptography" in run("dkim_keys")["msg"]


def test_going_back_returns_what_it_documents(load_plugin: Callable[[str], ModuleType], run: Callable[..., dict[str, Any]]) -> None:
    documented = set(yaml.safe_load(load_plugin("library/mail_generations.py").RETURN))
    assert set(run("mail_generations")) - {"changed", "invocation", "printed"} < documented
    for name in NAMES:
        run(name)
    assert "no former generation" in run("mail_generations", live="previous")["msg"]
    assert "there is no generation 7" in run("mail_generations", live="7")["msg"]
    assert "number or previous" in run("mail_generations", live="x")["msg"]
    run("mail_mailboxes", mailboxes=ROWS["mail_mailboxes"]["mailboxes"][:1])
    run("mail_activate")
    checked = run("mail_generations", live="previous", check_mode=True)
    assert checked["summary"] == {"mail_mailboxes": {"added": [f"{SECRET}@oak.test"], "changed_names": [], "removed": []}}
    done = run("mail_generations", live="previous")
    assert set(done) - {"changed", "diff", "invocation", "printed"} == documented
    assert checked["summary"] == done["summary"]
    assert done["report"][0].startswith("generation 3, ")
    assert "(live, again as 1): mailboxes + " in done["report"][0]
    assert "argon2id" not in done["printed"]
    assert "password: ***" in done["diff"]["prepared"]


def test_several_lists_go_live_in_one_round_trip(
    load_plugin: Callable[[str], ModuleType], run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    checked = run("mail_directory", check_mode=True)
    assert list(tmp_path.iterdir()) == []
    done = run("mail_directory")
    assert set(done) - {"changed", "invocation", "printed"} == set(yaml.safe_load(load_plugin("library/mail_directory.py").RETURN))
    assert checked["changed"] is done["changed"] is True
    assert {label: found["added"] for label, found in checked["lists"].items()} == {
        label: found["added"] for label, found in done["lists"].items()
    }
    assert done["activation"]["generation"] == 1
    assert SECRET not in done["printed"].replace(f"{SECRET}@oak.test", "")
    assert (tmp_path / "mailwright/postfix/virtual_domains").read_text() == "oak.test OK\n"
    seals = json.loads((tmp_path / "mailwright/directory/seals.json").read_text())
    assert seals["lists"]["mail_maps"]["seal"] == "seal of mail_maps"
    # What each module does by itself is what they do together.
    assert {name: run(name)["changed"] for name in (*LISTS, "mail_activate")} == dict.fromkeys((*LISTS, "mail_activate"), False)
    assert not run("mail_directory")["changed"]


def test_keys_are_made_along_with_the_lists_unless_these_are_refused(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = [{**ROWS["dkim_keys"]["keys"][0], "selector": f"s{number}"} for number in range(6)]
    lists = {**LISTS, "dkim_keys": {"keys": keys, **ACCOUNT}}
    seals = {"salt": "", "wanted": dict.fromkeys(lists, "seal"), "kept": {}}
    names = [f"s{number}._domainkey.oak.test" for number in range(6)]
    assert run("mail_directory", lists=lists, seals=seals, check_mode=True)["lists"]["dkim_keys"]["added"] == names
    assert list(tmp_path.iterdir()) == []
    wrong = {**lists, "mail_aliases": {"aliases": [{"address": "x y", "to": []}]}}
    assert run("mail_directory", lists=wrong, seals=seals)["failed"]
    assert not (tmp_path / "mailwright/dkim").exists()
    done = run("mail_directory", lists=lists, seals=seals)
    assert done["lists"]["dkim_keys"]["prepared"] == names
    assert len(list((tmp_path / "mailwright/dkim").glob("*.key"))) == 6
    recorded = json.loads((tmp_path / "mailwright/directory/seals.json").read_text())["lists"]["dkim_keys"]
    assert recorded == {"seal": "seal", "digest": done["lists"]["dkim_keys"]["digest"]}
    assert not run("mail_directory", lists=lists, seals=seals)["changed"]


def test_what_another_run_staged_does_not_go_live_in_place_of_a_kept_list(run: Callable[..., dict[str, Any]]) -> None:
    first = run("mail_directory")
    kept = {"mail_domains": {"seal": "s", "digest": first["lists"]["mail_domains"]["digest"]}}
    run("mail_domains", domains=[{"name": "oak.test"}, {"name": "elm.test"}])
    done = run("mail_directory", lists={"mail_aliases": {"aliases": []}}, seals={"salt": "", "wanted": {"mail_aliases": ""}, "kept": kept})
    assert "another run changed the mail data" in done["msg"]


@pytest.mark.parametrize(("clear", "same"), [("", True), ("mailbox", False), ("smarthost", False)])
def test_a_seal_tells_a_password_only_as_slowly_as_its_hash(load_plugin: Callable[[str], ModuleType], clear: str, same: bool) -> None:
    action = load_plugin("action_plugins/mail_directory.py").ActionModule.__new__(
        load_plugin("action_plugins/mail_directory.py").ActionModule
    )
    rows = {
        "dkim_keys": "[]",
        "domains": "[]",
        "aliases": "[]",
        "maps": "{}",
        "alias_patterns": "[]",
        "mailboxes": json.dumps([{"address": 'a"password": "x', "password": "x" if clear == "mailbox" else None}]),
        "relay_passwords": json.dumps([{"key": "k", "value": "v"}] if clear == "smarthost" else []),
    }
    one, other = (action._seals(rows, "2.4", salt) for salt in ("00", "01"))
    assert (one == other) is same
