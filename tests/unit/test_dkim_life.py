"""The life of DKIM keys: whatever happens in whatever order, nothing signs that was not proven, and no record goes too early."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from ansible.module_utils.mailwright.dkim_life import (
    LIVE,
    Found,
    Key,
    Want,
    add,
    advance,
    begin_hold,
    expire,
    is_due,
    load_keys,
    published,
    reconcile,
    revoke,
    signing,
)
from ansible.module_utils.mailwright.errors import Invalid
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

NOW = 1_795_262_400  # 2026-11-21T12:00:00Z
DAY = 86400
HOLD = 7 * DAY
OAK_RSA, OAK_ED = Want("oak.test", None, "rsa", 2048), Want("oak.test", None, "ed25519", None)
PROVEN = Found(True, ttl=300)


def made(keys: list[Key], wants: list[Want], now: int = NOW, *, due: bool = False) -> list[Key]:
    kept, needs = reconcile(keys, wants, now, rotate=lambda _: due)
    found = {need.file: (need.want.kind or "rsa 2048", need.want.given or f"{need.file} {now}") for need in needs}
    found |= {key.file: (key.kind, key.value) for key in kept if key.slot in ("rsa", "ed25519")}
    return add(kept, needs, found, now)


def proven(keys: list[Key], now: int = NOW) -> list[Key]:
    return advance(keys, {key.name: PROVEN for key in keys}, now)


def states(keys: list[Key]) -> dict[str, str]:
    return {f"{key.selector} {key.domain}": key.state for key in keys}


def test_a_first_key_signs_once_it_is_proven() -> None:
    keys = made([], [OAK_RSA, OAK_ED])
    assert states(keys) == {"rsa-20261121 oak.test": "prepared", "ed25519-20261121 oak.test": "prepared"}
    assert signing(keys) == {}
    keys = advance(keys, {"rsa-20261121._domainkey.oak.test": PROVEN, "ed25519-20261121._domainkey.oak.test": Found(False)}, NOW)
    assert [key.selector for key in signing(keys)["oak.test"]] == ["rsa-20261121"]
    assert is_due(keys, NOW)
    assert not is_due(proven(keys), NOW)
    assert made(proven(keys), [OAK_RSA, OAK_ED], NOW + 100 * DAY) == proven(keys)


def test_a_rotation_from_the_new_key_to_the_removal_of_the_old() -> None:
    keys = proven(made([], [OAK_RSA]))
    keys = made(keys, [OAK_RSA], NOW + 10, due=True)
    assert states(keys) == {"rsa-20261121 oak.test": "signing", "rsa-20261121b oak.test": "prepared"}
    # Safe to ask for again.
    assert made(keys, [OAK_RSA], NOW + 20, due=True) == keys
    assert advance(keys, {}, NOW + 20) == keys
    keys = proven(keys, NOW + 30)
    assert states(keys) == {"rsa-20261121 oak.test": "retired", "rsa-20261121b oak.test": "signing"}
    assert {row["name"] for row in published(keys)} == {"rsa-20261121._domainkey.oak.test", "rsa-20261121b._domainkey.oak.test"}
    # Until the filter has let go of it, its time does not run.
    assert expire(keys, NOW + 1000 * DAY) == (keys, [])
    keys = begin_hold(keys, NOW + 40, HOLD)
    assert begin_hold(keys, NOW + DAY, HOLD) == keys
    assert not is_due(keys, NOW + 39 + HOLD)
    assert is_due(keys, NOW + 40 + HOLD)
    assert expire(keys, NOW + 39 + HOLD) == (keys, [])
    kept, gone = expire(keys, NOW + 40 + HOLD)
    assert (states(kept), states(gone)) == ({"rsa-20261121b oak.test": "signing"}, {"rsa-20261121 oak.test": "retired"})


def test_another_record_at_the_name_has_to_leave_the_caches_first() -> None:
    (key,) = made([], [OAK_RSA])
    (key,) = advance([key], {key.name: Found(False, other_ttl=3600)}, NOW)
    (key,) = proven([key], NOW + 60)
    assert key.state == "published"
    assert advance([key], {key.name: Found(False)}, NOW + 120)[0].state == "prepared"
    assert proven([key], NOW + 3599)[0].state == "published"
    assert proven([key], NOW + 3600)[0].state == "signing"


def test_a_declared_selector_keeps_its_key_and_is_not_rotated() -> None:
    pinned = Want("oak.test", "s1", "rsa", 2048)
    keys = proven(made([], [pinned]))
    assert states(keys) == {"s1 oak.test": "signing"}
    assert made(keys, [pinned], NOW + DAY, due=True) == keys
    with pytest.raises(Invalid, match=r"s1._domainkey.oak.test is rsa 2048, not rsa 4096; .*choose another selector"):
        reconcile(keys, [replace(pinned, bits=4096)], NOW)
    with pytest.raises(Invalid, match=r"is rsa 2048, not rsa 2048 for all domains"):
        reconcile(keys, [replace(pinned, shared=True)], NOW)


def test_a_new_declared_selector_takes_over_only_when_it_is_proven() -> None:
    keys = proven(made([], [Want("oak.test", "s1", "rsa", 2048), Want("oak.test", "s2", "ed25519", None)]))
    keys = made(keys, [Want("oak.test", "s3", "rsa", 2048)], NOW + 5)
    assert states(keys) == {"s1 oak.test": "signing", "s2 oak.test": "signing", "s3 oak.test": "prepared"}
    assert states(proven(keys)) == {"s1 oak.test": "retired", "s2 oak.test": "retired", "s3 oak.test": "signing"}
    # Where both kinds are asked for, each waits for its own.
    keys = made(keys, [Want("oak.test", "s3", "rsa", 2048), OAK_ED], NOW + 6)
    assert states(keys)["s2 oak.test"] == "signing"
    keys = made(proven(made([], [Want("oak.test", "s1", "rsa", 2048), Want("oak.test", "s2", "ed25519", None)])), [OAK_RSA], NOW + 5)
    keys = made(keys, [Want("oak.test", "s4", "ed25519", None), Want("oak.test", "s5", "rsa", 2048)], NOW + 6)
    keys = advance(keys, {"s5._domainkey.oak.test": PROVEN}, NOW + 7)
    assert states(keys) == {
        "s1 oak.test": "retired",
        "s2 oak.test": "signing",
        "s4 oak.test": "prepared",
        "s5 oak.test": "signing",
    }


def test_keys_under_fixed_selectors_become_those_that_go_by_date() -> None:
    keys = proven(made([], [Want("oak.test", "mw-rsa", "rsa", 2048)]))
    assert states(made(keys, [OAK_RSA], NOW + 5)) == {"mw-rsa oak.test": "signing"}
    # … unless they are not what is asked for.
    assert states(made(keys, [replace(OAK_RSA, bits=3072)], NOW + 5)) == {"mw-rsa oak.test": "signing", "rsa-20261121 oak.test": "prepared"}


def test_another_given_key_under_its_selector_waits_until_the_former_is_forgotten() -> None:
    given = Want("oak.test", "s1", "rsa", None, given="first")
    keys = proven(made([], [given]))
    assert made(keys, [given], NOW + 5) == keys
    keys = made(keys, [replace(given, given="second")], NOW + 5)
    assert [(key.value, key.state) for key in keys] == [("second", "prepared")]
    keys = proven(keys, NOW + 10)
    assert states(keys) == {"s1 oak.test": "published"}
    assert states(proven(keys, NOW + 10 + 300)) == {"s1 oak.test": "signing"}


def test_a_domain_without_keys_signs_no_more_and_one_that_comes_back_proves_itself_anew() -> None:
    keys = made(proven(made([], [OAK_RSA])), [OAK_RSA, OAK_ED], NOW + 5)
    keys = begin_hold(made(keys, [], NOW + 10), NOW + 10, HOLD)
    assert states(keys) == {"rsa-20261121 oak.test": "retired"}
    keys = made(keys, [OAK_RSA], NOW + 20)
    assert states(keys) == {"rsa-20261121 oak.test": "prepared"}
    assert states(proven(keys)) == {"rsa-20261121 oak.test": "signing"}


def test_domains_share_a_key_and_rotate_it_together() -> None:
    wants = [Want(f"{name}.test", None, "rsa", 2048, shared=True) for name in ("elm", "oak")]
    keys = made([], wants[:1])
    keys = made(proven(keys), wants, NOW + DAY)
    assert {(key.selector, key.file, key.value) for key in keys} == {("rsa-20261121", "shared.rsa-20261121.key", keys[0].value)}
    assert states(keys) == {"rsa-20261121 elm.test": "signing", "rsa-20261121 oak.test": "prepared"}
    keys = proven(keys)
    kept, needs = reconcile(keys, wants, NOW + 2 * DAY, rotate=lambda key: key.domain == "elm.test")
    assert kept == keys
    assert [(need.want.domain, need.file) for need in needs] == [
        ("elm.test", "shared.rsa-20261123.key"),
        ("oak.test", "shared.rsa-20261123.key"),
    ]


def test_a_revoked_key_is_called_back_and_replaced_at_once() -> None:
    keys = proven(made([], [OAK_RSA]))
    keys = revoke(keys, "rsa-20261121", {"elm.test"}, NOW)
    assert states(keys) == {"rsa-20261121 oak.test": "signing"}
    keys = made(revoke(keys, "rsa-20261121", None, NOW), [OAK_RSA])
    assert states(keys) == {"rsa-20261121 oak.test": "revoked", "rsa-20261121b oak.test": "prepared"}
    assert published(keys)[0]["value"] == "v=DKIM1; k=rsa; p="
    kept, gone = expire(begin_hold(keys, NOW, HOLD), NOW + HOLD)
    assert (states(kept), states(gone)) == ({"rsa-20261121b oak.test": "prepared"}, {"rsa-20261121 oak.test": "revoked"})


def test_a_former_key_does_not_take_the_place_of_a_revoked_one() -> None:
    keys = made(proven(made([], [OAK_RSA])), [OAK_RSA], NOW + 10, due=True)
    keys = made(revoke(proven(keys), "rsa-20261121b", None, NOW), [OAK_RSA])
    assert states(keys) == {"rsa-20261121 oak.test": "retired", "rsa-20261121b oak.test": "revoked", "rsa-20261121c oak.test": "prepared"}


def test_a_revoked_key_with_a_declared_selector_does_not_come_back() -> None:
    pinned = Want("oak.test", "s1", "rsa", 2048)
    keys = made(revoke(proven(made([], [pinned])), "s1", None, NOW), [pinned])
    assert states(keys) == {"s1 oak.test": "revoked"}
    assert expire(begin_hold(keys, NOW, HOLD), NOW + HOLD)[1] == []


def test_selectors_that_were_in_use_are_not_taken_again() -> None:
    _, needs = reconcile([], [OAK_RSA], NOW, taken=["oak.test.rsa-20261121.key"])
    assert needs[0].selector == "rsa-20261121b"
    used = {f"oak.test.rsa-20261121{letter}.key" for letter in ["", *"bcdefghijklmnopqrstuvwxyz"]}
    assert reconcile([], [OAK_RSA], NOW, taken=used)[1][0].selector == "rsa-20261121z1"


def test_keys_are_the_same_after_they_were_written_down() -> None:
    keys = proven(made([], [OAK_RSA, OAK_ED]))
    assert load_keys(asdict(key) for key in keys) == keys


SERVERS = ("ns1", "ns2")
WANTS = [
    OAK_RSA,
    OAK_ED,
    replace(OAK_RSA, bits=3072),
    Want("oak.test", "s1", "rsa", 2048),
    Want("oak.test", "s2", "ed25519", None),
    Want("oak.test", "s3", "rsa", None, given="given"),
    Want("elm.test", None, "rsa", 2048, shared=True),
    Want("fir.test", None, "rsa", 2048, shared=True),
]


class Life(RuleBasedStateMachine):
    """A host, two name servers, somebody who publishes, and everything that can go wrong between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.keys: list[Key] = []
        self.wants: list[Want] = []
        self.dns: dict[str, dict[str, str]] = {server: {} for server in SERVERS}
        self.dead: set[str] = set()
        # What the filter uses: the state as it was at its last reload.
        self.loaded: dict[str, list[Key]] = {}
        self.serial = 0
        # (name, value) that every server had when it began to sign; and until when each must be there.
        self.seen: set[tuple[str, str]] = set()
        self.needed: dict[tuple[str, str], int] = {}
        self.called_back: set[tuple[str, str]] = set()

    @initialize()
    def first_run(self) -> None:
        self.reconcile(due=False)

    @rule(
        wants=strategies.lists(strategies.sampled_from(WANTS), unique_by=lambda want: (want.domain, want.slot)), due=strategies.booleans()
    )
    def declare(self, wants: list[Want], due: bool) -> None:
        self.wants = wants
        self.reconcile(due=due)

    @rule(due=strategies.booleans())
    def reconcile(self, due: bool) -> None:
        kept, gone = expire(self.keys, self.now)
        for key in gone:
            assert self.needed.get((key.name, key.value), 0) <= self.now, f"{key} is gone too early"
        try:
            kept, needs = reconcile(kept, self.wants, self.now, rotate=lambda _: due)
        except Invalid:
            return
        contents = {key.file: (key.kind, key.value) for key in kept}
        for need in needs:
            self.serial += 1
            fresh = (need.want.kind or "rsa 2048", need.want.given or f"key {self.serial}")
            contents[need.file] = fresh if need.want.given or not need.want.shared else contents.get(need.file, fresh)
        self.keys = add(kept, needs, contents, self.now)

    @rule(server=strategies.sampled_from(SERVERS))
    def publish(self, server: str) -> None:
        self.dns[server] = {row["name"]: row["value"] for row in published(self.keys)}

    @rule(server=strategies.sampled_from(SERVERS))
    def forget(self, server: str) -> None:
        self.dns[server] = {}

    @rule(server=strategies.sampled_from(SERVERS))
    def publish_something_else(self, server: str) -> None:
        self.dns[server] = dict.fromkeys(self.dns[server], "other")

    @rule(server=strategies.sampled_from(SERVERS))
    def die(self, server: str) -> None:
        self.dead.add(server)

    @rule()
    def repair(self) -> None:
        self.dead.clear()

    @rule(seconds=strategies.sampled_from([1, 300, DAY, HOLD]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(killed=strategies.booleans())
    def prove(self, killed: bool) -> None:
        found = {}
        for key in self.keys:
            answers = [self.dns[server].get(key.name) for server in SERVERS if server not in self.dead]
            other = any(answer not in (None, key.value) for answer in answers)
            found[key.name] = Found(len(answers) == len(SERVERS) and set(answers) == {key.value}, 300, 300 if other else 0)
        former = {key.name for keys in signing(self.keys).values() for key in keys}
        moved = advance(self.keys, found, self.now)
        # Killed before anything was written: as if it had not been.
        if not killed:
            for key in (key for keys in signing(moved).values() for key in keys if key.name not in former):
                assert all(self.dns[server].get(key.name) == key.value for server in SERVERS)
                assert not self.dead
                self.seen.add((key.name, key.value))
            self.keys = moved

    @rule()
    def reload(self) -> None:
        self.loaded = signing(self.keys)
        self.keys = begin_hold(self.keys, self.now, HOLD)

    @rule(due=strategies.booleans())
    def everything_works(self, due: bool) -> None:
        self.reconcile(due=due)
        self.repair()
        for server in SERVERS:
            self.publish(server)
        self.prove(killed=False)
        self.reload()

    @precondition(lambda self: any(key.state in LIVE for key in self.keys))
    @rule(data=strategies.data())
    def call_back(self, data: strategies.DataObject) -> None:
        key = data.draw(strategies.sampled_from([key for key in self.keys if key.state in LIVE]))
        self.called_back.add((key.name, key.value))
        self.keys = revoke(self.keys, key.selector, {key.domain}, self.now)

    @invariant()
    def only_what_was_proven_signs(self) -> None:
        for key in (key for keys in [*self.loaded.values(), *signing(self.keys).values()] for key in keys):
            assert (key.name, key.value) in self.seen

    @invariant()
    def records_stay_while_mail_is_on_its_way(self) -> None:
        # The filter signs in this very moment.
        for key in (key for keys in self.loaded.values() for key in keys):
            self.needed[key.name, key.value] = self.now + HOLD
        names = {key.name: key for key in self.keys}
        for (name, value), until in self.needed.items():
            replaced = name in names and names[name].value != value
            if until > self.now and (name, value) not in self.called_back and not replaced:
                assert name in names, f"{name} is gone {until - self.now} s too early"

    @invariant()
    def every_name_has_one_key(self) -> None:
        assert len({key.name for key in self.keys}) == len(self.keys)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


class Rotation(RuleBasedStateMachine):
    """A domain that is asked for all the time and signs never ceases to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.wants = [OAK_RSA]
        self.keys = proven(made([], self.wants))

    @rule(
        wants=strategies.lists(
            strategies.sampled_from([want for want in WANTS if want.domain == "oak.test" and want.selector != "s3"]),
            min_size=1,
            unique_by=lambda want: want.slot,
        ),
        due=strategies.booleans(),
    )
    def declare(self, wants: list[Want], due: bool) -> None:
        try:
            self.keys = made(expire(self.keys, self.now)[0], wants, self.now, due=due)
        except Invalid:
            return

    @rule(data=strategies.data())
    def prove(self, data: strategies.DataObject) -> None:
        found = {key.name: Found(data.draw(strategies.booleans()), 300) for key in self.keys}
        self.keys = advance(self.keys, found, self.now)

    @rule(seconds=strategies.sampled_from([1, DAY, HOLD]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.keys = begin_hold(self.keys, self.now, HOLD)

    @invariant()
    def something_signs(self) -> None:
        assert signing(self.keys)


Rotation.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRotation = Rotation.TestCase
