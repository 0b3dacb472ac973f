"""The Fail2ban tree: whom it spares, what it watches, and that nothing of the inventory becomes a setting of its own."""

from __future__ import annotations

import configparser

import pytest
from ansible.errors import AnsibleError
from rendering import SETTINGS, render

JAILS = ["mailwright-submission", "mailwright-mailbox", "mailwright-web", "sshd"]
HOST = {"__firewall_ssh_ports": [22, 2222], "ansible_facts": {"distribution_major_version": "13"}}


def jails(**variables: object) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(render("fail2ban", **{**HOST, **variables})["/etc/fail2ban/jail.d/mailwright.local"])
    return parser


def test_every_way_in_is_watched_and_shut() -> None:
    found = jails()
    assert found.sections() == JAILS
    assert {found[name]["enabled"] for name in JAILS} == {"true"}
    assert found["sshd"]["port"] == "22,2222"
    assert found["mailwright-mailbox"]["port"] == found["mailwright-submission"]["port"] == "25,465,587,993,995,4190"


def test_our_own_networks_are_spared() -> None:
    networks = {"networks": ["10.1.0.0/16"]}
    found = jails(mail={"settings": {**SETTINGS, **networks}}, fail2ban_ignored_networks=["192.0.2.0/24", "2001:db8::/32"])
    assert found.defaults()["ignoreip"].split() == ["127.0.0.0/8", "::1/128", "10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32"]


@pytest.mark.parametrize("wrong", ["192.0.2.1 0.0.0.0/0", "192.0.2.0/24\nmaxretry = 1000", "office.example", "192.0.2.1/24"])
def test_what_is_no_network_is_refused(wrong: str) -> None:
    with pytest.raises(AnsibleError, match="no network"):
        jails(fail2ban_ignored_networks=[wrong])


def test_it_can_be_switched_off() -> None:
    found = jails(fail2ban_enabled=False)
    assert {found[name]["enabled"] for name in JAILS} == {"false"}


@pytest.mark.parametrize(
    ("release", "jail", "match"),
    [
        # Without the priority, each message and each request would be read as well.
        ("12", "submission", "_SYSTEMD_UNIT=postfix@-.service PRIORITY=4"),
        ("13", "submission", "_SYSTEMD_UNIT=postfix.service PRIORITY=4"),
        ("13", "mailbox", "_SYSTEMD_UNIT=dovecot.service"),
        ("13", "web", "_SYSTEMD_UNIT=nginx.service PRIORITY=3"),
    ],
)
def test_only_lines_that_may_count_are_read(release: str, jail: str, match: str) -> None:
    tree = render("fail2ban", **{**HOST, "ansible_facts": {"distribution_major_version": release}})
    lines = tree[f"/etc/fail2ban/filter.d/mailwright-{jail}.conf"].splitlines()
    assert [line for line in lines if line.startswith("journalmatch")] == [f"journalmatch = {match}"]
