"""The report of a run: what each task's result adds to it, and how it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.mailwright.report import SHOWN, add_result, is_changed, new_host, render

BASE = Path(__file__).resolve().parents[2] / "roles/base/tasks/main.yml"
STAGED: dict[str, Any] = {"added": [], "changed_names": [], "removed": [], "rewritten": []}


def mail_data(**changes: object) -> dict[str, Any]:
    return {"changed": True, "lists": {}, "diff": [], "files": [], **changes}


def test_mail_data_is_told_by_name_and_field_and_consequence() -> None:
    host = new_host()
    result = mail_data(
        lists={
            "mail_mailboxes": {
                **STAGED,
                "added": ["a@oak.test"],
                "changed_names": ["b@oak.test"],
                "removed": ["c@oak.test"],
                "to_archive": ["c@oak.test"],
                "to_restore": ["a@oak.test"],
            },
            "mail_domains": {**STAGED, "added": ["oak.test"], "to_reload": ["postfix"]},
        },
        diff=[{"prepared": "+ a@oak.test: password: ***\n~ b@oak.test: quota: 1 bytes → 2 bytes, password: *** (changed)\n- c@oak.test\n"}],
        files=["dovecot/users"],
    )
    add_result(host, "mail_directory", "Make the mail data live", result)
    text = render({"hosts": {"mail": host}, "problems": []})
    assert text.splitlines() == [
        "mail",
        "  domains     + oak.test",
        "  mailboxes   + a@oak.test",
        "  mailboxes   ~ b@oak.test: quota: 1 bytes → 2 bytes, password: *** (changed)",
        "  mailboxes   - c@oak.test",
        "  mail        - c@oak.test: to the archive",
        "  mail        + a@oak.test: back from the archive",
        "  services    ~ postfix.service: reload",
        "",
        "A run would change 1 of 1 hosts. Nothing was changed now.",
    ]


def test_files_that_are_put_right_are_told() -> None:
    host = new_host()
    add_result(host, "mail_directory", "", mail_data(lists={"mail_domains": STAGED}, files=["postfix/virtual_domains"]))
    assert host["files"]["written"] == ["postfix/virtual_domains"]


def test_of_two_actions_on_a_service_the_stronger_is_told() -> None:
    for actions in (["reload", "restart"], ["restart", "reload"]):
        host = new_host()
        for what in actions:
            add_result(
                host, "config_tree", "", {"changed": True, "changed_paths": ["/etc/x"], "removed_paths": [], "units": {"x.service": what}}
            )
        assert host["services"] == {"x.service": "restart"}


def test_what_no_rule_knows_is_told_by_its_name() -> None:
    host = new_host()
    add_result(host, "ansible.builtin.command", "Do something", {"changed": True, "censored": "hidden"})
    assert host["other"] == ["Do something"]


def test_packages_are_those_that_the_role_base_names() -> None:
    names = next(task for task in yaml.safe_load(BASE.read_text()) if "Packages to install" in str(task.get("ansible.builtin.debug")))
    message = names["ansible.builtin.debug"]["msg"].partition("{{")[0]
    host = new_host()
    add_result(host, "ansible.builtin.debug", names["name"], {"changed": True, "msg": f"{message}nginx postfix"})
    add_result(host, "ansible.builtin.debug", "Say something", {"changed": False, "msg": "hello: you"})
    add_result(host, "ansible.builtin.apt", "Install", {"changed": True})
    assert host == {**new_host(), "packages": ["nginx", "postfix"]}
    assert is_changed(host)


def test_nothing_to_change_is_one_sentence_and_a_problem_is_told() -> None:
    assert render({"hosts": {"mail": new_host()}, "problems": []}) == "A run would change nothing.\n"
    assert render({"hosts": {}, "problems": [("mail", "unreachable: no route")]}).startswith("mail: unreachable: no route\n")


def test_a_long_list_is_cut_in_the_text_only() -> None:
    host = new_host()
    names = [f"{number:05}@oak.test" for number in range(SHOWN + 5)]
    add_result(host, "mail_directory", "", mail_data(lists={"mail_aliases": {**STAGED, "added": names}}))
    assert host["aliases"]["added"] == names
    text = render({"hosts": {"mail": host}, "problems": []})
    assert "aliases     … and 5 more" in text
    assert len(text.splitlines()) == SHOWN + 4


def test_records_are_told_once_by_name_and_type() -> None:
    host = new_host()
    lines = [
        "- fir.test. 60 MX 10 old.test.",
        "+ fir.test. 60 MX 10 mail.test.",
        '+ fir.test. 60 TXT "v=spf1"',
        "- www.fir.test. 60 A 192.0.2.1",
    ]
    for _ in range(2):
        add_result(host, "dns_publish", "Publish the DNS records", {"changed": True, "lines": lines})
    assert host["dns"] == {"added": ["fir.test TXT"], "changed": ["fir.test MX"], "removed": ["www.fir.test A"]}
    assert host["other"] == []
    assert "dns         ~ fir.test MX" in render({"hosts": {"mail": host}, "problems": []})
