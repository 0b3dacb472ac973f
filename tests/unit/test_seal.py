"""Seals: the same request has the same one, and another request, salt or program another."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.mailwright.seal import code_version, seal, secret_seal

PROJECT = Path(__file__).resolve().parents[2]


def test_a_seal_depends_on_the_request_the_program_and_nothing_else() -> None:
    assert seal({"a": 1, "b": [2]}, "v1") == seal({"b": [2], "a": 1}, "v1")
    assert len({seal({"a": 1}, "v1"), seal({"a": 2}, "v1"), seal({"a": 1}, "v2"), seal({"a": "1"}, "v1")}) == 4


def test_a_secret_seal_depends_on_its_salt_too() -> None:
    request = {"password": "geheim-4711"}
    assert secret_seal(request, "00") == secret_seal(request, "00")
    assert len({secret_seal(request, "00"), secret_seal(request, "01"), secret_seal({"password": "x"}, "00"), seal(request)}) == 4


def test_every_change_of_the_program_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "module_utils" / "mailwright").mkdir(parents=True)
    versions = {code_version(tmp_path)}
    for path in ("library/a.py", "module_utils/mailwright/b.py"):
        (tmp_path / path).write_text("1")
        versions.add(code_version(tmp_path))
    assert len(versions) == 3
    assert code_version(PROJECT) not in versions
