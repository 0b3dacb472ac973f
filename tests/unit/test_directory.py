"""Generations of mail data: staged, committed, made live in a safe order, and whole again after a kill at any point."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible.module_utils.mailwright import archive, files, layout, staging, transition
from ansible.module_utils.mailwright import directory as d
from ansible.module_utils.mailwright.archive import Archive
from ansible.module_utils.mailwright.errors import ActivationError, Invalid
from ansible.module_utils.mailwright.maps import parse_map, render_patterns
from hypothesis import example, given
from hypothesis import strategies as st

HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"


T = TypeVar("T")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


class Host:
    """One root, with a copy standing for the database of a table, and a count of what was started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[str] = []
        self.at: Callable[[], None] = lambda: None
        self.mail = root.with_name(f"{root.name}-vmail")
        self.ended: list[str] = []
        self.waited: list[str] = []

    def directory(self) -> d.Directory:
        @contextlib.contextmanager
        def lock() -> Iterator[None]:
            yield

        def build(source: Path, configuration: Path) -> None:
            assert (configuration / "main.cf").exists()
            self.at()
            self.started.append(source.name)
            source.with_name(f"{source.name}.lmdb").write_text(source.read_text())
            self.at()

        def reload(drain: bool) -> bool:
            self.started.append("reload and drain" if drain else "reload")
            return True

        return d.Directory(
            self.root,
            build=build,
            reload=reload,
            lock=lock,
            group=lambda _: os.getgid(),
            archive=Archive(self.mail),
            end=self.ended.extend,
            drain=lambda addresses: self.waited.append(" ".join(sorted(addresses))),
            await_dovecot=lambda newcomer: self.waited.append("dovecot"),
        )

    def run(self, rows: dict[str, Any], check_mode: bool = False) -> list[bool]:
        """What the role does; whether each step changed something."""
        where = self.directory()
        staged = [
            staging.stage_mailboxes(where, rows.get("mailboxes", []), "2.4", check_mode=check_mode),
            staging.stage_aliases(where, rows.get("aliases", []), check_mode=check_mode),
            staging.stage_maps(where, rows.get("maps", {}), rows.get("patterns", []), check_mode=check_mode),
            staging.stage_domains(where, rows.get("domains", []), check_mode=check_mode),
        ]
        return [*(s.result()["changed"] for s in staged), where.activate(check_mode=check_mode).changed]

    def text(self, name: str) -> str:
        return (self.root / name).read_text()

    def tree(self) -> dict[str, str]:
        live = {name: self.text(name) for name in layout.ORDER}
        databases = {name: self.text(f"{name}.lmdb") for name in layout.ORDER if name.startswith("postfix/") and name != layout.PATTERNS}
        assert {name: live[name] for name in databases} == databases
        return live


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "mailwright")


def mailbox(address: str, **changes: object) -> dict[str, Any]:
    return {
        "address": address,
        "password": None,
        "password_hash": HASH,
        "password_update": "always",
        "quota_bytes": 1024,
        "denied_protocols": [],
        "enabled": True,
        "junk_filing": True,
        "extras": {},
        **changes,
    }


BEFORE = {
    "domains": [{"name": "oak.test"}, {"name": "elm.test"}],
    "mailboxes": [mailbox("alice@oak.test"), mailbox("bob@oak.test", denied_protocols=["imap"]), mailbox("old@elm.test")],
    "aliases": [{"address": "sales@oak.test", "to": ["alice@oak.test"]}, {"address": "info@oak.test", "to": ["alice@oak.test"]}],
    "maps": {"transports": [{"key": "a.example", "value": "smtp:[b.example]"}, {"key": "x.example", "value": "smtp:[b.example]"}]},
    "patterns": [{"pattern": "team-[a-z]+@oak\\.test", "to": ["alice@oak.test"]}],
}
# bob becomes an alias, sales a mailbox, info moves to a pattern; elm.test goes, ash.test comes.
AFTER = {
    "domains": [{"name": "oak.test"}, {"name": "ash.test"}],
    "mailboxes": [mailbox("alice@oak.test", quota_bytes=0), mailbox("sales@oak.test"), mailbox("new@ash.test", enabled=False)],
    "aliases": [{"address": "bob@oak.test", "to": ["sales@oak.test"]}],
    "maps": {"transports": [{"key": "a.example", "value": "smtp:[c.example]"}, {"key": "y.example", "value": "smtp:[b.example]"}]},
    "patterns": [{"pattern": "team-[a-z]+@oak\\.test", "to": ["sales@oak.test"]}, {"pattern": "info@oak\\.test", "to": ["sales@oak.test"]}],
}


def test_a_first_run_makes_every_file_even_when_all_are_empty(host: Host) -> None:
    host.run({})
    assert set(host.tree().values()) == {""}
    assert "reload" not in host.started


