# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Private keys and certificates: read, judged, made and put live as a pair, never one without the other.

A pair is live when the link of its certificate's name (`default`, or a mail domain) points to the directory that holds
`privkey.pem` and `fullchain.pem`: one rename exchanges both. Needs python3-cryptography 38 (Debian 12) or later.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .files import fsync_directory, link_atomic, make_directory, remove_file, write_atomic

KEY_FILE = "privkey.pem"
CHAIN_FILE = "fullchain.pem"
# A change of the key of `default`, see rollover.py.
NEXT_FILE = "next.json"
NEXT_KEY_FILE = "next-privkey.pem"
RETIRED_FILE = "retired.json"
# While `default` is self-signed only until the ACME server answers.
PROVISIONAL_FILE = "provisional"
# The longest life that all clients accept of a certificate that was trusted by hand.
SELF_SIGNED_DAYS = 825
# Renewed or warned about from this time before the end.
EXPIRY_MARGIN = dt.timedelta(days=14)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class CertificateError(ValueError):
    """A pair that cannot be used; the sentence never holds key material."""


@dataclass(frozen=True)
class Pair:
    """A key and the chain that belongs to it, leaf first, each certificate signed by the next."""

    key: PrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The host's own certificate."""
        return self.chain[0]

    @property
    def names(self) -> list[str]:
        """The DNS names of the leaf, lower case, in its order."""
        try:
            found = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return [name.lower() for name in found.get_values_for_type(x509.DNSName)]

    @property
    def is_self_signed(self) -> bool:
        """Whether the leaf vouches for itself."""
        return self.leaf.issuer == self.leaf.subject

    @property
    def not_after(self) -> dt.datetime:
        """End of the leaf's life, UTC."""
        return _not_after(self.leaf)

    @property
    def key_pem(self) -> bytes:
        """PKCS #8, not encrypted."""
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def chain_pem(self) -> bytes:
        """The chain as daemons want it."""
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in self.chain)

    def describe(self) -> str:
        """A few lines for the diff; nothing secret."""
        issuer = "itself" if self.is_self_signed else self.leaf.issuer.rfc4514_string()
        return (
            f"names: {', '.join(self.names)}\nissuer: {issuer}\nnot after: {self.not_after:%Y-%m-%d %H:%M} UTC\n"
            f"certificate: {self.leaf.fingerprint(hashes.SHA256()).hex()}\npublic key: {spki_digest(self.leaf)}\n"
        )


def _not_before(certificate: x509.Certificate) -> dt.datetime:
    # The properties without _utc go away; Debian 12 has no others.
    if hasattr(certificate, "not_valid_before_utc"):
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=dt.UTC)  # type: ignore[no-any-return, unused-ignore]


def _not_after(certificate: x509.Certificate) -> dt.datetime:
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=dt.UTC)  # type: ignore[no-any-return, unused-ignore]


def _spki(holder: x509.Certificate | PrivateKey) -> bytes:
    return holder.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_pair(key_pem: bytes, chain_pem: bytes) -> Pair:
    """The pair of two PEM texts, the chain put in order. Raises CertificateError."""
    key = _load_key(key_pem)
    try:
        found = [x509.load_pem_x509_certificate(pem) for pem in _CERTIFICATE.findall(chain_pem)]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from None
    if not found:
        raise CertificateError("there is no PEM certificate (-----BEGIN CERTIFICATE-----)")
    own = [c for c in found if _spki(c) == _spki(key)]
    if not own:
        subjects = "; ".join(c.subject.rfc4514_string() for c in found)
        raise CertificateError(f"the private key belongs to none of the certificates ({subjects})")
    return Pair(key, _order(own[0], [c for c in found if c != own[0]]))


