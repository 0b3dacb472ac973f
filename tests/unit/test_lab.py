"""The lab's pure pieces: processes, DNS records, the package proxy's limits, the command line, certificates."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

SHARED = Path(__file__).resolve().parents[2] / "molecule/shared"
sys.path.append(str(SHARED))

import lab  # noqa: E402  (found by the line above)
from laboratory import certificates, host, images, limits, machines, network, proxy, world  # noqa: E402  (as above)


def load_publisher() -> ModuleType:
    """The program of the machine `world`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("publish", SHARED / "world/usr/local/lib/world/publish.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


publisher = load_publisher()


# Processes


def test_a_process_is_known_by_number_and_start() -> None:
    me = host.process(os.getpid())
    assert me is not None and host.alive(me)
    assert not host.alive(host.Process(me.pid, me.start - 1))


def test_a_process_name_may_hold_parentheses_and_blanks() -> None:
    fields = " ".join(["S", "7", *(["0"] * 17), "4242", "0"])
    assert host.parse_stat(f"12 (evil ) R 1 ) {fields}") == ("S", 7, 4242)


def test_only_processes_that_are_still_ours_are_ended() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    host.end([child], lambda pid: False)
    assert host.process(child) is not None
    host.end([child], lambda pid: host.process(pid) is not None)
    assert os.waitpid(child, 0)[1] == 9


def test_this_process_is_never_ended_by_its_own_clean_up() -> None:
    host.end([os.getpid(), os.getppid(), 1], lambda pid: True)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = host.write(tmp_path / "deep" / "file", "one", 0o600)
    host.write(file, b"two")
    assert file.read_text() == "two"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_inotify_instances_are_counted() -> None:
    assert limits.in_use() >= 0


# DNS


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("Mail.Oak.TEST.", "mail.oak.test"), ("bücher.test", "xn--bcher-kva.test"), (".", ""), ("_dmarc.oak.test", "_dmarc.oak.test")],
)
def test_names_are_published_in_their_canonical_form(given: str, wanted: str) -> None:
    assert publisher.plain(given) == wanted


@pytest.mark.parametrize("name", ["bad name", "a..b", "-a.test", "a" * 64 + ".test", 'x"y.test', "a\nb.test", "a.test\n"])
def test_what_is_no_domain_name_is_refused(name: str) -> None:
    with pytest.raises(publisher.Refused):
        publisher.plain(name)


@given(st.text())
def test_no_text_leaves_its_quotes_in_a_txt_record(value: str) -> None:
    written = publisher.text("x" + value)
    assert written.isascii() and written.isprintable()
    octets = b""
    rest = written
    while rest:
        assert rest[0] == '"'
        rest, string = rest[1:], b""
        while rest[0] != '"':
            if rest[0] != "\\":
                string, rest = string + rest[0].encode(), rest[1:]
            elif rest[1].isdigit():
                string, rest = string + bytes([int(rest[1:4])]), rest[4:]
            else:
                string, rest = string + rest[1].encode(), rest[2:]
        assert len(string) <= 255
        octets, rest = octets + string, rest[1:].removeprefix(" ")
    assert octets.decode() == "x" + value


def test_records_of_one_name_and_type_form_one_set() -> None:
    records = [
        {"name": "oak.test", "type": "mx", "value": "10 a.oak.test"},
        {"name": "OAK.test.", "type": "MX", "value": ["20 b.oak.test.", "10 a.oak.test."], "ttl": 60},
        {"name": "gone.oak.test", "type": "A", "value": None},
    ]
    assert publisher.sets_of(records) == {
        ("oak.test", "MX"): [(2, "10 a.oak.test."), (60, "20 b.oak.test."), (60, "10 a.oak.test.")],
        ("gone.oak.test", "A"): [],
    }


def test_zones_come_parents_first_with_their_top_level_domains() -> None:
    needed = publisher.zones_needed(["example.co.uk", "a.example.co.uk"], ["mail.example.co.uk", "host.deep.example.org"], {"", "test"})
    assert needed == ["", "uk", "org", "example.org", "example.co.uk", "a.example.co.uk"]


def test_a_record_of_a_known_zone_needs_no_new_one() -> None:
    assert publisher.zones_needed([], ["www.oak.test"], {"", "test", "oak.test"}) == []


def test_reverse_zones_hang_under_their_arpa_zone() -> None:
    needed = publisher.zones_needed(["100.51.198.in-addr.arpa"], [], set())
    assert needed == ["", "arpa", "in-addr.arpa", "100.51.198.in-addr.arpa"]


