"""T1, T2: certificates that the DNS proves (DNS-01 by RFC 2136), and certificates of one's own, which are judged before they go live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import main_pid
from correspondent import MailHost, until
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from edits import Site, edited_lab
from handshake import PORTS, certificate
from laboratory import certificates as lab_ca
from test_certificate_names import OWN, names_of, served
from test_certificates import USERS
from testinfra.host import Host

ELM = ["mail.elm.test", "imap.elm.test"]
# Of no address: nobody could prove it by HTTP.
INWARD = "inward.elm.test"
RENEWAL = "/etc/letsencrypt/renewal/mailwright-elm.test.conf"
PAIR = """
certificates_provided:
  - name: elm.test
    certificate: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/files/elm.test.pem') }}"
    private_key: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/files/elm.test.key') }}"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Afterwards the lab's own inventory is live."""
    with edited_lab(tmp_path_factory.mktemp("sources"), "--tags", "certificates") as site:
        yield site


def test_names_are_proved_by_the_dns_and_one_that_cannot_be_blocks_no_other(mail: MailHost, host: Host, site: Site) -> None:
    before = certificate(mail, 993)
    site.edit("domains/elm.test.yml", "[mail.elm.test, imap.elm.test]", f"[mail.elm.test, imap.elm.test, {INWARD}]")
    # The key may change elm.test only: mail.oak.test cannot be proved with it.
    site.edit("group_vars/all/internet.yml", "key_name: lab, ", "key_name: lab, zones: [elm.test], ")
    words = ("--tags", "packages,certificates", "-e", "{certificates_challenge: dns-01, certificates_dns_propagation: 1}")
    status, output = site.run(*words)
    assert status == 0, output[-4000:]
    assert "no entry of mail_dns_updates has the zones of all of mail.oak.test" in output, output[-4000:]
    secret = site.path.parent / "tsig"
    secret.write_text(host.file("/etc/mailwright/acme-dns/lab.ini").content_string)
    assert 'dns_rfc2136_name = "lab"' in secret.read_text()
    key = next(line.split('"')[1] for line in secret.read_text().splitlines() if "_secret" in line)
    assert key not in output
    file = host.file("/etc/mailwright/acme-dns/lab.ini")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)

    first = until("the new one on 465", lambda: (found := served(mail, 465, INWARD)) and INWARD in names_of(found) and found)
    assert names_of(first) == {*ELM, INWARD}
    assert first.issuer.rfc4514_string().startswith("CN=Pebble Intermediate CA")
    for port in (25, 587, 993, 995):
        until(f"the new one on {port}", lambda port=port: served(mail, port, "imap.elm.test") == first)
    assert certificate(mail, 993) == before
    leftovers = host.run("getent hosts _acme-challenge.%s; dig +short TXT _acme-challenge.%s @198.51.100.2", INWARD, INWARD)
    assert leftovers.stdout.strip() == "", "nothing is left in the zone"

    # The timer renews it in the same way.
    host.check_output("sed -i '1i renew_before_expiry = 36500 days' %s", RENEWAL)
    try:
        assert host.run("certbot -q renew --no-random-sleep-on-renew --cert-name mailwright-elm.test").rc == 0
    finally:
        host.check_output("sed -i '/^renew_before_expiry = 36500 days$/d' %s", RENEWAL)
    renewed = until("the renewed one", lambda: (found := served(mail, 465, INWARD)) != first and found)
    assert names_of(renewed) == {*ELM, INWARD}
    assert renewed.public_key() == first.public_key()


def provide(site: Site, pem: Path, key: Path) -> None:
    """Let the links of the inventory lead to these files."""
    for name, target in (("elm.test.pem", pem), ("elm.test.key", key)):
        link = site.path / "files" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def digest(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(SHA256())


def test_a_provided_pair_goes_live_only_if_it_is_good(mail: MailHost, host: Host, site: Site, tmp_path: Path) -> None:
    site.edit("domains/elm.test.yml", f"[mail.elm.test, imap.elm.test, {INWARD}]", "[mail.elm.test, imap.elm.test]")
    (site.path / "group_vars/mail/provided.yml").write_text(PAIR)
    good, other, old = tmp_path / "good/mail.elm.test", tmp_path / "other/mail.elm.test", tmp_path / "old/mail.elm.test"
    lab_ca.make(good.parent, {"mail.elm.test": ["imap.elm.test"]}, [])
    lab_ca.make(other.parent, {"mail.elm.test": ["imap.elm.test"]}, [])
    lab_ca.make(old.parent, {"mail.elm.test": ["imap.elm.test"]}, ["mail.elm.test"])
    before = {port: served(mail, port, "mail.elm.test") for port in PORTS}
    pids = {unit: main_pid(host, unit) for unit in USERS}
    secret = good.with_suffix(".test.key").read_text().splitlines()[1]

    for pem, key, reason in (
        (good, other, "the private key belongs to none of the certificates"),
        (old, old, "expired on"),
    ):
        provide(site, pem.with_name(f"{pem.name}.pem"), key.with_name(f"{key.name}.key"))
        status, output = site.run("--tags", "certificates")
        assert status != 0, output
        assert "certificates_provided: elm.test: " in output, output[-3000:]
        assert reason in output, output[-3000:]
        assert "No host was contacted" in output
        assert secret not in output
    assert {port: served(mail, port, "mail.elm.test") for port in PORTS} == before

    for pair in (good, other):
        pem = pair.with_name("mail.elm.test.pem")
        provide(site, pem, pair.with_name("mail.elm.test.key"))
        assert site.changed("--tags", "certificates", "--diff") > 0
        for port in PORTS:
            until(f"it on {port}", lambda port=port, pem=pem: served(mail, port, "imap.elm.test").fingerprint(SHA256()) == digest(pem))
    assert site.changed("--tags", "certificates") == 0
    assert names_of(certificate(mail, 993)) == OWN
    assert {unit: main_pid(host, unit) for unit in USERS} == pids
