# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Private keys and certificates: read, judged, made and put live as a pair, never one without the other.

A pair is live when the link `default` points to the directory that holds `privkey.pem` and `fullchain.pem`: one rename
exchanges both. Needs python3-cryptography 38 (Debian 12) or later.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .files import fsync_directory, link_atomic, make_directory, remove_file, write_atomic

KEY_FILE = "privkey.pem"
CHAIN_FILE = "fullchain.pem"
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
        digest = hashlib.sha256(_spki(self.leaf)).hexdigest()
        return (
            f"names: {', '.join(self.names)}\nissuer: {issuer}\nnot after: {self.not_after:%Y-%m-%d %H:%M} UTC\n"
            f"certificate: {self.leaf.fingerprint(hashes.SHA256()).hex()}\npublic key: {digest}\n"
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
    directory = link.parent / f"{link.name}.{secrets.token_hex(4)}"
    make_directory(directory, mode=0o700)
    write_atomic(directory / KEY_FILE, pair.key_pem, mode=0o600)
    write_atomic(directory / CHAIN_FILE, pair.chain_pem, mode=0o600)
    if link.is_dir() and not link.is_symlink():
        link.rename(link.parent / f"{link.name}.old")
    link_atomic(link, directory.name)
    for old in link.parent.glob(f"{link.name}.*"):
        if old != directory and old.is_dir():
            with contextlib.suppress(OSError):
                shutil.rmtree(old)
    fsync_directory(link.parent)


def lineage_setting(renewal: str, key: str) -> str | None:
    """A value of certbot's renewal/NAME.conf, e.g. the `server` it came from."""
    found = re.search(rf"^{re.escape(key)}\s*=\s*(.*?)\s*$", renewal, re.MULTILINE)
    return found[1] if found else None


# --- what the module tls_certificate does -----------------------------------------------------------------------------

CERTBOT_TIMEOUT = 600
CERTBOT_BUSY = "Another instance of Certbot is already running"


@dataclass(frozen=True)
class Request:
    """What is wanted; see the options of the module tls_certificate."""

    source: str
    names: Sequence[str]
    live: Path
    certificate: bytes = b""
    private_key: bytes = b""
    units: Sequence[str] = ()
    acme_directory: str = ""
    acme_ca_file: str = ""
    acme_email: str = ""
    webroot: str = ""
    reuse_key: bool = True
    lineage: str = "mailwright"
    letsencrypt: Path = Path("/etc/letsencrypt")


@dataclass
class Outcome:
    """What was, or in check mode would be, done; `after` is None where only the ACME server can tell."""

    before: Pair | None
    after: Pair | None
    reason: str = ""
    changed: bool = False
    reloaded: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def install(request: Request, now: dt.datetime, *, check_mode: bool = False) -> Outcome:
    """Make sure that a usable pair is live; with the source acme a provisional one will do. Raises CertificateError, OSError."""
    live = read_pair(request.live)
    wanted, reason = _choose(request, live, now)
    outcome = Outcome(live, wanted, reason, bool(reason))
    if request.source == "provided" and expires_soon(wanted, now):
        outcome.warnings.append(f"the provided certificate ends on {wanted.not_after:%Y-%m-%d}; replace it before that")
    if not reason and _marker(request).exists():
        outcome.changed, outcome.reason = True, "a run was interrupted before the services took it up"
    if outcome.changed and not check_mode:
        outcome.reloaded = _deploy(request, wanted)
    elif not outcome.changed and _readable_by_others(request.live):
        outcome.changed, outcome.reason = True, "others than root could read it"
        if not check_mode:
            for path in (request.live / KEY_FILE, request.live / CHAIN_FILE):
                path.chmod(0o600)
    return outcome


def _readable_by_others(live: Path) -> bool:
    return any((live / name).stat().st_mode & 0o077 for name in (KEY_FILE, CHAIN_FILE))


def _choose(request: Request, live: Pair | None, now: dt.datetime) -> tuple[Pair, str]:
    """The pair to be live, and why it is another one than now (empty where it is not)."""
    if request.source == "provided":
        pair = load_pair(request.private_key, request.certificate)
        faults = judge(pair, request.names, now)
        if faults:
            raise CertificateError("; ".join(faults))
        return pair, "" if same(live, pair) else "another certificate is provided"
    if request.source == "acme":
        issued = read_pair(request.letsencrypt / "live" / request.lineage)
        if issued and not judge(issued, (), now):
            return issued, "" if same(live, issued) else "certbot has another one than the one in use"
        if live and not live.is_self_signed:
            return live, ""  # even an expired one: a self-signed one would be no better
    if live is None:
        return self_signed(request.names, now), "there is none"
    if not live.is_self_signed:
        return self_signed(request.names, now), "the one in use is not self-signed"
    if live.names != list(request.names):
        return self_signed(request.names, now, live.key), "the names are others"
    if expires_soon(live, now):
        return self_signed(request.names, now, live.key), f"it ends on {live.not_after:%Y-%m-%d}"
    return live, ""


def obtain(request: Request, now: dt.datetime, *, check_mode: bool = False) -> Outcome:
    """Make sure that certbot holds a pair of the ACME server for the names, and that it is live.

    No process is started while all is well. Where the server fails, an old pair that is still good stays with a warning;
    else CertificateError is raised. Raises OSError.
    """
    live = read_pair(request.live)
    reason = _why_obtain(request, now)
    outcome = Outcome(live, live, reason)
    if reason:
        outcome.changed = True
        if check_mode:
            outcome.after = None
            return outcome
        failure = _certbot(request)
        if failure:
            text = f"no certificate from {request.acme_directory} for {', '.join(request.names)} ({reason}): {failure}"
            if live is None or live.is_self_signed or judge(live, request.names, now):
                raise CertificateError(f"{text}\nUntil then the services go on with the one they have.")
            outcome.warnings.append(f"{text}\nThe present one is good until {live.not_after:%Y-%m-%d}.")
            outcome.changed = False
            return outcome
    issued = read_pair(request.letsencrypt / "live" / request.lineage)
    if issued is None:
        raise CertificateError(f"certbot left no usable pair in {request.letsencrypt / 'live' / request.lineage}")
    outcome.after = issued
    # The deploy hook may have been faster.
    if not same(read_pair(request.live), issued) or _marker(request).exists():
        outcome.changed = True
        if not check_mode:
            outcome.reloaded = _deploy(request, issued)
    return outcome


def _why_obtain(request: Request, now: dt.datetime) -> str:
    issued = read_pair(request.letsencrypt / "live" / request.lineage)
    if issued is None:
        return "there is none yet"
    if set(issued.names) != set(request.names):
        return f"the present one is for {', '.join(issued.names)}"
    if expires_soon(issued, now):
        return f"the present one ends on {issued.not_after:%Y-%m-%d} and was not renewed"
    try:
        renewal = (request.letsencrypt / "renewal" / f"{request.lineage}.conf").read_text()
    except OSError:
        return "certbot does not know how to renew the present one"
    server = lineage_setting(renewal, "server")
    return "" if server == request.acme_directory else f"the present one is from {server}"


def _certbot(request: Request) -> str:
    """Run certbot; an empty string, or why it failed."""
    command = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email"]
    command += ["--email", request.acme_email] if request.acme_email else ["--register-unsafely-without-email"]
    command += ["--server", request.acme_directory, "--cert-name", request.lineage]
    command += ["--webroot", "--webroot-path", request.webroot, "--key-type", "ecdsa", "--elliptic-curve", "secp256r1"]
    # The decision is made: certbot is not to ask whether it is due, or whether the names may change.
    command += ["--force-renewal", "--renew-with-new-domains"]
    command += ["--reuse-key"] if request.reuse_key else ["--no-reuse-key"]
    for name in request.names:
        command += ["--domain", name]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
    if request.acme_ca_file:
        environment["REQUESTS_CA_BUNDLE"] = request.acme_ca_file
    until = time.monotonic() + CERTBOT_TIMEOUT
    while True:
        try:
            done = subprocess.run(  # noqa: S603 - an argument list, no shell
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, until - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"certbot did not end within {CERTBOT_TIMEOUT} s"
        output = done.stdout.decode(errors="replace")
        if done.returncode == 0:
            return ""
        if CERTBOT_BUSY not in output or time.monotonic() > until:
            break
        time.sleep(2)  # another certbot holds the lock and tells nobody when it lets go
    return _telling(output)


def _telling(output: str) -> str:
    """certbot's output without its standing advice."""
    idle = ("Saving debug log", "Ask for help", "See the logfile", "Hint: The Certificate Authority failed to download")
    lines = [line.strip() for line in output.splitlines()]
    return "\n".join(line for line in lines if line.strip("- ") and not line.startswith(idle))[-2000:]


def _marker(request: Request) -> Path:
    """Exists from before a pair goes live until the services have taken it up."""
    return request.live.parent / "reload-pending"


def _deploy(request: Request, pair: Pair) -> list[str]:
    """Put `pair` live where it is not, and reload those of the units that run; their names."""
    make_directory(request.live.parent, mode=0o700)
    write_atomic(_marker(request), b"", mode=0o600)
    if not same(read_pair(request.live), pair):
        put_live(request.live, pair)
    reloaded = [unit for unit in request.units if _systemctl("is-active", "--quiet", unit).returncode == 0]
    if reloaded:
        done = _systemctl("reload", *reloaded)
        if done.returncode:
            why = done.stdout.decode(errors="replace").strip()
            raise CertificateError(f"the certificate is in place, but {', '.join(reloaded)} did not all reload: {why}")
    remove_file(_marker(request))
    return reloaded


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["systemctl", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - no shell