def test_dovecot_knows_every_alias_by_name_but_catch_alls_and_what_stands_for_itself(host: Host) -> None:
    rows = [("@oak.test", "alice@oak.test"), ("alice@oak.test", "alice@oak.test"), ("sales@oak.test", "alice@oak.test")]
    host.run({"mailboxes": [mailbox("alice@oak.test")], "aliases": [{"address": address, "to": [to]} for address, to in rows]})
    assert host.text(layout.ALIAS_NAMES) == "sales@oak.test:\n"
    host.run({"mailboxes": [mailbox("alice@oak.test")]})
    assert host.text(layout.ALIAS_NAMES) == ""


def test_every_file_belongs_to_one_module() -> None:
    assert sorted(name for names in layout.OWNERS.values() for name in names) == sorted(layout.ORDER)


def test_a_domain_that_changes_hands_is_forgotten_by_the_daemons_before_its_old_entries_go(host: Host) -> None:
    """They remember what kind of domain an address is in (see `_apply`)."""
    local = {"domains": [{"name": "oak.test"}], "mailboxes": [mailbox("alice@oak.test")]}
    route = {"key": "oak.test", "value": "relay:[mx.oak.test]"}
    relayed = {"maps": {"relay_domains": [{"key": "oak.test", "value": "OK"}], "transports": [route]}}
    host.run(local)
    host.started.clear()
    host.run(relayed)
    order = host.started
    assert order.index("transports") < order.index("relay_domains") < order.index("virtual_domains")
    assert order.index("virtual_domains") < order.index("reload and drain") < order.index("virtual_mailboxes")
    assert order.count("reload") == 0
    host.started.clear()
    host.run(local)
    order = host.started
    assert order.index("virtual_mailboxes") < order.index("virtual_domains") < order.index("relay_domains")
    assert order.index("relay_domains") < order.index("reload and drain") < order.index("transports")


def test_a_new_relayed_domain_is_known_to_every_daemon(host: Host) -> None:
    host.run({})
    host.started.clear()
    host.run({"maps": {"relay_domains": [{"key": "oak.test", "value": "OK"}]}})
    assert host.started == ["relay_domains", "reload"]


def test_a_second_run_changes_nothing_and_starts_nothing(host: Host) -> None:
    assert host.run(BEFORE) == [True] * 5
    host.started.clear()
    assert host.run(BEFORE) == [False] * 5
    assert host.started == []


def test_check_mode_tells_the_same_and_writes_nothing(host: Host) -> None:
    assert host.run(BEFORE, check_mode=True) == [True] * 5
    assert not host.root.exists()
    host.run(BEFORE)
    before = sorted(host.root.rglob("*"))
    assert host.run(AFTER, check_mode=True)[:4] == [True] * 4
    assert sorted(host.root.rglob("*")) == before
    assert host.run(BEFORE) == [False] * 5


def test_what_is_staged_becomes_live_and_is_recorded(host: Host) -> None:
    host.run(BEFORE)
    where = host.directory()
    staged = staging.stage_domains(where, AFTER["domains"])
    assert staged.result()["added"] == ["ash.test"]
    assert "ash.test" not in host.text(layout.DOMAINS)
    done = where.activate()
    assert host.text(layout.DOMAINS) == "ash.test OK\noak.test OK\n"
    assert (done.generation, done.files, done.reload) == (2, [layout.DOMAINS], ["postfix"])
    assert done.lines == ["+ ash.test", "- elm.test"]
    newest, first = where.history()
    assert newest["summary"] == {"mail_domains": {"added": ["ash.test"], "changed_names": [], "removed": ["elm.test"]}}
    assert first["generation"] == 1
    assert first["time"].endswith("+00:00")


def test_one_new_mailbox_rebuilds_one_table(host: Host) -> None:
    host.run(BEFORE)
    host.started.clear()
    host.run({**BEFORE, "mailboxes": [*BEFORE["mailboxes"], mailbox("carol@oak.test")]})
    assert host.started == ["virtual_mailboxes"]


def test_postfix_is_reloaded_for_new_patterns_and_new_domains_only(host: Host) -> None:
    host.run(BEFORE)
    host.started.clear()
    host.run({**BEFORE, "patterns": []})
    assert host.started == ["reload"]
    host.started.clear()
    host.run({**BEFORE, "patterns": [], "domains": [*BEFORE["domains"], {"name": "ash.test"}]})
    assert host.started == ["virtual_domains", "reload"]
    host.started.clear()
    host.run({**BEFORE, "patterns": []})
    assert host.started == ["virtual_domains"]


def test_a_reload_that_a_kill_prevented_is_made_up_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.run(BEFORE)
    original = d.Directory._publish

    def killed_after_patterns(self: d.Directory, step: transition.Step, generation: Path) -> None:
        original(self, step, generation)
        if step.name == layout.PATTERNS:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(d.Directory, "_publish", killed_after_patterns)
        with pytest.raises(Killed):
            host.run({**BEFORE, "patterns": []})
    host.started.clear()
    host.run({**BEFORE, "patterns": []})
    assert "reload" in host.started


