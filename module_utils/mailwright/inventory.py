# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Controller side: reads the inventory through Ansible, so that vaults, references and line numbers work.

The one place that knows ansible-core's value tags (`Origin`, `VaultedValue`), which are internal to it: pinned in pyproject.toml,
and covered by tests/unit/test_preflight.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible._internal._datatag._tags import Origin, VaultedValue
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.parsing.vault import AnsibleVaultError, EncryptedString

from .errors import Invalid, Problem
from .model import DomainFile

__all__ = ["Source", "load_domain_files"]

NO_VAULT_PASSWORD = "cannot be decrypted"


def _display_path(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


@functools.lru_cache(maxsize=1024)
def _is_encrypted(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(14) == b"$ANSIBLE_VAULT"
    except OSError:
        return False


class Source:
    """Plain values and lines of one host's inventory. `template` is Ansible's Templar.template for that host."""

    def __init__(self, template: Callable[[Any], Any]) -> None:
        self._template = template

    def resolve(self, value: object) -> Any:
        """A plain string, number, date, boolean or None; containers are returned as they are. Raises `Invalid`."""
        if isinstance(value, str):
            if "{{" in value or "{%" in value or "{#" in value:
                return self.untag(self._evaluate(value))
            return str(value)
        return self.untag(value)

    def _evaluate(self, value: str) -> Any:
        try:
            return self._template(value)
        except AnsibleUndefinedVariable as error:
            raise Invalid(_first_line(error), "define it, or correct its name") from None
        except AnsibleVaultError as error:
            raise _vault_problem(error) from None
        except AnsibleError as error:
            raise Invalid(_first_line(error)) from None

    def untag(self, value: object) -> Any:
        if isinstance(value, EncryptedString):
            try:
                return str(value)
            except AnsibleError as error:
                raise _vault_problem(error) from None
        if isinstance(value, str):
            return str(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        return value

    def locate(self, value: object) -> str | None:
        origin = Origin.get_tag(value)
        if origin is None or origin.path is None:
            return None
        return f"{_display_path(origin.path)}:{origin.line_num}" if origin.line_num else _display_path(origin.path)

    def in_clear(self, raw: object) -> bool:
        """Whether the text of a password stands in an unencrypted file, directly or behind a reference."""
        value: object = raw
        if isinstance(raw, str) and "{{" in raw:
            value = self._evaluate(raw)
            if Origin.get_tag(value) == Origin.get_tag(raw):
                # Put together by the expression, so it is not the text of any one place.
                return False
        if isinstance(value, EncryptedString) or VaultedValue.is_tagged_on(value):
            return False
        origin = Origin.get_tag(value)
        return origin is not None and origin.path is not None and not _is_encrypted(origin.path)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _vault_problem(error: BaseException) -> Invalid:
    return Invalid(f"{NO_VAULT_PASSWORD} ({_first_line(error)})", "give the vault's password: --vault-password-file or --ask-vault-pass")


def load_domain_files(loader: Any, directory: str) -> tuple[list[DomainFile], list[Problem]]:
    """The files *.yml and *.yaml of one `domains` directory in the order of their names, through Ansible's DataLoader."""
    files: list[DomainFile] = []
    problems: list[Problem] = []
    folder = Path(directory)
    if not folder.is_dir():
        return files, problems
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".yml", ".yaml") or path.name.startswith("."):
            continue
        where = _display_path(str(path))
        try:
            content = loader.load_from_file(str(path.absolute()), cache="none", unsafe=True, trusted_as_template=True)
        except AnsibleVaultError as error:
            vault = _vault_problem(error)
            problems.append(Problem(where, "", "", vault.reason, vault.cure))
        except AnsibleError as error:
            origin = Origin.get_tag(error.obj)
            line = f":{origin.line_num}" if origin is not None and origin.line_num else ""
            problems.append(Problem(f"{where}{line}", "", "", _first_line(error)))
        else:
            files.append(DomainFile(content, where))
    return files, problems


def mail_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name.startswith("mail_")}
