"""Keys and certificates: what is refused before it reaches the disk, what is made, and what goes live together."""

from __future__ import annotations

import datetime as dt
import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import certificate as c
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
NAMES = ["mail.oak.test", "imap.oak.test"]
DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority of a test: its own key and certificate, signed by `parent` or by itself."""

    def __init__(self, name: str, parent: Authority | None = None, start: dt.datetime = NOW - DAY, days: int = 900) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = sign(self.name, self.key, parent or self, start, days, ca=True)

    def issue(self, names: Sequence[str], key: c.PrivateKey | None = None, *, start: dt.datetime = NOW - DAY, days: int = 90) -> c.Pair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "nobody")])
        return c.Pair(key, (sign(subject, key, self, start, days, names=names), self.certificate))


def sign(
    subject: x509.Name,
    key: c.PrivateKey,
    issuer: Authority,
    start: dt.datetime,
    days: int,
    *,
    ca: bool = False,
    names: Sequence[str] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder(issuer.name, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + days * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("Root")


@pytest.fixture(scope="module")
def authority(root: Authority) -> Authority:
    return Authority("Intermediate", root)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "tls/oak.test"


# --- reading and judging ----------------------------------------------------------------------------------------------


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue(NAMES), authority.issue(NAMES)
    with pytest.raises(c.CertificateError, match="belongs to none of the certificates"):
        c.load_pair(one.key_pem, other.chain_pem)


def test_a_chain_in_any_order_is_put_in_order_without_its_root(root: Authority, authority: Authority) -> None:
    pair = authority.issue(NAMES)
    loaded = c.load_pair(pair.key_pem, pem(root.certificate, authority.certificate, pair.leaf))
    assert loaded.chain == (pair.leaf, authority.certificate)


def test_a_stranger_in_the_chain_is_refused(authority: Authority) -> None:
    pair = authority.issue(NAMES)
    stranger = Authority("Intermediate")  # the right name, the wrong key
    with pytest.raises(c.CertificateError, match="did not sign"):
        c.load_pair(pair.key_pem, pem(pair.leaf, stranger.certificate))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"", "not a PEM private key"),
        (b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n", "not a PEM private key"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "a public key",
        ),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
            ),
            "passphrase",
        ),
        (
            rsa.generate_private_key(65537, 1024).private_bytes(  # noqa: S505 - it is to be refused
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "1024 bits",
        ),
        (
            ec.generate_private_key(ec.SECP521R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "P-256",
        ),
    ],
    ids=["empty", "nonsense", "public", "passphrase", "rsa1024", "p521"],
)
def test_an_unusable_key_is_refused_and_never_shown(authority: Authority, key: bytes, reason: str) -> None:
    with pytest.raises(c.CertificateError, match=reason) as caught:
        c.load_pair(key, authority.issue(NAMES).chain_pem)
    assert all(line.decode() not in str(caught.value) for line in key.splitlines() if not line.startswith(b"-----"))


def test_text_without_a_certificate_is_refused(authority: Authority) -> None:
    with pytest.raises(c.CertificateError, match="no PEM certificate"):
        c.load_pair(authority.issue(NAMES).key_pem, b"hello")


def test_dates_and_names_are_judged_all_at_once(authority: Authority) -> None:
    late = authority.issue(["mail.oak.test"], start=NOW - 100 * DAY)
    faults = c.judge(late, NAMES, NOW)
    assert len(faults) == 2
    assert "expired on 2026-11-11" in faults[0]
    assert "lacks imap.oak.test (it has mail.oak.test)" in faults[1]
    early = authority.issue(NAMES, start=NOW + DAY)
    assert "valid only from 2026-11-22" in c.judge(early, NAMES, NOW)[0]


def test_an_expired_intermediate_is_noticed(root: Authority) -> None:
    stale = Authority("Stale", root, NOW - 100 * DAY, 90)
    assert "an intermediate certificate expired" in c.judge(stale.issue(NAMES), NAMES, NOW)[0]


def test_a_certificate_without_names_covers_nothing(authority: Authority) -> None:
    assert "no DNS name at all" in c.judge(authority.issue([]), NAMES, NOW)[0]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("mail.oak.test", "MAIL.oak.test", True),
        ("*.oak.test", "mail.oak.test", True),
        ("*.oak.test", "a.mail.oak.test", False),
        ("*.oak.test", "oak.test", False),
        ("m*.oak.test", "mail.oak.test", False),
        ("mail.oak.test", "imap.oak.test", False),
    ],
)
def test_a_wildcard_stands_for_one_label(pattern: str, name: str, expected: bool) -> None:
    assert c.covers(pattern, name) is expected


# --- self-signed ------------------------------------------------------------------------------------------------------


def test_a_self_signed_pair_is_ecdsa_covers_the_names_and_openssl_agrees(tmp_path: Path) -> None:
    pair = c.self_signed(NAMES, dt.datetime.now(dt.UTC))
    assert pair.names == NAMES
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    (tmp_path / "c.pem").write_bytes(pair.chain_pem)
    subprocess.run(
        ["openssl", "verify", "-CAfile", tmp_path / "c.pem", "-purpose", "sslserver", "-verify_hostname", NAMES[1], tmp_path / "c.pem"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_a_name_longer_than_a_common_name_gets_a_certificate() -> None:
    name = f"{'a' * 63}.{'b' * 63}.test"
    assert c.self_signed([name], NOW).names == [name]


# --- live -------------------------------------------------------------------------------------------------------------


def test_a_pair_that_goes_live_leaves_none_of_its_forerunners_and_all_of_other_names(link: Path, authority: Authority) -> None:
    longer = link.parent / "oak.test.deadbeef"
    one, two, three = (authority.issue(NAMES) for _ in range(3))
    c.put_live(link, one)
    c.put_live(longer, three)
    c.put_live(link, two)
    assert c.same(c.read_pair(link), two)
    assert c.same(c.read_pair(longer), three)
    assert len([path for path in link.parent.iterdir() if not path.is_symlink()]) == 2
    c.remove_live(link)
    assert c.live_names(link.parent) == ["oak.test.deadbeef"]
    assert c.same(c.read_pair(longer), three)


def test_directories_of_an_earlier_release_are_taken_over(link: Path, authority: Authority) -> None:
    pair = authority.issue(NAMES)
    old = link.parent / "oak.test.0a1b2c3d"
    old.mkdir(parents=True)
    link.symlink_to(old.name)
    c.put_live(link, pair)
    assert not old.exists()
    link.unlink()
    link.mkdir()
    (link / c.KEY_FILE).write_bytes(pair.key_pem)
    c.put_live(link, pair)
    assert link.is_symlink()
    assert c.same(c.read_pair(link), pair)


def test_the_digests_for_tlsa_records_are_those_openssl_finds(link: Path, authority: Authority, root: Authority) -> None:
    pair, other = authority.issue(NAMES), authority.issue(["mail.elm.test"])
    c.put_live(link, pair)
    c.put_live(link.parent / "default", other)
    (link.parent / "sni").touch()
    found = c.tlsa_digests(link.parent)
    assert list(found) == ["default", "oak.test"]
    der = subprocess.run(["openssl", "pkey", "-in", link / c.KEY_FILE, "-pubout", "-outform", "DER"], check=True, stdout=subprocess.PIPE)
    assert found["oak.test"] == [hashlib.sha256(der.stdout).hexdigest()]
    assert c.tlsa_digests(link.parent / "nowhere") == {}


def test_the_diff_shows_names_issuer_and_fingerprints_but_no_key(authority: Authority) -> None:
    pair = authority.issue(NAMES)
    text = pair.describe()
    assert "names: mail.oak.test, imap.oak.test\nissuer: CN=Intermediate\n" in text
    assert all(line.decode() not in text for line in pair.key_pem.splitlines())