@pytest.mark.parametrize("pattern", ["info@oak\\.test", "INFO@oak\\.test", "i.*"])
def test_sessions_end_before_an_address_is_left_to_a_new_pattern(host: Host, pattern: str) -> None:
    host.run(BEFORE)
    host.started.clear()
    host.run(
        {**BEFORE, "aliases": BEFORE["aliases"][:1], "patterns": [*BEFORE["patterns"], {"pattern": pattern, "to": ["alice@oak.test"]}]}
    )
    assert host.started == ["reload and drain", "virtual_aliases"]


def test_sessions_go_on_where_a_new_pattern_is_for_new_addresses(host: Host) -> None:
    host.run(BEFORE)
    host.started.clear()
    host.run({**BEFORE, "aliases": BEFORE["aliases"][:1], "patterns": [*BEFORE["patterns"], {"pattern": "x.*", "to": ["alice@oak.test"]}]})
    assert host.started == ["reload", "virtual_aliases"]


def test_nothing_is_accepted_for_a_mailbox_that_dovecot_does_not_know_yet(host: Host) -> None:
    host.run(BEFORE)
    host.started.clear()
    order: list[str] = []
    where = host.directory()
    where._await_dovecot = lambda newcomer: order.append(f"dovecot {newcomer}")
    host.at = lambda: order.append("table")
    staging.stage_mailboxes(where, [*BEFORE["mailboxes"], mailbox("carol@oak.test")], "2.4")
    where.activate()
    assert order[0] == "dovecot carol@oak.test"
    assert "table" in order
    host.waited.clear()
    host.run({**BEFORE, "mailboxes": [mailbox("alice@oak.test", quota_bytes=5), *BEFORE["mailboxes"][1:], mailbox("carol@oak.test")]})
    assert host.waited == [], "who was there is still there"


@pytest.mark.parametrize("directory", ["postfix", "dovecot", "directory"])
def test_what_a_killed_run_was_writing_goes_with_the_next_change(host: Host, directory: str) -> None:
    host.run(BEFORE)
    left = host.root / directory / ".mailwright-0123456789abcdef"
    left.touch()
    host.run(AFTER)
    assert not left.exists()


def test_nor_is_anything_after_a_run_that_was_killed_before_dovecot_knew(host: Host) -> None:
    host.run(BEFORE)
    rows = {**BEFORE, "mailboxes": [*BEFORE["mailboxes"], mailbox("carol@oak.test")]}

    def killed(newcomer: str) -> None:
        raise Killed

    where = host.directory()
    where._await_dovecot = killed
    staging.stage_mailboxes(where, rows["mailboxes"], "2.4")
    with pytest.raises(Killed):
        where.activate()
    host.waited.clear()
    host.run(rows)
    assert host.waited[:1] == ["dovecot"]


@pytest.mark.parametrize("heir", ["alias", "catch-all", "pattern", "nobody"])
def test_messages_to_a_mailbox_that_becomes_an_alias_arrive_before_it_goes(host: Host, heir: str) -> None:
    host.run(BEFORE)
    where = host.directory()

    def drain(addresses: Collection[str]) -> None:
        assert addresses == {"bob@oak.test"}
        assert "bob@oak.test" in host.text(layout.USERS)
        assert host.text(layout.ALIASES) == host.directory().read(layout.ALIASES)
        host.waited.append("drained")

    where._drain_queue = drain
    rows = {
        "alias": ([*BEFORE["aliases"], {"address": "bob@oak.test", "to": ["alice@oak.test"]}], BEFORE["patterns"]),
        "catch-all": ([*BEFORE["aliases"], {"address": "@oak.test", "to": ["alice@oak.test"]}], BEFORE["patterns"]),
        "pattern": (BEFORE["aliases"], [*BEFORE["patterns"], {"pattern": "b[o]b@oak\\.test", "to": ["alice@oak.test"]}]),
        "nobody": (BEFORE["aliases"], BEFORE["patterns"]),
    }
    aliases, patterns = rows[heir]
    staging.stage_mailboxes(where, [BEFORE["mailboxes"][0], BEFORE["mailboxes"][2]], "2.4")
    staging.stage_aliases(where, aliases)
    staging.stage_maps(where, BEFORE["maps"], patterns)
    where.activate()
    assert host.waited.count("drained") == (0 if heir == "nobody" else 1)
    assert "bob@oak.test" not in host.text(layout.USERS)


def test_as_many_generations_are_kept_as_declared(host: Host) -> None:
    for number in range(13):
        host.run({"domains": [{"name": f"d{number}.test"}]})
    assert host.directory().numbers() == list(range(3, 14))
    staging.stage_domains(host.directory(), [])
    host.directory().activate(keep=2)
    assert host.directory().numbers() == [12, 13, 14]


def test_owner_and_modes_are_those_of_the_contract(host: Host) -> None:
    host.run(BEFORE)
    modes = {str(p.relative_to(host.root)): p.stat().st_mode & 0o777 for p in [host.root, *host.root.rglob("*")]}
    assert modes["."] == 0o755
    assert modes["postfix"] == modes["dovecot"] == 0o750
    assert modes["directory"] == modes["directory/generations/00000001"] == 0o700
    assert modes["postfix/virtual_aliases"] == modes["postfix/virtual_aliases.lmdb"] == modes["dovecot/users"] == 0o640


