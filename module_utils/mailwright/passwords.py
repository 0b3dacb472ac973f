# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Shapes of passwords and of password hashes. Nothing is hashed or verified here; see Dovecot's "password schemes"."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Final

from .errors import Invalid

__all__ = ["STRONG", "check_hash", "check_password"]

STRONG: Final = frozenset({"ARGON2ID", "BLF-CRYPT"})
_MINIMUM = "the minimum is ARGON2ID or BLF-CRYPT"
_CURE = "make one with `doveadm pw -s ARGON2ID`"

_ITOA64 = "[./A-Za-z0-9]"
_BASE64 = "[A-Za-z0-9+/]"
# RFC 9106 has no text form; this is the reference implementation's, with version 19.
_ARGON2 = re.compile(
    rf"\$argon2(?P<type>id|i)\$v=19\$m=(?P<m>\d{{1,8}}),t=(?P<t>\d{{1,4}}),p=(?P<p>\d{{1,3}})"
    rf"\$(?P<salt>{_BASE64}+)\$(?P<hash>{_BASE64}+)"
)
_BCRYPT = re.compile(rf"\$2[abxy]\$(?P<cost>\d\d)\${_ITOA64}{{53}}")
_CRYPTS: Final[Mapping[str, re.Pattern[str]]] = {
    "SHA512-CRYPT": re.compile(rf"\$6\$(rounds=\d{{4,9}}\$)?{_ITOA64}{{1,16}}\${_ITOA64}{{86}}"),
    "SHA256-CRYPT": re.compile(rf"\$5\$(rounds=\d{{4,9}}\$)?{_ITOA64}{{1,16}}\${_ITOA64}{{43}}"),
    "MD5-CRYPT": re.compile(rf"\$1\${_ITOA64}{{1,8}}\${_ITOA64}{{22}}"),
    "DES-CRYPT": re.compile(rf"{_ITOA64}{{13}}"),
}
_YESCRYPT = re.compile(rf"\$y\${_ITOA64}{{1,16}}\${_ITOA64}{{1,86}}\${_ITOA64}{{43}}")
_PBKDF2 = re.compile(r"\$1\$[^$:\s]{1,64}\$\d{1,9}\$[0-9a-fA-F]{40}")
# Octets of the digest, and whether a salt follows it.
_DIGESTS: Final[Mapping[str, tuple[int, bool]]] = {
    "SSHA512": (64, True),
    "SSHA256": (32, True),
    "SSHA": (20, True),
    "SMD5": (16, True),
    "SHA512": (64, False),
    "SHA256": (32, False),
    "SHA1": (20, False),
    "SHA": (20, False),
    "LDAP-MD5": (16, False),
}
# Not hashes at all, or kept so that the server can compute the clear text's other forms.
_REVERSIBLE: Final = frozenset({"PLAIN", "CLEAR", "CLEARTEXT", "PLAIN-TRUNC", "CRAM-MD5", "HMAC-MD5", "LANMAN", "NTLM"})
_VAULT_MARKS = ("$ANSIBLE_VAULT;", "VAULT_FORMAT")


def _refuse_text(text: str) -> None:
    if not text:
        raise Invalid("empty")
    if any(mark in text for mark in _VAULT_MARKS):
        raise Invalid("not decrypted: this is the text of a vault", "write it as `!vault |` with the text below")
    if text.isprintable():
        return
    for char in text:
        if not char.isprintable():
            raise Invalid(f"control character U+{ord(char):04X} not allowed", "a block `|` ends in one; `|-` does not")


def check_password(text: str) -> None:
    """A password in clear: any printable text."""
    _refuse_text(text)
    if text != text.strip():
        raise Invalid("leading or trailing space", "remove it, no client would send it")
    if len(text.encode()) > 256:
        raise Invalid("longer than 256 octets")


def _argon2(scheme: str, body: str) -> bool:
    match = _ARGON2.fullmatch(body)
    if match is None or f"ARGON2{match['type'].upper()}" != scheme:
        return False
    if int(match["m"]) < 8 * int(match["p"]) or not int(match["t"]) or not int(match["p"]):
        return False
    return _octets(match["salt"]) >= 8 and _octets(match["hash"]) >= 16


