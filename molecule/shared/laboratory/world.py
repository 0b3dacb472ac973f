"""What the machine `world` serves: the DNS of the lab, its CA and the other mail servers' names and keys."""

from __future__ import annotations

import base64
import ipaddress
import json
import secrets
from typing import Any

from . import machines, network
from .host import run, write

TTL = 2  # s; also of negative answers
DKIM_SELECTOR = "world"
# Other mail servers: domain and the last number of the address of its mx.
REMOTES = {"good.test": 21, "expired.test": 22, "plain.test": 23, "smart.test": 24}
# Further domains of theirs, for tests that want a destination of its own.
FURTHER = {"secure": ("good.test", "expired.test", "plain.test"), "slow": ("good.test",), "polite": ("good.test",), "via": ("good.test",)}
# Mail hosts behind ours: the MX of yew.test is ours alone, that of birch.test ours as the second.
BEHIND = {"yew.test": 25, "birch.test": 26}
# MX hosts with TLSA records, all of them mx.good.test under other names: whether the records fit its key.
DANE_HOSTS = {"mx-dane.good.test": True, "mx-wrongdane.good.test": False}
# Destinations that demand TLS, some of them what their servers cannot keep: MX host, and MTA-STS mode and MX pattern if there is a policy.
DEMANDING = {
    "dane.good.test": ("mx-dane.good.test", None),
    "wrongdane.good.test": ("mx-wrongdane.good.test", None),
    "wrongdane-eased.good.test": ("mx-wrongdane.good.test", None),
    "sts.good.test": ("mx.good.test", ("enforce", "mx.good.test")),
    "sts-wildcard.good.test": ("mx.good.test", ("enforce", "*.good.test")),
    "sts-wrong.good.test": ("mx.good.test", ("enforce", "mx.elsewhere.test")),
    "sts-eased.good.test": ("mx.good.test", ("enforce", "mx.elsewhere.test")),
    "sts.under.good.test": ("mx.good.test", ("enforce", "mx.elsewhere.test")),
    "sts.expired.test": ("mx.expired.test", ("enforce", "mx.expired.test")),
    "sts.plain.test": ("mx.plain.test", ("enforce", "mx.plain.test")),
    "sts-testing.expired.test": ("mx.expired.test", ("testing", "mx.expired.test")),
    # The certificate has no such name, the key is right; the other way round.
    "both.good.test": ("mx-dane.good.test", ("enforce", "mx-dane.good.test")),
    "wrongboth.good.test": ("mx-wrongdane.good.test", ("enforce", "mx-wrongdane.good.test")),
}
# Domains to send from: SPF, DMARC.
SENDERS = {
    "quarantine.good.test": ("v=spf1 -all", "p=quarantine"),
    "lenient.good.test": ("v=spf1 -all", "p=none"),
    "softfail.good.test": ("v=spf1 ~all", "p=none"),
    "permerror.good.test": ("v=spf1 redirect=nowhere.good.test", "p=none"),
    "temperror.good.test": ("v=spf1 include:bogus.test -all", "p=none"),
    # Wants reports. Rspamd's reporter takes no address without a public suffix for one.
    "example.net": ("v=spf1 ip4:198.51.100.112 -all", "p=reject; rua=mailto:reports@example.net"),
}
CERTIFIED = {
    **{name: [] for name in ("acme.world.test", "ldap.world.test", "mx.smart.test", "mx.yew.test", "mx.birch.test")},
    "mx.good.test": ["mx-wrongdane.good.test"],
    **{f"mta-sts.{domain}": [] for domain, (_, policy) in DEMANDING.items() if policy},
}
LISTED_CLIENT = 150
# The list refuses to say (as public resolvers are told).
REFUSED_CLIENT = 149
Record = dict[str, Any]