def _load_key(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError("the private key is protected by a passphrase; daemons need it without") from None
    except (ValueError, UnsupportedAlgorithm):
        what = "a public key" if b"PUBLIC KEY-----" in pem else "not a PEM private key"
        raise CertificateError(f"the private key cannot be read: it is {what}") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < 2048:
            raise CertificateError(f"the RSA key has {key.key_size} bits; 2048 is the least, 3072 or ECDSA better")
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return key
    raise CertificateError("the private key is of a kind that not all clients know; use ECDSA P-256 or P-384, or RSA")


def _order(leaf: x509.Certificate, others: list[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Leaf, its issuer, that one's issuer …, without a root at the end. Raises CertificateError for strangers."""
    chain = [leaf]
    while chain[-1].issuer != chain[-1].subject:
        issuer = next((c for c in others if c not in chain and _signed_by(chain[-1], c)), None)
        if issuer is None:
            break
        chain.append(issuer)
    strangers = [c.subject.rfc4514_string() for c in others if c not in chain]
    if strangers:
        raise CertificateError(f"the chain holds a certificate that did not sign what is before it: {strangers[0]}")
    if len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
        chain.pop()
    return tuple(chain)


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    if certificate.signature_algorithm_oid == x509.SignatureAlgorithmOID.RSASSA_PSS:
        return True  # Debian 12's library does not tell its parameters; the names must do
    key, digest = issuer.public_key(), certificate.signature_hash_algorithm
    signed = (certificate.signature, certificate.tbs_certificate_bytes)
    try:
        if isinstance(key, rsa.RSAPublicKey) and digest:
            key.verify(*signed, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest:
            key.verify(*signed, ec.ECDSA(digest))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(*signed)
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def covers(pattern: str, name: str) -> bool:
    """Whether a certificate's DNS name matches; a wildcard stands for exactly one label (RFC 6125 6.4.3)."""
    pattern, name = pattern.lower(), name.lower()
    if pattern.startswith("*."):
        return "." in name and name.split(".", 1)[1] == pattern[2:]
    return pattern == name


def judge(pair: Pair, names: Iterable[str], now: dt.datetime) -> list[str]:
    """Everything that speaks against serving the pair for `names` at `now`, as sentences."""
    found = []
    for certificate, what in zip(pair.chain, ["the certificate", *["an intermediate certificate"] * 9], strict=False):
        if _not_before(certificate) > now:
            found.append(f"{what} is valid only from {_not_before(certificate):%Y-%m-%d %H:%M} UTC")
        if _not_after(certificate) <= now:
            found.append(f"{what} expired on {_not_after(certificate):%Y-%m-%d %H:%M} UTC")
    lacking = [name for name in names if not any(covers(own, name) for own in pair.names)]
    if lacking:
        has = ", ".join(pair.names) or "no DNS name at all"
        found.append(f"the certificate lacks {', '.join(lacking)} (it has {has})")
    return found


def expires_soon(pair: Pair, now: dt.datetime) -> bool:
    """Whether a renewal that should have happened did not: 14 days left, or a quarter of a short life."""
    life = pair.not_after - _not_before(pair.leaf)
    return pair.not_after - now < min(EXPIRY_MARGIN, life / 4)


def self_signed(names: Sequence[str], now: dt.datetime, key: PrivateKey | None = None) -> Pair:
    """A new self-signed pair for `names`, ECDSA P-256 unless `key` is to be kept (so that pins on it hold)."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    # A common name has 64 characters at most (RFC 5280); clients look at the alternative names only.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = {
        "digital_signature": True,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back, for clients whose clock is behind.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(key, (builder.sign(key, hashes.SHA256()),))


def read_pair(directory: Path) -> Pair | None:
    """The pair in a directory; None where there is none or it is no pair."""
    try:
        return load_pair((directory / KEY_FILE).read_bytes(), (directory / CHAIN_FILE).read_bytes())
    except (OSError, CertificateError):
        return None


def same(one: Pair | None, other: Pair | None) -> bool:
    """Whether both are the same key and chain."""
    return one is not None and other is not None and one.chain == other.chain and _spki(one.key) == _spki(other.key)


def put_live(link: Path, pair: Pair) -> None:
    """Make `pair` the one that `link` leads to, in one step, and remove the pairs before. Raises OSError."""
    make_directory(link.parent, mode=0o700)
    # No name of a certificate has an @.
    directory = link.parent / f"{link.name}@{secrets.token_hex(4)}"
    make_directory(directory, mode=0o700)
    write_atomic(directory / KEY_FILE, pair.key_pem, mode=0o600)
    write_atomic(directory / CHAIN_FILE, pair.chain_pem, mode=0o600)
    before = [*link.parent.glob(f"{link.name}@*")]
    if link.is_symlink():
        before.append(link.resolve())
    elif link.is_dir():
        before.append(link.rename(link.parent / f"{link.name}@old"))
    link_atomic(link, directory.name)
    for old in before:
        if old not in (directory, link.parent) and old.parent == link.parent:
            shutil.rmtree(old, ignore_errors=True)
    fsync_directory(link.parent)


def remove_live(link: Path) -> None:
    """Take a pair away, the link first. Raises OSError."""
    remove_file(link)
    for old in link.parent.glob(f"{link.name}@*"):
        shutil.rmtree(old)
    fsync_directory(link.parent)


def live_names(path: Path) -> list[str]:
    """The names of the certificates below `path`."""
    return sorted(link.name for link in path.glob("*") if link.is_symlink() and (link / CHAIN_FILE).exists())


def spki_digest(holder: x509.Certificate | PrivateKey) -> str:
    """SHA-256 of the public key in hex, as TLSA records `3 1 1` have it (RFC 6698)."""
    return hashlib.sha256(_spki(holder)).hexdigest()


def tlsa_digests(path: Path, now: dt.datetime | None = None) -> dict[str, list[str]]:
    """{certificate: digests for TLSA records `3 1 1`: that of the live key, then of the next, then of one that caches may still want}.

    A certificate that only holds the place of one from an ACME server has none: that will come with another key.
    Raises OSError, CertificateError.
    """
    found = {name: [spki_digest(_leaf(path / name))] for name in live_names(path)}
    if (path / PROVISIONAL_FILE).exists():
        found.pop("default", None)
    if "default" in found:
        waiting, retired = _state(path / NEXT_FILE), _state(path / RETIRED_FILE)
        if retired and dt.datetime.fromisoformat(retired["until"]) <= (now or dt.datetime.now(dt.UTC)):
            retired = {}
        found["default"] = list(dict.fromkeys([*found["default"], *(state["digest"] for state in (waiting, retired) if state)]))
    return found


def _state(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{file} is damaged: {error}") from None


def _leaf(directory: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate((directory / CHAIN_FILE).read_bytes())
    except ValueError as error:
        raise CertificateError(f"{directory / CHAIN_FILE}: {error}") from None
