"""When DKIM keys begin to sign: what name servers' answers prove, and what a run does with it, killed or not."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import dkim, dkim_state
from ansible.module_utils.mailwright.authority import Answer, Question, Server, Status
from ansible.module_utils.mailwright.dkim_life import Found
from ansible.module_utils.mailwright.dkim_proof import judge
from ansible.module_utils.mailwright.dkim_switch import Done, Switch
from ansible.module_utils.mailwright.units import UnitError

RECORD = "v=DKIM1; k=rsa; p=MIIBIjANBgkqTheEnd"
OTHER = "v=DKIM1; k=rsa; p=MIIBIjANBgkqAnotherEnd"
OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
ROWS = [
    {"domain": domain, "selector": None, "algorithm": "ed25519", "bits": None, "private_key": None, "shared": False}
    for domain in ("elm.test", "oak.test")
]
NOW = 1_795_262_400  # 2026-11-21T12:00:00Z


def answer(status: Status, *values: str, name: str = "ns1", address: str = "192.0.2.1", ttl: int = 300) -> Answer:
    return Answer(Server(name, address), status, values, ttl)


GOOD = answer("ok", RECORD)
SECOND = {"name": "ns2", "address": "192.0.2.2"}


@pytest.mark.parametrize(
    ("answers", "proven", "line"),
    [
        ([GOOD], True, None),
        ([GOOD, answer("ok", RECORD, **SECOND)], True, None),
        ([answer("ok", "v=DKIM1;k=rsa;p=MIIBIj ANBgkq TheEnd;")], True, None),
        ([GOOD, answer("no route", address="2001:db8::1")], True, None),
        ([GOOD, answer("no route", name="ns2", address="2001:db8::2")], False, "ns2 (2001:db8::2) cannot be reached from here"),
        ([answer("no route", address="2001:db8::1")], False, "cannot be reached from here"),
        ([GOOD, answer("ok", OTHER, **SECOND)], False, "ns2 (192.0.2.2) has another record, with the key p=…MIIBIjANBgkqAnotherEnd"),
        ([GOOD, answer("ok", "v=DKIM1; p=", **SECOND)], False, "has another record, without a key"),
        ([GOOD, answer("ok", OTHER, RECORD, **SECOND)], False, "has 2 records"),
        ([answer("ok", f"{RECORD}; t=y")], False, "has another record"),
        ([answer("ok", RECORD.replace("rsa", "ed25519"))], False, "has another record"),
        ([answer("ok", "v=DKIM1; p=\x1b[31m")], False, "with the key p=(not readable)"),
        ([GOOD, answer("timeout", **SECOND)], False, "ns2 (192.0.2.2) does not answer"),
        ([GOOD, answer("timeout", address="2001:db8::1")], False, "ns1 (2001:db8::1) does not answer"),
        ([GOOD, answer("nxdomain", **SECOND)], False, "has no such record"),
        ([GOOD, answer("lame", **SECOND)], False, "does not serve the zone"),
        ([GOOD, answer("no address", name="ns2", address="")], False, "ns2 has no address"),
        ([answer("no zone", name="", address="")], False, "the zone, or its name servers, could not be found"),
        ([], False, None),
    ],
)
def test_only_the_same_answer_of_every_server_is_a_proof(answers: list[Answer], proven: bool, line: str | None) -> None:
    found, lines = judge(RECORD, answers)
    assert found.proven is proven
    assert (line in "\n".join(lines)) if line is not None else lines == []


def test_every_outcome_has_words() -> None:
    for status in Status.__args__:
        assert not judge(RECORD, [answer(status)])[0].proven


def test_for_how_long_caches_may_hold_something_else() -> None:
    assert judge(RECORD, [GOOD, answer("ok", OTHER, ttl=7200, **SECOND)])[0] == Found(False, 7200, 7200)
    assert judge(RECORD, [GOOD, answer("nxdomain", **SECOND)])[0] == Found(False, 300, 0)


class Servers:
    """All name servers: what they have is what is published."""

    def __init__(self) -> None:
        self.records: dict[str, str] = {}
        self.asked = 0

    def ask_all(self, questions: Iterable[Question]) -> dict[Question, dict[str, Answer]]:
        found = {}
        for question in questions:
            self.asked += 1
            value = self.records.get(question[0])
            found[question] = {"192.0.2.1": answer("nxdomain") if value is None else answer("ok", value)}
        return found


class Filter:
    """A filter that reads the signing set when it is reloaded, if it lives."""

    def __init__(self) -> None:
        self.reloads = 0
        self.obeys = True
        self.uses = ""

    def take_up(self, path: Path) -> bool:
        if self.obeys:
            self.reloads += 1
            self.uses = (path / "signing.conf").read_text()
        return self.obeys


class Host:
    """A directory of keys with all that surrounds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.servers = Servers()
        self.filter = Filter()
        self.now = NOW

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def make(self, rotation: dkim.Rotation | None = None) -> dkim.Done:
        return dkim.apply(ROWS, self.path, OWNER, GROUP, rotation=rotation, now=self.now, lock=self.lock)

    def publish(self, *domains: str) -> None:
        rows = dkim.published(self.path)
        self.servers.records = {row["name"]: row["value"] for row in rows if not domains or row["domain"] in domains}

    def switch(self, *, check_mode: bool = False) -> Done:
        return self.switcher.run(check_mode=check_mode)

    @property
    def switcher(self) -> Switch:
        return Switch(self.path, GROUP, 5 * 86400, client=self.servers, user=self.filter, clock=lambda: self.now, lock=self.lock)  # type: ignore[arg-type]

    @property
    def pending(self) -> bool:
        return dkim_state.is_pending(self.path, self.now)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "dkim")


