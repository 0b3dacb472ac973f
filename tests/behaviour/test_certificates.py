"""T1, T2, T4: where the certificate comes from, how it is renewed, and who takes it up."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import time
from collections.abc import Iterator

import pytest
from conftest import main_pid
from correspondent import MailHost, until
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from handshake import PORTS, certificate, handshake
from testinfra.host import Host

LIVE = "/var/lib/mailwright/tls/default"
RENEWAL = "/etc/letsencrypt/renewal/mailwright.conf"
USERS = ["postfix", "dovecot", "nginx"]
OTHERS = ["rspamd", "redis-server", "unbound"]


def last_change(host: Host, unit: str) -> str:
    return host.check_output("systemctl show -P StateChangeTimestampMonotonic %s", f"{unit}.service")


@contextlib.contextmanager
def renewal_settings(host: Host, **changes: str) -> Iterator[None]:
    """Change certbot's own record of the certificate for a while: `renew_before_expiry` or one of [renewalparams]."""
    host.check_output("cp -p %s %s.test", RENEWAL, RENEWAL)
    for key, value in changes.items():
        place = "1i" if key == "renew_before_expiry" else "/^\\[renewalparams\\]/a"
        host.check_output("sed -i -e %s -e %s %s", f"{place} {key} = {value}", f"/^#* *{key} *=/d", RENEWAL)
    try:
        yield
    finally:
        host.check_output("mv %s.test %s", RENEWAL, RENEWAL)


def renew(host: Host, **changes: str) -> int:
    """Run what the timer runs, as if the certificate were due; the unit's exit status."""
    host.run("systemctl reset-failed certbot.service")
    with renewal_settings(host, renew_before_expiry="36500 days", **changes):
        return int(host.run("systemctl start certbot.service").rc)


def test_the_certificate_is_issued_by_the_acme_server(mail: MailHost) -> None:
    assert certificate(mail, 993).issuer.rfc4514_string().startswith("CN=Pebble Intermediate CA")


def test_the_renewal_timer_runs_and_starts_at_boot(host: Host) -> None:
    assert host.service("certbot.timer").is_running
    assert host.service("certbot.timer").is_enabled


def test_a_renewal_reaches_every_port_without_ending_a_session(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    old = certificate(mail, 993)
    pids = {unit: main_pid(host, unit) for unit in USERS}
    untouched = {unit: last_change(host, unit) for unit in OTHERS}
    address = "alice@oak.test"
    with mail.imap(address, accounts[address]) as session:
        session.select("INBOX", readonly=True)
        assert renew(host) == 0
        new = until("a new certificate on 443", lambda: (found := certificate(mail, 443)) != old and found)
        for port in PORTS:
            until(f"the new certificate on {port}", lambda port=port: certificate(mail, port) == new)
            with handshake(mail, port):
                pass  # and it verifies
        # Processes that serve old sessions are ended 6 s after a reload, unless Dovecot is told otherwise.
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert session.noop()[0] == "OK"
            time.sleep(0.5)
    assert {unit: main_pid(host, unit) for unit in USERS} == pids, "reloaded, not restarted"
    assert {unit: last_change(host, unit) for unit in OTHERS} == untouched, "only those that use it"
    # A TLSA record of the key stays true.
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert new.public_key().public_bytes(*spki) == old.public_key().public_bytes(*spki)


def test_the_old_certificate_goes_on_while_the_acme_server_is_down(mail: MailHost, host: Host) -> None:
    old = certificate(mail, 443)
    assert renew(host, server="https://acme.world.test:1/dir") != 0
    for port in PORTS:
        assert certificate(mail, port) == old
    host.run("systemctl reset-failed certbot.service")


def test_a_key_that_does_not_belong_to_its_certificate_is_never_deployed(mail: MailHost, host: Host) -> None:
    before = host.check_output("readlink %s", LIVE)
    # In a mount namespace of its own, certbot's directory seems to hold the certificate with a stranger's key.
    script = """set -e; d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
cp -L /etc/letsencrypt/live/mailwright/*.pem "$d"
openssl ecparam -genkey -name prime256v1 -noout -out "$d/privkey.pem"
export RENEWED_LINEAGE=/etc/letsencrypt/live/mailwright
unshare --mount sh -c 'mount --bind "$0" $RENEWED_LINEAGE; exec /etc/letsencrypt/renewal-hooks/deploy/mailwright' "$d" """
    done = host.run("sh -c %s", script)
    assert done.rc == 1
    assert "do not belong together" in done.stderr
    assert host.check_output("readlink %s", LIVE) == before
    with handshake(mail, 993):
        pass


@pytest.mark.parametrize("name", ["privkey.pem", "fullchain.pem"])
def test_only_root_can_read_the_live_pair(host: Host, name: str) -> None:
    file = host.file(f"{LIVE}/{name}")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
    directory = host.file("/var/lib/mailwright/tls")
    assert (directory.user, directory.mode) == ("root", 0o700)


def test_the_chain_is_complete(mail: MailHost) -> None:
    # The context knows the root alone: without the intermediate this would fail.
    with handshake(mail, 25) as secure:
        ends = ssl.cert_time_to_seconds(str((secure.getpeercert() or {})["notAfter"]))
    assert dt.datetime.fromtimestamp(ends, dt.UTC) > dt.datetime.now(dt.UTC)


def test_the_postmaster_hears_of_a_certificate_that_ends_soon(host: Host) -> None:
    assert host.service("mailwright-check-certificates.timer").is_running
    # In place of one that lives for years, for a moment; only the check looks at it.
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=short.test -days 3"
    make = f"""set -e; cd /var/lib/mailwright/tls; mkdir -m 700 short.test@test; ln -s short.test@test short.test
{request} -keyout short.test/privkey.pem -out short.test/fullchain.pem 2>&1"""
    host.check_output(make)
    try:
        host.check_output("systemctl start mailwright-check-certificates.service")
    finally:
        host.check_output("rm -r /var/lib/mailwright/tls/short.test /var/lib/mailwright/tls/short.test@test")
    query = "doveadm fetch -u alice@oak.test text HEADER Subject 'Certificates of mail.oak.test end soon'"
    text = until("the postmaster's mail", lambda: host.check_output(query))
    assert "short.test: " in text
    assert "default: " not in text
    host.check_output("doveadm expunge -u alice@oak.test mailbox INBOX HEADER Subject 'Certificates of mail.oak.test end soon'")
