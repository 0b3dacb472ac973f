"""What every host gets, and which packages all roles together ask for."""

from __future__ import annotations

import re

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from rendering import ROOT, render, trusted


def tree(**variables: object) -> dict[str, str]:
    return render("base", **{"mail_hostname": "mail.oak.test", **variables})


def test_the_host_is_named_by_its_whole_name() -> None:
    assert tree()["/etc/hostname"] == "mail.oak.test\n"


def test_an_empty_name_leaves_the_name_of_the_host_alone() -> None:
    assert "/etc/hostname" not in tree(base_hostname="")


def test_private_directories_are_open_to_their_one_user() -> None:
    lines = [line.split() for line in tree()["/etc/tmpfiles.d/mailwright.conf"].splitlines() if line.startswith("d ")]
    modes = {path: (mode, user, group) for _, path, mode, user, group in lines}
    assert modes["/var/lib/mailwright/tls"] == ("0700", "root", "root")
    assert modes["/var/lib/mailwright/directory"] == ("0700", "root", "root")
    assert modes["/var/lib/mailwright/dkim"] == ("0750", "root", "_rspamd")
    assert modes["/var/lib/mailwright/dovecot"] == ("0750", "root", "dovecot")
    assert modes["/var/lib/mailwright/postfix"] == ("0750", "root", "postfix")


def test_the_journal_is_kept_as_long_as_the_inventory_says() -> None:
    text = tree(base_journal_max_size="200M", base_journal_retention="7day")["/etc/systemd/journald.conf.d/mailwright.conf"]
    assert "SystemMaxUse=200M\nMaxRetentionSec=7day\n" in text


def test_the_packages_of_every_role_are_in_one_list() -> None:
    init_plugin_loader([])  # for the lookups
    variables: dict[str, object] = {
        "certificates_source": "acme",
        "certificates_challenge": "dns-01",
        "base_packages": ["one-more"],
        "dovecot_search_enabled": True,
        "mail": {
            "settings": {"mta_sts_outgoing": True, "antivirus": {"action": "reject"}, "origins": {"countries": {"CN": 1}, "networks": {}}},
            "ldap": {"servers": []},
        },
    }
    expected = {"one-more", "certbot", "python3-certbot-dns-rfc2136", "nginx", "nftables", "python3-apt"}
    for file in sorted(ROOT.glob("roles/*/vars/main.yml")):
        role = {name: trusted(value) for name, value in yaml.safe_load(file.read_text()).items()}
        variables |= role
        expected |= {
            package
            for name, value in role.items()
            if re.fullmatch(r"__\w+_packages", name) and isinstance(value, list)
            for package in value
        }
    found = Templar(loader=DataLoader(), variables=variables).template(trust_as_template("{{ __base_all_packages }}"))
    by_expression = {
        "openssl",
        "python3-cryptography",
        "postfix-mta-sts-resolver",
        "python3-dnspython",
        "clamav-daemon",
        "clamav-freshclam",
        "location",
        "rspamd",
    }
    by_expression |= {"dovecot-fts-xapian@12", "dovecot-flatcurve@13", "dovecot-ldap", "postfix-ldap"}
    assert set(found) == expected | by_expression
    assert found == sorted(set(found))