def test_a_record_goes_to_the_nearest_zone_above_it() -> None:
    zones = ["", "test", "oak.test", "roak.test"]
    assert publisher.zone_above("mail.oak.test", zones) == "oak.test"
    assert publisher.zone_above("soak.test", zones) == "test"
    assert publisher.zone_above("example.org", ["test"]) is None


def test_a_bogus_delegation_differs_in_its_digest_only() -> None:
    for ds in ("1 13 2 aa0", "1 13 2 aaf"):
        assert publisher.bogus(ds) != ds and len(publisher.bogus(ds)) == len(ds)


def test_an_update_replaces_whole_sets() -> None:
    words = publisher.update("oak.test", {("oak.test", "TXT"): [(2, '"a"')], ("x.oak.test", "A"): []}).splitlines()
    assert words == ["server 127.0.0.1", "zone oak.test.", "del oak.test. TXT", 'add oak.test. 2 TXT "a"', "del x.oak.test. A", "send"]


def test_the_list_of_zones_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "LIST", tmp_path / "zones.conf")
    publisher.LIST.write_text(publisher.configuration(["", "test", "oak.test"]))
    assert publisher.known_zones() == ["", "test", "oak.test"]


def test_every_client_has_a_name_and_its_addresses_lead_back_to_it() -> None:
    records = {(record["name"], record["type"]): record["value"] for record in world.base("KEY", "DIGEST")["records"]}
    for number in network.CLIENTS:
        name = f"client{number}.world.test"
        assert records[name, "A"] == f"198.51.100.{number}"
        assert records[world.reverse(records[name, "A"]), "PTR"] == f"{name}."
        assert records[world.reverse(records[name, "AAAA"]), "PTR"] == f"{name}."


def test_base_records_all_fall_into_zones_that_are_made_for_them() -> None:
    document = world.base("KEY", "DIGEST")
    needed = publisher.zones_needed(document["zones"], [record["name"] for record in document["records"]], set())
    assert set(needed) == {"", "test", "net", "arpa", "in-addr.arpa", "ip6.arpa", *document["zones"]}


def test_the_listed_client_is_listed_by_both_addresses() -> None:
    names = {record["name"] for record in world.listed(150)}
    v6 = ".".join("2001 0db8 0025 0000 0000 0000 0000 0150".replace(" ", "")[::-1])
    assert names == {"150.100.51.198.dnsbl.test", f"{v6}.dnsbl.test"}


# The only way out


@pytest.mark.parametrize(
    "target",
    [
        "http://deb.debian.org/debian/pool/main/h/hello/hello_2.10-5_amd64.deb",
        "http://deb.debian.org/debian-security/dists/trixie-security/InRelease",
        "http://deb.debian.org/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/0a1b",
        "http://deb.debian.org/debian/pool/main/g/gcc-14/libstdc%2b%2b6_14.2.0-19_amd64.deb",
    ],
)
def test_the_proxy_fetches_from_the_archive(target: str) -> None:
    path = proxy.archive_path(target)
    assert path and target.endswith(path)


@pytest.mark.parametrize(
    "target",
    [
        "http://example.org/debian/dists/trixie/InRelease",
        "http://deb.debian.org.example.org/debian/dists/x",
        "http://deb.debian.org@example.org/debian/dists/x",
        "http://deb.debian.org:25/debian/dists/x",
        "/debian/dists/trixie/InRelease",
        "http://deb.debian.org/debian/dists/../../etc/passwd",
        "http://deb.debian.org/debian/pool//etc/passwd.deb",
        "http://deb.debian.org/debian/dists/x?y",
        "http://deb.debian.org/debian/dists/%2e%2e/x",
        "http://deb.debian.org/other/dists/x",
        "http://deb.debian.org/debian/dists/..",
    ],
)
def test_the_proxy_fetches_from_nowhere_else(target: str) -> None:
    assert proxy.archive_path(target) is None


def test_only_what_never_changes_is_served_without_asking() -> None:
    assert proxy.is_fixed("/debian/pool/main/h/hello/hello_2.10-5_amd64.deb")
    assert proxy.is_fixed("/debian/dists/trixie/main/by-hash/SHA256/00ff")
    assert not proxy.is_fixed("/debian/dists/trixie/InRelease")


# Machines and images


def test_an_image_is_known_by_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.path("world")
    assert before != images.path("trixie") != images.path("bookworm")
    monkeypatch.setattr(images, "_WORLD", [*images._WORLD, "hello"])
    assert images.path("world") != before


def test_the_mail_machines_start_without_mail_software() -> None:
    packages = set(images.recipe("bookworm")["packages"]) | set(images.recipe("trixie")["packages"])
    assert not packages & {"postfix", "dovecot-core", "rspamd", "unbound", "nginx-light", "redis-server"}


