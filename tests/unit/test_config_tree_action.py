"""The controller side of config_tree: which templates become which files, and what an author is told of mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role's templates/ folder."""
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates"


@pytest.fixture
def run(role: Path, load_plugin: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the action up to the module call; gives the module's arguments, `files` parsed."""
    plugin = load_plugin("action_plugins/config_tree.py")

    def run_action(variables: dict[str, Any] | None = None, **arguments: object) -> dict[str, Any]:
        loader = DataLoader()
        task = SimpleNamespace(
            args={"name": "test", **arguments},
            async_val=0,
            check_mode=False,
            action="config_tree",
            _role=SimpleNamespace(_role_path=str(role.parent)),
        )
        action = plugin.ActionModule(
            task=task,
            connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)),
            play_context=SimpleNamespace(),
            loader=loader,
            templar=Templar(loader=loader, variables={}),
            shared_loader_obj=None,
        )
        sent: dict[str, Any] = {}

        def send(module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
            sent.update(module_args)
            return {"changed": True}

        monkeypatch.setattr(action, "_execute_module", send)
        result = action.run(task_vars=variables or {})
        return sent | {"files": json.loads(sent.get("files", "null")), "result": result}

    return run_action


def write(path: Path, text: str) -> None:
    """A template with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_template_becomes_the_file_of_its_path(role: Path, run: Run) -> None:
    write(role / "etc/a.conf", "name = {{ name }}\n")
    write(role / "etc/systemd/system/x@.service", "[Unit]\n")
    assert run({"name": "mail"})["files"] == {"/etc/a.conf": "name = mail\n", "/etc/systemd/system/x@.service": "[Unit]\n"}


def test_later_trees_win(role: Path, run: Run) -> None:
    write(role / "common/etc/a", "common a\n")
    write(role / "common/etc/b", "common b\n")
    write(role / "3.10/etc/b", "new b\n")
    write(role / "3.7/etc/b", "old b\n")
    assert run(trees=["common", "3.10"])["files"] == {"/etc/a": "common a\n", "/etc/b": "new b\n"}


def test_what_renders_to_white_space_is_not_written(role: Path, run: Run) -> None:
    write(role / "etc/a", "{% if wanted %}\nx\n{% endif %}\n\n")
    assert run({"wanted": False})["files"] == {}
    assert run({"wanted": True})["files"] == {"/etc/a": "x\n\n"}


def test_macros_are_imported_and_not_written(role: Path, run: Run) -> None:
    write(role / "common/macros.j2", "{% macro m(x) %}<{{ x }}>{% endmacro %}")
    write(role / "common/etc/a", "{% import 'macros.j2' as macros %}{{ macros.m(1) }}\n")
    write(role / "etc/notes~", "an editor's copy")
    assert run(trees=["common"])["files"] == {"/etc/a": "<1>\n"}


def test_every_file_can_say_who_wrote_it(role: Path, run: Run) -> None:
    write(role / "etc/a", "{% import 'header.j2' as header %}\n{{ header.hash() }}\n{{ header.html() }}\n# {{ mail_file_header }}\n")
    first, second, third = run()["files"]["/etc/a"].splitlines()
    assert first == third
    assert first.startswith("# Written by Mailwright.")
    assert second == f"<!-- {first[2:]} -->"


def test_backslashes_and_newlines_stay_as_written(role: Path, run: Run) -> None:
    text = "a \\1 \\\\ {{ '\\\\.' }}\n\n\n"
    write(role / "etc/a", text)
    assert run()["files"]["/etc/a"] == "a \\1 \\\\ \\.\n\n\n"


def test_templates_in_values_of_the_inventory_are_filled_in_and_untrusted_text_is_not(role: Path, run: Run) -> None:
    write(role / "etc/a", "{{ trusted }} {{ untrusted }}\n")
    variables = {"trusted": trust_as_template("{{ 1 + 1 }}"), "untrusted": "{{ 1 + 1 }}"}
    assert run(variables)["files"]["/etc/a"] == "2 {{ 1 + 1 }}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one\n{{ postfix_relayhots }}\n", ["etc/a", "line 2", "postfix_relayhots"]),
        ("one\n\n{{ mail.settings.nope }}\n", ["etc/a", "line 3", "nope"]),
        ("{% if %}\n", ["etc/a"]),
        ("{{ [1] }}", ["etc/a", "list"]),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_place(role: Path, run: Run, text: str, words: list[str]) -> None:
    write(role / "etc/a", text)
    with pytest.raises(AnsibleActionFail) as caught:
        run({"mail": {"settings": {}}})
    for word in words:
        assert word in str(caught.value)


def test_a_tree_that_leads_out_of_the_role_or_does_not_exist_is_refused(role: Path, run: Run) -> None:
    write(role.parent / "secrets/etc/a", "x\n")
    with pytest.raises(AnsibleActionFail, match="leads out"):
        run(trees=["../secrets"])
    with pytest.raises(AnsibleActionFail, match="no folder"):
        run(trees=["3.99"])
    write(role / "etc/b", "x\n")
    (role / "etc/link").symlink_to(role.parent / "secrets/etc/a")
    with pytest.raises(AnsibleActionFail, match="link leads out"):
        run()


def test_a_task_cannot_hand_over_files_itself(run: Run) -> None:
    with pytest.raises(AnsibleActionFail, match="not for tasks"):
        run(files="{}")


def test_a_host_that_keeps_the_seal_of_this_request_is_left_alone(role: Path, run: Run) -> None:
    write(role / "etc/a", "{{ x }}\n")
    seal = run({"x": "1"})["seal"]
    facts = {"tree_seals": {"test": seal}}
    kept = run({"x": "1", "ansible_facts": facts})
    assert kept["files"] is None
    assert not kept["result"]["changed"]
    for other in ({"x": "2"}, {"x": "1", "settle": 2}):
        done = run({"x": other.pop("x"), "ansible_facts": facts}, **other)
        assert done["files"] is not None
        assert done["result"]["ansible_facts"] == {"trees_changed": True}


def test_what_watches_files_is_compared_on_the_host_once_something_has_changed(role: Path, run: Run) -> None:
    write(role / "etc/a", "x\n")
    watch = {"watch": [{"path": "/etc/b"}]}
    seal, sealed = run()["seal"], run(**watch)["seal"]
    facts = {"tree_seals": {"test": sealed}}
    assert run({"ansible_facts": facts}, **watch)["files"] is None
    assert run({"ansible_facts": {**facts, "trees_changed": True}}, **watch)["files"] is not None
    assert run({"ansible_facts": {"tree_seals": {"test": seal}, "trees_changed": True}})["files"] is None


def test_documentation_and_arguments_of_the_module_agree(load_plugin: Callable[[str], ModuleType]) -> None:
    module = load_plugin("library/config_tree.py")
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]

    def compare(options: dict[str, Any], arguments: dict[str, Any]) -> None:
        assert options.keys() == arguments.keys()
        for name, option in options.items():
            argument = arguments[name]
            for key in ("type", "elements", "choices", "default", "required"):
                assert option.get(key) == argument.get(key), (name, key)
            compare(option.get("suboptions", {}), argument.get("options", {}))

    compare(documented, module.ARGUMENTS)
    for task in yaml.safe_load(module.EXAMPLES):
        assert task["config_tree"].keys() <= documented.keys()
