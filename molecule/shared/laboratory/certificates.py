"""The lab's certificate authority and what it signs: good, and expired."""

from __future__ import annotations

import base64
import datetime
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .host import write

_DAY = datetime.timedelta(days=1)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def authority(directory: Path, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Key and certificate of the lab's CA, from ca.key and ca.pem; made where there is none."""
    if (directory / "ca.pem").exists():
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mailwright lab CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 90 * _DAY)
        .not_valid_after(now + 3650 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(directory / "ca.key", _pem(key), 0o600)
    write(directory / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))
    return key, ca


def make(directory: Path, names: dict[str, list[str]], expired: list[str]) -> None:
    """For each name NAME.pem (chain without the root; with the further names given) and NAME.key, by the CA of this directory.

    What is there is kept.
    """
    now = datetime.datetime.now(datetime.UTC)
    ca_key, ca = authority(directory, now)
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    for name in [*names, *expired]:
        if (directory / f"{name}.pem").exists():
            continue
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ends = now - _DAY if name in expired else now + 365 * _DAY
        certificate = (
            x509.CertificateBuilder(ca.subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, [name, *names.get(name, [])]))), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        write(directory / f"{name}.key", _pem(key), 0o600)
        write(directory / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))


def key_digest(path: Path) -> str:
    """SHA-256 of the public key of a certificate, as TLSA 3 1 1 has it (RFC 6698)."""
    key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def signing_key(path: Path) -> None:
    """A P-256 key, for a DNS zone."""
    if not path.exists():
        write(path, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)


def dkim_key(path: Path) -> str:
    """An RSA key of 2048 bits at this path; its public half as DKIM's `p=` wants it."""
    if not path.exists():
        write(path, _pem(rsa.generate_private_key(65537, 2048)), 0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()
