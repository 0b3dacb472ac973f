"""The two Dovecot trees, rendered by Ansible's own engine: the same promises in two languages, and checked by doveconf where it is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rendering import CERTIFICATES, SETTINGS, render

CONF = "/etc/dovecot/dovecot.conf"
VERSIONS = ["2.3", "2.4"]
HOSTILE = "a\nssl = no #{$%{env:PATH}\"'\\"
USERNAMES = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+=-@")


def tree(
    version: str,
    settings: dict[str, Any] | None = None,
    certificates: list[dict[str, Any]] | None = None,
    rows: dict[str, Any] | None = None,
    **variables: object,
) -> dict[str, str]:
    """Path on the host → text."""
    release = {"2.3": "12", "2.4": "13"}[version]
    known = {
        "postmaster": "postmaster@oak.test",
        "default_quota": 5 * 2**30,
        "tls_profile": "intermediate",
        "quota_warnings": [80, 95],
        "master_users": [],
        "sharing": False,
        "shared_seen": False,
    }
    return render(
        "dovecot",
        "common",
        version,
        mail={"settings": {**SETTINGS, **known, **(settings or {})}, "certificates": certificates or CERTIFICATES[:1], **(rows or {})},
        ansible_facts={"distribution_major_version": release},
        **variables,
    )


def blocks(text: str) -> dict[str, Any]:
    """A dovecot.conf as nested mappings; a block is under its whole head, equal heads are merged as Dovecot does."""
    root: dict[str, Any] = {}
    stack = [root]
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            continue
        if line == "}":
            stack.pop()
        elif line.endswith("{"):
            head = line[:-1].strip()
            # Debian 12's databases have no names.
            head = f"{head} {number}" if head in ("passdb", "userdb") else head
            stack.append(stack[-1].setdefault(head, {}))
        else:
            name, equals, value = line.partition("=")
            assert equals and stack, f"line {number}: {line}"
            stack[-1][name.strip()] = value.strip()
    assert stack == [root], "braces"
    return root


@pytest.mark.parametrize("version", VERSIONS)
def test_only_ports_with_tls_from_the_first_byte_are_open(version: str) -> None:
    conf = blocks(tree(version)[CONF])
    ports = {
        head: listener["port"]
        for name, service in conf.items()
        if name.startswith("service ")
        for head, listener in service.items()
        if head.startswith("inet_listener")
    }
    expected = {"imap": "0", "imaps": "993", "pop3": "0", "pop3s": "995", "sieve": "4190"}
    if version == "2.4":
        expected["sieve_deprecated"] = "0"
    assert ports == {f"inet_listener {name}": port for name, port in expected.items()}
    assert conf["ssl"] == "required"
    assert (conf.get("disable_plaintext_auth"), conf.get("auth_allow_cleartext")) in (("yes", None), (None, "no"))
    starttls = blocks(tree(version, dovecot_imap_starttls_enabled=True)[CONF])
    assert starttls["service imap-login"]["inet_listener imap"] == {"port": "143"}


@pytest.mark.parametrize("version", VERSIONS)
def test_pop3_can_be_left_out(version: str) -> None:
    conf = blocks(tree(version, dovecot_pop3_enabled=False)[CONF])
    enabled = conf["protocols"].split() if version == "2.3" else [k for k, v in conf["protocols"].items() if v == "yes"]
    assert sorted(enabled) == ["imap", "lmtp", "sieve"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_a_mailbox_may_have_can_log_in(version: str) -> None:
    conf = blocks(re.sub("(?m)^auth_username_chars = ", "auth_username_chars=", tree(version)[CONF]))
    assert set(conf["auth_username_chars"]) == USERNAMES


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_is_refused_before_its_password_is_asked_for(version: str) -> None:
    text = tree(version)[CONF]
    assert text.index("/deny-%") < text.index("/users\n")
    assert text.count("deny = yes") == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_no_password_reaches_the_log(version: str) -> None:
    conf = blocks(tree(version)[CONF])
    assert (conf["auth_verbose_passwords"], conf["auth_debug_passwords"]) == ("no", "no")


@pytest.mark.parametrize("version", VERSIONS)
def test_sockets_belong_to_who_uses_them(version: str) -> None:
    conf = blocks(tree(version)[CONF])
    for service, path, user in (
        ("lmtp", "/var/spool/postfix/private/dovecot-lmtp", "postfix"),
        ("auth", "/var/spool/postfix/private/auth", "postfix"),
        ("quota-status", "/var/spool/postfix/private/quota-status", "postfix"),
        ("auth", "auth-userdb", "vmail"),
        ("learn-spam", "learn-spam", "vmail"),
        ("learn-ham", "learn-ham", "vmail"),
    ):
        listener = conf[f"service {service}"][f"unix_listener {path}"]
        assert (listener["user"], listener["mode"]) == (user, "0600")
    assert conf["service learn-spam"]["user"] == "_rspamd"
    assert {conf[f"service {name}"]["user"] for name in ("lmtp", "quota-status", "quota-warning")} == {"vmail"}
    assert conf["default_internal_group"] == "vmail"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("action", "codes"), [("reject", ["552 5.2.2", "552 5.2.3"]), ("defer", ["452 4.2.2", "452 4.2.3"])])
def test_a_full_mailbox_is_answered_as_declared(version: str, action: str, codes: list[str]) -> None:
    text = tree(version, dovecot_quota_full_action=action)[CONF]
    assert re.findall(r'quota_status_(?:overquota|toolarge) = "(\d{3} [\d.]+)', text) == codes


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_off_is_not_there(version: str) -> None:
    files = tree(version)
    for word in (
        "master_user",
        "master =",
        "lazy_expunge",
        "mail_log",
        "notify =",
        " notify",
        "autoexpunge",
        "fts_",
        "/before/",
        "/after/",
        "acl",
        "Public",
        "Shared",
    ):
        assert word not in files[CONF]
    assert not [path for path in files if "masters" in path]


@pytest.mark.parametrize("version", VERSIONS)
def test_master_users_are_listed_by_protocol_and_send_only_where_declared(version: str) -> None:
    users = [{"name": "a", "password_hash": "{X}1", "submission": False}, {"name": "b", "password_hash": "{X}2", "submission": True}]
    files = tree(version, {"master_users": users})
    listed = {name: re.findall("(?m)^[^#].*", files[f"/etc/dovecot/masters-{name}"]) for name in ("imap", "pop3", "sieve", "smtp")}
    assert listed == {**{name: ["a:{X}1", "b:{X}2"] for name in ("imap", "pop3", "sieve")}, "smtp": ["b:{X}2"]}
    assert "auth_master_user_separator = *" in files[CONF]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_highest_warning_comes_first(version: str) -> None:
    # Dovecot sends the first that is crossed, and no other.
    text = tree(version, {"quota_warnings": [50, 95, 80]})[CONF]
    found = re.findall(r"quota-warning (\d+) %u" if version == "2.3" else r"args = (\d+) %", text)
    assert found == ["95", "80", "50"]
    assert "quota-warning {" not in blocks(tree(version, {"quota_warnings": []})[CONF]).get('quota "User quota"', {})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("profile", "oldest"), [("modern", "TLSv1.3"), ("intermediate", "TLSv1.2"), ("old", "TLSv1")])
def test_the_tls_profile_is_the_shared_one(version: str, profile: str, oldest: str) -> None:
    conf = blocks(tree(version, {"tls_profile": profile})[CONF])
    assert conf["ssl_min_protocol"] == oldest
    assert conf["ssl_cipher_list"].startswith("ECDHE-ECDSA-AES256-GCM-SHA384:")


@pytest.mark.parametrize("version", VERSIONS)
def test_no_limit_is_less_than_what_the_sessions_need(version: str) -> None:
    conf = blocks(tree(version, dovecot_imap_sessions=5000)[CONF])
    assert {conf[f"service {name}"]["process_limit"] for name in ("imap", "imap-login")} == {"5000"}
    assert min(int(conf[f"service {name}"]["client_limit"]) for name in ("auth", "anvil")) >= 10000


@pytest.mark.parametrize("version", VERSIONS)
def test_overrides_come_last_and_only_those_of_the_release(version: str) -> None:
    text = tree(version, dovecot_overrides={"2.3": "login_greeting = of 2.3", "2.4": "login_greeting = of 2.4"})[CONF]
    assert text.rstrip().endswith(f"login_greeting = of {version}")
    assert text.count("login_greeting") == 2
    assert "dovecot_overrides" not in tree(version)[CONF]


@pytest.mark.parametrize("version", VERSIONS)
def test_hostile_text_stays_one_value(version: str) -> None:
    plain = blocks(tree(version)[CONF])
    hostile = tree(version, {"postmaster": HOSTILE, "recipient_delimiter": HOSTILE})
    conf = blocks(hostile[CONF])
    assert conf.keys() == plain.keys()
    assert conf["ssl"] == "required"
    assert shlex.quote(HOSTILE) in hostile["/usr/local/lib/mailwright/quota-warning"]
    assert re.fullmatch(r'"(?:[^"\\\n]|\\.)*"', conf["postmaster_address"])


@pytest.mark.parametrize("version", VERSIONS)
def test_scripts_start_with_their_interpreter(version: str) -> None:
    files = tree(version)
    for name in ("learn", "quota-warning"):
        script = files[f"/usr/local/lib/mailwright/{name}"]
        assert script.startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n"], input=script.encode(), check=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"dovecot_imap_starttls_enabled": True, "dovecot_auth_penalty_enabled": True},
        {"rows": {"deleted_to_trash": True, "sieve_scripts": {"before/host.sieve": "keep;"}}, "dovecot_imap_log_enabled": True},
    ],
)
def test_doveconf_accepts_the_tree(version: str, variables: dict[str, Any], tmp_path: Path) -> None:
    doveconf = shutil.which("doveconf")
    installed = subprocess.run([doveconf, "-n"], capture_output=True, text=True, check=False).stdout if doveconf else ""
    if not installed.startswith(f"# {version}."):
        pytest.skip(f"Dovecot {version} is not installed here")
    conf = tmp_path / "dovecot.conf"
    conf.write_text(tree(version, **variables)[CONF])
    answer = subprocess.run([str(doveconf), "-n", "-c", str(conf)], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_name_with_a_certificate_of_its_own_gets_it() -> None:
    live = "/var/lib/mailwright/tls/elm.test"
    for version, pair in (
        ("2.3", {"ssl_cert": f"<{live}/fullchain.pem", "ssl_key": f"<{live}/privkey.pem"}),
        ("2.4", {"ssl_server_cert_file": f"{live}/fullchain.pem", "ssl_server_key_file": f"{live}/privkey.pem"}),
    ):
        assert blocks(tree(version, certificates=CERTIFICATES)[CONF])["local_name mail.elm.test"] == pair
        assert "local_name" not in tree(version)[CONF]


@pytest.mark.parametrize("version", VERSIONS)
def test_whom_the_inventory_knows_no_directory_lets_in(version: str) -> None:
    assert "ldap" not in tree(version)[CONF]
    directory = {"ldap": {"servers": ["ldaps://a.test"], "base": "dc=test", "bind_dn": "cn=mail", "bind_password": "secret", "quota": None}}
    directory["ldap"] |= {"domains": ["oak.test"], "address": "mail", "users": "(mail=*)"}
    conf = blocks(tree(version, rows=directory)[CONF])
    passdbs = [block for head, block in conf.items() if head.startswith("passdb")]
    assert passdbs[-1]["driver"] == "ldap"
    for block, file in zip(passdbs[-3:-1], ("users", "aliases"), strict=True):
        assert block["deny"] == "yes"
        assert block["args" if version == "2.3" else "passwd_file_path"].endswith(f"/var/lib/mailwright/dovecot/{file}")
