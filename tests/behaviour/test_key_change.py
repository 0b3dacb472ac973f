"""K8: senders that insist on DANE find a fitting TLSA record at every moment of a renewal and of a change of the key."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT
from correspondent import MailHost, until
from edits import Site, publish_lab_records
from handshake import PORTS, certificate
from hosts import LAB
from test_certificates import renew
from testinfra.host import Host

RECORDS = [f"_{port}._tcp.mail.oak.test" for port in (25, 465, 587)]
KEY = "openssl x509 -in /var/lib/mailwright/tls/default/fullchain.pem -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum"
# Postfix's own client, with the host's validating resolver and its cache, again and again.
SENDER = """while [ -e /run/dane-sender ]; do
posttls-finger -c -l dane-only -L summary '[mail.oak.test]:587' 2>&1 | tail -1 >> /run/dane-sender.log; done"""


def live_digest(host: Host) -> str:
    return host.check_output(KEY).split()[0]


@pytest.fixture
def publish(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Put TLSA records of these digests into the DNS; afterwards those of the inventory are there again."""

    def put(*digests: str) -> None:
        values = [f"3 1 1 {digest}" for digest in digests]
        document = json.dumps([{"name": name, "type": "TLSA", "value": values} for name in RECORDS])
        tool = [sys.executable, str(ROOT / "molecule/shared/lab.py"), "--lab", LAB, "publish", "-"]
        subprocess.run(tool, input=document, text=True, check=True)

    yield put
    put()
    # The record of a former key stays published until no cache can hold it alone; a test that failed early has retired none.
    file = host.file("/var/lib/mailwright/tls/retired.json")
    if file.exists:
        end = dt.datetime.fromisoformat(json.loads(file.content_string)["until"])
        until("the former key's record may be removed", lambda: end < dt.datetime.now(dt.UTC))
    publish_lab_records(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def sender(host: Host) -> Iterator[Callable[[], list[str]]]:
    """What the sender met so far."""
    host.check_output("rm -f /run/dane-sender.log && touch /run/dane-sender")
    host.check_output("systemd-run --unit dane-sender sh -c %s", SENDER)

    def met() -> list[str]:
        return host.file("/run/dane-sender.log").content_string.splitlines()

    yield met
    host.check_output("rm -f /run/dane-sender && systemctl stop dane-sender 2>/dev/null; true")


def run(site: Site, *arguments: str) -> str:
    status, output = site.run("--tags", "certificates", *arguments)
    assert status == 0, output[-4000:]
    return output


def test_no_sender_ever_misses_the_record(
    mail: MailHost, host: Host, publish: Callable[..., None], sender: Callable[[], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = Site(tmp_path_factory.mktemp("key") / "lab")
    first = live_digest(host)
    publish(first)
    until("the sender verifies the host", lambda: sender() and "Verified" in sender()[-1])
    host.check_output("truncate -s 0 /run/dane-sender.log")

    assert renew(host) == 0
    assert live_digest(host) == first

    output = run(site, "-e", '{"certificates_rotate_key": true}')
    found = re.search(r"TLSA 3 1 1 ([0-9a-f]{64})", output)
    assert found, output[-3000:]
    second = found[1]
    assert "is not yet on" in output
    assert live_digest(host) == first, "not before the record is there"

    publish(first, second)
    output = run(site, "-e", '{"certificates_key_wait": 30}')
    assert "The new key is in use" in output, output[-3000:]
    assert live_digest(host) == second
    new = certificate(mail, 443)
    for port in PORTS:
        until(f"the new key on {port}", lambda port=port: certificate(mail, port) == new)
    assert new.issuer.rfc4514_string().startswith("CN=Pebble Intermediate CA")
    count = len(sender())
    until("the sender comes once more", lambda: len(sender()) > count + 1)

    # Nothing of it is left, and a renewal keeps the new key.
    assert "changed=0" in run(site)
    assert renew(host) == 0
    assert live_digest(host) == second
    count = len(sender())
    until("the sender comes once more", lambda: len(sender()) > count + 1)
    met = sender()
    assert len(met) > 20
    assert [line for line in met if "Verified TLS connection" not in line] == []
    # The sender would notice.
    publish("0" * 64)
    until("a wrong record is noticed", lambda: "Verified" not in sender()[-1])
