"""Several labs share the test files of one run: each takes the next file that nobody has, the longest first.

With `--share DIR`, every pytest of a release collects all files and claims one after the other in DIR, where the outcome of each is kept
for the table of `make test` (molecule/shared/suite.py). Files marked `from_bare` are about the way from a bare host to this one: they come
first, and `--copied` leaves them to another lab. Without `--share` nothing changes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest

TIMES = Path(__file__).with_name("times.json")  # file → seconds; `make times` keeps those of the last run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", type=Path, metavar="DIR", help="run only files that no other pytest with the same DIR has claimed")
    parser.addoption("--copied", action="store_true", help="this lab's mail host is a copy of another's")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--share"):
        config.pluginmanager.register(_AtOnce(config))


class _AtOnce:
    """Reports a failure when it happens; pytest itself reports at its end, which a run that is cut off does not reach."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self._config.pluginmanager.getplugin("terminalreporter")
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {report.nodeid} ({report.when})")
            terminal.write_line(report.longreprtext)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    share: Path | None = session.config.getoption("--share")
    if share is None or session.testsfailed or session.config.option.collectonly:
        return None
    for item, following in pairwise(chain(_claimed(share, session.items, session.config.getoption("--copied")), [None])):
        assert item is not None
        began, failed = time.monotonic(), session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        _note(share, item, time.monotonic() - began, session.testsfailed - failed, following is None or following.path != item.path)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    return True


def _claimed(share: Path, items: list[pytest.Item], copied: bool) -> Iterator[pytest.Item]:
    """The tests of the files that this pytest gets. A file is claimed when the last test of the one before it begins."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    times: dict[str, float] = json.loads(TIMES.read_text())
    from_bare = {path for path, tests in files.items() if tests[0].get_closest_marker("from_bare")}
    # A new file may be a long one.
    for path in sorted(files, key=lambda path: (path not in from_bare, -times.get(path.name, 600))):
        if copied and path in from_bare:
            continue
        try:
            (share / path.name).open("x").close()
        except FileExistsError:
            continue
        yield from files[path]


def _note(share: Path, item: pytest.Item, seconds: float, failed: int, done: bool) -> None:
    """What has been run of a file so far, for whoever reads while it runs or after it was cut off."""
    note = share / item.path.name
    text = note.read_text()
    was = json.loads(text) if text else {"lab": os.environ["MAILWRIGHT_LAB"], "seconds": 0.0, "tests": 0, "failed": 0}
    new = {**was, "seconds": was["seconds"] + seconds, "tests": was["tests"] + 1, "failed": was["failed"] + failed, "done": done}
    written = share / f".{item.path.name}"
    written.write_text(json.dumps(new))
    written.replace(note)
