"""The host's own resolver: validates, serves nobody else, and is what the host asks."""

from __future__ import annotations

import socket
import struct

import dns.resolver
import pytest
from correspondent import MailHost, until
from testinfra.host import Host

PROBE = "/usr/local/lib/mailwright/resolver-probe"


def test_the_host_asks_its_own_resolver_alone(host: Host) -> None:
    servers = [line.split()[1] for line in host.file("/etc/resolv.conf").content_string.splitlines() if line.startswith("nameserver")]
    assert servers == ["127.0.0.1"]


def test_answers_are_validated(host: Host) -> None:
    assert host.run(PROBE).rc == 0
    assert host.run(f"{PROBE} --system").rc == 0


def test_a_zone_with_broken_signatures_does_not_resolve(mail: MailHost, host: Host) -> None:
    # `mail` makes this process ask the world's servers, which say what the resolver must not believe.
    assert dns.resolver.resolve("bogus.test", "A")
    assert host.run("getent ahostsv4 bogus.test").rc == 2
    assert host.run("getent ahostsv4 mx.good.test").rc == 0


def test_blocklists_answer(host: Host) -> None:
    assert host.check_output("getent ahostsv4 2.0.0.127.dnsbl.test").startswith("127.0.0.2")


def test_addresses_have_names(host: Host) -> None:
    assert host.check_output("getent hosts 198.51.100.21").split()[1] == "mx.good.test"
    assert host.check_output("getent hosts 2001:db8:25::21").split()[1] == "mx.good.test"


def test_it_listens_on_loopback_only(host: Host) -> None:
    addresses = {line.split()[3] for kind in ("t", "u") for line in host.check_output(f"ss -Hln{kind} sport = :53").splitlines()}
    assert addresses == {"127.0.0.1:53", "[::1]:53"}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_it_answers_nobody_else(mail: MailHost, family: socket.AddressFamily) -> None:
    address = mail.ipv4 if family == socket.AF_INET else mail.ipv6
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((address, 53))
        client.send(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!2H", 6, 1))
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.recv(512)
    with pytest.raises(OSError, match=r"timed out|refused"):
        socket.create_connection((address, 53), 2)


def test_it_comes_back_after_a_crash(host: Host) -> None:
    main = host.check_output("systemctl show -P MainPID unbound")
    host.check_output(f"kill -KILL {main}")
    assert until("the resolver answers again", lambda: host.run(PROBE).rc == 0)
    assert host.check_output("systemctl show -P MainPID unbound") != main


def test_its_control_is_for_root(host: Host) -> None:
    assert host.run("runuser -u nobody -- unbound-control -c /etc/unbound/unbound.conf status").rc != 0
    assert host.run("unbound-control status").rc == 0
