"""Dovecot's user files: one line for one mailbox, in the language of each release."""

from __future__ import annotations

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.passwd_file import EXTRAS, User, parse_names, parse_users, render_names, render_users
from hypothesis import given
from hypothesis import strategies as st

HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
ASCII = st.characters(codec="ascii")


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (
            "2.3",
            "userdb_quota_rule=*:storage=0B userdb_lazy_expunge=Trash userdb_namespace/inbox/mailbox/Junk/autoexpunge=60s"
            " userdb_namespace/inbox/mailbox/Trash/autoexpunge=7s",
        ),
        (
            "2.4",
            "userdb_quota_storage_size=0B userdb_lazy_expunge_mailbox=Trash userdb_namespace/inbox/mailbox/Junk/mailbox_autoexpunge=60s"
            " userdb_namespace/inbox/mailbox/Trash/mailbox_autoexpunge=7s",
        ),
    ],
)
def test_retention_and_deleted_mail_are_written_for_each_release(version: str, fields: str) -> None:
    extras = {"trash_retention": "7", "junk_retention": "60", "deleted_to_trash": "yes"}
    assert render_users({"a@oak.test": User(HASH, 0, True, extras)}, version) == f"a@oak.test:{HASH}::::::{fields}\n"


@pytest.mark.parametrize("extras", [{"junk_retention": "1 x=y"}, {"junk_retention": "1\n"}, {"uid": "0"}, {"deleted_to_trash": "no"}])
def test_an_extra_that_adds_fields_or_lines_is_refused(extras: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        render_users({"a@oak.test": User(HASH, 0, True, extras)}, "2.4")


def test_quota_and_junk_filing_are_written_for_dovecot_2_3() -> None:
    assert render_users({"a@oak.test": User(HASH, 1024, False)}, "2.3") == (
        f"a@oak.test:{HASH}::::::userdb_quota_rule=*:storage=1024B userdb_sieve_env_junk_filing=no\n"
    )


def test_quota_and_junk_filing_are_written_for_dovecot_2_4() -> None:
    assert render_users({"a@oak.test": User(HASH, 0, False)}, "2.4") == (
        f"a@oak.test:{HASH}::::::userdb_quota_storage_size=0B userdb_sieve_environment/junk_filing=no\n"
    )


@given(
    st.from_regex(r"[a-z][a-z0-9._+=-]{0,9}@[a-z]{2,9}\.test", fullmatch=True),
    st.integers(min_value=0, max_value=2**60),
    st.booleans(),
    st.sampled_from(["2.3", "2.4"]),
    st.fixed_dictionaries(
        {}, optional={name: st.from_regex(value, fullmatch=True, alphabet=ASCII) for name, (*_, value) in EXTRAS.items()}
    ),
)
def test_users_read_back_as_themselves(address: str, quota: int, junk: bool, version: str, extras: dict[str, str]) -> None:
    users = {address: User(HASH, quota, junk, extras)}
    assert parse_users(render_users(users, version)) == users


@pytest.mark.parametrize("password", ["", "secret", "{X}", "{X}a:0:0", "{X}a b", "{X}a\nroot:{X}b", "{X}ä", "{x}a"])
def test_a_hash_that_adds_fields_or_lines_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(Invalid) as caught:
        render_users({"a@oak.test": User(password, 0, True)}, "2.4")
    assert password == "" or password not in str(caught.value).replace("{SCHEME}", "")


@pytest.mark.parametrize("address", ["a:b@oak.test", "a@oak.test\nb", "a b@oak.test"])
def test_an_address_that_adds_fields_or_lines_is_refused(address: str) -> None:
    with pytest.raises(Invalid):
        render_users({address: User(HASH, 0, True)}, "2.4")
    with pytest.raises(Invalid):
        render_names([address])


def test_deny_files_read_back_as_themselves() -> None:
    assert parse_names(render_names(["b@oak.test", "a@oak.test"])) == {"a@oak.test", "b@oak.test"}