def _octets(text: str) -> int:
    """Length of base64 without padding, or -1."""
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except binascii.Error:
        return -1


def _digest(scheme: str, body: str) -> bool:
    octets, salted = _DIGESTS[scheme]
    try:
        raw = bytes.fromhex(body) if len(body) == 2 * octets and not salted else base64.b64decode(body, validate=True)
    except ValueError:
        return False
    return len(raw) > octets if salted else len(raw) == octets


def _crypt(body: str) -> str | None:
    """The scheme that {CRYPT} stands for."""
    if _BCRYPT.fullmatch(body):
        return "BLF-CRYPT"
    if _YESCRYPT.fullmatch(body):
        return "YESCRYPT"
    return next((name for name, pattern in _CRYPTS.items() if pattern.fullmatch(body)), None)


def _fits(scheme: str, body: str) -> bool:
    if scheme in ("ARGON2ID", "ARGON2I"):
        return _argon2(scheme, body)
    if scheme == "BLF-CRYPT":
        return _BCRYPT.fullmatch(body) is not None
    if scheme in _CRYPTS:
        return _CRYPTS[scheme].fullmatch(body) is not None
    if scheme == "PBKDF2":
        return _PBKDF2.fullmatch(body) is not None
    return _digest(scheme, body)


_KNOWN: Final = (*STRONG, "ARGON2I", "CRYPT", *_CRYPTS, "PBKDF2", *_DIGESTS)
_GUESSES: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("ARGON2ID", lambda text: text.startswith("$argon2id$")),
    ("BLF-CRYPT", lambda text: text.startswith(("$2a$", "$2b$", "$2y$"))),
    ("SHA512-CRYPT", lambda text: text.startswith("$6$")),
)


def check_hash(text: str, *, allow_weak: bool = False) -> bool:
    """Check a `{SCHEME}hash`; true when it is weaker than the minimum, which only `allow_weak` lets through.

    Whatever passes has no ':' and no white space, so it is one field of a passwd-file.
    """
    _refuse_text(text)
    if (found := re.search(r"[:\s]", text)) is not None:
        what = "':'" if found[0] == ":" else "white space"
        raise Invalid(f"{what} not allowed: it would add fields to the passwd-file")
    match = re.fullmatch(r"\{([^{}]*)\}(.*)", text)
    if match is None:
        guess = next((name for name, test in _GUESSES if test(text)), None)
        cure = f"write {{{guess}}} in front" if guess else "if this is clear text, write it as password"
        raise Invalid("scheme missing: no login would work", cure)
    scheme, body = match[1].upper(), match[2]
    # Dovecot's encodings of digests: the shape tells them apart.
    bare = re.sub(r"\.(B64|BASE64|HEX)$", "", scheme)
    if bare in _DIGESTS:
        scheme = bare
    if scheme in ("MD5", "PLAIN-MD5"):
        scheme = "MD5-CRYPT" if body.startswith("$1$") else "LDAP-MD5"
    if scheme in _REVERSIBLE:
        raise Invalid(f"scheme {scheme} is too weak: it keeps the password readable; {_MINIMUM}", _CURE)
    if scheme == "CRYPT":
        inner = _crypt(body)
        if inner is None:
            raise Invalid("not a valid CRYPT string", _CURE)
        scheme = inner
    elif scheme not in _KNOWN:
        near = difflib.get_close_matches(scheme, _KNOWN, n=1)
        raise Invalid(f"unknown scheme {scheme[:20]!r}", f"did you mean {near[0]}?" if near else _CURE)
    elif not _fits(scheme, body):
        raise Invalid(f"not a valid {scheme} string: truncated, or of the wrong alphabet", _CURE)
    cost = _BCRYPT.fullmatch(body)
    if cost is not None and not 4 <= int(cost["cost"]) <= 31:
        raise Invalid("not a valid BLF-CRYPT string: the cost is from 04 to 31")
    weak = scheme not in STRONG and scheme != "YESCRYPT"
    if weak and not allow_weak:
        raise Invalid(f"scheme {scheme} is too weak; {_MINIMUM}", f"{_CURE}, or set allow_weak_hash: true for a migration")
    return weak
