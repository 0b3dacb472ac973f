"""Shapes of passwords, hashes and DKIM keys: what would not work, or work too weakly, is refused before a host sees it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.passwords import check_hash, check_password
from ansible.module_utils.mailwright.pem import check_private_key
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

ARGON2ID = "{ARGON2ID}" + PasswordHasher(memory_cost=1024, time_cost=1, parallelism=1).hash("secret", salt=b"sixteen octets..")
BCRYPT = "{BLF-CRYPT}$2y$05$" + "abcdefghijklmnopqrstuv" + "x" * 31
SHA512 = "{SHA512-CRYPT}$6$salt$" + "x" * 86


def digest(name: str, salt: bytes = b"") -> str:
    return base64.b64encode(hashlib.new(name, b"secret" + salt).digest() + salt).decode()


@pytest.mark.parametrize(
    "text", [ARGON2ID, BCRYPT, "{CRYPT}$2b$12$" + "x" * 53, "{CRYPT}$y$j9T$salt$" + "x" * 43, ARGON2ID.lower()[:10] + ARGON2ID[10:]]
)
def test_strong_hashes_are_taken(text: str) -> None:
    assert check_hash(text) is False


WEAK = [
    SHA512,
    "{SHA256-CRYPT}$5$rounds=10000$salt$" + "x" * 43,
    "{MD5-CRYPT}$1$salt$" + "x" * 22,
    "{MD5}$1$salt$" + "x" * 22,
    "{CRYPT}$1$salt$" + "x" * 22,
    "{CRYPT}$6$salt$" + "x" * 86,
    "{DES-CRYPT}" + "x" * 13,
    "{SSHA}" + digest("sha1", b"salt"),
    "{SSHA256}" + digest("sha256", b"salt"),
    "{SSHA512.b64}" + digest("sha512", b"salt"),
    "{SHA256.hex}" + "ab" * 32,
    "{PLAIN-MD5}" + "ab" * 16,
    "{PBKDF2}$1$salt$5000$" + "ab" * 20,
    "{ARGON2I}" + ARGON2ID.removeprefix("{ARGON2ID}").replace("argon2id", "argon2i"),
]


@pytest.mark.parametrize("text", WEAK)
def test_weak_hashes_are_refused_unless_the_mailbox_allows_them(text: str) -> None:
    with pytest.raises(Invalid, match="too weak; the minimum is ARGON2ID or BLF-CRYPT") as caught:
        check_hash(text)
    assert "allow_weak_hash" in caught.value.cure
    assert check_hash(text, allow_weak=True) is True


@pytest.mark.parametrize("text", ["{PLAIN}secret", "{CLEARTEXT}secret", "{CRAM-MD5}" + "ab" * 32])
def test_what_keeps_the_password_readable_is_never_taken(text: str) -> None:
    with pytest.raises(Invalid, match="readable"):
        check_hash(text, allow_weak=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ARGON2ID.removeprefix("{ARGON2ID}"), "scheme missing"),
        ("secret", "scheme missing"),
        ("", "empty"),
        (ARGON2ID[:-30], "not a valid ARGON2ID"),
        (ARGON2ID.replace("v=19", "v=1"), "not a valid ARGON2ID"),
        (ARGON2ID.replace("argon2id$", "argon2i$"), "not a valid ARGON2ID"),
        (ARGON2ID + "é", "not a valid ARGON2ID"),
        (BCRYPT[:-1], "not a valid BLF-CRYPT"),
        (BCRYPT.replace("$05$", "$99$"), "cost"),
        (SHA512[:-1], "not a valid SHA512-CRYPT"),
        ("{SSHA}" + digest("sha1"), "not a valid SSHA"),
        ("{CRYPT}$9$x", "not a valid CRYPT"),
        (ARGON2ID + ":0:0::/root", "passwd-file"),
        (ARGON2ID + " ", "passwd-file"),
        (ARGON2ID + "\n", "U+000A"),
        (ARGON2ID + "\nroot:x", "U+000A"),
        ("{ARGON2IDD}x", "unknown scheme"),
        ("{}x", "unknown scheme"),
        ("$ANSIBLE_VAULT;1.1;AES256", "not decrypted"),
        ("VAULT_FORMAT error", "not decrypted"),
    ],
)
def test_a_hash_that_no_login_would_match_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_hash(text, allow_weak=True)
    assert reason in caught.value.reason


def test_the_scheme_to_write_in_front_is_suggested() -> None:
    with pytest.raises(Invalid, match=r"write \{ARGON2ID\} in front"):
        check_hash(ARGON2ID.removeprefix("{ARGON2ID}"))
    with pytest.raises(Invalid, match="did you mean ARGON2ID"):
        check_hash("{ARGONID}x")


@given(st.text(st.characters()) | st.builds("{{ARGON2ID}}{}".format, st.text(st.characters())))
def test_an_accepted_hash_is_one_field_of_a_passwd_file(text: str) -> None:
    try:
        check_hash(text, allow_weak=True)
    except Invalid:
        return
    assert text.isprintable() and not set(text) & set(": \t\n")


@pytest.mark.parametrize("text", ["secret", "with space", "pässwörd", "a:b{c}$d%e", "{{ not a template }}"])
def test_any_printable_password_is_taken(text: str) -> None:
    check_password(text)


@pytest.mark.parametrize("text", ["", " ", "a ", "a\n", "a\0b", "x" * 257, "$ANSIBLE_VAULT;1.1;AES256\n3132"])
def test_a_password_that_cannot_be_typed_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        check_password(text)


# -- DKIM keys

RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
NONE = NoEncryption()


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    encryption: KeySerializationEncryption = NONE,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def test_private_keys_of_both_kinds_are_taken() -> None:
    check_private_key(pem(RSA), "rsa")
    check_private_key(pem(RSA, form=PrivateFormat.TraditionalOpenSSL), "rsa")
    check_private_key(pem(ED25519), "ed25519")


@pytest.mark.parametrize(
    ("make", "algorithm", "reason"),
    [
        (lambda: pem(rsa.generate_private_key(65537, 1024)), "rsa", "1024 bits"),  # noqa: S505  (a weak key is the case)
        (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "rsa", "kind EC"),
        (lambda: pem(ED25519), "rsa", "Ed25519 key, but the algorithm is rsa"),
        (lambda: pem(RSA), "ed25519", "RSA key, but the algorithm is ed25519"),
        (lambda: pem(RSA, BestAvailableEncryption(b"x")), "rsa", "encrypted PEM"),
        (lambda: RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), "rsa", "public key"),
        (lambda: pem(RSA)[:200] + "\n-----END PRIVATE KEY-----\n", "rsa", "not a readable"),
        (lambda: "secret", "rsa", "not PEM"),
        (lambda: "$ANSIBLE_VAULT;1.1;AES256", "rsa", "not decrypted"),
    ],
)
def test_a_key_that_dkim_cannot_use_is_refused_without_being_shown(make: Callable[[], str], algorithm: str, reason: str) -> None:
    text = make()
    with pytest.raises(Invalid) as caught:
        check_private_key(text, algorithm)
    assert reason in caught.value.reason
    body = "".join(text.splitlines()[1:-1])
    assert not body or body[:20] not in str(caught.value)