def reverse(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer


def _both(name: str, number: int) -> list[Record]:
    """Addresses of a name, and back."""
    v4, v6 = network.v4(number), network.v6(number)
    return [
        {"name": name, "type": "A", "value": v4},
        {"name": name, "type": "AAAA", "value": v6},
        {"name": reverse(v4), "type": "PTR", "value": f"{name}."},
        {"name": reverse(v6), "type": "PTR", "value": f"{name}."},
    ]


def listed(number: int, answer: str = "127.0.0.2") -> list[Record]:
    """A client on the block list dnsbl.test, by both its addresses (RFC 5782); 127.255.255.x is no listing, but an error."""
    names = []
    for address in (network.v4(number), network.v6(number)):
        backwards = reverse(address).removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
        names.append(f"{backwards}.dnsbl.test")
    records: list[Record] = [{"name": name, "type": "A", "value": answer} for name in names]
    return [*records, {"name": names[0], "type": "TXT", "value": "listed by the lab"}]


def demands(digest: str) -> list[Record]:
    """Hosts with TLSA records, and destinations with policies; `digest` is that of the key of mx.good.test."""
    records: list[Record] = []
    for name, right in DANE_HOSTS.items():
        records += [{"name": name, "type": kind, "value": value} for kind, value in _addresses(REMOTES["good.test"])]
        records += [{"name": f"_25._tcp.{name}", "type": "TLSA", "value": f"3 1 1 {digest if right else '0' * 64}"}]
    for domain, (host, policy) in DEMANDING.items():
        records += [{"name": domain, "type": "MX", "value": f"10 {host}."}]
        if policy:
            records += [{"name": f"_mta-sts.{domain}", "type": "TXT", "value": "v=STSv1; id=1;"}]
            records += [{"name": f"mta-sts.{domain}", "type": kind, "value": value} for kind, value in _addresses(2)]
    for domain, (spf, dmarc) in SENDERS.items():
        records += [
            {"name": domain, "type": "MX", "value": "10 mx.good.test."},
            {"name": domain, "type": "TXT", "value": spf},
            {"name": f"_dmarc.{domain}", "type": "TXT", "value": f"v=DMARC1; {dmarc}"},
        ]
    return records


def base(dkim: str, digest: str) -> dict[str, Any]:
    """All that is published when the world starts: `dkim` is the public key of the other mail servers, `digest` of mx.good.test's key."""
    records = _both("ns.world.test", 2)
    records += [
        {"name": name, "type": kind, "value": value} for name in ("acme.world.test", "ldap.world.test") for kind, value in _addresses(2)
    ]
    for domain, number in REMOTES.items():
        host = f"mx.{domain}"
        records += _both(host, number)
        records += [
            {"name": domain, "type": "MX", "value": f"10 {host}."},
            {"name": domain, "type": "TXT", "value": "v=spf1 mx -all"},
            {"name": host, "type": "TXT", "value": "v=spf1 a -all"},
            {"name": f"_dmarc.{domain}", "type": "TXT", "value": "v=DMARC1; p=reject"},
            {"name": f"{DKIM_SELECTOR}._domainkey.{domain}", "type": "TXT", "value": f"v=DKIM1; k=rsa; p={dkim}"},
        ]
    records += demands(digest)
    for prefix, domains in FURTHER.items():
        records += [{"name": f"{prefix}.{domain}", "type": "MX", "value": f"10 mx.{domain}."} for domain in domains]
    for domain, number in BEHIND.items():
        records += _both(f"mx.{domain}", number)
        records += [{"name": domain, "type": "TXT", "value": "v=spf1 mx -all"}]
    ours = machines.MACHINES["mail"].fqdn
    records += [{"name": "yew.test", "type": "MX", "value": f"10 {ours}."}]
    records += [{"name": "birch.test", "type": "MX", "value": ["10 mx.birch.test.", f"20 {ours}."]}]
    for machine in machines.MACHINES.values():
        # Our host publishes its own.
        if machine.name not in ("world", "mail"):
            records += _both(machine.fqdn, machine.number)
    for number in network.CLIENTS:
        records += _both(f"client{number}.world.test", number)
    records += _both("bridge.world.test", network.BRIDGE)
    records += [{"name": "2.0.0.127.dnsbl.test", "type": "A", "value": "127.0.0.2"}, *listed(LISTED_CLIENT)]
    records += listed(REFUSED_CLIENT, "127.255.255.254")
    # Domains on a list, and lists that have gone mad.
    records += [
        {"name": "client117.world.test.rhsbl.test", "type": "A", "value": "127.0.1.2"},
        {"name": "listed-link.com.rhsbl.test", "type": "A", "value": "127.0.1.2"},
        {"name": "client118.world.test.rhsbl.test", "type": "A", "value": "127.255.255.254"},
        {"name": "*.everything.test", "type": "A", "value": "127.0.0.2"},
    ]
    records += [{"name": "bogus.test", "type": kind, "value": value} for kind, value in _addresses(22)]
    zones = ["world.test", *REMOTES, *BEHIND, "oak.test", "bogus.test", "dnsbl.test", "rhsbl.test", "everything.test", "example.net"]
    zones += ["100.51.198.in-addr.arpa", reverse(network.v6(0)).split(".", 16)[-1]]
    return {"zones": zones, "bogus": ["bogus.test"], "records": records}


def _addresses(number: int) -> list[tuple[str, str]]:
    return [("A", network.v4(number)), ("AAAA", network.v6(number))]


def prepare(lab: str) -> None:
    """Make keys and certificates, and lay out the files only this lab's world has, as a tree beside `shared/world`."""
    # Here, so that everything but `up` works without Python's cryptography.
    from . import certificates

    home = machines.home(lab)
    certificates.make(home / "ca", CERTIFIED, ["mx.expired.test"])
    dkim = certificates.dkim_key(home / "dkim" / f"{DKIM_SELECTOR}.key")
    certificates.signing_key(home / "dns" / "root.key")
    secret = home / "dns" / "tsig.secret"
    if not secret.exists():
        write(secret, base64.b64encode(secrets.token_bytes(32)).decode(), 0o600)
    key = f"key:\n  - id: lab\n    algorithm: hmac-sha256\n    secret: {secret.read_text()}\n"
    write(home / "dns" / "tsig.key", f"hmac-sha256:lab:{secret.read_text()}\n", 0o600)
    write(home / "dns" / "resolv.conf", f"nameserver {network.v4(2)}\n")
    write(home / "dns" / "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    write(home / "dns" / "root.hints", root_hints())
    tree = home / "world"
    for name in (*CERTIFIED, "mx.expired.test"):
        for suffix in ("pem", "key"):
            write(tree / "etc/world/tls" / f"{name}.{suffix}", (home / "ca" / f"{name}.{suffix}").read_bytes())
        chain = (home / "ca" / f"{name}.key").read_bytes() + (home / "ca" / f"{name}.pem").read_bytes()
        write(tree / "etc/world/tls" / f"{name}.chain", chain)
    write(tree / "etc/world/dkim.key", (home / "dkim" / f"{DKIM_SELECTOR}.key").read_bytes())
    write(tree / "etc/world/dnssec.pem", (home / "dns" / "root.key").read_bytes())
    write(tree / "etc/world/base.json", json.dumps(base(dkim, certificates.key_digest(home / "ca" / "mx.good.test.pem"))))
    for domain, (_, policy) in DEMANDING.items():
        if policy:
            text = f"version: STSv1\r\nmode: {policy[0]}\r\nmx: {policy[1]}\r\nmax_age: 86400\r\n"
            write(tree / "etc/world/policies" / domain, text)
    write(tree / "etc/world/tsig.key", (home / "dns" / "tsig.key").read_bytes())
    write(tree / "etc/knot/tsig.conf", key)
    write(tree / "etc/knot/zones.conf", "")


def root_hints() -> str:
    lines = [".\t3600000\tNS\tns.world.test."]
    lines += [f"ns.world.test.\t3600000\t{kind}\t{value}" for kind, value in _addresses(2)]
    return "\n".join(lines) + "\n"


def publish(lab: str, document: str) -> str:
    """Hand a JSON document to the world's publisher; see world/usr/local/lib/world/publish.py for its form."""
    return run([*machines.ssh(lab, "world"), "/usr/local/lib/world/publish.py"], input=document)


def ready(lab: str) -> None:
    """Publish the base zones and fetch what only the running world knows: the trust anchor and the root of the ACME CA."""
    home = machines.home(lab)
    publish(lab, (home / "world/etc/world/base.json").read_text())
    anchor = run([*machines.ssh(lab, "world"), "/usr/local/lib/world/publish.py", "--anchor"])
    write(home / "dns" / "trust-anchor.ds", anchor)
    fetch = "curl -sf --retry 20 --retry-delay 1 --retry-connrefused"
    fetch += " --resolve acme.world.test:15000:127.0.0.1 https://acme.world.test:15000/roots/0"
    write(home / "ca" / "acme-root.pem", run([*machines.ssh(lab, "world"), fetch]))
