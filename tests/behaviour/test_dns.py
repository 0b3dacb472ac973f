"""DNS records on the lab's name server, kept there by the mail host itself, and the policies that they lead to."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.resolver
import pytest
from edits import Site, publish_lab_records
from hosts import run_on

SERVER = "198.51.100.2"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A copy of the inventory; afterwards the records are the lab's again."""
    copy = Site(tmp_path / "edited")
    yield copy
    publish_lab_records(tmp_path)


def ask(name: str, kind: str) -> set[str]:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [SERVER]
    try:
        answer = resolver.resolve(name, kind, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return set()
    return {b"".join(row.strings).decode() if kind == "TXT" else row.to_text() for row in answer.rrset or ()}


def serial(zone: str) -> int:
    return int(next(iter(ask(zone, "SOA"))).split()[2])


def put(*records: dict[str, object]) -> None:
    """As somebody else who may change the zone."""
    run_on("world", "/usr/local/lib/world/publish.py", stdin=json.dumps(list(records)).encode())


def publish(site: Site, *arguments: str) -> tuple[int, str]:
    return site.run("--diff", *arguments, playbook="playbooks/dns-publish.yml")


def changes(output: str) -> list[str]:
    return [line for line in output.splitlines() if re.match(r"[+-] \S+\. \d+ [A-Z]+ ", line)]


def test_what_is_published_is_left_alone(site: Site) -> None:
    before = serial("oak.test")
    status, output = publish(site)
    assert (status, changes(output)) == (0, [])
    assert "changed=0" in output
    assert serial("oak.test") == before


def test_only_differences_are_sent_and_records_of_others_stay(site: Site) -> None:
    others = [("oak.test", "TXT", [*ask("oak.test", "TXT"), "site-verification=1"]), ("www.oak.test", "A", ["192.0.2.80"])]
    put(*({"name": name, "type": kind, "value": values} for name, kind, values in others))
    before, elsewhere = serial("oak.test"), serial("elm.test")
    site.edit("domains/oak.test.yml", "domain: oak.test", "domain: oak.test\ndmarc: {policy: none}\nspf: {include: [good.test]}")
    status, dry = publish(site, "--check")
    assert status == 0, dry[-3000:]
    assert serial("oak.test") == before
    status, output = publish(site)
    assert status == 0, output[-3000:]
    addresses = "v=spf1 ip4:198.51.100.10 ip6:2001:db8:25::10"
    expected = [
        '- _dmarc.oak.test. 2 TXT "v=DMARC1; p=reject"',
        '+ _dmarc.oak.test. 2 TXT "v=DMARC1; p=none"',
        f'- oak.test. 2 TXT "{addresses} -all"',
        f'+ oak.test. 2 TXT "{addresses} include:good.test -all"',
    ]
    assert changes(output) == changes(dry) == expected
    assert ask("oak.test", "TXT") == {f"{addresses} include:good.test -all", "site-verification=1"}
    assert ask("www.oak.test", "A") == {"192.0.2.80"}
    # One update for the zone that differs; signing may raise the serial once more.
    assert before < serial("oak.test") <= before + 2
    assert serial("elm.test") == elsewhere
    put({"name": "www.oak.test", "type": "A", "value": []})


def test_a_record_in_the_place_of_ours_is_told_about_and_kept(site: Site) -> None:
    put({"name": "_dmarc.elm.test", "type": "TXT", "value": "v=DMARC1; p=none; rua=mailto:x@good.test"})
    try:
        status, output = publish(site)
        assert status != 0
        told = "_dmarc.elm.test TXT: there is 'v=DMARC1; p=none; rua=mailto:x@good.test', which is not Mailwright's"
        assert told in " ".join(output.split())
        assert ask("_dmarc.elm.test", "TXT") == {"v=DMARC1; p=none; rua=mailto:x@good.test"}
    finally:
        put({"name": "_dmarc.elm.test", "type": "TXT", "value": []})


def test_records_of_a_domain_that_is_gone_go_too(site: Site) -> None:
    assert ask("ash.test", "MX") == {"10 mail.oak.test."}
    (site.path / "domains/ash.test.yml").unlink()
    status, output = publish(site)
    assert status == 0, output[-3000:]
    assert ask("ash.test", "MX") == ask("_dmarc.ash.test", "TXT") == set()
    assert ask("ash.test", "NS")
    # Mail on its way is still checked by the keys, until these are removed on the host.
    assert all("._domainkey TXT:" in line for line in ask("_mailwright.ash.test", "TXT"))


UPDATES = "{server: ns.world.test, key_name: lab, secret: \"{{ lookup('ansible.builtin.file', lab_home ~ '/dns/tsig.secret') }}\"}"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (UPDATES.replace("key_name: lab", "key_name: other"), "does not know the key other"),
        (re.sub(r"{{.*}}", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", UPDATES), "has another secret for the key lab"),
        (UPDATES.replace("ns.world.test", "client100.world.test"), "client100.world.test port 53"),
    ],
    ids=["unknown key", "wrong secret", "no name server"],
)
def test_a_server_that_does_not_take_updates_is_told_about(site: Site, entry: str, told: str) -> None:
    site.edit("group_vars/all/internet.yml", UPDATES, entry)
    status, output = publish(site)
    assert status != 0
    assert told in " ".join(output.split())
    assert "c2VjcmV0c2Vj" not in output


def test_a_zone_that_the_server_does_not_have_keeps_none_of_the_others(site: Site) -> None:
    site.edit("group_vars/all/internet.yml", UPDATES, UPDATES[:-1] + ", zones: [nowhere.example, elm.test]}")
    site.edit("domains/elm.test.yml", "domain: elm.test", "domain: elm.test\ndmarc: {policy: none}")
    status, output = publish(site)
    assert status != 0
    assert "nowhere.example: ns.world.test port 53 is not authoritative for it" in " ".join(output.split())
    assert ask("_dmarc.elm.test", "TXT") == {"v=DMARC1; p=none"}


def test_zone_files_are_accepted_by_the_name_servers_own_checker(site: Site, tmp_path: Path) -> None:
    status, output = site.run("-e", "dns_format=zone", "-e", f"dns_directory={tmp_path / 'out'}", playbook="playbooks/dns.yml")
    assert status == 0, output[-3000:]
    files = sorted((tmp_path / "out").rglob("*.zone"))
    assert {file.stem for file in files} >= {"oak.test", "elm.test", "xn--bcher-kva.test", "100.51.198.in-addr.arpa"}
    for file in files:
        subprocess.run(["kzonecheck", "-o", file.stem, file], check=True)
    text = (tmp_path / "out/mail.oak.test/oak.test.zone").read_text()
    assert "_domainkey" in text
    assert " TLSA 3 1 1 " in text


def policy(domain: str, ca_file: Path) -> str:
    """What senders get; the name is looked up and the certificate checked."""
    (address,) = ask(f"mta-sts.{domain}", "A")
    context = ssl.create_default_context(cafile=str(ca_file))
    with contextlib.closing(http.client.HTTPSConnection(f"mta-sts.{domain}", context=context)) as connection:
        connection.sock = context.wrap_socket(socket.create_connection((address, 443), 10), server_hostname=f"mta-sts.{domain}")
        connection.request("GET", "/.well-known/mta-sts.txt")
        answer = connection.getresponse()
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/plain")
        return answer.read().decode()


@pytest.mark.parametrize("domain", ["oak.test", "ash.test", "elm.test", "xn--bcher-kva.test"])
def test_every_domain_has_its_policy(domain: str, ca_file: Path) -> None:
    assert policy(domain, ca_file) == "version: STSv1\nmode: testing\nmx: mail.oak.test\nmax_age: 86400\n"
    (text,) = ask(f"_mta-sts.{domain}", "TXT")
    assert re.fullmatch(r"v=STSv1; id=[0-9a-f]{32};", text)
    assert ask(f"_smtp._tls.{domain}", "TXT") == {"v=TLSRPTv1; rua=mailto:postmaster@oak.test"}