def has_mail(host: Host, address: str) -> bool:
    return host.directory().archive.has_mail(address)


def deliver(host: Host, address: str, name: str = "1") -> None:
    local, _, domain = address.partition("@")
    path = host.mail / domain / local / "Maildir/new" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)


def messages(host: Host) -> dict[str, set[str]]:
    """Mailbox or piece of the archive → its messages."""
    found: dict[str, set[str]] = {}
    for path in host.mail.rglob("new/*"):
        parts = path.relative_to(host.mail).parts
        found.setdefault("archive" if parts[0] == ".archive" else f"{parts[1]}@{parts[0]}", set()).add(path.name)
    return found


def test_going_back_makes_the_former_data_live_as_a_new_generation(host: Host) -> None:
    host.run(BEFORE)
    former = host.tree()
    host.run(AFTER)
    latter = host.tree()
    planned = host.directory().roll_back(check_mode=True)
    assert host.tree() == latter
    done = host.directory().roll_back()
    assert host.tree() == former
    assert planned.summary == done.summary
    assert done.summary["mail_domains"] == {"added": ["elm.test"], "changed_names": [], "removed": ["ash.test"]}
    assert (done.generation, host.directory().live(), host.directory().numbers()) == (3, 3, [1, 2, 3])
    newest = host.directory().history()[0]
    assert (newest["copy_of"], newest["summary"]) == (1, done.summary)
    host.directory().roll_back()
    assert host.tree() == latter, "going back from going back"
    host.directory().roll_back(1)
    assert host.tree() == former
    host.run(AFTER)
    assert host.tree() == latter, "the inventory's next run wins"


def test_going_back_to_what_is_live_changes_nothing(host: Host) -> None:
    host.run(BEFORE)
    host.run(AFTER)
    assert not host.directory().roll_back(2).changed
    assert host.directory().numbers() == [1, 2]


def test_going_back_drops_what_a_failed_run_staged(host: Host) -> None:
    host.run(BEFORE)
    host.run(AFTER)
    staging.stage_domains(host.directory(), [{"name": "staged.test"}])
    host.directory().roll_back()
    assert "staged.test" not in host.text(layout.DOMAINS)
    assert not host.directory().activate().changed


def test_there_is_no_way_back_where_nothing_was_or_what_was_is_damaged(host: Host) -> None:
    with pytest.raises(Invalid, match="no former generation"):
        host.directory().roll_back()
    host.run(BEFORE)
    with pytest.raises(Invalid, match="no former generation"):
        host.directory().roll_back()
    host.run(AFTER)
    with pytest.raises(Invalid, match=r"no generation 9 .* there are 1, 2"):
        host.directory().roll_back(9)
    (host.root / "directory/generations/00000001" / layout.ALIASES).write_text("evil@oak.test x@oak.test\n")
    with pytest.raises(Invalid, match="damaged"):
        host.directory().roll_back()


def test_a_generation_of_a_release_with_fewer_tables_can_be_live_again(host: Host) -> None:
    host.run(BEFORE)
    host.run(AFTER)
    old = host.root / "directory/generations/00000001"
    (old / "postfix/transports").unlink()
    content = json.loads((old / "generation.json").read_text())
    del content["files"]["postfix/transports"]
    (old / "generation.json").write_text(json.dumps(content))
    host.directory().roll_back()
    assert host.tree()["postfix/transports"] == ""
    assert host.run(BEFORE)[4]


def test_two_runs_at_once_never_mix(host: Host) -> None:
    host.run(BEFORE)
    first, second = host.directory(), host.directory()
    mine = {"mail_aliases": staging.stage_aliases(first, AFTER["aliases"]).digest}
    other = {
        "mail_domains": staging.stage_domains(second, AFTER["domains"]).digest,
        "mail_aliases": staging.stage_aliases(second, BEFORE["aliases"]).digest,
    }
    live = host.tree()
    with pytest.raises(Invalid, match=r"another run .* at the same time; run again"):
        first.activate(expected=mine)
    assert host.tree() == live
    second.activate(expected=other)
    assert host.text(layout.DOMAINS) == "ash.test OK\noak.test OK\n"
    second.roll_back()
    with pytest.raises(Invalid, match="another run"):
        second.activate(expected=other)


