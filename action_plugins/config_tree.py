# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Controller side of `config_tree`: renders the templates of the task's role and sends them in one module call, where there is a need."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.datatag import native_type_name
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template

PROJECT = Path(__file__).resolve().parent.parent
# Ansible offers a project's module_utils to modules only; plugins are told where they are.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Needs the path above, hence E402.
from ansible.module_utils.mailwright.seal import code_version, seal  # noqa: E402

SHARED_TEMPLATES = PROJECT / "templates"
FILE_HEADER = trust_as_template("{% import 'header.j2' as header %}{{ header.text }}")


class ActionModule(ActionBase):
    """See library/config_tree.py for the documentation."""

    _requires_connection = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render, then run the module."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        arguments = dict(self._task.args)
        if "files" in arguments:
            raise AnsibleActionFail("config_tree: 'files' is not for tasks; put the file under the role's templates/")
        if self._task._role is None:
            raise AnsibleActionFail("config_tree: only for tasks of a role, whose templates/ it renders")
        root = Path(self._task._role._role_path) / "templates"
        trees = arguments.get("trees", ["."])
        if isinstance(trees, str):
            trees = [trees]
        sources = find_templates(root, [str(tree) for tree in trees])
        # An imported macro file is looked for where the file of the same name in a later tree would win.
        searchpath = [str(root / str(tree)) for tree in reversed(trees)] + [str(root), str(SHARED_TEMPLATES)]
        templar = self._templar.copy_with_new_env(
            searchpath=list(dict.fromkeys(searchpath)),
            available_variables=variables,
        )
        templar.available_variables = {"mail_file_header": str(templar.template(FILE_HEADER)), **variables}
        files = {}
        for path, source in sources.items():
            text = self._render(templar, source)
            if text.strip():
                files[path] = text
        # What a role has any number of: texts of the inventory, each a file, that no template is for.
        files.update({str(path): str(text) for path, text in (arguments.pop("texts", None) or {}).items()})
        arguments["files"] = json.dumps(files)
        arguments["seal"] = seal(arguments, code_version(PROJECT))
        facts = variables.get("ansible_facts", {})
        # What it watches may be another tree's, or a certificate, that changed in this run.
        moved = bool(arguments.get("watch")) and facts.get("trees_changed", False)
        if facts.get("tree_seals", {}).get(arguments.get("name")) == arguments["seal"] and not moved:
            return {**result, "changed": False, "changed_paths": [], "removed_paths": [], "units": {}, "notes": []}
        result.update(self._execute_module(module_name="config_tree", module_args=arguments, task_vars=variables))
        if result.get("changed"):
            result["ansible_facts"] = {"trees_changed": True}
        return result

    def _render(self, templar: Templar, source: Path) -> str:
        """The template's text with everything filled in, as a plain string."""
        try:
            template = trust_as_template(self._loader.get_text_file_contents(str(source)))
            text = templar.template(template, escape_backslashes=False)
        except AnsibleError as error:
            raise AnsibleActionFail(f"template {place_of(source, error.message)}: {error.message}", obj=error.obj) from error
        except (OSError, UnicodeError) as error:
            raise AnsibleActionFail(f"template {source}: {error}") from error
        if text is None:
            return ""
        if not isinstance(text, str):
            raise AnsibleActionFail(f"template {source}: renders to a {native_type_name(text)}, not to text")
        return str(text)


def place_of(source: Path, message: str) -> str:
    """The template and, where the message quotes a name that occurs in it, the line: the engine does not tell which."""
    lines = source.read_text(errors="replace").splitlines()
    for name in re.findall(r"'([A-Za-z_]\w*)' is undefined|attribute '([A-Za-z_]\w*)'", message):
        for number, line in enumerate(lines, 1):
            if re.search(rf"\b{name[0] or name[1]}\b", line):
                return f"{source}, line {number}"
    return str(source)


def find_templates(root: Path, trees: list[str]) -> dict[str, Path]:
    """{path on the host: template}, of every file in the trees under `root`, later trees winning; `*.j2` are macros.

    Raises AnsibleActionFail for a tree that does not exist or holds nothing, and for anything that leads out of `root`.
    """
    found: dict[str, Path] = {}
    for tree in trees:
        top = root / tree
        if not top.resolve().is_relative_to(root.resolve()):
            raise AnsibleActionFail(f"config_tree: tree {tree!r} leads out of {root}")
        if not top.is_dir():
            raise AnsibleActionFail(f"config_tree: there is no folder {top}")
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                source = Path(folder) / name
                if not source.resolve().is_relative_to(root.resolve()):
                    raise AnsibleActionFail(f"config_tree: {source} leads out of {root}")
                if not name.endswith((".j2", "~", ".swp")):
                    found[f"/{source.relative_to(top)}"] = source
    return dict(sorted(found.items()))
