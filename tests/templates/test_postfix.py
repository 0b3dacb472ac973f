"""The Postfix tree, rendered by Ansible's own engine for three inventories, and read back by Postfix where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from rendering import CERTIFICATES

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/postfix"
RELEASES = ["12", "13"]

SETTINGS: dict[str, Any] = {
    "quarantine": {"mailbox": None},
    "postmaster": "postmaster@oak.test",
    "recipient_delimiter": "+",
    "networks": [],
    "alias_expansion_limit": 200,
    "message_size_limit": 52428800,
    "queue_lifetime": 432000,
    "bounce_lifetime": 86400,
    "tls_profile": "intermediate",
    "helo_name": None,
    "source_addresses": [],
    "mta_sts_outgoing": True,
    "hostnames": [],
    "helo": {"level": "rfc", "exceptions": [], "exception_patterns": []},
}
ACCESS: dict[str, Any] = {"allowed_networks": [], "blocked_networks": [], "allowed_pairs": [], "blocked_pairs": []}
FULL: dict[str, Any] = {
    "postfix_postscreen_access": [{"network": "192.0.2.0/24", "action": "permit"}, {"network": "2001:db8:bad::/48", "action": "reject"}],
    "postfix_limit_exceptions": ["198.51.100.0/24", "2001:db8:25::/64", "2001:db8::7"],
    "postfix_forgery_exceptions": [{"network": "192.0.2.7"}, {"sender": "news@oak.test"}, {"sender": "@lists.oak.test"}],
    "postfix_sender_exceptions": [{"sender": "@oak.test", "logins": ["robot@oak.test", "alice@oak.test"]}],
    "postfix_header_checks": [{"header": "Subject", "pattern": "cheap/pills$", "action": "reject", "text": "No thanks, $1"}],
    "postfix_main_overrides": {"smtpd_client_restrictions": "permit", "smtp_helo_timeout": "30s"},
    "postfix_master_overrides": {
        "submission/inet": {"maxproc": 7, "options": {"smtpd_client_message_rate_limit": 5}},
        "slow/unix": {"command": "smtp", "options": {"syslog_name": "postfix/slow"}},
    },
}
HOSTILE: dict[str, Any] = {
    "postfix_header_checks": [{"header": "X-A/B", "pattern": "a\nb", "action": "warn", "text": "one\n/./ REJECT two"}],
    "postfix_sender_exceptions": [{"sender": "a.b/c@oak.test", "logins": ["$1@oak.test\n/./ mallory@oak.test"]}],
    "postfix_main_overrides": {"smtp_helo_name": "a\nmynetworks = 0.0.0.0/0"},
    "postfix_master_overrides": {"smtp/unix": {"options": {"smtp_bind_address": "1\nevil inet n - n - - smtpd"}}},
    "postfix_submission_hidden_headers": ["X/Y", "Z\n/./ REJECT"],
    "postfix_double_bounce_recipient": "",
    "postfix_dnsbl_sites": [],
}


def render(
    release: str,
    settings: dict[str, Any] | None = None,
    copies: dict[str, Any] | None = None,
    mail: dict[str, Any] | None = None,
    **variables: object,
) -> dict[str, str]:
    """Path on the host → text, as config_tree would write it: `variables` are the role's public ones."""
    loader = DataLoader()
    known = {
        **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars/main.yml").read_text()),
        "ansible_facts": {"distribution_major_version": release},
        "mail": {
            "hostname": "mail.oak.test",
            "hidden_copies": copies or {"recipients": [], "senders": []},
            "access": ACCESS,
            "certificates": CERTIFICATES[:1],
            "tls_policies_subdomains": [],
            "helo_exceptions": [],
            "ldap": None,
            "settings": {**SETTINGS, **(settings or {})},
            **(mail or {}),
        },
        "mail_file_header": "Written by Mailwright.",
        **variables,
    }
    templar = Templar(loader=loader, variables=trust_as_template_deep(known)).copy_with_new_env(searchpath=[str(ROOT / "templates")])
    tree = {}
    for name in ("common", known["__postfix_releases"][release]["tree"]):
        base = ROLE / "templates" / name
        for source in sorted(base.rglob("*")):
            if source.is_file():
                text = templar.template(trust_as_template(source.read_text()), escape_backslashes=False)
                # None is what Ansible makes of a template that renders to nothing.
                if text is not None and str(text).strip():
                    tree["/" + str(source.relative_to(base))] = str(text)
    return tree