def test_a_removed_mailbox_is_archived_once_it_is_refused_and_its_sessions_ended(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "old@elm.test")
    deliver(host, "alice@oak.test")
    deliver(host, "imported@oak.test")
    seen: list[str] = []

    def end(addresses: Collection[str]) -> None:
        assert "old@elm.test" not in host.text(layout.USERS)
        assert "old@elm.test" not in host.text(f"{layout.MAILBOXES}.lmdb")
        assert has_mail(host, "old@elm.test")
        seen.extend(addresses)

    where = host.directory()
    where._end_sessions = end
    staged = staging.stage_mailboxes(where, AFTER["mailboxes"], "2.4").result()
    assert staged["to_archive"] == ["old@elm.test"]
    done = where.activate()
    assert done.archived == ["old@elm.test"]
    assert seen[:2] == ["bob@oak.test", "old@elm.test"]
    assert messages(host) == {"archive": {"1"}, "alice@oak.test": {"1"}, "imported@oak.test": {"1"}}
    assert host.run({**AFTER, "domains": BEFORE["domains"]})[4]
    staged = staging.stage_mailboxes(host.directory(), BEFORE["mailboxes"], "2.4").result()
    assert staged["to_restore"] == ["old@elm.test"]
    assert host.directory().activate().restored == ["old@elm.test"]
    assert messages(host) == {name: {"1"} for name in ("old@elm.test", "alice@oak.test", "imported@oak.test")}


def test_going_back_brings_the_mail_back(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "old@elm.test")
    host.run(AFTER)
    assert messages(host) == {"archive": {"1"}}
    assert host.directory().roll_back().restored == ["old@elm.test"]
    assert messages(host) == {"old@elm.test": {"1"}}


def test_a_disabled_mailbox_keeps_its_mail_and_loses_its_sessions(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "alice@oak.test")
    host.run({**BEFORE, "mailboxes": [mailbox("alice@oak.test", enabled=False), *BEFORE["mailboxes"][1:]]})
    assert host.ended == ["alice@oak.test"]
    assert messages(host) == {"alice@oak.test": {"1"}}
    host.ended.clear()
    host.run(BEFORE)
    assert host.ended == []


def test_mail_delivered_while_its_mailbox_went_is_archived_by_the_next_run_and_comes_back(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "old@elm.test")
    host.run(AFTER)
    deliver(host, "old@elm.test", "late")
    assert host.directory().standing()["lists"] == {}
    assert host.run(AFTER)[4]
    assert messages(host) == {"archive": {"1", "late"}}
    assert host.run(AFTER) == [False] * 5
    deliver(host, "old@elm.test", "later")
    host.run(BEFORE)
    assert messages(host) == {"old@elm.test": {"1", "late", "later"}}


def test_a_change_that_fails_puts_mail_that_came_back_into_the_archive_again(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "old@elm.test")
    host.run(AFTER)
    calls = iter(range(100))

    def fail_once() -> None:
        if next(calls) == 2:
            raise ActivationError("disk full")

    host.at = fail_once
    with pytest.raises(ActivationError, match="the former state is live again"):
        host.run(BEFORE)
    assert messages(host) == {"archive": {"1"}}


def test_an_archive_that_cannot_be_written_is_told_and_tried_again(host: Host) -> None:
    host.run(BEFORE)
    deliver(host, "old@elm.test")
    host.mail.joinpath(".archive").mkdir(mode=0o755)
    with pytest.raises(ActivationError, match="the new state is live, but not all mail of removed mailboxes is archived"):
        host.run(AFTER)
    assert has_mail(host, "old@elm.test")
    host.mail.joinpath(".archive").chmod(0o700)
    assert host.run(AFTER) == [False, False, False, False, True]
    assert messages(host) == {"archive": {"1"}}


REMOVALS = [
    (3, 0, 10, 3, True),
    (3, 0, 10, 4, False),
    (3, 10, 100, 10, True),
    (3, 10, 100, 11, False),
    (3, 100, 4, 4, False),
    (5, 0, 4, 4, False),
    (0, 0, 10, 1, False),
    (0, 0, 10, 0, True),
]


@pytest.mark.parametrize(("number", "percent", "there", "gone", "fine"), REMOVALS)
def test_too_many_removals_need_a_word(host: Host, number: int, percent: int, there: int, gone: int, fine: bool) -> None:
    rows = [mailbox(f"user{n}@oak.test") for n in range(there)]
    host.run({"mailboxes": rows})
    live = host.tree()
    refusal = rf"would remove {gone} of {there} mailboxes \(user0@oak.test.* -e directory_removals_allowed=true"
    for check_mode in (True, False):
        if fine:
            staging.stage_mailboxes(host.directory(), rows[gone:], "2.4", d.Limit(number, percent), check_mode=check_mode)
            continue
        with pytest.raises(Invalid, match=refusal):
            staging.stage_mailboxes(host.directory(), rows[gone:], "2.4", d.Limit(number, percent), check_mode=check_mode)
        assert not host.directory().activate(check_mode=True).changed
        assert host.tree() == live
    staging.stage_mailboxes(host.directory(), rows[gone:], "2.4", d.Limit(number, percent, allowed=True))
    host.directory().activate()
    assert len(host.text(layout.USERS).splitlines()) == there - gone


def test_too_many_removed_domains_need_a_word_too(host: Host) -> None:
    host.run(BEFORE)
    with pytest.raises(Invalid, match=r"would remove 2 of 2 domains \(elm.test, oak.test\); one run may not remove all"):
        staging.stage_domains(host.directory(), [], d.Limit(5, 10))


