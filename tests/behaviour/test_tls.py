"""T5: one TLS profile on every port of every service, over both families. What port 25 is asked by others: test_public_testers.py."""

from __future__ import annotations

import ssl
import warnings
from typing import Any

import pytest
from correspondent import MailHost
from cryptography import x509
from handshake import PORTS, anything, certificate, handshake, old_client

each_port = pytest.mark.parametrize("port", PORTS, ids=PORTS.values())
each_port_of_people = pytest.mark.parametrize("port", [port for port in PORTS if port != 25], ids=lambda port: PORTS[port])
V = ssl.TLSVersion
SUITES = {
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
}


@each_port_of_people
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_every_service_shows_a_certificate_that_clients_accept(mail: MailHost, port: int, ipv6: bool) -> None:
    with handshake(mail, port, ipv6=ipv6) as secure:
        assert secure.version() == "TLSv1.3"


def test_all_services_show_the_same_certificate(mail: MailHost) -> None:
    assert len({certificate(mail, port).serial_number for port in PORTS}) == 1


def test_the_certificate_has_every_name_of_the_inventory(mail: MailHost, model: dict[str, Any]) -> None:
    found = certificate(mail, 993).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(found.get_values_for_type(x509.DNSName)) == {model["hostname"], *model["settings"]["hostnames"]}


@each_port_of_people
def test_old_protocol_versions_are_refused(mail: MailHost, port: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = old_client(V.TLSv1, V.TLSv1_1)
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught, handshake(mail, port, context):
        pass
    if isinstance(caught.value, ssl.SSLError) and caught.value.reason:
        # The server's own words, so that it is not this client which cannot.
        assert caught.value.reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING")


@each_port_of_people
def test_tls_1_2_has_forward_secrecy_and_authenticated_encryption(mail: MailHost, port: int) -> None:
    with handshake(mail, port, old_client(V.TLSv1_2, V.TLSv1_2)) as secure:
        cipher = secure.cipher()
        assert secure.compression() is None
    assert cipher
    assert cipher[0] in SUITES


@each_port_of_people
@pytest.mark.parametrize("suites", ["ECDHE+AES+SHA256:ECDHE+AES+SHA1:!AEAD", "kRSA", "DHE"], ids=["cbc", "rsa", "dhe"])
def test_weak_suites_are_refused(mail: MailHost, port: int, suites: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)), handshake(mail, port, old_client(V.TLSv1_2, V.TLSv1_2, suites)):
        pass


@each_port
def test_a_client_without_aes_hardware_gets_what_it_prefers(mail: MailHost, port: int) -> None:
    context = anything()
    context.maximum_version = V.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384")
    with handshake(mail, port, context) as secure:
        cipher = secure.cipher()
    assert cipher
    assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
