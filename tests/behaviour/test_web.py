"""W1: the web server as browsers, ACME servers and strangers meet it."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator

import pytest
from correspondent import MailHost
from handshake import anything, handshake
from testinfra.host import Host

families = pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])


def fetch(
    mail: MailHost, path: str, *, port: int = 443, host: str | None = None, method: str = "GET", ipv6: bool = False
) -> tuple[int, dict[str, str], str]:
    """Status, headers (names in lower case) and text of an answer."""
    request = f"{method} {path} HTTP/1.1\r\nHost: {host or mail.hostname}\r\nConnection: close\r\n\r\n".encode()
    if port == 443:
        with handshake(mail, 443, ipv6=ipv6) as stream:
            return _answer(stream, request, method)
    with mail.socket(port, ipv6=ipv6) as plain:
        return _answer(plain, request, method)


def _answer(stream: socket.socket, request: bytes, method: str) -> tuple[int, dict[str, str], str]:
    stream.sendall(request)
    answer = http.client.HTTPResponse(stream, method=method)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


@families
def test_port_80_leads_to_https(mail: MailHost, ipv6: bool) -> None:
    status, headers, _ = fetch(mail, "/some/page?x=1", port=80, ipv6=ipv6)
    assert status == 308
    assert headers["location"] == f"https://{mail.hostname}/some/page?x=1"


@pytest.fixture
def challenge(host: Host) -> Iterator[str]:
    folder, name = "/var/www/acme/.well-known/acme-challenge", "test-of-the-path"
    host.check_output("mkdir -p %s && echo answer > %s/%s && chmod 0644 %s/%s", folder, folder, name, folder, name)
    yield f"/.well-known/acme-challenge/{name}"
    host.check_output("rm %s/%s", folder, name)


@families
@pytest.mark.parametrize("name", [None, "a-new-name.oak.test"], ids=["known", "unknown"])
def test_an_acme_server_can_always_fetch_its_challenge(mail: MailHost, challenge: str, name: str | None, ipv6: bool) -> None:
    assert fetch(mail, challenge, port=80, host=name, ipv6=ipv6)[::2] == (200, "answer\n")


def test_unknown_names_get_nothing_on_port_80(mail: MailHost) -> None:
    assert fetch(mail, "/", port=80, host="stranger.test")[0] == 421


@pytest.mark.parametrize("name", ["stranger.test", "oak.test"])
def test_unknown_names_get_no_handshake(mail: MailHost, name: str) -> None:
    with pytest.raises(ssl.SSLError) as caught, handshake(mail, 443, anything(), name=name):
        pass
    assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"


@families
def test_the_page_tells_how_to_set_up_a_mail_program(mail: MailHost, ipv6: bool) -> None:
    status, headers, text = fetch(mail, "/", ipv6=ipv6)
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    found = [tuple(re.sub(r"<span.*?</span>|<[^>]+>", "", cell).strip() for cell in row) for row in rows]
    for expected in [
        ("IMAP", mail.hostname, "993", "SSL/TLS"),
        ("POP3", mail.hostname, "995", "SSL/TLS"),
        ("SMTP", mail.hostname, "465", "SSL/TLS"),
        ("SMTP", mail.hostname, "587", "STARTTLS"),
        ("ManageSieve", mail.hostname, "4190", "STARTTLS"),
    ]:
        assert expected in found
    assert "your whole address" in text


def test_the_page_needs_nothing_from_elsewhere(mail: MailHost) -> None:
    links = re.findall(r"(?:href|src)=\"([^\"]*)\"", fetch(mail, "/")[2])
    assert links
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    for link in links:
        assert fetch(mail, link)[0] == 200


@pytest.mark.parametrize("path", ["/", "/style.css", "/missing"])
def test_every_answer_has_the_security_headers(mail: MailHost, path: str) -> None:
    headers = fetch(mail, path)[1]
    assert headers["strict-transport-security"] == "max-age=63072000"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["server"] == "nginx"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "OPTIONS"])
def test_only_reading_is_allowed(mail: MailHost, method: str) -> None:
    assert fetch(mail, "/", method=method)[0] == 405


@pytest.mark.parametrize(
    "path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/.git/config"]
)
def test_nothing_outside_the_page_is_served(mail: MailHost, path: str) -> None:
    status, _, text = fetch(mail, path)
    assert status in (400, 404)
    assert "root:" not in text


def test_the_challenge_directory_lists_and_leaks_nothing(mail: MailHost) -> None:
    for path in (
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/../../../../etc/passwd",
        "/.well-known/acme-challenge/%2e%2e/%2e%2e/x",
    ):
        status, _, text = fetch(mail, path, port=80)
        assert status in (308, 400, 403, 404)
        assert "root:" not in text
