"""nginx's files: the ACME path for everybody, the rest by HTTPS for our names only, and a page that shows the client settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rendering import CERTIFICATES, render

CONF, PAGE = "/etc/nginx/nginx.conf", "/var/www/mailwright/index.html"
PROFILES = ["modern", "intermediate", "old"]


MAIL: dict[str, Any] = {
    "certificates": [{"name": "default", "names": ["mail.oak.test"], "mail_names": []}],
    "domains": [{"name": "oak.test"}],
    "policies": [],
    "settings": {"tls_profile": "intermediate"},
}


def rendered(release: str = "13", mail: dict[str, Any] | None = None, **variables: object) -> dict[str, str]:
    facts = {"distribution_major_version": release}
    return render("nginx", mail={**MAIL, **(mail or {})}, **{"ansible_facts": facts, "mail_hostname": "mail.oak.test", **variables})


def server(text: str, listen: str, name: str) -> str:
    """The server block with this name and port."""
    blocks = re.split(r"(?m)^    server \{", text)[1:]
    found = [b for b in blocks if f"listen {listen}" in b and f"server_name {name};" in b]
    assert len(found) == 1
    return found[0]


@pytest.fixture(params=["12", "13"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", ["_", "mail.oak.test"])
def test_challenges_are_answered_for_every_name_on_port_80(release: str, name: str) -> None:
    assert "location ^~ /.well-known/acme-challenge/ {\n            root /var/www/acme;" in server(rendered(release)[CONF], "80", name)


def test_everything_else_on_port_80_goes_to_https(release: str) -> None:
    assert "return 308 https://$host$request_uri;" in server(rendered(release)[CONF], "80", "mail.oak.test")


def test_an_unknown_name_gets_no_handshake(release: str) -> None:
    assert "ssl_reject_handshake on;" in server(rendered(release)[CONF], "443 ssl default_server", "_")


def test_a_policy_is_served_at_its_names_and_nothing_else_is(release: str) -> None:
    certificates = [
        {"name": "default", "names": ["mail.oak.test"], "mail_names": []},
        {"name": "policies", "names": ["mta-sts.oak.test", "mta-sts.elm.test"], "mail_names": []},
    ]
    policies = [{"certificate": "policies", "names": ["mta-sts.oak.test", "mta-sts.elm.test"], "text": "version: STSv1\nmode: testing\n"}]
    text = rendered(release, mail={"certificates": certificates, "policies": policies})[CONF]
    block = server(text, "443 ssl;", "mta-sts.oak.test mta-sts.elm.test")
    assert "ssl_certificate /var/lib/mailwright/tls/policies/fullchain.pem;" in block
    exact = 'location = /.well-known/mta-sts.txt {\n            default_type text/plain;\n            return 200 "version: STSv1'
    exact += '\\nmode: testing\\n";'
    assert exact in block
    assert re.search(r"location / \{\s+return 404;", block)
    assert "/var/www/mailwright" not in block


def test_every_name_is_served_with_its_own_certificate(release: str) -> None:
    text = rendered(release, mail={"certificates": CERTIFICATES})[CONF]
    assert "ssl_certificate /var/lib/mailwright/tls/default/fullchain.pem;" in server(text, "443 ssl;", "mail.oak.test imap.oak.test")
    block = server(text, "443 ssl;", "mail.elm.test")
    assert "ssl_certificate /var/lib/mailwright/tls/elm.test/fullchain.pem;" in block
    assert "ssl_certificate_key /var/lib/mailwright/tls/elm.test/privkey.pem;" in block
    assert server(text, "80;", "mail.oak.test imap.oak.test mail.elm.test")


def test_every_server_listens_on_both_families(release: str) -> None:
    text = rendered(release)[CONF]
    assert re.findall(r"listen (\d+.*);", text) == re.findall(r"listen \[::\]:(\d+.*);", text)


@pytest.mark.parametrize(
    ("profile", "protocols", "legacy"),
    [("modern", "TLSv1.3", False), ("intermediate", "TLSv1.2 TLSv1.3", False), ("old", "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3", True)],
)
def test_the_tls_profile_decides_protocols_and_suites(release: str, profile: str, protocols: str, legacy: bool) -> None:
    text = rendered(release, mail={"settings": {"tls_profile": profile}})[CONF]
    assert f"ssl_protocols {protocols};" in text
    suites = re.search(r"ssl_ciphers (\S+);", text)
    assert suites
    assert all("GCM" in s or "CHACHA20" in s for s in suites[1].split(":")) is not legacy


def test_the_hybrid_key_exchange_is_offered_where_openssl_has_it() -> None:
    assert "ssl_ecdh_curve X25519:prime256v1:secp384r1;" in rendered("12")[CONF]
    assert "ssl_ecdh_curve X25519MLKEM768:X25519:prime256v1:secp384r1;" in rendered("13")[CONF]


def test_an_override_replaces_a_directive_and_adds_others(release: str) -> None:
    overrides = {
        "http": {"client_max_body_size": "1m", "gzip": True},
        "server": {"limit_conn": "clients 5"},
        "events": {"multi_accept": "on"},
    }
    text = rendered(release, nginx_overrides=overrides)[CONF]
    assert re.findall(r"client_max_body_size \S+", text) == ["client_max_body_size 1m;"]
    assert re.findall(r"limit_conn clients \d+", text) == ["limit_conn clients 5"]
    assert "    gzip on;\n" in text
    assert "    multi_accept on;\n" in text


class Page(HTMLParser):
    """The text of the page, its attributes, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"td", "th"} & set(self.open) and data.strip():
            self.cells[-1].append(data.strip())


