"""O3, S35, S40, S42: what the host shows to strangers, to its own users, and how tightly its services are held."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from correspondent import MailHost, until
from testinfra.host import Host

OPEN = {22, 25, 80, 443, 465, 587, 993, 995, 4190}
# Unbound for this host's programs; for its Postfix Rspamd, PostSRSd, the MTA-STS resolver, and its own second door for forwarded mail.
LOOPBACK = {("tcp", 53), ("udp", 53), ("tcp", 11332), ("tcp", 11334), ("tcp", 10001), ("tcp", 10002), ("tcp", 10027), ("tcp", 8461)}
CLOSED = [*range(1, 1025), 2000, 2525, 3310, 4949, 5432, 6379, 8080, 8443, 8953, 8983, 9100, 10025, 11211, 11332, 11333, 11334, 24, 10023]
RULES, FIREWALL = "/etc/mailwright/firewall.nft", "/usr/local/lib/mailwright/firewall"


def listening(host: Host) -> Iterator[tuple[str, str, int]]:
    """(protocol, address, port) of every listening socket."""
    for line in host.check_output("ss --no-header --listening --numeric --tcp --udp").splitlines():
        protocol, _, _, _, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        yield protocol, address.strip("[]").partition("%")[0], int(port)


def is_open(address: str, port: int, seconds: float = 10) -> bool:
    """Whether a connection comes about; what the firewall drops takes the whole time to be known as closed."""
    try:
        socket.create_connection((address, port), seconds).close()
    except OSError:
        return False
    return True


def test_the_host_listens_where_it_should_and_nowhere_else(host: Host) -> None:
    # A program's own, as for a question to the DNS, is not there twice.
    sockets = set(listening(host)) & set(listening(host))
    loopback = {(protocol, port) for protocol, address, port in sockets if address in ("127.0.0.1", "::1")}
    public = {(protocol, port) for protocol, address, port in sockets if address not in ("127.0.0.1", "::1")}
    assert public == {("tcp", port) for port in OPEN}
    assert loopback == LOOPBACK


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_strangers_reach_the_services_and_nothing_else(mail: MailHost, ipv6: bool) -> None:
    address = mail.ipv6 if ipv6 else mail.ipv4
    ports = sorted({*OPEN, *CLOSED})
    with ThreadPoolExecutor(200) as pool:
        answers = pool.map(lambda port: is_open(address, port, 10 if port in OPEN else 1), ports)
        found = {port for port, yes in zip(ports, answers, strict=True) if yes}
    assert found == OPEN


def test_the_firewall_denies_by_default_and_starts_at_boot(host: Host) -> None:
    assert "policy drop" in host.check_output("nft list chain inet mailwright input")
    assert host.service("mailwright-firewall.service").is_enabled


def test_rules_that_lock_the_administrator_out_undo_themselves(mail: MailHost, host: Host) -> None:
    before = host.check_output("nft list table inet mailwright")
    try:
        host.check_output("sed -i '/dport { 22/d' %s && %s try 15", RULES, FIREWALL)
        assert not is_open(mail.ipv4, 22, 1)
        assert not is_open(mail.ipv6, 22, 1)
        assert is_open(mail.ipv4, 443)
        until("SSH comes back by itself", lambda: is_open(mail.ipv4, 22, 1))
        assert is_open(mail.ipv6, 22)
        assert without_counters(host.check_output("nft list table inet mailwright")) == without_counters(before)
        assert "dport { 22" in host.file(RULES).content_string, "also after a reboot"
    finally:
        host.check_output("%s undo", FIREWALL)


def without_counters(rules: str) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", rules)


def test_rules_of_others_survive_a_change_of_ours(host: Host) -> None:
    host.check_output("nft 'table inet others { chain c { tcp dport 1 accept; }; }'")
    try:
        host.check_output("%s try 60 && %s keep", FIREWALL, FIREWALL)
        host.check_output("systemctl restart mailwright-firewall.service")
        assert "tcp dport 1 accept" in host.check_output("nft list table inet others")
    finally:
        host.check_output("nft delete table inet others")


def test_a_restart_of_the_firewall_keeps_it_shut(mail: MailHost, host: Host) -> None:
    host.check_output("systemctl restart mailwright-firewall.service")
    assert "policy drop" in host.check_output("nft list chain inet mailwright input")
    assert is_open(mail.ipv4, 22)


# Highest exposure level (systemd-analyze security) each service may have.
@pytest.mark.parametrize(
    ("unit", "limit"),
    [
        ("postfix", 3.5),
        ("dovecot", 3.3),
        ("rspamd", 2.0),
        ("nginx", 2.6),
        ("unbound", 2.8),
        ("redis-server", 2.0),
        ("postsrsd", 2.0),
        ("postfix-mta-sts-resolver", 2.0),
        ("fail2ban", 2.4),
    ],
)
def test_services_run_in_a_sandbox(host: Host, unit: str, limit: float) -> None:
    if unit == "postfix" and host.system_info.codename == "bookworm":
        unit = "postfix@-"
    line = host.check_output("systemd-analyze security --no-pager %s.service", unit).strip().splitlines()[-1]
    found = re.search(r"([\d.]+) ", line)
    assert found
    assert float(found[1]) <= limit


@pytest.mark.parametrize(
    "unit", ["dovecot", "nginx", "unbound", "rspamd", "redis-server", "postsrsd", "postfix-mta-sts-resolver", "fail2ban"]
)
def test_services_come_back_after_a_crash(host: Host, unit: str) -> None:
    assert host.check_output("systemctl show -P Restart %s.service", unit) in ("on-failure", "always")


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/var/lib/mailwright/tls/default/privkey.pem", "root:root", 0o600),
        ("/var/lib/mailwright/tls", "root:root", 0o700),
        ("/var/lib/mailwright/dkim", "root:_rspamd", 0o750),
        ("/var/lib/mailwright/dovecot", "root:dovecot", 0o750),
        ("/var/lib/mailwright/dovecot/users", "root:dovecot", 0o640),
        ("/var/lib/mailwright/postfix", "root:postfix", 0o750),
        ("/var/lib/mailwright/directory", "root:root", 0o700),
        ("/var/lib/mailwright/trees", "root:root", 0o700),
        ("/var/vmail", "vmail:vmail", 0o700),
        ("/etc/postsrsd.secret", "root:postsrsd", 0o640),
        ("/etc/letsencrypt/archive", "root:root", 0o700),
    ],
)
def test_private_files_are_open_to_their_one_user(host: Host, path: str, owner: str, mode: int) -> None:
    file = host.file(path)
    assert (f"{file.user}:{file.group}", oct(file.mode)) == (owner, oct(mode))


def test_every_dkim_key_is_readable_by_the_filter_alone(host: Host) -> None:
    found = host.check_output("stat -c '%U:%G %a %n' /var/lib/mailwright/dkim/*.key").splitlines()
    assert found
    assert all(line.startswith("root:_rspamd 640 ") for line in found)


@pytest.mark.parametrize("user", ["nobody", "www-data"])
def test_an_unprivileged_process_reads_no_secret(host: Host, user: str) -> None:
    secrets = "/var/lib/mailwright/tls/default/privkey.pem /var/lib/mailwright/dovecot/users /var/vmail /var/lib/mailwright/dkim"
    script = f"for f in {secrets}; do if [ -r $f ]; then echo $f; fi; done"
    assert host.check_output("setpriv --reuid %s --regid nogroup --clear-groups sh -c %s", user, script) == ""
