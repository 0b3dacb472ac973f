"""T3: certificates of further names, by SNI on every port; a name for which there is none keeps no other from its own."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

import pytest
from conftest import main_pid
from correspondent import MailHost, until
from cryptography import x509
from edits import Site, edited_lab
from handshake import PORTS, anything, certificate, handshake, old_client
from test_certificates import USERS
from testinfra.host import Host

each_port = pytest.mark.parametrize("port", PORTS, ids=PORTS.values())
# Names of the host itself.
OWN = {"mail.oak.test", "filter.oak.test"}
ELM = "/var/lib/mailwright/tls/elm.test"
# Names of which the DNS has not heard: otherwise the run itself would tell it.
UNPUBLISHED = ("-e", "{mail_dns_updates: []}")


def names_of(found: x509.Certificate) -> set[str]:
    return set(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))


def served(mail: MailHost, port: int, name: str) -> x509.Certificate:
    """What a port shows to a client that asks for a name."""
    with handshake(mail, port, anything(), name=name) as secure:
        der = secure.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


@each_port
def test_a_client_that_asks_for_a_name_gets_its_certificate(mail: MailHost, port: int) -> None:
    for name in ("mail.elm.test", "imap.elm.test"):
        # Verified, for this name.
        with handshake(mail, port, name=name) as secure:
            assert secure.version() == "TLSv1.3"
    assert names_of(served(mail, port, "mail.elm.test")) == {"mail.elm.test", "imap.elm.test"}
    assert names_of(certificate(mail, port)) == OWN


@pytest.mark.parametrize("port", [port for port in PORTS if port != 443], ids=str)
def test_mail_services_show_the_hosts_own_to_everybody_else(mail: MailHost, port: int) -> None:
    assert names_of(served(mail, port, "stranger.test")) == OWN


@each_port
def test_the_tls_profile_is_the_same_for_every_name(mail: MailHost, port: int) -> None:
    for context in (
        old_client(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ECDHE+AES+SHA256:ECDHE+AES+SHA1:!AEAD"),
        old_client(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "DHE"),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)), handshake(mail, port, context, name="mail.elm.test"):
            pass


def test_a_renewal_of_all_reaches_every_port_and_name_without_ending_a_session(
    mail: MailHost, host: Host, accounts: dict[str, str]
) -> None:
    old = served(mail, 993, "mail.elm.test")
    pids = {unit: main_pid(host, unit) for unit in USERS}
    address = "alice@oak.test"
    with mail.imap(address, accounts[address]) as session:
        session.select("INBOX", readonly=True)
        renewal = "/etc/letsencrypt/renewal/mailwright-elm.test.conf"
        host.check_output("cp -p %s %s.test && sed -i '1i renew_before_expiry = 36500 days' %s", renewal, renewal, renewal)
        try:
            host.run("systemctl reset-failed certbot.service")
            assert host.run("systemctl start certbot.service").rc == 0
        finally:
            host.check_output("mv %s.test %s", renewal, renewal)
        new = until("a new certificate on 443", lambda: (found := served(mail, 443, "mail.elm.test")) != old and found)
        for port in PORTS:
            until(f"the new one on {port}", lambda port=port: served(mail, port, "imap.elm.test") == new)
        assert session.noop()[0] == "OK"
    assert {unit: main_pid(host, unit) for unit in USERS} == pids
    assert new.public_key() == old.public_key()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Afterwards the lab's own inventory is live."""
    with edited_lab(tmp_path_factory.mktemp("names")) as site:
        yield site


def test_names_without_dns_and_a_dead_server_block_nobody(mail: MailHost, host: Host, site: Site) -> None:
    elm = served(mail, 993, "mail.elm.test")
    site.edit("domains/elm.test.yml", "[mail.elm.test, imap.elm.test]", "[mail.elm.test, imap.elm.test, gone.elm.test]")
    site.edit("domains/oak.test.yml", "domain: oak.test\n", "domain: oak.test\ncertificate: [gone.oak.test]\n")
    status, output = site.run(*UNPUBLISHED, "-e", "certificates_acme_directory=https://acme.world.test:1/dir")
    assert status == 0, output[-4000:]
    assert "certificate oak.test" in output
    assert "gone.oak.test: it has no address in the DNS" in output
    assert served(mail, 993, "mail.elm.test") == elm, "what is there stays"
    # Names of a certificate that is not there yet: self-signed, on every port.
    for port in PORTS:
        until(f"a self-signed one on {port}", lambda port=port: (found := served(mail, port, "gone.oak.test")).issuer == found.subject)

    status, output = site.run(*UNPUBLISHED)
    assert status == 0, output[-4000:]
    for text in ("gone.elm.test: it has no address in the DNS", "gone.oak.test: it has no address", "Cure: publish its address records"):
        assert text in output
    assert served(mail, 993, "mail.elm.test") == elm, "nor is it issued anew for the sake of a name that cannot be had"
    # Told every time, at the price of no further task.
    status, output = site.run(*UNPUBLISHED)
    assert "gone.elm.test" in output
    assert re.search(r"^mail\.oak\.test +: .*changed=0 ", output, re.MULTILINE), output[-2000:]


def test_a_certificate_that_is_wanted_no_more_goes_when_nobody_uses_it(mail: MailHost, host: Host, site: Site) -> None:
    site.edit("domains/elm.test.yml", "certificate: [mail.elm.test, imap.elm.test, gone.elm.test]\n", "")
    status, output = site.run()
    assert status == 0, output[-4000:]
    assert not host.file(ELM).exists
    assert not host.file("/etc/letsencrypt/renewal/mailwright-elm.test.conf").exists
    until("the host's own", lambda: names_of(served(mail, 993, "mail.elm.test")) == OWN)
    until("none on 443", lambda: refuses(mail, "mail.elm.test"))


def refuses(mail: MailHost, name: str) -> bool:
    """Whether nginx has nothing to show to a client that asks for a name."""
    try:
        with handshake(mail, 443, anything(), name=name):
            return False
    except ssl.SSLError:
        return True