def test_the_page_shows_server_port_and_security_of_every_protocol() -> None:
    rows = [[cell for cell in row if cell != "recommended"] for row in Page(rendered()[PAGE]).cells]
    assert [row for row in rows if row[0] != "Protocol"] == [
        ["IMAP", "mail.oak.test", "993", "SSL/TLS"],
        ["POP3", "mail.oak.test", "995", "SSL/TLS"],
        ["SMTP", "mail.oak.test", "465", "SSL/TLS"],
        ["SMTP", "mail.oak.test", "587", "STARTTLS"],
        ["ManageSieve", "mail.oak.test", "4190", "STARTTLS"],
    ]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert Page(rendered()[PAGE]).links == ["/style.css"]


def test_text_of_the_inventory_is_shown_and_not_interpreted() -> None:
    evil = "<script>alert(1)</script>\"'&"
    text = rendered(nginx_page_title=evil, nginx_page_contact=evil)[PAGE]
    assert "<script" not in text
    assert Page(text).links == ["/style.css"]


def test_without_the_page_nothing_of_it_is_left() -> None:
    assert set(rendered(nginx_page_enabled=False)) == {CONF, "/etc/systemd/system/nginx.service.d/mailwright.conf"}


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
@pytest.mark.parametrize("profile", PROFILES)
def test_nginx_accepts_its_configuration(tmp_path: Path, profile: str) -> None:
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                "/CN=mail.oak.test",
            ),
            *("-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    overrides = {"main": {"pid": tmp_path / "pid", "error_log": "stderr"}, "http": {"access_log": False}}
    text = rendered("12", mail={"settings": {"tls_profile": profile}}, nginx_overrides=overrides)[CONF]
    text = text.replace("/var/lib/mailwright/tls/default", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run(["nginx", "-t", "-q", "-c", tmp_path / "nginx.conf"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_the_web_interface_of_the_filter_has_a_name_of_its_own_and_is_off_by_default(release: str) -> None:
    certificates = [{"name": "default", "names": ["mail.oak.test", "filter.oak.test"], "mail_names": []}]
    off = rendered(release, {"certificates": certificates})[CONF]
    assert "11334" not in off
    assert "guess" not in off
    web = {"host": "filter.oak.test", "password_hash": "SECRET", "enable_password_hash": None, "networks": ["192.0.2.0/24"]}
    text = rendered(release, {"certificates": certificates, "filter_web": web})[CONF]
    page, own = server(text, "443 ssl", "mail.oak.test"), server(text, "443 ssl", "filter.oak.test")
    assert "11334" not in page
    assert "allow 192.0.2.0/24;\n        deny all;" in own
    assert "proxy_pass http://127.0.0.1:11334;" in own
    assert "SECRET" not in text
    everybody = rendered(release, {"certificates": certificates, "filter_web": {**web, "networks": []}})[CONF]
    assert "deny all" not in everybody
