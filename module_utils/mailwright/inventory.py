# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Controller side: reads the inventory through Ansible, so that vaults, references and line numbers work.

The one place that knows ansible-core's value tags (`Origin`, `VaultedValue`), which are internal to it: ansible-core is pinned,
and tests/unit/test_preflight.py covers what is used.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import yaml

# ansible-core ships no type information, hence the ignores.
from ansible._internal._datatag._tags import Origin, VaultedValue  # type: ignore[import-untyped]
from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.parsing.vault import AnsibleVaultError, EncryptedString  # type: ignore[import-untyped]

from .builder import DomainFile
from .errors import Invalid, Problem
from .parse_cache import MISSING, ParseCache
from .reader import Plain

__all__ = ["Inventory", "Loader", "fold_vault_problems", "load_roles", "sort_problems", "variable_problems", "without_garbage_collection"]

# In C where there is libyaml.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Files that are worth further processes.
_MANY = 50
_UNDECRYPTED = "cannot be decrypted"


class Loader(Protocol):
    """What is used of Ansible's DataLoader."""

    def load_from_file(self, file_name: str, cache: str, unsafe: bool, *, trusted_as_template: bool) -> Plain: ...

    def get_text_file_contents(self, file_name: str) -> str: ...


class Group(Protocol):
    """What is used of Ansible's Group."""

    name: str

    def get_ancestors(self) -> set[Any]: ...


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Loading makes millions of objects and no garbage: looking for some doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _shown_path(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


@functools.lru_cache(maxsize=1024)
def _is_encrypted(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(14) == b"$ANSIBLE_VAULT"
    except OSError:
        return False


class Inventory:
    """Plain values and lines of one host's inventory. `template` is `Templar.template` with that host's variables."""

    def __init__(self, loader: Loader, template: Callable[[Plain], Plain]) -> None:
        self._loader = loader
        self._template = template
        self.problems: list[Problem] = []

    def resolve(self, value: object) -> Plain:
        """A plain string, number, date, boolean or None; containers are returned as they are. Raises `Invalid`.

        Only text that Ansible trusts as a template is evaluated, once: not `!unsafe`, not vaulted text, not results.
        """
        if isinstance(value, str):
            if "{{" in value or "{%" in value or "{#" in value:
                return self._untag(self._evaluate(value))
            return str(value)
        return self._untag(value)

    def _evaluate(self, value: str) -> Plain:
        try:
            return self._template(value)
        except AnsibleError as error:
            raise _invalid(error) from None

    def _untag(self, value: object) -> Plain:
        if isinstance(value, EncryptedString):
            try:
                return str(value)
            except AnsibleError as error:
                raise _invalid(error) from None
        if isinstance(value, str):
            return str(value)
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        return float(value) if isinstance(value, float) else value

    def locate(self, value: object) -> str | None:
        """FILE:LINE of a value, the path relative to the current directory where that is shorter."""
        origin = Origin.get_tag(value)
        if origin is None or origin.path is None:
            return None
        return _shown_path(origin.path) + (f":{origin.line_num}" if origin.line_num else "")

    def in_clear(self, raw: object) -> bool:
        """Whether the text of a password stands in an unencrypted file, directly or behind a reference."""
        value = raw
        if isinstance(raw, str) and "{{" in raw:
            value = self._evaluate(raw)
            if Origin.get_tag(value) == Origin.get_tag(raw):
                # Put together by the expression, so it is not the text of any one place.
                return False
        if isinstance(value, EncryptedString) or VaultedValue.is_tagged_on(value):
            return False
        origin = Origin.get_tag(value)
        return origin is not None and origin.path is not None and not _is_encrypted(origin.path)

    def domain_files(self, directory: Path, messages: str = "") -> list[DomainFile]:
        """The files of a `domains` directory in the order of their names; what cannot be read goes to `problems`.

        Files of mere text come without the line of each value, in a quarter of the time, but for those that `messages` name.
        """
        files: list[DomainFile] = []
        if not directory.is_dir():
            return files
        cache = ParseCache(f"{yaml.__version__} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}")
        if not messages:
            _parse_ahead(sorted(directory.iterdir()), cache)
        for path in sorted(directory.iterdir()):
            if path.name.startswith((".", "README")) or path.name.endswith("~"):
                continue
            where = _shown_path(str(path.absolute()))
            if path.suffix not in (".yml", ".yaml"):
                self.problems.append(Problem(where, "", "", "not a domain file", "name it DOMAIN.yml, or move it away"))
                continue
            found = _problems_of_text(path, where)
            content = None if found or where in messages else _mere_text(path, cache)
            if content is not None:
                files.append(DomainFile(content, where))
            elif not found:
                try:
                    content = self._loader.load_from_file(str(path.absolute()), cache="none", unsafe=True, trusted_as_template=True)
                    files.append(DomainFile(content, where))
                except AnsibleVaultError as error:
                    invalid = _invalid(error)
                    found = [Problem(where, "", "", invalid.reason, invalid.cure)]
                except AnsibleError as error:
                    with suppress(yaml.YAMLError, AnsibleError, RecursionError):
                        found = _duplicate_keys(str(self._loader.get_text_file_contents(str(path.absolute()))), where)
                    found = found or [_unreadable(error, where)]
            self.problems += found
        return files

    def competing_groups(self, directory: Path, groups: Sequence[Group], variables: Mapping[str, Plain], known: Iterable[str]) -> list[str]:
        """Warnings about variables that two groups set, neither of which is inside the other: Ansible takes one silently."""
        found: dict[str, list[tuple[Group, Plain]]] = {}
        for group in groups:
            for path in _group_files(directory, group.name):
                try:
                    content = self._loader.load_from_file(str(path), cache="all", unsafe=True, trusted_as_template=True)
                except AnsibleError:
                    # Ansible has read or refused it already.
                    continue
                if isinstance(content, Mapping):
                    for name in content:
                        found.setdefault(str(name), []).append((group, content[name]))
        warnings: list[str] = []
        for name in known:
            settings = found.get(name, [])
            clash = [
                (first, second)
                for index, (first, value) in enumerate(settings)
                for second, other in settings[index + 1 :]
                if value != other and not _related(first, second)
            ]
            if clash:
                first, second = clash[0]
                winner = self.locate(variables.get(name)) or "one of them"
                warnings.append(f"{name} is set for the groups {first.name} and {second.name} of this host; {winner} won")
        return warnings


def variable_problems(directory: Path) -> list[Problem]:
    """What Ansible cannot read in the group_vars and host_vars beside an inventory. It stops there, too, but does not say where."""
    problems: list[Problem] = []
    for path in sorted(path for name in ("group_vars", "host_vars") for path in (directory / name).rglob("*") if path.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if hidden or path.suffix not in ("", ".yml", ".yaml", ".json") or path.name.endswith("~") or _is_encrypted(str(path)):
            continue
        where = _shown_path(str(path.absolute()))
        try:
            problems += _duplicate_keys(path.read_text(encoding="utf-8-sig"), where)
        except UnicodeDecodeError as error:
            problems.append(_not_utf8(error, where))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{where}:{mark.line + 1}" if mark else where
            problems.append(Problem(place, "", "", f"not YAML: {error.problem or error.context}"))
        except (yaml.YAMLError, RecursionError, OSError) as error:
            problems.append(Problem(where, "", "", f"cannot be read: {_first_line(error)}"))
    return problems


def _problems_of_text(path: Path, where: str) -> list[Problem]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        return [Problem(where, "", "", f"cannot be read ({error.strerror})")]
    if raw.startswith(b"\xef\xbb\xbf"):
        return [Problem(f"{where}:1", "", "", "byte order mark at offset 0", "save it as UTF-8 without one")]
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return [_not_utf8(error, where)]
    return []


def _not_utf8(error: UnicodeDecodeError, where: str) -> Problem:
    line = error.object.count(b"\n", 0, error.start) + 1
    reason = f"not UTF-8: octet 0x{error.object[error.start]:02x} at offset {error.start}"
    return Problem(f"{where}:{line}", "", "", reason, "save it as UTF-8")


def _duplicate_keys(text: str, where: str) -> list[Problem]:
    """Every key that a mapping has twice, with both lines; Ansible stops at the first. Raises YAMLError, RecursionError."""
    problems: list[Problem] = []
    waiting: list[yaml.Node | None] = [yaml.compose(text, Loader=_YAML)]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                waiting.append(value)
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                    reason = f"duplicate of the key in line {lines[key.value]}"
                    problems.append(Problem(f"{where}:{line}", key.value, "", reason, "remove one"))
    return problems


class _NotMereText(Exception):
    """The file has something that only Ansible can read."""


def _mere_text(path: Path, cache: ParseCache) -> Plain:
    """What a YAML file holds, or None where it needs Ansible: a vault, an expression, a password in clear, an alias, any mistake."""
    text = path.read_text(encoding="utf-8")
    if any(mark in text for mark in ("{{", "{%", "{#", "*", "!", "$ANSIBLE_VAULT", "password:", 'password":')):
        return None
    if (kept := cache.get(path, text)) is not MISSING:
        return kept
    try:
        root = yaml.compose(text, Loader=_YAML)
        content = None if root is None else _plain_node(root, yaml.constructor.SafeConstructor())
    except (yaml.YAMLError, _NotMereText, RecursionError, ValueError):
        return None
    cache.put(path, text, content)
    return content


def _parse_ahead(paths: Sequence[Path], cache: ParseCache) -> None:
    """Fill the cache with what is new in many files, on all cores: to parse is most of the first check of a large inventory."""
    new = [path for path in paths if path.suffix in (".yml", ".yaml") and not cache.knows(path)]
    cores = len(os.sched_getaffinity(0))
    if len(new) < _MANY or cores < 2 or not cache.usable():
        return
    children = []
    for first in range(cores):
        if (child := os.fork()) == 0:
            # What is wrong with a file is told where it is read again.
            with suppress(BaseException):
                for path in new[first::cores]:
                    with suppress(OSError, UnicodeError):
                        _mere_text(path, cache)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _plain_node(node: yaml.Node, constructor: yaml.constructor.SafeConstructor) -> Plain:
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Plain] = {}
        for key, value in node.value:
            # Whether a password stands in clear is asked of the value's origin.
            if key.tag != "tag:yaml.org,2002:str" or key.value in values or key.value == "password":
                raise _NotMereText
            values[key.value] = _plain_node(value, constructor)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain_node(value, constructor) for value in node.value]
    return node.value if node.tag == "tag:yaml.org,2002:str" else constructor.construct_object(node)


def _group_files(directory: Path, group: str) -> list[Path]:
    """What Ansible reads for a group: the first of these names that exists, a directory whole."""
    for suffix in ("", ".yml", ".yaml", ".json"):
        path = directory / "group_vars" / f"{group}{suffix}"
        if path.is_dir():
            return [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        if path.is_file():
            return [path]
    return []


def _related(first: Group, second: Group) -> bool:
    return first is second or first in second.get_ancestors() or second in first.get_ancestors()


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _invalid(error: AnsibleError) -> Invalid:
    vault = re.search(r"undecryptable variable: (.*)", str(error))
    if vault is not None or isinstance(error, AnsibleVaultError):
        cause = vault[1].rstrip(".") if vault is not None else _first_line(error)
        return Invalid(f"{_UNDECRYPTED} ({cause})", "give the vault's password: --vault-password-file or --ask-vault-pass")
    return Invalid(_first_line(error), "define it, or correct its name" if "is undefined" in str(error) else "")


def _unreadable(error: AnsibleError, where: str) -> Problem:
    origin = error.obj if isinstance(error.obj, Origin) else Origin.get_tag(error.obj)
    line = f":{origin.line_num}" if origin is not None and origin.line_num else ""
    return Problem(f"{where}{line}", "", "", _first_line(error))


def fold_vault_problems(problems: Sequence[Problem]) -> list[Problem]:
    """One line for all values that need the same missing password."""
    folded: list[Problem] = []
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    for problem in problems:
        if problem.reason.startswith(_UNDECRYPTED):
            counts[problem.reason] = counts.get(problem.reason, 0) + 1
            if counts[problem.reason] > 1:
                continue
            places[problem.reason] = len(folded)
        folded.append(problem)
    for reason, count in counts.items():
        if count > 1:
            first = folded[places[reason]]
            folded[places[reason]] = dataclasses.replace(first, reason=f"{reason}, nor can {count - 1} more values")
    return folded


def sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    """In the order of files and lines, each once."""

    def place(problem: Problem) -> tuple[str, int]:
        path, _, line = problem.where.rpartition(":")
        return (path, int(line)) if line.isdigit() else (problem.where, 0)

    return sorted(dict.fromkeys(problems), key=place)


def load_roles(directory: Path) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The options of every role's meta/argument_specs.yml, all entry points together."""
    roles: dict[str, dict[str, Mapping[str, Any]]] = {}
    for path in sorted(directory.glob("*/meta/argument_specs.yml")):
        with path.open(encoding="utf-8") as file:
            specs = (yaml.load(file, Loader=_YAML) or {}).get("argument_specs") or {}  # noqa: S506 -- a safe one
        options = roles.setdefault(path.parent.parent.name, {})
        for entry_point in specs.values():
            options.update(entry_point.get("options") or {})
    return roles
