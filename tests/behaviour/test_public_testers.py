"""Verify like the public testers: what internet.nl's mail test asks of a domain and of its MX, one test for each requirement.

TLS is judged by the NCSC-NL guidelines of 2025-05. nassl brings clients with OpenSSL of their own, a recent one and a very old one, so
that the server is offered what Debian's OpenSSL would not even say. RPKI is a matter of whoever routes the addresses. The other ports:
test_tls.py. MTA-STS, which is not scored: test_dns.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import checkdmarc.dmarc
import checkdmarc.spf
import dns.flags
import dns.message
import dns.query
import dns.resolver
import pytest
from correspondent import WORLD, MailHost
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from handshake import handshake, ready
from nassl._nassl import OpenSSLError
from nassl.ephemeral_key_info import OpenSslEcNidEnum as Curve
from nassl.ephemeral_key_info import OpenSslEvpPkeyEnum as KeyType
from nassl.legacy_ssl_client import LegacySslClient
from nassl.ssl_client import ExtendedMasterSecretSupportEnum, OpenSslVerifyEnum, SslClient
from nassl.ssl_client import OpenSslDigestNidEnum as Digest
from nassl.ssl_client import OpenSslVersionEnum as Version
from testinfra.host import Host
from wire import STRANGER6, stranger

each_domain = pytest.mark.parametrize("domain", ["oak.test", "ash.test", "elm.test", "xn--bcher-kva.test"])
MX = "mail.oak.test"
# checkdmarc asks the lab's server, and as often as a busy computer may need.
ASKING: dict[str, Any] = {"nameservers": [WORLD], "timeout": 5.0, "retries": 2}

GOOD_SUITES = {
    f"ECDHE-{key}-{cipher}" for key in ("ECDSA", "RSA") for cipher in ("AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256")
}
GOOD_CURVES = {
    Curve.SECP256R1,
    Curve.SECP384R1,
    Curve.SECP521R1,
    Curve.X25519,
    Curve.X448,
    Curve.brainpoolP256r1,
    Curve.brainpoolP384r1,
    Curve.brainpoolP512r1,
}


# -- the DNS


def lookup(name: str, rdtype: str) -> list[str]:
    """As the world sees it; nothing if there is none."""
    try:
        return [row.to_text() for row in dns.resolver.resolve(name, rdtype)]
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []


# Asked on the host, whose Unbound validates: {rcode} {validated}.
VALIDATE = """import sys, dns.flags, dns.message, dns.query
question = dns.message.make_query(sys.argv[1], sys.argv[2], want_dnssec=True)
answer, _ = dns.query.udp_with_fallback(question, "127.0.0.1", 10)
print(answer.rcode(), bool(answer.flags & dns.flags.AD))"""


def signed(host: Host, name: str, rdtype: str) -> bool:
    """Whether the answer, which may be that there is no such record, has valid signatures up to the root."""
    return host.check_output("python3 -c %s %s %s", VALIDATE, name, rdtype) == "0 True"


@each_domain
def test_the_name_servers_have_ipv6_addresses_and_answer_there(mail: MailHost, domain: str) -> None:
    question = dns.message.make_query(domain, "SOA")
    servers = lookup(domain, "NS")
    assert servers
    for server in servers:
        addresses = lookup(server, "AAAA")
        assert addresses
        for address in addresses:
            for ask in (dns.query.udp, dns.query.tcp):
                answer = ask(question, address, 5)
                assert answer.flags & dns.flags.AA
                assert answer.answer


@each_domain
def test_the_mx_has_an_ipv6_address_and_takes_mail_there(mail: MailHost, domain: str) -> None:
    assert lookup(domain, "MX") == [f"10 {MX}."]
    assert lookup(MX, "AAAA") == [mail.ipv6]
    with stranger(mail, source=STRANGER6) as session:
        assert session.rcpt("someone@good.test", f"postmaster@{domain}")[-1] == 250


@each_domain
def test_dnssec_signs_the_domain(host: Host, domain: str) -> None:
    for rdtype in ("SOA", "MX"):
        assert signed(host, domain, rdtype)


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_dnssec_signs_the_mx(host: Host, rdtype: str) -> None:
    assert signed(host, MX, rdtype)


@each_domain
def test_dmarc_is_there_and_valid(mail: MailHost, domain: str) -> None:
    found = checkdmarc.dmarc.check_dmarc(domain, **ASKING)
    assert found["valid"], found
    # Addresses for reports elsewhere that have not agreed would be told here, as is that there are none.
    assert not [warning for warning in found.get("warnings", []) if not warning.startswith("rua tag")]


@each_domain
def test_dmarc_asks_for_quarantine_or_rejection(mail: MailHost, domain: str) -> None:
    tags = checkdmarc.dmarc.check_dmarc(domain, **ASKING)["tags"]
    for tag in ("p", "sp"):
        assert tags[tag]["value"] in ("quarantine", "reject")
    assert tags.get("t", {"value": "n"})["value"] == "n"


@each_domain
def test_dkim_is_there(mail: MailHost, domain: str) -> None:
    """The testers cannot know selectors: they ask for the name above them, which exists where there is one."""
    with pytest.raises(dns.resolver.NoAnswer):
        dns.resolver.resolve(f"_domainkey.{domain}", "TXT")


@each_domain
def test_spf_is_there_and_refuses_everybody_else(mail: MailHost, domain: str) -> None:
    for name in (domain, MX):
        found = checkdmarc.spf.check_spf(name, **ASKING)
        assert found["valid"], found
        assert found["parsed"]["all"] in ("softfail", "fail")


@each_domain
def test_spf_takes_at_most_ten_lookups(mail: MailHost, domain: str) -> None:
    assert checkdmarc.spf.check_spf(domain, **ASKING)["dns_lookups"] <= 10


def test_caa_names_who_may_issue_for_the_mx(mail: MailHost) -> None:
    """The first set upwards counts (RFC 8659, 3)."""
    above = MX.split(".")
    sets = ([row.split(None, 2) for row in lookup(".".join(above[start:]), "CAA")] for start in range(len(above)))
    rows = next(filter(None, sets), [])
    assert "issue" in {tag for _, tag, _ in rows}
    assert all(flags == "0" and tag in ("issue", "issuewild", "iodef") for flags, tag, _ in rows)


def test_dane_is_there_for_the_mx(mail: MailHost, host: Host) -> None:
    records = lookup(f"_25._tcp.{MX}", "TLSA")
    assert records
    assert all(record.startswith("3 1 1 ") for record in records)
    # Of another type there is nothing, which has to be signed as well.
    for rdtype in ("TLSA", "A"):
        assert signed(host, f"_25._tcp.{MX}", rdtype)


@each_domain
def test_dane_is_valid_for_the_mx(host: Host, domain: str) -> None:
    """By MX, its signatures and the TLSA record, or not at all."""
    seen = host.run("posttls-finger -c -l dane-only -L summary %s 2>&1", domain).stdout
    assert f"Verified TLS connection established to {MX}[" in seen


# -- TLS


Client = LegacySslClient | SslClient


@contextlib.contextmanager
def tls(
    mail: MailHost, version: Version, *, old: bool = False, suites: str = "", prepare: Callable[[SslClient], None] | None = None
) -> Iterator[Client]:
    """A session with the MX of a client that takes whatever it is given."""
    with ready(mail, 25) as plain:
        client = (LegacySslClient if old else SslClient)(plain, version, OpenSslVerifyEnum.NONE)
        if version is not Version.SSLV2:
            client.set_tlsext_host_name(MX)
        if suites:
            client.set_cipher_list(suites)
        if prepare:
            prepare(client)
        client.do_handshake()
        yield client


def met(*arguments: object, **more: object) -> Client | None:
    """The client after its handshake, or None if the server did not want it; that this client cannot do it is an error."""
    try:
        with tls(*arguments, **more) as client:  # type: ignore[arg-type]
            return client
    except (OpenSSLError, OSError) as error:
        if isinstance(error, ConnectionError) or "alert" in str(error) or "did not send data back" in str(error):
            return None
        raise


def accepted(mail: MailHost, *, old: bool) -> set[str]:
    """Every suite of TLS 1.2 that the server takes from a client: offer all, leave out what it took, again until it refuses."""
    found: set[str] = set()
    every = ["ALL:COMPLEMENTOFALL"] if old else ["@SECLEVEL=0:ALL:COMPLEMENTOFALL"]
    while client := met(mail, Version.TLSV1_2, old=old, suites=":".join(every + [f"!{name}" for name in found])):
        found.add(client.get_current_cipher_name())
    return found


def chain(mail: MailHost) -> list[x509.Certificate]:
    """What the MX sends, its own first."""
    with tls(mail, Version.TLSV1_2) as client:
        return [x509.load_pem_x509_certificate(pem.encode()) for pem in client.get_received_chain()]


def test_the_mx_offers_starttls(mail: MailHost) -> None:
    with stranger(mail) as session:
        assert "STARTTLS" in session.hello().split()


@pytest.mark.parametrize("version", [Version.TLSV1_2, Version.TLSV1_3], ids=lambda version: version.name)
def test_tls_1_2_and_1_3_are_spoken(mail: MailHost, version: Version) -> None:
    assert met(mail, version)


@pytest.mark.parametrize("version", [Version.SSLV2, Version.SSLV3, Version.TLSV1, Version.TLSV1_1], ids=lambda version: version.name)
def test_older_versions_are_refused(mail: MailHost, version: Version) -> None:
    assert not met(mail, version, old=True)


def test_all_suites_have_forward_secrecy_and_authenticated_encryption(mail: MailHost) -> None:
    found = accepted(mail, old=False) | accepted(mail, old=True)
    assert found
    assert found <= GOOD_SUITES


def test_the_short_tag_of_tls_1_3_is_refused(mail: MailHost) -> None:
    assert not met(mail, Version.TLSV1_3, prepare=lambda client: client.set_ciphersuites("TLS_AES_128_CCM_8_SHA256"))


def test_no_weak_suite_comes_before_a_good_one(mail: MailHost) -> None:
    for good in ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"):
        with tls(mail, Version.TLSV1_2, suites=f"kRSA:DHE:ECDHE:-AESGCM:-CHACHA20:{good}:@SECLEVEL=0") as client:
            assert client.get_current_cipher_name() == good


def test_keys_are_exchanged_on_good_curves_only(mail: MailHost) -> None:
    with tls(mail, Version.TLSV1_2, suites="ALL:COMPLEMENTOFALL") as client:
        key = client.get_ephemeral_key()
    assert key
    assert key.curve in GOOD_CURVES  # type: ignore[attr-defined]

    def only(curve: Curve) -> Callable[[SslClient], None]:
        return lambda client: client.set_groups([curve])

    found = {curve for curve in Curve if met(mail, Version.TLSV1_2, prepare=only(curve))}
    assert found
    assert found <= GOOD_CURVES


def test_nothing_is_compressed(mail: MailHost) -> None:
    assert LegacySslClient.get_available_compression_methods()
    with tls(mail, Version.TLSV1_2, old=True) as client:
        assert client.get_current_compression_method() is None  # type: ignore[union-attr]


def test_renegotiation_would_be_secure(mail: MailHost) -> None:
    with tls(mail, Version.TLSV1_2, old=True) as client:
        assert client.get_secure_renegotiation_support()  # type: ignore[union-attr]


def test_clients_cannot_renegotiate(mail: MailHost) -> None:
    with tls(mail, Version.TLSV1_2, old=True) as client, pytest.raises(OpenSSLError, match="no renegotiation"):
        client.do_renegotiate()  # type: ignore[union-attr]


def test_the_key_is_long_enough(mail: MailHost) -> None:
    key = chain(mail)[0].public_key()
    if isinstance(key, rsa.RSAPublicKey):
        assert key.key_size >= 3072
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name in ("secp256r1", "secp384r1", "secp521r1")


def test_certificates_are_signed_by_sha_2(mail: MailHost) -> None:
    for certificate in chain(mail):
        algorithm = certificate.signature_hash_algorithm
        assert algorithm
        assert algorithm.name in ("sha256", "sha384", "sha512")


def test_the_key_exchange_is_not_signed_by_sha_1(mail: MailHost) -> None:
    pairs = [(Digest.SHA1, kind) for kind in (KeyType.EC, KeyType.RSA)]
    assert not met(mail, Version.TLSV1_2, suites="ALL:@SECLEVEL=0", prepare=lambda client: client.set_signature_algorithms(pairs))


def test_the_master_secret_is_the_extended_one(mail: MailHost) -> None:
    with tls(mail, Version.TLSV1_2) as client:
        found = client.get_extended_master_secret_support()  # type: ignore[union-attr]
    assert found is ExtendedMasterSecretSupportEnum.USED_IN_CURRENT_SESSION


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_the_certificate_is_trusted_and_names_the_mx(mail: MailHost, ipv6: bool) -> None:
    with handshake(mail, 25, ipv6=ipv6, name=MX):
        pass


def test_nothing_is_taken_before_the_handshake_ends(mail: MailHost) -> None:
    with tls(mail, Version.TLSV1_3) as client:
        # What comes with the first answer are tickets, which would allow it.
        client.write(b"EHLO client.world.test\r\n")
        assert client.read(4096)
        assert client.get_session().get_max_early_data() == 0