@pytest.mark.parametrize("damage", ["missing", "database", "edited", "mode"])
def test_what_somebody_else_changed_is_put_right(host: Host, damage: str) -> None:
    host.run(BEFORE)
    path = host.root / layout.ALIASES
    wanted = path.read_text()
    match damage:
        case "missing":
            path.unlink()
        case "database":
            path.with_name("virtual_aliases.lmdb").write_text("x y\n")
        case "edited":
            path.unlink()
            path.write_text("evil@oak.test x@oak.test\n")
        case "mode":
            path.chmod(0o666)
    host.started.clear()
    assert host.run(BEFORE)[4]
    assert host.tree()[layout.ALIASES] == wanted
    assert path.stat().st_mode & 0o777 == 0o640
    assert host.started == ["virtual_aliases"]
    assert host.run(BEFORE) == [False] * 5


def test_a_comment_added_by_hand_is_reported_as_rewritten(host: Host) -> None:
    host.run(BEFORE)
    path = host.root / layout.ALIASES
    text = path.read_text()
    path.unlink()
    path.write_text(f"# mine\n{text}")
    staged = staging.stage_aliases(host.directory(), BEFORE["aliases"], check_mode=True).result()
    assert (staged["changed"], staged["added"], staged["rewritten"]) == (True, [], [layout.ALIASES])


def test_a_password_changed_on_the_host_survives_where_it_is_only_seeded(host: Host) -> None:
    rows = {"mailboxes": [mailbox("a@oak.test", password_update="on_create")], "domains": [{"name": "oak.test"}]}
    host.run(rows)
    users = host.root / layout.USERS
    changed = users.read_text().replace("c2FsdHNhbHQ", "b3duc2FsdA")
    users.unlink()
    users.write_text(changed)
    host.run(rows)
    assert host.text(layout.USERS) == changed
    assert host.run(rows) == [False] * 5


def test_a_disabled_mailbox_stays_known_and_is_denied_everywhere(host: Host) -> None:
    host.run({"mailboxes": [mailbox("a@oak.test", enabled=False)], "domains": [{"name": "oak.test"}]})
    assert host.text(layout.MAILBOXES) == "a@oak.test OK\n"
    assert {host.text(name) for name in layout.DENY.values()} == {"a@oak.test:\n"}


def test_another_dovecot_rewrites_the_users(host: Host) -> None:
    host.run(BEFORE)
    staged = staging.stage_mailboxes(host.directory(), BEFORE["mailboxes"], "2.3").result()
    assert (staged["changed"], staged["changed_names"], staged["rewritten"]) == (True, [], [layout.USERS])


def test_dovecot_sees_every_change_of_a_file(host: Host) -> None:
    """It compares size and whole seconds, and two runs may fall into one."""
    users = host.root / layout.USERS
    seen = set()
    for quota in (1000, 2000, 3000):
        host.run({"mailboxes": [mailbox("a@oak.test", quota_bytes=quota)]})
        seen.add((users.stat().st_size, int(users.stat().st_mtime)))
    assert len(seen) == 3


def test_a_failing_postmap_leaves_the_former_state_live(host: Host) -> None:
    host.run(BEFORE)
    former = host.tree()
    calls = iter(range(100))

    def fail_once() -> None:
        if next(calls) == 4:
            raise ActivationError("disk full")

    host.at = fail_once
    with pytest.raises(ActivationError, match="disk full; the former state is live again"):
        host.run(AFTER)
    assert host.tree() == former
    assert host.directory().numbers() == [1]
    host.run(AFTER)
    assert host.tree() != former


