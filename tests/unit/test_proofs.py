"""Passwords that did not change are not verified again, and the file that saves it tells no more than the hashes."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import hashing, proofs
from ansible.module_utils.mailwright.hashing import Credential, resolve
from ansible.module_utils.mailwright.proofs import Proofs

PASSWORDS = {f"u{n:02}@oak.test": f"geheim {n}" for n in range(12)}


class Host:
    """What a host keeps between runs, and which passwords were verified or hashed one by one."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path / "directory/passwords.json"
        self.hashes: dict[str, str] = {}
        self.verified: list[str] = []
        self.hashed: list[str] = []
        # The real ones take a quarter of a second each.
        monkeypatch.setattr(hashing, "verifies", self.verifies)
        monkeypatch.setattr(hashing, "hash_password", self.hash_password)

    def verifies(self, stored: str, password: str) -> bool:
        self.verified.append(password)
        return stored.startswith(f"hash of {password}#")

    def hash_password(self, password: str) -> str:
        self.hashed.append(password)
        return f"hash of {password}#{len(self.hashed)}"

    def run(self, passwords: dict[str, str], check_mode: bool = False) -> tuple[set[str], set[str]]:
        """One run; who was verified and who was hashed."""
        self.verified, self.hashed = [], []
        wanted = {name: Credential(password, None, "always") for name, password in passwords.items()}
        found = resolve(wanted, self.hashes, check_mode=check_mode, proofs=Proofs(self.path))
        if not check_mode:
            self.hashes = found
        return set(self.verified), set(self.hashed)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(proofs, "slow_digest", lambda data, salt: f"digest of {salt}{data.hex()}")
    return Host(tmp_path, monkeypatch)


def test_what_did_not_change_is_not_verified_again(host: Host) -> None:
    assert host.run(PASSWORDS) == (set(), set(PASSWORDS.values()))
    assert host.run(PASSWORDS) == (set(), set())
    assert host.run({**PASSWORDS, "new@oak.test": "neu"}) == (set(), {"neu"})
    assert host.run({**PASSWORDS, "new@oak.test": "neu"}) == (set(), set())


def test_a_changed_password_is_hashed_and_few_others_verified(host: Host) -> None:
    host.run(PASSWORDS)
    verified, hashed = host.run({**PASSWORDS, "u05@oak.test": "anders"})
    assert hashed == {"anders"}
    assert "anders" in verified
    assert len(verified) <= 4
    assert host.run({**PASSWORDS, "u05@oak.test": "anders"}) == (set(), set())
    assert host.run({name: password for name, password in PASSWORDS.items() if name != "u01@oak.test"})[1] == {"geheim 5"}


def test_two_who_exchange_their_passwords_are_noticed(host: Host) -> None:
    host.run(PASSWORDS)
    assert host.run({**PASSWORDS, "u00@oak.test": "geheim 1", "u01@oak.test": "geheim 0"})[1] == {"geheim 0", "geheim 1"}


def test_a_hash_that_somebody_exchanged_is_verified(host: Host) -> None:
    host.run(PASSWORDS)
    host.hashes["u03@oak.test"] = "hash of something else#"
    assert host.run(PASSWORDS)[1] == {"geheim 3"}


@pytest.mark.parametrize("damage", ["", "[]", "[{}]", "{", '[{"members": ["u00@oak.test"], "salt": "", "digest": ""}]'])
def test_a_damaged_file_proves_nothing(host: Host, damage: str) -> None:
    host.run(PASSWORDS)
    host.path.write_text(damage)
    assert host.run(PASSWORDS) == (set(PASSWORDS.values()), set())
    assert host.run(PASSWORDS) == (set(), set())


def test_check_mode_keeps_no_proofs(host: Host) -> None:
    host.run(PASSWORDS)
    before = host.path.read_bytes()
    host.run({**PASSWORDS, "u00@oak.test": "anders"}, check_mode=True)
    assert host.path.read_bytes() == before


def test_many_runs_that_each_add_one_do_not_pile_up_groups(host: Host) -> None:
    people = dict(PASSWORDS)
    host.run(people)
    for number in range(40):
        people[f"new{number}@oak.test"] = f"neu {number}"
        assert host.run(people) == (set(), {f"neu {number}"})
    assert len(json.loads(host.path.read_text())) < 25


def test_the_file_is_the_owner_s_alone_has_no_password_and_goes_with_the_last(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hashes = {name: (password, f"hash {password[-1]}") for name, password in PASSWORDS.items()}
    Proofs(host.path).keep(hashes)
    assert stat.S_IMODE(host.path.stat().st_mode) == 0o600
    assert "geheim" not in host.path.read_text()
    assert "hash" not in host.path.read_text()
    assert Proofs(host.path).proven(hashes) == set(PASSWORDS)
    assert Proofs(host.path).proven({**hashes, "u00@oak.test": ("x", "hash 0")}) < set(PASSWORDS) - {"u00@oak.test"}
    Proofs(host.path).keep({})
    assert not host.path.exists()


def test_a_group_s_proof_takes_as_much_memory_as_the_hash_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address in a group of its own must not be easier to guess there than on its hash."""
    asked: dict[str, int] = {}

    def scrypt(_data: bytes, *, n: int, r: int, **_other: object) -> bytes:
        asked["octets"] = 128 * n * r
        return b""

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    proofs.slow_digest(b"geheim", "00")
    assert ",p=" in (found := hashing.hash_password("geheim"))
    assert asked["octets"] >= 1024 * int(found.partition("m=")[2].partition(",")[0])
