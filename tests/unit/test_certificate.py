"""Keys and certificates: what is refused before it reaches the disk, what is made, and what goes live together."""

from __future__ import annotations

import datetime as dt
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import replace
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
def request_(tmp_path: Path) -> c.Request:
    return c.Request(
        source="self_signed",
        names=NAMES,
        live=tmp_path / "tls/default",
        letsencrypt=tmp_path / "letsencrypt",
        acme_directory="https://acme/dir",
    )


def provided(request: c.Request, pair: c.Pair) -> c.Request:
    return replace(request, source="provided", private_key=pair.key_pem, certificate=pair.chain_pem)


def issue_by_certbot(request: c.Request, pair: c.Pair, server: str = "https://acme/dir") -> None:
    """The files certbot leaves."""
    lineage = request.letsencrypt / "live" / request.lineage
    lineage.mkdir(parents=True, exist_ok=True)
    (lineage / c.KEY_FILE).write_bytes(pair.key_pem)
    (lineage / c.CHAIN_FILE).write_bytes(pair.chain_pem.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n\n"))
    (request.letsencrypt / "renewal").mkdir(exist_ok=True)
    (request.letsencrypt / "renewal" / f"{request.lineage}.conf").write_text(f"[renewalparams]\nserver = {server}\n")


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


def test_the_first_run_makes_a_pair_that_only_root_can_read(request_: c.Request) -> None:
    outcome = c.install(request_, NOW)
    assert outcome.changed
    assert c.same(c.read_pair(request_.live), outcome.after)
    assert stat.S_IMODE((request_.live / c.KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((request_.live / c.CHAIN_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(request_.live.stat().st_mode) == 0o700
    assert stat.S_IMODE(request_.live.parent.stat().st_mode) == 0o700


def test_the_second_run_changes_nothing(request_: c.Request) -> None:
    c.install(request_, NOW)
    before = request_.live.readlink()
    assert not c.install(request_, NOW).changed
    assert request_.live.readlink() == before


def test_check_mode_says_the_same_and_writes_nothing(request_: c.Request) -> None:
    outcome = c.install(request_, NOW, check_mode=True)
    assert outcome.changed
    assert outcome.reason == "there is none"
    assert not request_.live.parent.exists()


def test_another_name_makes_a_new_certificate_for_the_same_key(request_: c.Request) -> None:
    first = c.install(request_, NOW).after
    second = c.install(replace(request_, names=[*NAMES, "pop.oak.test"]), NOW).after
    assert first
    assert second
    assert second.names[-1] == "pop.oak.test"
    assert second.key_pem == first.key_pem


def test_a_self_signed_certificate_is_renewed_before_it_ends(request_: c.Request) -> None:
    c.install(request_, NOW)
    assert not c.install(request_, NOW + (c.SELF_SIGNED_DAYS - 15) * DAY).changed
    assert c.install(request_, NOW + (c.SELF_SIGNED_DAYS - 13) * DAY).changed


# --- provided ---------------------------------------------------------------------------------------------------------


def test_a_mismatched_pair_never_reaches_the_disk(request_: c.Request, authority: Authority) -> None:
    good, other = authority.issue(NAMES), authority.issue(NAMES)
    c.install(provided(request_, good), NOW)
    before = sorted(request_.live.parent.rglob("*"))
    with pytest.raises(c.CertificateError):
        c.install(replace(provided(request_, good), private_key=other.key_pem), NOW)
    assert sorted(request_.live.parent.rglob("*")) == before
    assert c.same(c.read_pair(request_.live), good)


def test_an_expired_or_wrongly_named_pair_never_goes_live(request_: c.Request, authority: Authority) -> None:
    for pair in (authority.issue(NAMES, start=NOW - 100 * DAY), authority.issue(["other.test"])):
        with pytest.raises(c.CertificateError):
            c.install(provided(request_, pair), NOW)
    assert not request_.live.exists()


def test_a_provided_pair_that_ends_soon_is_served_with_a_warning(request_: c.Request, authority: Authority) -> None:
    outcome = c.install(provided(request_, authority.issue(NAMES, start=NOW - 80 * DAY)), NOW)
    assert outcome.changed
    assert "2026-12-01" in outcome.warnings[0]


def test_a_provided_pair_replaces_another_at_once_and_leaves_no_copy(request_: c.Request, authority: Authority) -> None:
    c.install(request_, NOW)
    pair = authority.issue(NAMES)
    assert c.install(provided(request_, pair), NOW).changed
    assert c.same(c.read_pair(request_.live), pair)
    assert len([p for p in request_.live.parent.iterdir() if p.is_dir() and not p.is_symlink()]) == 1


def test_a_plain_directory_of_an_earlier_time_is_taken_over(request_: c.Request, authority: Authority) -> None:
    request_.live.mkdir(parents=True)
    pair = authority.issue(NAMES)
    (request_.live / c.KEY_FILE).write_bytes(pair.key_pem)
    c.install(provided(request_, pair), NOW)
    assert request_.live.is_symlink()
    assert c.same(c.read_pair(request_.live), pair)


def test_readable_copies_of_the_key_are_corrected(request_: c.Request) -> None:
    c.install(request_, NOW)
    (request_.live / c.KEY_FILE).chmod(0o644)
    assert c.install(request_, NOW).changed
    assert stat.S_IMODE((request_.live / c.KEY_FILE).stat().st_mode) == 0o600


# --- ACME -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(request_: c.Request) -> c.Request:
    return replace(request_, source="acme")


def test_a_provisional_pair_is_made_only_where_there_is_none(acme: c.Request, authority: Authority) -> None:
    assert c.install(acme, NOW).changed
    assert not c.install(acme, NOW).changed
    c.install(provided(acme, authority.issue(NAMES)), NOW)
    assert not c.install(acme, NOW).changed


def test_an_expired_certificate_is_not_exchanged_for_a_provisional_one(acme: c.Request, authority: Authority) -> None:
    c.install(provided(acme, authority.issue(NAMES)), NOW)
    assert not c.install(acme, NOW + 200 * DAY).changed


def test_what_certbot_holds_goes_live_when_the_hook_did_not_get_to_it(acme: c.Request, authority: Authority) -> None:
    c.install(acme, NOW)
    pair = authority.issue(NAMES)
    issue_by_certbot(acme, pair)
    assert c.install(acme, NOW).changed
    assert c.same(c.read_pair(acme.live), pair)


def test_nothing_is_asked_of_the_server_while_all_is_well(acme: c.Request, authority: Authority) -> None:
    issue_by_certbot(acme, authority.issue(NAMES))
    c.install(acme, NOW)
    assert not c.obtain(acme, NOW).changed


def test_check_mode_tells_why_the_server_would_be_asked(acme: c.Request, authority: Authority) -> None:
    def reason(request: c.Request, now: dt.datetime = NOW) -> str:
        outcome = c.obtain(request, now, check_mode=True)
        assert outcome.changed
        return outcome.reason

    assert reason(acme) == "there is none yet"
    issue_by_certbot(acme, authority.issue(NAMES))
    assert reason(replace(acme, names=NAMES[:1])) == "the present one is for mail.oak.test, imap.oak.test"
    assert reason(replace(acme, acme_directory="https://other/dir")) == "the present one is from https://acme/dir"
    assert "ends on 2027-02-18" in reason(acme, NOW + 80 * DAY)
    (acme.letsencrypt / "renewal" / "mailwright.conf").unlink()
    assert "how to renew" in reason(acme)


# --- interrupted runs -------------------------------------------------------------------------------------------------


def test_a_run_that_died_before_the_reload_is_made_good(request_: c.Request) -> None:
    c.install(request_, NOW)
    (request_.live.parent / "reload-pending").touch()
    outcome = c.install(request_, NOW)
    assert outcome.changed
    assert "interrupted" in outcome.reason
    assert not c.install(request_, NOW).changed


def test_the_diff_shows_names_issuer_and_fingerprints_but_no_key(authority: Authority) -> None:
    pair = authority.issue(NAMES)
    text = pair.describe()
    assert "names: mail.oak.test, imap.oak.test\nissuer: CN=Intermediate\n" in text
    assert all(line.decode() not in text for line in pair.key_pem.splitlines())