def test_host_keys_are_known_by_every_name_of_a_machine() -> None:
    line = machines.known_hosts({"mail": "ssh-ed25519 AAAA"})
    assert line == "mail,mail.oak.test,198.51.100.10,2001:db8:25::10 ssh-ed25519 AAAA\n"


def test_the_world_has_the_addresses_of_all_its_mail_servers() -> None:
    unit = machines.network_unit(machines.MACHINES["world"])
    for number in (2, *world.REMOTES.values()):
        assert f"Address=198.51.100.{number}/24\n" in unit and f"Address=2001:db8:25::{number}/64\n" in unit
    assert "Gateway" not in unit


def test_certificates_are_what_their_names_say(tmp_path: Path) -> None:
    certificates.make(tmp_path, {"good.test": []}, ["old.test"])
    ca, good, old = (x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes()) for name in ("ca", "good.test", "old.test"))
    for certificate in (good, old):
        certificate.verify_directly_issued_by(ca)
    assert old.not_valid_after_utc < good.not_valid_before_utc + (good.not_valid_after_utc - good.not_valid_before_utc) / 2
    assert (tmp_path / "good.test.key").stat().st_mode & 0o077 == 0


# The command line


def test_a_command_for_a_machine_comes_after_two_dashes() -> None:
    asked = lab.arguments(["--lab", "x", "run", "mail", "--", "ls", "--", "-l"])
    assert (asked.lab, asked.command, asked.machine, asked.rest) == ("x", "run", "mail", ["ls", "--", "-l"])


@pytest.mark.parametrize("words", [["run", "mail"], ["exec"], ["down", "--", "x"], ["run", "nowhere", "--", "x"], []])
def test_a_command_line_that_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        lab.arguments(words)


@pytest.mark.parametrize("name", ["", "../x", "UP", "a b", "-x", "x" * 25])
def test_a_lab_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(host.LabError):
        lab.Lab(name)


def test_the_lab_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILWRIGHT_LAB", raising=False)
    assert lab.arguments(["status"]).lab == "demo"
    monkeypatch.setenv("MAILWRIGHT_LAB", "other")
    assert lab.arguments(["status"]).lab == "other"


def test_a_lab_of_an_older_checkout_gets_the_certificates_that_are_new(tmp_path: Path) -> None:
    certificates.make(tmp_path, {"mx.good.test": []}, [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    certificates.make(tmp_path, {"mx.good.test": ["other.good.test"], "mx.smart.test": []}, ["mx.expired.test"])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    ca = x509.load_pem_x509_certificate(after["ca.pem"])
    for name in ("mx.good.test", "mx.smart.test", "mx.expired.test"):
        x509.load_pem_x509_certificate(after[f"{name}.pem"]).verify_directly_issued_by(ca)


# Copies


def test_a_copy_of_a_mail_host_has_what_is_its_own_and_nothing_of_the_other_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lay(lab: str, *files: str) -> None:
        for file in files:
            (tmp_path / lab / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / lab / file).write_text(f"{lab}\n")

    monkeypatch.setattr(machines, "STATE", tmp_path)
    of_the_world = ["etc/letsencrypt/live/x/cert.pem", "etc/letsencrypt/accounts/x", "var/lib/mailwright/dns/published.json"]
    kept = ["etc/postfix/main.cf", "etc/resolv.conf", "etc/letsencrypt/renewal-hooks/deploy/x", "var/lib/mailwright/tls/default/key.pem"]
    lay("one", *(f"machines/mail/upper/{path}" for path in (*of_the_world, *kept, "etc/ssh/ssh_host_ed25519_key")))
    lay("two", "ssh/host-mail", "ssh/host-mail.pub", "ssh/id_ed25519.pub", "ca/ca.pem")
    (tmp_path / "image").mkdir()
    machines.prepare("two", machines.MACHINES["mail"], tmp_path / "image", like="one")
    upper = tmp_path / "two/machines/mail/upper"
    assert [path for path in of_the_world if (upper / path).exists()] == []
    assert {(upper / path).read_text() for path in kept} == {"one\n"}
    assert (upper / "etc/ssh/ssh_host_ed25519_key").read_text() == "two\n"
    assert all((tmp_path / "one/machines/mail/upper" / path).exists() for path in of_the_world)


@pytest.mark.parametrize(("wanted", "volatile"), [("volatile", True), ("", False)])
def test_only_labs_that_ask_for_it_do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch, wanted: str, volatile: bool) -> None:
    monkeypatch.setenv("MAILWRIGHT_LAB_DISK", wanted)
    script = machines._boot_script("demo", "mail", Path("/image"))
    assert (",volatile " in script) is volatile