def trust_as_template_deep(value: object) -> object:
    """Role defaults refer to other variables; text of the inventory in these tests holds no braces."""
    if isinstance(value, dict):
        return {key: trust_as_template_deep(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trust_as_template_deep(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def parameters(text: str) -> dict[str, str]:
    """main.cf as Postfix reads it: continuation lines joined; a parameter given twice fails."""
    logical = re.sub(r"\n(?:#.*\n)*[ \t]+", " ", text)
    found: dict[str, str] = {}
    for line in logical.splitlines():
        if line and not line.startswith("#"):
            name, value = re.split(r"\s*=\s*", line, maxsplit=1)
            assert re.fullmatch(r"[A-Za-z0-9_]+", name), line
            assert name not in found, f"{name} is given twice"
            found[name] = value.strip()
    return found


def services(text: str) -> dict[str, str]:
    """master.cf: name/type → the rest of its line, options included."""
    logical = re.sub(r"\n[ \t]+", " ", re.sub(r"(?m)^#.*\n", "", text))
    found = {}
    for line in filter(None, logical.splitlines()):
        name, kind, rest = line.split(None, 2)
        assert f"{name}/{kind}" not in found
        found[f"{name}/{kind}"] = rest
    return found


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_smuggling_is_stopped_explicitly_and_without_exceptions(release: str) -> None:
    main = parameters(render(release)["/etc/postfix/main.cf"])
    assert main["smtpd_forbid_bare_newline"] == "normalize"
    assert main["smtpd_forbid_bare_newline_exclusions"] == ""
    assert main["smtpd_forbid_unauth_pipelining"] == "yes"


def test_only_loopback_may_relay_by_default(release: str) -> None:
    assert parameters(render(release)["/etc/postfix/main.cf"])["mynetworks"] == "127.0.0.0/8 [::1]/128"


def test_trusted_networks_are_written_the_way_postfix_reads_them(release: str) -> None:
    main = parameters(render(release, {"networks": ["192.0.2.0/24", "2001:db8::/32", "2001:db8::7"]})["/etc/postfix/main.cf"])
    assert main["mynetworks"] == "127.0.0.0/8 [::1]/128 192.0.2.0/24 [2001:db8::]/32 [2001:db8::7]"


def test_authentication_is_offered_to_people_only(release: str) -> None:
    tree = render(release)
    assert parameters(tree["/etc/postfix/main.cf"])["smtpd_sasl_auth_enable"] == "no"
    master = services(tree["/etc/postfix/master.cf"])
    offering = {name for name, rest in master.items() if "smtpd_sasl_auth_enable = yes" in rest}
    assert offering == {"submission/inet", "submissions/inet"}
    assert "smtpd_tls_security_level = encrypt" in master["submission/inet"]
    assert "smtpd_tls_wrappermode = yes" in master["submissions/inet"]


def test_only_the_smarthosts_clients_log_in_anywhere_and_only_under_tls(release: str) -> None:
    tree = render(release)
    assert parameters(tree["/etc/postfix/main.cf"])["smtp_sasl_auth_enable"] == "no"
    master = services(tree["/etc/postfix/master.cf"])
    logging_in = {name for name, rest in master.items() if "smtp_sasl_auth_enable = yes" in rest}
    assert logging_in == {"smarthost/unix", "sender-smarthost/unix"}
    assert all("smtp_tls_security_level = encrypt" in master[name] for name in logging_in)
    by_sender = {name for name, rest in master.items() if "smtp_sender_dependent_authentication = yes" in rest}
    assert by_sender == {"sender-smarthost/unix"}, "a sender's password goes to that sender's smarthost"


PAIRS = {
    "allowed_networks": [{"network": "192.0.2.0/24", "answer": "OK"}],
    "blocked_networks": [{"network": "2001:db8::/32", "answer": "550 5.7.1 No, thanks; = not"}],
    "allowed_pairs": [{"recipients": ["bob@oak.test"], "senders": [{"key": "x@a.test", "value": "OK"}]}],
    "blocked_pairs": [
        {"recipients": ["elm.test", ".elm.test"], "senders": [{"key": "a.test", "value": "554 5.7.1 No"}]},
        {
            "recipients": ["bob@oak.test"],
            "senders": [{"key": "b.test", "value": "450 4.7.1 Later"}, {"key": ".b.test", "value": "450 4.7.1 Later"}],
        },
    ],
}


def test_access_lists_are_asked_where_they_can_open_nothing(release: str) -> None:
    """Not for relaying, not for forged senders, not for whether a recipient exists; allow before block."""
    main = parameters(render(release, mail={"access": PAIRS})["/etc/postfix/main.cf"])
    lists = {name for name, value in main.items() if name.endswith("_restrictions") and "$access_" in value}
    assert lists == {"smtpd_helo_restrictions", "smtpd_sender_restrictions"}
    assert main["smtpd_sender_restrictions"].index("$access_allowed") < main["smtpd_sender_restrictions"].index("$access_blocked")


def test_pairs_are_restriction_classes_by_recipient(release: str) -> None:
    main = parameters(render(release, mail={"access": PAIRS})["/etc/postfix/main.cf"])
    assert main["smtpd_restriction_classes"].split() == ["access_allowed_pair_1", "access_blocked_pair_1", "access_blocked_pair_2"]
    assert main["access_allowed"].endswith("check_recipient_access inline:{ { bob@oak.test = access_allowed_pair_1 } }")
    assert "inline:{ { elm.test = access_blocked_pair_1 }, { .elm.test = access_blocked_pair_1 } }" in main["access_blocked"]
    assert main["access_blocked_pair_2"] == "check_sender_access inline:{ { b.test = 450 4.7.1 Later }, { .b.test = 450 4.7.1 Later } }"


def test_an_allowed_network_passes_postscreen_and_a_blocked_one_gets_its_reply_later(release: str) -> None:
    tree = render(release, mail={"access": PAIRS}, **FULL)
    assert tree["/etc/postfix/postscreen_access"].splitlines()[-1] == "192.0.2.0/24  permit", "after what was decided by hand"
    assert "2001:db8::/32" not in tree["/etc/postfix/postscreen_access"]
    assert "2001:db8::/32  550 5.7.1 No, thanks; = not" in tree["/etc/postfix/access_blocked_networks"]


def test_no_table_is_of_a_type_that_a_full_disk_destroys(release: str) -> None:
    tree = render(release, **FULL)
    assert not [path for path, text in tree.items() if re.search(r"\b(hash|btree):", text)]


def test_an_empty_dnsbl_list_switches_the_lists_off(release: str) -> None:
    main = parameters(render(release, postfix_dnsbl_sites=[])["/etc/postfix/main.cf"])
    assert main["postscreen_dnsbl_sites"] == ""
    assert "postscreen_dnsbl_action" not in main


def test_dnsbl_sites_carry_filter_and_weight(release: str) -> None:
    main = parameters(render(release)["/etc/postfix/main.cf"])
    assert main["postscreen_dnsbl_sites"].split()[0] == "zen.spamhaus.org=127.0.0.[2..11]*2"
    assert main["postscreen_dnsbl_sites"].split()[-1].endswith("*-2")


def test_an_override_replaces_the_whole_parameter(release: str) -> None:
    tree = render(release, **FULL)
    main = parameters(tree["/etc/postfix/main.cf"])
    assert main["smtpd_client_restrictions"] == "permit"
    assert main["smtp_helo_timeout"] == "30s"
    assert main["smtpd_helo_restrictions"].startswith("permit_mynetworks")


def test_a_service_override_changes_what_it_names_and_nothing_else(release: str) -> None:
    plain = services(render(release)["/etc/postfix/master.cf"])
    master = services(render(release, **FULL)["/etc/postfix/master.cf"])
    assert master["submission/inet"].split()[:6] == ["n", "-", "y", "-", "7", "smtpd"]
    assert "smtpd_client_message_rate_limit = 5" in master["submission/inet"]
    assert "smtpd_sasl_auth_enable = yes" in master["submission/inet"]
    assert master["slow/unix"].split()[:6] == ["-", "-", "-", "-", "-", "smtp"]
    assert {name for name in master if master[name] != plain.get(name)} == {"submission/inet", "slow/unix"}


def test_text_from_the_inventory_stays_on_its_line(release: str) -> None:
    tree = render(release, **HOSTILE)
    main = parameters(tree["/etc/postfix/main.cf"])
    assert main["mynetworks"] == "127.0.0.0/8 [::1]/128"
    assert "evil/inet" not in services(tree["/etc/postfix/master.cf"])
    for name in ("header_checks", "submission_header_checks", "sender_exceptions"):
        rules = [line for line in tree[f"/etc/postfix/{name}"].splitlines() if line.startswith("/")]
        assert not [rule for rule in rules if rule.startswith("/./")], rules
    assert "$$1@oak.test" in tree["/etc/postfix/sender_exceptions"]


def test_the_modern_profile_does_not_push_other_servers_into_clear_text(release: str) -> None:
    main = parameters(render(release, {"tls_profile": "modern"})["/etc/postfix/main.cf"])
    assert main["smtpd_tls_protocols"] == ">=TLSv1.2"
    assert main["smtpd_tls_mandatory_protocols"] == ">=TLSv1.3"


@pytest.mark.parametrize(("release", "path"), [("12", "postfix@-.service.d"), ("13", "postfix.service.d")])
def test_the_unit_with_the_processes_restarts_after_a_crash(release: str, path: str) -> None:
    tree = render(release)
    units = {name: text for name, text in tree.items() if name.startswith("/etc/systemd/")}
    assert list(units) == [f"/etc/systemd/system/{path}/mailwright.conf"]
    assert "Restart=on-failure" in units[f"/etc/systemd/system/{path}/mailwright.conf"]


RECEIVED = """Received: from [10.1.2.3] (client.example [198.51.100.7])
\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)
\t key-exchange X25519 server-signature ECDSA (P-256) server-digest SHA256)
\t(No client certificate requested)
\tby mail.oak.test (Postfix) with ESMTPSA id 4abcDEF
\tfor <bob@good.test>; Thu,  1 Jan 2026 00:00:00 +0000 (UTC)"""


def header_rules(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The pcre table with Postfix's flags: case-insensitive, dot matches newlines, continuation lines joined."""
    logical = re.sub(r"\n[ \t]+", " ", text)
    rules = [re.match(r"/(.*)/\s+(.*)", line) for line in logical.splitlines() if line.startswith("/")]
    return [(re.compile(rule[1], re.I | re.S), rule[2]) for rule in rules if rule]


def test_the_own_received_header_keeps_its_place_without_the_client(release: str) -> None:
    """A milter never sees the first header: were it removed, the next one would go unsigned."""
    rules = header_rules(render(release)["/etc/postfix/submission_header_checks"])
    pattern, action = next((p, a) for p, a in rules if p.search(RECEIVED))
    replaced = re.sub(r"\$(\d)", r"\\\1", action.removeprefix("REPLACE "))
    match = pattern.search(RECEIVED)
    assert match
    text = match.expand(replaced)
    assert text == "Received: by mail.oak.test (Postfix) with ESMTPSA id 4abcDEF; Thu,  1 Jan 2026 00:00:00 +0000 (UTC)"


@pytest.mark.parametrize("header", ["Received: from inner by outer; date", "User-Agent: X", "x-mailer: y", "X-Originating-IP: [10.0.0.1]"])
def test_submitted_mail_loses_what_tells_about_the_client(release: str, header: str) -> None:
    rules = header_rules(render(release)["/etc/postfix/submission_header_checks"])
    assert next(action for pattern, action in rules if pattern.search(header)) == "IGNORE"


@pytest.mark.parametrize("header", ["From: alice@oak.test", "Subject: User-Agent: x", "X-Mailer-Daemon: z"])
def test_submitted_mail_keeps_its_other_headers(release: str, header: str) -> None:
    rules = header_rules(render(release)["/etc/postfix/submission_header_checks"])
    assert not [action for pattern, action in rules if pattern.search(header)]


@pytest.mark.skipif(not shutil.which("postconf"), reason="needs postfix; the scenario checks the same on the hosts")
@pytest.mark.parametrize("variables", [{}, FULL, HOSTILE], ids=["minimal", "full", "hostile"])
def test_postfix_reads_back_what_was_rendered(release: str, variables: dict[str, Any], tmp_path: Path) -> None:
    tree = render(release, **variables)
    for path, text in tree.items():
        if path.startswith("/etc/postfix/"):
            (tmp_path / Path(path).name).write_text(text)
    result = subprocess.run(["postconf", "-c", tmp_path, "-n"], capture_output=True, text=True, check=False)
    read = dict(line.split(" =", 1) for line in result.stdout.splitlines())
    for name, value in parameters(tree["/etc/postfix/main.cf"]).items():
        assert read[name].split() == value.split(), name


def test_a_copy_is_made_of_what_its_address_does_not_have_already(release: str) -> None:
    names = ["a.b@oak.test", "journal@oak.test"]
    copies = {
        "recipients": [
            {"domain": "elm.test", "to": "a.b@oak.test", "except": names},
            {"domain": None, "to": "all@oak.test", "except": ["all@oak.test"]},
        ],
        "senders": [{"domain": "oak.test", "to": "a.b@oak.test"}],
    }
    tree = render(release, copies=copies)
    rules = [re.fullmatch(r"/(.*)/  (\S+)", line) for line in tree["/etc/postfix/recipient_copies"].splitlines() if line.startswith("/")]

    def copy_of(address: str) -> str | None:
        return next((rule[2] for rule in rules if rule and re.search(rule[1], address)), None)

    assert copy_of("dave@elm.test") == "a.b@oak.test"
    assert copy_of("dave@xelm.test") == copy_of("dave@elmxtest") == copy_of("axb@oak.test") == "all@oak.test"
    assert copy_of("all@oak.test") is copy_of("all+tag@oak.test") is None
    assert copy_of("journal+x@oak.test") == "all@oak.test"
    assert parameters(tree["/etc/postfix/main.cf"])["recipient_bcc_maps"] == "pcre:/etc/postfix/recipient_copies"
    assert parameters(render(release)["/etc/postfix/main.cf"])["sender_bcc_maps"] == ""


@pytest.mark.parametrize("release", ["12", "13"])
def test_the_table_of_further_names_is_asked_only_where_there_are_some(release: str) -> None:
    main = parameters(render(release, mail={"certificates": CERTIFICATES})["/etc/postfix/main.cf"])
    assert main["tls_server_sni_maps"] == "lmdb:/var/lib/mailwright/tls/sni"
    assert "tls_server_sni_maps" not in parameters(render(release)["/etc/postfix/main.cf"])


@pytest.mark.parametrize("level", ["lenient", "rfc", "strict"])
def test_each_level_of_greetings_asks_for_more(release: str, level: str) -> None:
    helo = {"level": level, "exceptions": [], "exception_patterns": []}
    main = parameters(
        render(release, {"helo": helo, "hostnames": ["mx.oak.test"]}, mail={"helo_exceptions": ["^a$"]})["/etc/postfix/main.cf"]
    )
    asked = main["smtpd_helo_restrictions"]
    assert asked.index("check_helo_access pcre:/etc/postfix/helo_exceptions") < asked.find("reject_invalid") % 10_000
    assert ("reject_non_fqdn_helo_hostname" in asked) == (level != "lenient")
    assert ("reject_unknown_helo_hostname" in asked) == (level == "strict")
    assert ("{ mail.oak.test = REJECT 5.7.1 You are not this host }, { mx.oak.test" in asked) == (level == "strict")


LDAP: dict[str, Any] = {
    "servers": ["ldaps://a.test", "ldaps://b.test:1636"],
    "base": "dc=test",
    "bind_dn": "cn=mail host,dc=test",
    "bind_password": "&(=secret)",
    "domains": ["oak.test", "elm.test"],
    "address": "mail",
    "aliases": None,
    "quota": None,
    "users": "(&(objectClass=person)(|(mail=*@oak.test))(!(mail=.*)))",
}


@pytest.mark.parametrize("release", RELEASES)
def test_a_directory_is_asked_after_the_inventory_and_only_where_there_is_one(release: str) -> None:
    tree = render(release)
    assert not [path for path, text in tree.items() if "ldap" in path or "ldap:" in text]
    tree = render(release, mail={"ldap": LDAP})
    main = tree["/etc/postfix/main.cf"]
    for name, own in (("virtual_mailbox_maps", "mailboxes"), ("known_aliases", "aliases"), ("smtpd_sender_login_maps", "aliases")):
        (value,) = re.findall(rf"(?m)^{name} = (.*)$", main)
        assert value.startswith(("lmdb:", "unionmap:"))
        assert value.endswith(f", proxy:ldap:/etc/postfix/ldap_{own}.cf")
    assert "secret" not in main
    table = dict(line.split(" = ", 1) for line in tree["/etc/postfix/ldap_aliases.cf"].splitlines() if " = " in line)
    assert table["query_filter"] == f"(&{LDAP['users']}(mail=%s))"
    assert (table["tls_require_cert"], table["domain"]) == ("yes", "oak.test, elm.test")
    table = render(release, mail={"ldap": {**LDAP, "aliases": "other"}})["/etc/postfix/ldap_aliases.cf"]
    assert f"query_filter = (&{LDAP['users']}(|(mail=%s)(other=%s)))\n" in table