def test_a_host_without_keys_asks_nobody(host: Host) -> None:
    assert not host.switch().changed
    assert (host.servers.asked, host.filter.reloads, host.pending) == (0, 0, False)


def test_what_is_not_published_is_told_and_does_not_sign(host: Host) -> None:
    host.make()
    host.publish("oak.test")
    assert host.pending
    done = host.switch()
    assert done.signing == ["ed25519-20261121._domainkey.oak.test"]
    assert len(done.missing) == 2
    assert done.missing[0].startswith('ed25519-20261121._domainkey.elm.test. IN TXT ( "v=DKIM1; k=ed25519; p=')
    assert done.missing[1] == "  ns1 (192.0.2.1) has no such record"
    assert "elm.test" not in host.filter.uses
    assert host.filter.uses.count("selector =") == 1
    assert (host.path / "signing.conf").stat().st_mode & 0o777 == 0o640
    assert host.pending
    assert not host.switch().changed
    host.publish()
    assert host.switch().signing == ["ed25519-20261121._domainkey.elm.test"]
    assert (host.filter.reloads, host.pending) == (2, False)
    assert not host.switch().changed
    assert host.filter.reloads == 2


def test_nobody_is_asked_for_a_record_that_nobody_can_have_published(host: Host) -> None:
    host.make()
    host.publish()
    new = "ed25519-20261121._domainkey.elm.test"
    done = host.switcher.run(unpublished=[new, "rsa._domainkey.else.test"])
    assert (host.servers.asked, done.signing) == (1, ["ed25519-20261121._domainkey.oak.test"])
    assert [line.split()[0] for line in done.missing] == [f"{new}."]
    assert host.pending
    assert host.switch().signing == [new]


def test_in_check_mode_only_questions_are_asked(host: Host) -> None:
    host.make()
    host.publish()
    before = {path.name: path.read_bytes() for path in host.path.iterdir()}
    assert host.switch(check_mode=True).changed
    assert {path.name: path.read_bytes() for path in host.path.iterdir()} == before
    assert host.filter.reloads == 0


def test_in_check_mode_keys_sign_whose_records_the_run_would_publish(host: Host) -> None:
    host.make()
    assert not host.switch(check_mode=True).signing
    names = [row["name"] for row in dkim.published(host.path)]
    done = host.switcher.run(check_mode=True, announced=[names[0], "rsa._domainkey.new.test"])
    assert sorted(done.signing) == sorted([names[0], "rsa._domainkey.new.test"])
    assert done.changed


def test_the_time_of_retired_keys_begins_when_the_filter_has_let_go_of_them(host: Host) -> None:
    host.make()
    host.publish()
    host.switch()
    host.make(dkim.Rotation(now=True))
    host.publish()
    host.filter.obeys = False
    assert len(host.switch().retired) == 2
    assert host.pending
    host.now += 100 * 86400
    assert host.make().plan.removed == ()
    host.filter.obeys = True
    host.switch()
    assert not host.pending
    host.now += 7 * 86400 - 1
    assert host.make().plan.removed == ()
    host.now += 1
    assert host.pending
    assert len(host.make().plan.removed) == 2
    host.switch()
    assert not host.pending


def test_a_run_killed_before_the_filter_was_told_is_made_whole(host: Host) -> None:
    host.make()
    host.publish()

    def dies(_path: Path) -> bool:
        raise UnitError("killed")

    told = host.filter.take_up
    host.filter.take_up = dies  # type: ignore[method-assign]
    with pytest.raises(UnitError):
        host.switch()
    assert host.pending
    host.filter.take_up = told  # type: ignore[method-assign]
    host.switch()
    assert host.filter.uses.count("selector =") == 2
    assert not host.pending


def test_a_key_replaced_while_the_servers_were_asked_does_not_sign(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.make()
    host.publish()
    asked = host.servers.ask_all

    def replaced(questions: Iterable[Question]) -> dict[Question, dict[str, Answer]]:
        found = asked(questions)
        (host.path / "oak.test.ed25519-20261121.key").write_text(dkim.store_text(dkim.generate("ed25519", None)))
        host.make()
        return found

    monkeypatch.setattr(host.servers, "ask_all", replaced)
    assert host.switch().signing == ["ed25519-20261121._domainkey.elm.test"]


def test_the_next_step_of_every_key_is_told(host: Host) -> None:
    host.make()
    host.publish("oak.test")
    done = host.switch()
    assert host.switcher.outlook(done, 86400) == [
        "ed25519-20261121._domainkey.elm.test (ed25519): prepared since 2026-11-21 12:00; "
        "signs once every name server of the zone has its record",
        "ed25519-20261121._domainkey.oak.test (ed25519): signing since 2026-11-21 12:00; to be replaced from 2026-11-22 12:00",
    ]
