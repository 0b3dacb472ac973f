"""`make test`: its table, a run that is cut off, and the files that several labs share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.append(str(PROJECT / "molecule/shared"))

import suite  # noqa: E402  (found by the line above)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> suite.Suite:
    """A run on Debian 13 in a project with two files of behaviour tests."""
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "BUILD", tmp_path / "build")
    monkeypatch.setattr(suite, "TIMES", tmp_path / "times.json")
    (tmp_path / "build/share-trixie").mkdir(parents=True)
    (tmp_path / "tests/behaviour").mkdir(parents=True)
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / "tests/behaviour" / name).touch()
    return suite.Suite(["trixie"])


def note(run: suite.Suite, name: str, *, seconds: float = 90, done: bool = True) -> None:
    (suite.BUILD / f"share-{run.releases[0]}" / name).write_text(
        json.dumps({"lab": "test-trixie-1", "seconds": seconds, "tests": 3, "failed": 0, "done": done})
    )


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ("2515 passed, 25 skipped in 162.86s (0:02:42)", "2515 passed, 25 skipped"),
        ("=========== 1 failed, 10 passed in 3.00s ===========", "1 failed, 10 passed"),
        ("\x1b[2m│\x1b[0m \x1b[32m===== \x1b[32m\x1b[1m23 passed\x1b[0m\x1b[32m in 3.10s\x1b[0m\x1b[32m =====\x1b[0m", "23 passed"),
        ("no tests here", ""),
    ],
)
def test_the_table_says_what_pytest_found(run: suite.Suite, summary: str, said: str) -> None:
    part = run.part("unit")
    assert run.run(part, ["echo", summary])
    assert (part.outcome, part.passed) == ("ok", said)


def test_a_part_fails_with_its_first_command_that_fails_and_is_repeated_at_the_end(run: suite.Suite) -> None:
    part = run.part("behaviour 1", "trixie")
    assert not run.run(part, ["sh", "-c", "echo 'E   it rains'; exit 1"], ["echo", "never"])
    assert part.outcome == "FAILED"
    assert "never" not in part.log.read_text()
    assert run.failures().splitlines()[1:] == ["FAILED: trixie-behaviour-1, from build/trixie-behaviour-1.log:", "E   it rains"]


def test_a_run_that_is_cut_off_says_what_had_not_run(run: suite.Suite) -> None:
    running, later = run.part("unit"), run.part("behaviour 1", "trixie")
    said = threading.Event()
    run.say = lambda _: said.set()  # type: ignore[method-assign]
    thread = threading.Thread(target=run.run, args=(running, ["sh", "-c", "echo begun; exec sleep 600"]))
    thread.start()
    assert said.wait(60)
    run.stop(signal.SIGTERM, None)
    thread.join(60)
    assert not thread.is_alive()
    assert not run.run(later, ["true"])
    note(run, "test_one.py")
    note(run, "test_two.py", done=False)
    table = run.report()
    assert [line.split() for line in table.splitlines()[2:4]] == [
        ["unit", "-", "0.0", "cut", "off"],
        ["behaviour", "1", "trixie", "0.0", "not", "run"],
    ]
    assert suite._left("trixie") == ["test_two.py"]
    assert "Not run on trixie, or not to the end: test_two.py\n" in table
    assert table.endswith("The run was cut off by SIGTERM.")


def test_a_whole_run_lists_the_slowest_files_and_can_keep_their_times(run: suite.Suite) -> None:
    note(run, "test_one.py", seconds=90.4)
    note(run, "test_two.py", seconds=180)
    table = run.report()
    assert "Not run" not in table
    assert [line.split() for line in table.splitlines()[-2:]] == [
        ["test_two.py", "trixie", "3.0", "test-trixie-1"],
        ["test_one.py", "trixie", "1.5", "test-trixie-1"],
    ]
    suite.keep_times()
    assert json.loads(suite.TIMES.read_text()) == {"test_one.py": 90, "test_two.py": 180}


@pytest.fixture
def shared(tmp_path: Path) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Runs a project of three files, a short one, a long one that fails and one about bare hosts: what pytest says, and what is noted."""
    tests, share = tmp_path / "tests", tmp_path / "share"
    tests.mkdir()
    share.mkdir()
    (tests / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(PROJECT / 'tests/behaviour')!r})\nimport sharing\nfrom pathlib import Path\n"
        "from sharing import pytest_addoption, pytest_configure, pytest_runtestloop\n"
        "sharing.TIMES = Path(__file__).with_name('times.json')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = from_bare: x\n")
    (tests / "times.json").write_text('{"test_bare.py": 1, "test_long.py": 30, "test_short.py": 3}')
    for name, verdict in (("bare", "True"), ("long", "False"), ("short", "True")):
        (tests / f"test_{name}.py").write_text(f"def test_it():\n    assert True\n\ndef test_more():\n    assert {verdict}\n")
    with (tests / "test_bare.py").open("a") as file:
        file.write("\nimport pytest\npytestmark = pytest.mark.from_bare\n")

    def run(*options: str) -> tuple[str, dict[str, Any]]:
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", tmp_path, "--share", share, *options, tests]
        environment = {"MAILWRIGHT_LAB": "here", "PATH": ""}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        notes = {path.name: json.loads(path.read_text() or "null") for path in share.iterdir()}
        for note in notes.values():
            assert not note or note.pop("seconds") > 0
        return done.stdout, notes

    return run


def files_of(output: str) -> list[str]:
    """The files of the tests that ran, in their order."""
    return [line.partition("/")[2].partition("::")[0] for line in output.splitlines() if "::" in line and "%" in line]


def test_each_file_runs_once_the_longest_first(shared: Callable[..., tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    (tmp_path / "share/test_bare.py").touch()
    output, notes = shared()
    assert files_of(output) == [*["test_long.py"] * 2, *["test_short.py"] * 2]
    assert notes == {
        "test_bare.py": None,
        "test_long.py": {"lab": "here", "tests": 2, "failed": 1, "done": True},
        "test_short.py": {"lab": "here", "tests": 2, "failed": 0, "done": True},
    }
    assert files_of(shared()[0]) == []


def test_a_failure_is_reported_at_once_and_with_its_reason(shared: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    output, _ = shared()
    told = output[output.index("FAILED tests/test_long.py::test_more (call)\n") :]
    assert "assert False" in told[: told.index("test_short.py::")]


def test_what_is_about_a_bare_host_comes_first_and_never_on_a_copy(shared: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    assert files_of(shared("--copied")[0]) == [*["test_long.py"] * 2, *["test_short.py"] * 2]
    assert files_of(shared()[0]) == ["test_bare.py"] * 2