@pytest.mark.parametrize("back", [False, True])
def test_a_run_killed_at_any_point_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    def prepare(host: Host) -> None:
        """One mailbox will go and one come back."""
        host.run({**BEFORE, "mailboxes": [*BEFORE["mailboxes"], mailbox("new@ash.test")]})
        deliver(host, "new@ash.test", "new")
        host.run(BEFORE)
        deliver(host, "old@elm.test", "old")
        assert messages(host) == {"archive": {"new"}, "old@elm.test": {"old"}}

    clean = Host(tmp_path / "clean")
    prepare(clean)
    if not back:
        clean.run(AFTER)
    wanted = clean.tree()
    valid = _valid(BEFORE) & _valid(AFTER)
    point = 0
    while True:
        point += 1
        host = Host(tmp_path / f"host{point}")
        prepare(host)
        left = [point]

        def tick(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        with monkeypatch.context() as patch:
            for module, name in ((d, "write_atomic"), (d.os, "link"), (d, "fsync_directory"), (d.shutil, "rmtree"), (d, "remove_file")):
                patch.setattr(module, name, _after(tick, getattr(module, name)))
            # os.link is the same function there.
            for name in ("rename", "rmdir", "mkdir", "fsync"):
                patch.setattr(archive.os, name, _after(tick, getattr(archive.os, name)))
            host.at = tick
            try:
                host.run(AFTER)
            except Killed:
                killed = True
            else:
                killed = False
        host.at = lambda: None
        if not killed:
            break
        assert valid <= _accepted(host), f"killed at {point}"
        host.run(BEFORE if back else AFTER)
        assert host.tree() == wanted, f"killed at {point}"
        assert messages(host) == messages(clean), f"killed at {point}"
        assert [p.name for p in host.root.rglob(f"{files.TEMPORARY_PREFIX}*")] == []
        assert host.run(BEFORE if back else AFTER) == [False] * 5
    assert point > 40


def _after(tick: Callable[[], None], function: Callable[..., T]) -> Callable[..., T]:
    def wrapped(*args: object, **kwargs: object) -> T:
        tick()
        return function(*args, **kwargs)

    return wrapped


def _valid(rows: dict[str, Any]) -> set[str]:
    addresses = {row["address"] for row in (*rows["mailboxes"], *rows["aliases"])} | {
        row["pattern"].replace("\\", "") for row in rows["patterns"]
    }
    domains = {row["name"] for row in rows["domains"]}
    return {address for address in addresses if address.rpartition("@")[2] in domains}


def _accepted(host: Host) -> set[str]:
    """What Postfix would accept by its databases, and Dovecot take."""

    def keys(name: str) -> set[str]:
        return set(transition.entries(name, host.text(f"{name}.lmdb")))

    patterns = {key.replace("\\", "")[5:-3] for key in transition.entries(layout.PATTERNS, host.text(layout.PATTERNS))}
    users = set(transition.entries(layout.USERS, host.text(layout.USERS)))
    found = (keys(layout.MAILBOXES) & users) | keys(layout.ALIASES) | patterns
    return {address for address in found if address.rpartition("@")[2] in keys(layout.DOMAINS)}


PLACES = st.dictionaries(
    st.sampled_from([f"{name}@{domain}" for name in "abcd" for domain in ("oak.test", "elm.test")]),
    st.sampled_from(["mailbox", "alias", "pattern"]),
)


@given(PLACES, PLACES, st.booleans())
def test_an_address_valid_before_and_after_is_valid_after_every_step(before: dict[str, str], after: dict[str, str], suspect: bool) -> None:
    def texts(places: dict[str, str]) -> dict[str, str]:
        def of(kind: str) -> list[str]:
            return sorted(a for a, k in places.items() if k == kind)

        empty = dict.fromkeys(layout.ORDER, "")
        patterns = render_patterns([(a.replace(".", r"\."), "x@y.test") for a in of("pattern")])
        return {
            **empty,
            layout.USERS: "".join(f"{a}:{HASH}::::::\n" for a in of("mailbox")),
            layout.MAILBOXES: "".join(f"{a} OK\n" for a in of("mailbox")),
            layout.ALIASES: "".join(f"{a} x@y.test\n" for a in of("alias")),
            layout.PATTERNS: patterns,
            layout.DOMAINS: "".join(f"{name} OK\n" for name in sorted({a.partition("@")[2] for a in places})),
        }

    def accepted(state: dict[str, str]) -> set[str]:
        keys = {name: set(transition.entries(name, text)) for name, text in state.items()}
        patterns = {key.replace("\\", "")[5:-3] for key in keys[layout.PATTERNS]}
        found = (keys[layout.MAILBOXES] & keys[layout.USERS]) | keys[layout.ALIASES] | patterns
        return {a for a in found if a.partition("@")[2] in keys[layout.DOMAINS]}

    state, wanted = texts(before), texts(after)
    assert accepted(state) == set(before)
    for step in transition.transition(state, wanted, layout.ORDER if suspect else ()):
        state = {**state, step.name: wanted[step.name] if step.text is None else step.text}
        assert before.keys() & after.keys() <= accepted(state)
        # No mailbox is accepted that Dovecot does not know.
        assert set(transition.entries(layout.MAILBOXES, state[layout.MAILBOXES])) <= set(
            transition.entries(layout.USERS, state[layout.USERS])
        )
    assert state == wanted


ROUTES = st.dictionaries(
    st.sampled_from(["a@oak.test", "b@oak.test", "@oak.test"]),
    st.sampled_from(["mailbox", "a@oak.test", "b@oak.test", "x@y.test"]),
    min_size=1,
)


@given(ROUTES, ROUTES, st.integers(0, 4))
@example({"@oak.test": "x@y.test"}, {"a@oak.test": "b@oak.test"}, 0)
def test_a_change_between_the_look_up_of_an_address_and_of_its_catch_all_misroutes_nothing(
    before: dict[str, str], after: dict[str, str], killed: int
) -> None:
    """Neither in a run nor in the one after a run that was killed with a source written and its database not."""

    def texts(routes: dict[str, str]) -> dict[str, str]:
        boxes = "".join(f"{key} OK\n" for key, to in routes.items() if to == "mailbox" and key[0] != "@")
        aliases = "".join(f"{key} {to}\n" for key, to in routes.items() if to != "mailbox")
        return {**dict.fromkeys(layout.ORDER, ""), layout.MAILBOXES: boxes, layout.ALIASES: aliases}

    def target(first: dict[str, str], second: dict[str, str], address: str) -> str:
        """By virtual(5), when `first` is live at the first look-up and `second` at the next."""
        return parse_map(first[layout.ALIASES]).get(address) or parse_map(second[layout.ALIASES]).get("@oak.test", address)

    def valid(state: dict[str, str], address: str) -> bool:
        return target(state, state, address) != address or address in parse_map(state[layout.MAILBOXES])

    state, wanted = texts(before), texts(after)
    stay = [address for address in ("a@oak.test", "b@oak.test") if valid(state, address) and valid(wanted, address)]
    right = {address: {target(state, state, address), target(wanted, wanted, address)} for address in stay}

    def made(state: dict[str, str], step: transition.Step) -> dict[str, str]:
        return {**state, step.name: wanted[step.name] if step.text is None else step.text}

    steps = transition.transition(state, wanted)
    if killed < len(steps):
        for step in steps[:killed]:
            state = made(state, step)
        steps = transition.transition(made(state, steps[killed]), wanted, layout.ORDER, interrupted=True)
    for step in steps:
        following = made(state, step)
        for address in stay:
            assert target(state, following, address) in right[address]
        state = following
    assert state == wanted


def test_a_mailbox_and_its_alias_can_swap_without_a_loop_in_between() -> None:
    before = {**dict.fromkeys(layout.ORDER, ""), layout.ALIASES: "a@oak.test b@oak.test\n"}
    after = {**dict.fromkeys(layout.ORDER, ""), layout.ALIASES: "b@oak.test a@oak.test\n"}
    assert transition.transition(before, after) == [transition.Step(layout.ALIASES)]


@pytest.mark.parametrize(
    ("stage", "rows"),
    [
        (staging.stage_domains, [{"name": "oak.test\nevil.test OK"}]),
        (staging.stage_domains, [{"name": "oak.test"}, {"name": "oak.test"}]),
        (staging.stage_domains, [{"name": "Oak.test"}]),
        (staging.stage_aliases, [{"address": "a b@oak.test", "to": ["a@oak.test"]}]),
        (staging.stage_aliases, [{"address": "@oak", "to": ["a@oak.test"]}]),
        (staging.stage_aliases, [{"address": "a@oak.test", "to": ["|/bin/sh"]}]),
    ],
)
def test_rows_are_checked_once_more_on_the_host(host: Host, stage: Callable[..., object], rows: list[dict[str, Any]]) -> None:
    with pytest.raises(Invalid):
        stage(host.directory(), rows)
    assert not host.root.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "a:b@oak.test"},
        {"password_hash": "{X}a:b"},
        {"password_hash": None},
        {"password": ""},
        {"quota_bytes": -1},
        {"quota_bytes": True},
        {"quota_bytes": "5G"},
        {"enabled": "yes"},
        {"denied_protocols": ["lmtp"]},
        {"denied_protocols": "imap"},
        {"password_update": "never"},
        {"uid": 0},
    ],
)
def test_mailboxes_are_checked_once_more_on_the_host(host: Host, changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        staging.stage_mailboxes(host.directory(), [{**mailbox("a@oak.test"), **changes}], "2.4")
    assert not host.root.exists()


def test_an_unknown_table_is_refused(host: Host) -> None:
    with pytest.raises(Invalid, match="known are"):
        staging.stage_maps(host.directory(), {"transport": []}, [])


# -- seals


def test_lists_that_are_live_keep_their_seals(host: Host) -> None:
    where = host.directory()
    staged = {"mail_domains": staging.stage_domains(where, [{"name": "oak.test"}]), "mail_aliases": staging.stage_aliases(where, [])}
    seals = {module: {"seal": module, "digest": done.digest} for module, done in staged.items()}
    where.keep_seals("5a17", seals)
    assert where.standing() == {"salt": "5a17", "lists": {}}
    where.activate()
    assert where.standing()["lists"] == {}
    where.keep_seals("5a17", seals | {"mail_maps": {"seal": "of another run", "digest": "no such files"}})
    assert where.standing() == {"salt": "5a17", "lists": seals}


@pytest.mark.parametrize("damage", ["by hand", "database", "staged", "other rows"])
def test_a_list_that_is_not_as_it_was_left_loses_its_seal(host: Host, damage: str) -> None:
    where = host.directory()
    staged = staging.stage_domains(where, [{"name": "oak.test"}])
    where.activate()
    where.keep_seals("5a17", {"mail_domains": {"seal": "s", "digest": staged.digest}})
    assert where.standing()["lists"]
    match damage:
        case "by hand":
            (host.root / layout.DOMAINS).write_text("evil.test OK\n")
        case "database":
            (host.root / f"{layout.DOMAINS}.lmdb").unlink()
        case "staged":
            staging.stage_domains(where, [])
        case "other rows":
            staging.stage_domains(where, [])
            where.activate()
    assert where.standing()["lists"] == {}
