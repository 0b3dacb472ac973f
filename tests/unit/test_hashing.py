"""Passwords: hashed once, kept while they verify."""

from __future__ import annotations

import pytest
from ansible.module_utils.mailwright import hashing
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.hashing import UNKNOWN, Credential, hash_password, resolve, verifies

READY = "{BLF-CRYPT}$2y$12$xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
STORED = hash_password("geheim")


def test_a_hash_is_what_doveadm_makes() -> None:
    assert STORED.startswith("{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$")
    assert verifies(STORED, "geheim")
    assert not verifies(STORED, "Geheim")


@pytest.mark.parametrize("stored", ["", READY, "{ARGON2ID}$argon2id$rubbish", STORED.replace("t=3", "t=1"), STORED[:-5]])
def test_other_hashes_do_not_verify(stored: str) -> None:
    assert not verifies(stored, "geheim")


def test_an_existing_hash_stays_while_it_verifies() -> None:
    assert resolve({"a": Credential("geheim", None, "always")}, {"a": STORED}) == {"a": STORED}


def test_another_password_gets_another_hash() -> None:
    found = resolve({"a": Credential("neu", None, "always")}, {"a": STORED})["a"]
    assert found != STORED
    assert verifies(found, "neu")


def test_on_create_leaves_a_hash_that_the_host_has_and_seeds_one_that_it_has_not() -> None:
    wanted = {
        "a": Credential("neu", None, "on_create"),
        "b": Credential(None, READY, "on_create"),
        "c": Credential("neu", None, "on_create"),
    }
    found = resolve(wanted, {"a": STORED, "b": STORED})
    assert found["a"] == found["b"] == STORED
    assert verifies(found["c"], "neu")


def test_ready_hashes_pass_through() -> None:
    assert resolve({"a": Credential(None, READY, "always")}, {"a": STORED}) == {"a": READY}


def test_many_are_hashed_in_their_own_names() -> None:
    found = resolve({f"u{i}": Credential(f"p{i}", None, "always") for i in range(6)}, {})
    assert all(verifies(found[f"u{i}"], f"p{i}") for i in range(6))


def test_check_mode_hashes_nothing() -> None:
    wanted = {"a": Credential("geheim", None, "always"), "b": Credential("neu", None, "always")}
    assert resolve(wanted, {"a": STORED}, check_mode=True) == {"a": STORED, "b": UNKNOWN}


def test_a_bare_host_does_in_check_mode_and_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "argon2", None)
    wanted = {"a": Credential("geheim", None, "always")}
    assert resolve(wanted, {}, check_mode=True) == {"a": UNKNOWN}
    with pytest.raises(Invalid, match="python3-argon2"):
        resolve(wanted, {})


def test_neither_password_nor_hash_is_refused() -> None:
    with pytest.raises(Invalid, match="a: a password"):
        resolve({"a": Credential(None, None, "always")}, {})
