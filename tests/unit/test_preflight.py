"""The preflight as it is run: ansible-playbook on inventories of files, with vaults, references, many hosts and bad files."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.template
import pytest
import yaml
from ansible.module_utils.mailwright import certificate
from ansible.module_utils.mailwright.inventory import Inventory, load_roles
from ansible.module_utils.mailwright.reader import Reader
from ansible.module_utils.mailwright.schema import SHARED
from ansible.module_utils.mailwright.variables import check_variables
from ansible.parsing.dataloader import DataLoader

PROJECT = Path(__file__).resolve().parents[2]
HASH = "'{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4'"
MAIL = """
    mail_hostname: mail.oak.test
    mail_postmaster: alice@oak.test
    """
OAK = """
    domain: oak.test
    mailboxes:
      - name: alice
        password_hash: HASH
    """
# Nothing listens there: a run that contacts a host fails or hangs.
HOSTS = "mail:\n  hosts:\n    mx1: {ansible_host: 192.0.2.1}\n"


class Site:
    """An inventory directory, and validate.yml run on it."""

    def __init__(self, path: Path, *, empty: bool = False) -> None:
        self.path = path
        if not empty:
            self.write("hosts.yml", HOSTS)
            self.write("group_vars/mail/mail.yml", MAIL)
            self.write("domains/oak.test.yml", OAK)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, str):
            text = textwrap.dedent(text).lstrip("\n").replace("HASH", HASH).encode()
        path.write_bytes(text)
        return path

    def run(self, *arguments: str, playbook: str | Path = "playbooks/validate.yml", **environment: str) -> Result:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), "-i", str(self.path), *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env={**clean, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Result(done, self.path)


class Result:
    """Exit status and output; `problems` are the lines with FILE:LINE, the file relative to the inventory."""

    def __init__(self, done: subprocess.CompletedProcess[str], path: Path) -> None:
        self.status = done.returncode
        self.output = done.stdout + done.stderr
        lines = re.findall(r"^\[ERROR\]: (.*)$", self.output, re.MULTILINE)
        self.problems = [line.replace(f"{path}/", "") for line in lines if not line.startswith("Task failed")]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "inventory")


# -- a good inventory


def test_a_good_inventory_passes_without_contacting_a_host(site: Site) -> None:
    result = site.run()
    assert result.status == 0, result.output
    assert result.problems == []


def test_both_forms_of_an_internationalised_domain_are_shown_once(site: Site) -> None:
    site.write("hosts.yml", "mail: {hosts: {mx1: , mx2: }}")
    site.write("domains/bücher.test.yml", "domain: Bücher.test")
    result = site.run()
    assert result.status == 0, result.output
    assert result.output.count("bücher.test is served as xn--bcher-kva.test") == 1


def test_secrets_of_a_good_inventory_are_not_shown(site: Site) -> None:
    site.write("group_vars/mail/more.yml", "mail_allow_plaintext_passwords: true")
    site.write("domains/elm.test.yml", "domain: elm.test\nmailboxes: [{name: bob, password: hunter2}]")
    result = site.run("-vvv", "--diff")
    assert result.status == 0, result.output
    assert "hunter2" not in result.output
    assert "argon2id" not in result.output


def test_the_rows_are_plain_data_for_whoever_comes_next(site: Site, tmp_path: Path) -> None:
    site.write("group_vars/all.yml", 'quota: 2G\nmail_hostnames: ["imap.{{ domain_of_all }}"]\ndomain_of_all: oak.test\n')
    site.write("domains/elm.test.yml", 'domain: elm.test\nquota: "{{ quota }}"\nmailboxes: [{name: bob, password_hash: HASH}]')
    play = site.write(
        "../show.yml",
        f"""
        - hosts: mail
          gather_facts: false
          tasks:
            - mail_preflight:
              register: mail
            - ansible.builtin.copy:
                content: "{{{{ mail | to_json }}}}"
                dest: {tmp_path}/rows.json
                mode: "0600"
              delegate_to: localhost
              vars: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}
        """,
    )
    result = site.run(playbook=play)
    assert result.status == 0, result.output
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert rows["certificate_names"] == ["mail.oak.test", "imap.oak.test"]
    assert [row["quota_bytes"] for row in json.loads(rows["directory"]["mailboxes"])] == [5 * 2**30, 2 * 2**30]
    assert rows["changed"] is False


def test_the_example_inventory_passes_without_a_vault_password(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "inventories/example", tmp_path / "inventory")
    result = Site(tmp_path / "inventory", empty=True).run()
    assert result.status == 0, result.output


def test_the_mail_data_of_the_lab_passes(site: Site) -> None:
    """Without the variables that name files which only a running lab has."""
    shutil.rmtree(site.path / "domains")
    shutil.copytree(PROJECT / "inventories/lab/domains", site.path / "domains")
    shutil.copytree(PROJECT / "inventories/lab/files", site.path / "files")
    shutil.copytree(PROJECT / "inventories/lab/group_vars/mail", site.path / "group_vars/mail", dirs_exist_ok=True)
    result = site.run()
    assert result.status == 0, result.output


# -- places


def test_every_problem_of_every_file_and_host_comes_at_once_with_its_line(site: Site) -> None:
    site.write(
        "hosts.yml",
        """
        mail:
          hosts:
            mx1: {mail_hostname: a b}
            mx2: {}
            mx3: {mail_hostname: mx3}
        """,
    )
    site.write(
        "domains/elm.test.yml",
        """
        # a comment
        domain: elm.test
        mailboxes:
          - name: bob
            password_hash: HASH
            enabled: maybe

          - name: carol
            quota: 5g
            password_hash: HASH
            pop3: no
        """,
    )
    result = site.run()
    assert result.status == 2
    # Each host reports its own, in any order.
    assert [*result.problems[:3], *sorted(result.problems[3:])] == [
        "domains/elm.test.yml:6: mailboxes[0].enabled: maybe: got text, true or false is needed; write it without quotes",
        "domains/elm.test.yml:9: mailboxes[1].quota: 5g: not a size: a whole number and one of the units K, M, G, T is needed; write 5G",
        "domains/elm.test.yml:11: mailboxes[1].pop3: unknown key; the keys are name, password, password_hash, password_update,"
        " allow_weak_hash, quota, enabled, protocols, send_only, receive_only, aliases, send_as, forward, keep_copy, internal, spam,"
        " sending_limit, junk_filing, sieve_before, sieve_after, junk_retention, trash_retention, deleted_to_trash, description",
        "hosts.yml:3: mail_hostname: a b: space not allowed",
        "hosts.yml:5: mail_hostname: mx3: a single label; a dot is needed; write the full name, such as example.org",
    ]


def test_a_duplicate_names_the_other_line(site: Site) -> None:
    site.write("domains/elm.test.yml", "domain: Oak.test")
    result = site.run()
    assert result.problems == ["domains/oak.test.yml:1: domain: oak.test: duplicate of domains/elm.test.yml:1"]


# -- references and vaults


def test_references_are_resolved_and_their_own_line_is_named(site: Site) -> None:
    site.write("group_vars/all.yml", "limit: 5g\nlimits: {bob: 6g}\nboxes: [{name: erin, password_hash: HASH, quota: 7g}]\n")
    site.write(
        "domains/elm.test.yml",
        """
        domain: elm.test
        quota: "{{ limit }}"
        mailboxes:
          - name: bob
            quota: "{{ limits['bob'] }}"
            password_hash: "{{ missing }}"
          - "{{ boxes[0] }}"
        catch_all: "{{ limits.nobody }}"
        aliases:
          - name: a
            to: ["{{ 'x' }}@good.test", "{{ broken }"]
        """,
    )
    result = site.run()
    assert [line.split(": ", 1)[0] for line in result.problems] == [
        *(f"domains/elm.test.yml:{line}" for line in (2, 5, 6, 8, 11)),
        "group_vars/all.yml:3",
    ]
    text = "\n".join(result.problems)
    assert "elm.test.yml:2: quota: 5g: not a size" in text
    assert "mailboxes[0].quota: 6g: not a size" in text
    assert "mailboxes[0].password_hash: ***: 'missing' is undefined; define it, or correct its name" in text
    assert "all.yml:3: mailboxes[1].quota: 7g: not a size" in text
    assert "catch_all: {{ limits.nobody }}:" in text and "has no attribute 'nobody'" in text
    assert "aliases[0].to[1]: {{ broken }: Syntax error in template" in text


def test_nothing_is_evaluated_that_is_data(site: Site, tmp_path: Path) -> None:
    """Names are never evaluated, nor what is marked `!unsafe`, nor the result of an evaluation."""
    touched = tmp_path / "touched"
    bomb = "{{ lookup('pipe', 'touch " + str(touched) + "') }}"
    site.write("group_vars/all.yml", f'inner: !unsafe "{bomb}"\n')
    site.write(
        "domains/elm.test.yml",
        f"""
        domain: "{bomb}"
        """,
    )
    site.write(
        "domains/fir.test.yml",
        f"""
        domain: fir.test
        quota: "{{{{ inner }}}}"
        catch_all: !unsafe "{bomb}"
        mailboxes:
          - name: "{bomb}"
            password_hash: !unsafe "{bomb}"
        """,
    )
    result = site.run()
    assert result.status == 2
    assert not touched.exists()
    assert f"domains/elm.test.yml:1: domain: {bomb[:50]}" in result.problems[0]
    assert len(result.problems) == 5


def vault(text: str, tmp_path: Path) -> str:
    key = tmp_path / "key"
    key.write_text("the vault's password\n", encoding="utf-8")
    source = tmp_path / "plain"
    source.write_text(text, encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("ansible-vault")),
        "encrypt",
        "--vault-password-file",
        str(key),
        "--output",
        "-",
        str(source),
    ]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def vaulted(site: Site, tmp_path: Path) -> Site:
    """Passwords in all three ways: inline, by reference to an encrypted value, by reference to an encrypted file."""
    inline = textwrap.indent(vault("hunter2", tmp_path), " " * 10)
    site.write("group_vars/mail/inline.yml", "by_value: !vault |\n" + inline)
    site.write(
        "domains/elm.test.yml",
        "domain: elm.test\nmailboxes:\n"
        "  - name: bob\n    password: !vault |\n" + inline + "\n"
        '  - name: carol\n    password: "{{ by_value }}"\n',
    )
    return site


def test_vaulted_passwords_are_clear_text_that_is_allowed(vaulted: Site, tmp_path: Path) -> None:
    vaulted.write("group_vars/mail/vault.yml", vault("in_file: {dave: hunter2}\n", tmp_path))
    vaulted.write("domains/fir.test.yml", "domain: fir.test\nmailboxes: [{name: dave, password: \"{{ in_file['dave'] }}\"}]")
    vaulted.write("domains/yew.test.yml", vault("domain: yew.test\nmailboxes: [{name: erin, password: hunter2}]\n", tmp_path))
    result = vaulted.run("--vault-password-file", str(tmp_path / "key"))
    assert result.status == 0, result.output
    assert "hunter2" not in result.output


def test_a_missing_vault_password_is_one_message(vaulted: Site) -> None:
    result = vaulted.run()
    assert result.status == 2
    (problem,) = result.problems
    assert problem.startswith("domains/elm.test.yml:4: mailboxes[0].password: ***: cannot be decrypted")
    assert "nor can 1 more values; give the vault's password: --vault-password-file" in problem
    assert "Traceback" not in result.output


def test_a_missing_vault_password_for_a_whole_domain_file_is_one_message(site: Site, tmp_path: Path) -> None:
    site.write("domains/yew.test.yml", vault("domain: yew.test\n", tmp_path))
    result = site.run()
    (problem,) = result.problems
    assert problem.startswith("domains/yew.test.yml: cannot be decrypted")
    assert "Traceback" not in result.output


def test_clear_text_in_a_plain_file_is_found_behind_a_reference(site: Site) -> None:
    site.write("group_vars/mail/passwords.yml", "passwords: {bob: hunter2}\n")
    site.write(
        "domains/elm.test.yml",
        """
        domain: elm.test
        mailboxes:
          - {name: bob, password: "{{ passwords.bob }}"}
          - {name: carol, password: hunter2}
          - {name: dave, password: "{{ lookup('ansible.builtin.env', 'MAIL_SECRET') }}"}
        """,
    )
    result = site.run(MAIL_SECRET="hunter2")
    assert [line.split(": password")[0] for line in result.problems] == [
        "domains/elm.test.yml:3: mailboxes[0].password: ***",
        "domains/elm.test.yml:4: mailboxes[1].password: ***",
    ]
    assert "hunter2" not in result.output


# -- files


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"domain: elm.test\n\tx: y\n", "domains/elm.test.yml:2: "),
        (b"domain: elm.test\ndescription: M\xfcnchen\n", "domains/elm.test.yml:2: not UTF-8: octet 0xfc at offset 31; save it as UTF-8"),
        (b"\xef\xbb\xbfdomain: elm.test\n", "domains/elm.test.yml:1: byte order mark at offset 0"),
        (b"domain: elm.test\nmailboxes: [\n", "domains/elm.test.yml:3: "),
        (b"domain: elm.test\nx: {{ y }}\n", "domains/elm.test.yml:2: "),
        (b"", "domains/elm.test.yml: got nothing, a mapping"),
        (b"- domain: elm.test\n", "domains/elm.test.yml:1: got a list, a mapping"),
        (
            b"domain: elm.test\nmailboxes:\n- name: a\n  name: b\nquota: 1G\nquota: 2G\n",
            "domains/elm.test.yml:4: name: duplicate of the key in line 3; remove one\n"
            "domains/elm.test.yml:6: quota: duplicate of the key in line 5; remove one",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_beside_the_others(site: Site, content: bytes, problem: str) -> None:
    site.write("domains/elm.test.yml", content)
    site.write("domains/fir.test.yml", "domain: fir\naliases: [{name: a, to: [x@elm.test]}]")
    result = site.run()
    assert problem in "\n".join(result.problems)
    assert any(line.startswith("domains/fir.test.yml:1: domain: fir: a single label") for line in result.problems)
    assert "Traceback" not in result.output


def test_lines_may_end_as_on_windows(site: Site) -> None:
    site.write("domains/elm.test.yml", b"domain: elm.test\r\ncatch_all: alice@oak.test\r\n")
    assert site.run().status == 0


def test_a_file_that_would_silently_be_no_domain_is_named(site: Site) -> None:
    site.write("domains/elm.test.yml.orig", "domain: elm.test")
    site.write("domains/README.md", "Our domains")
    site.write("domains/.oak.test.yml.swp", "x")
    assert site.run().problems == ["domains/elm.test.yml.orig: not a domain file; name it DOMAIN.yml, or move it away"]


# -- variables


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb:\n\tc: 1\n", "3: not YAML: found character that cannot start any token"),
        (b"a: 1\nb: [1\n", "3: not YAML: did not find expected ',' or ']'"),
        (b"a: 1\nb: M\xfcnchen\n", "2: not UTF-8: octet 0xfc at offset 9; save it as UTF-8"),
        (b"a: 1\nb: {c: 1, c: 2}\na: 2\n", "3: a: duplicate of the key in line 1; remove one"),
    ],
)
@pytest.mark.parametrize("place", ["group_vars/all.yml", "group_vars/mail/more.yml", "host_vars/mx1"])
def test_variables_that_ansible_cannot_read_are_named_with_their_line(site: Site, place: str, content: bytes, problem: str) -> None:
    site.write(place, content)
    result = site.run()
    assert result.status != 0
    assert result.problems[0] == f"{place}:{problem}"


def test_misspelt_variables_are_found_with_their_line(site: Site) -> None:
    site.write("group_vars/mail/more.yml", "mail_qouta: 5G\nmail_default_qouta: 5G\nmy_own: x\n")
    assert site.run().problems == [
        "group_vars/mail/more.yml:1: mail_qouta: unknown variable; names that begin with mail_ are Mailwright's;"
        " if it is your own, rename it",
        "group_vars/mail/more.yml:2: mail_default_qouta: unknown variable; did you mean mail_default_quota?",
    ]


def test_two_groups_that_set_the_same_variable_are_pointed_out_with_the_winner(site: Site) -> None:
    site.write("hosts.yml", "mail: {hosts: {mx1: }}\neast: {hosts: {mx1: }}\nwest: {hosts: {mx1: }}\n")
    site.write("group_vars/east.yml", "mail_default_quota: 1G\nmail_spam: high\n")
    site.write("group_vars/west/quota.yml", "mail_default_quota: 2G\nmail_spam: high\n")
    site.write("group_vars/all.yml", "mail_default_quota: 3G\n")
    result = site.run()
    assert result.status == 0, result.output
    warnings = [line for line in result.output.splitlines() if " won" in line]
    assert len(warnings) == 1
    assert "mail_default_quota is set for the groups east and west of this host" in warnings[0]
    assert warnings[0].endswith("group_vars/west/quota.yml:1 won")


def test_an_inventory_without_mail_hosts_is_no_success(site: Site) -> None:
    site.write("hosts.yml", "mails: {hosts: {mx1: }}")
    result = site.run()
    assert result.status != 0
    assert "no host in the group mail" in result.output


def test_a_misspelt_limit_is_no_success(site: Site) -> None:
    assert site.run("--limit", "mx9").status != 0


ROLES: dict[str, dict[str, dict[str, Any]]] = {
    "postfix": {
        "postfix_rate": {"type": "int"},
        "postfix_mode": {"type": "str", "choices": ["normalize", "reject"]},
        "postfix_enabled": {"type": "bool"},
        "postfix_factor": {"type": "float"},
        "postfix_password": {"type": "str"},
        "postfix_access": {
            "type": "list",
            "elements": "dict",
            "options": {"network": {"type": "str", "required": True}, "action": {"type": "str"}},
        },
        "postfix_names": {"type": "list", "elements": "str"},
        "postfix_overrides": {"type": "dict"},
    }
}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("postfix_rat", 1, "postfix_rat: unknown variable; did you mean postfix_rate?"),
        ("postfix_x", 1, "postfix_x: unknown variable; names that begin with postfix_ are Mailwright's"),
        ("postfix_rate", "60", "postfix_rate: 60: got text, a whole number is needed"),
        ("postfix_rate", True, "postfix_rate: true: got a boolean, a whole number is needed"),
        ("postfix_mode", "rejct", "postfix_mode: rejct: not one of normalize, reject; did you mean reject?"),
        ("postfix_mode", False, "postfix_mode: false: got a boolean, text is needed; put it in quotes"),
        ("postfix_enabled", "yes", "postfix_enabled: yes: got text, true or false is needed; write it without quotes"),
        ("postfix_factor", "x", "postfix_factor: x: got text, a number is needed"),
        ("postfix_password", 12345, "postfix_password: ***: got an integer, text is needed"),
        ("postfix_access", "x", "postfix_access: x: got text, a list is needed"),
        ("postfix_access", ["x"], "postfix_access[0]: x: got text, a mapping is needed"),
        ("postfix_access", [{"netwrok": "x"}], "postfix_access[0].netwrok: unknown key; did you mean network?"),
        ("postfix_access", [{"action": "x"}], "postfix_access[0]: required key network is missing"),
        ("postfix_names", ["a", 1], "postfix_names[1]: 1: got an integer, text is needed; put it in quotes"),
        ("postfix_overrides", [], "postfix_overrides: got a list, a mapping is needed"),
    ],
)
def test_role_variables_are_checked_by_their_specification(name: str, value: object, problem: str) -> None:
    reader = Reader()
    check_variables(reader, {name: value}, ROLES)
    assert [str(found) for found in reader.report.problems if str(found).startswith(problem)]


def test_role_variables_that_fit_pass() -> None:
    reader = Reader()
    values = {
        "postfix_rate": 0,
        "postfix_mode": "reject",
        "postfix_enabled": False,
        "postfix_factor": 1,
        "postfix_access": [{"network": "192.0.2.0/24"}],
        "postfix_names": [],
        "postfix_overrides": {"a": 1},
        "other_role": 1,
        "postfixed": 2,
    }
    check_variables(reader, {**values, **dict.fromkeys(SHARED)}, ROLES)
    assert reader.report.problems == []


def test_a_role_variable_may_wait_for_facts(site: Site) -> None:
    site.write("group_vars/mail/more.yml", 'redis_memory_limit: "{{ ansible_facts.memtotal_mb // 4 }}M"\nbase_hostname: "{{ nothing }}"\n')
    assert site.run().problems == [
        "group_vars/mail/more.yml:2: base_hostname: {{ nothing }}: 'nothing' is undefined; define it, or correct its name"
    ]


def test_every_role_tells_its_variables() -> None:
    roles = load_roles(PROJECT / "roles")
    assert {path.name for path in (PROJECT / "roles").iterdir() if path.is_dir()} == set(roles)
    for role, options in roles.items():
        assert all(name.startswith((f"{role}_", "mail")) for name in options), role


# -- size


def contents(directory: Path, *, lines: bool) -> list[Any]:
    loader = DataLoader()
    source = Inventory(loader, ansible.template.Templar(loader=loader, variables={}).template)
    messages = "\n".join(map(str, directory.iterdir())) if lines else ""
    return [file.content for file in source.domain_files(directory, messages)]


PLAIN = """
    domain: elm.test
    quota: 5G
    mailboxes:
      - {name: alice, password_hash: HASH, enabled: yes, "description": 'no'}
      - name: bob
        password_hash: HASH
        spam: {greylist: 4, junk: 6.5, reject: 15}
        aliases: [0x10, 2026-01-01, ~, 1e3, 'true', 012, 1_000, .inf]
    """


@pytest.mark.parametrize("text", [PLAIN, "domain: elm.test", "- 1\n- [a, b]", "", "a: {b: [c, {d: e}]}"])
def test_a_file_of_mere_text_reads_the_same_without_lines(tmp_path: Path, text: str) -> None:
    Site(tmp_path, empty=True).write("elm.test.yml", text)
    (quick,), (slow,) = contents(tmp_path, lines=False), contents(tmp_path, lines=True)
    assert quick == slow
    assert repr(quick) == repr(slow)
    assert text != PLAIN or type(quick["domain"]) is str


def test_only_files_that_a_message_names_are_read_for_their_lines(tmp_path: Path) -> None:
    site = Site(tmp_path, empty=True)
    for name in ("elm", "oak"):
        site.write(f"{name}.test.yml", f"domain: {name}.test")
    source = Inventory(DataLoader(), str)
    files = source.domain_files(tmp_path, f"{tmp_path}/oak.test.yml: mailboxes: missing")
    assert [source.locate(file.content) for file in files] == [None, f"{tmp_path}/oak.test.yml:1"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/mailwright/domains"


LONG = textwrap.dedent(PLAIN).replace("2026-01-01, ", "") + f"# {'x' * 2000}\n"


def test_a_file_that_did_not_change_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    site = Site(tmp_path, empty=True)
    site.write("elm.test.yml", LONG)
    (first,) = contents(tmp_path, lines=False)
    assert {path.stat().st_mode & 0o777 for path in (cache, *cache.iterdir())} == {0o700, 0o600}
    with monkeypatch.context() as patch:
        patch.setattr("yaml.compose", lambda *_, **__: pytest.fail("parsed again"))
        (kept,) = contents(tmp_path, lines=False)
    assert repr(kept) == repr(first)
    site.write("elm.test.yml", LONG.replace("alice", "alina"))
    (changed,) = contents(tmp_path, lines=False)
    assert "alina" in repr(changed)


def test_many_new_files_are_parsed_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    site = Site(tmp_path, empty=True)
    names = [f"e{number}.test" for number in range(60)]
    for name in names:
        site.write(f"{name}.yml", LONG.replace("elm.test", name))
    site.write("wrong.yml", "domain: [" + "x" * 2000)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    here = os.getpid()
    compose = yaml.compose

    def parse(text: str, Loader: type) -> yaml.Node | None:
        assert os.getpid() != here or "[xxx" in text
        return compose(text, Loader=Loader)

    monkeypatch.setattr("yaml.compose", parse)
    found = contents(tmp_path, lines=False)
    assert len(found) == len(names)
    assert len(list(cache.iterdir())) == len(names)
    assert [name in repr(one) for name, one in zip(sorted(names), found, strict=True)] == [True] * len(names)


def test_what_nobody_used_for_a_month_leaves_the_cache(tmp_path: Path, cache: Path) -> None:
    site = Site(tmp_path, empty=True)
    site.write("elm.test.yml", LONG)
    contents(tmp_path, lines=False)
    (used,) = cache.iterdir()
    (cache / "old.json").write_text("[]")
    long_ago = used.stat().st_mtime - 40 * 86400
    for path in cache.iterdir():
        os.utime(path, (long_ago, long_ago))
    # Being used makes it young, the next new entry removes the rest.
    contents(tmp_path, lines=False)
    site.write("oak.test.yml", LONG.replace("elm.test", "oak.test"))
    contents(tmp_path, lines=False)
    assert used.exists()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "[]", '["digest", "x"]', "[1, 2, 3]"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, cache: Path, damage: str) -> None:
    Site(tmp_path, empty=True).write("elm.test.yml", LONG)
    (first,) = contents(tmp_path, lines=False)
    for path in cache.iterdir():
        path.write_text(damage)
    assert repr(contents(tmp_path, lines=False)[0]) == repr(first)


def test_a_cache_that_others_can_enter_is_neither_read_nor_written(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o755)
    cache.chmod(0o755)
    Site(tmp_path, empty=True).write("elm.test.yml", LONG)
    contents(tmp_path, lines=False)
    assert list(cache.iterdir()) == []


def test_no_password_goes_to_the_cache(tmp_path: Path, cache: Path) -> None:
    Site(tmp_path, empty=True).write("elm.test.yml", LONG + "catch_all: x\ngroups: [{name: a, password: geheim}]\n")
    contents(tmp_path, lines=False)
    assert not cache.exists()


@pytest.mark.parametrize(
    "line",
    [
        "catch_all: '{{ someone }}'",
        "mailboxes: [{name: alice, password: geheim}]",
        "catch_all: !unsafe '{{ literal }}'",
        "mailboxes: &boxes [{name: alice}]\naliases: *boxes",
    ],
)
def test_what_only_ansible_can_read_keeps_its_tags(tmp_path: Path, line: str) -> None:
    Site(tmp_path, empty=True).write("elm.test.yml", f"domain: elm.test\n{line}\n")
    (content,) = contents(tmp_path, lines=False)
    assert type(content["domain"]) is not str


def test_the_action_needs_no_connection(load_plugin: Callable[[str], ModuleType]) -> None:
    action = load_plugin("action_plugins/mail_preflight.py").ActionModule
    assert action._requires_connection is False
    assert action.TRANSFERS_FILES is False


def test_a_provided_certificate_is_judged_with_the_inventory(site: Site, tmp_path: Path) -> None:
    for name, days in (("good", 30), ("ended", -30), ("stranger", 30)):
        start = dt.datetime.now(dt.UTC) - dt.timedelta(days=certificate.SELF_SIGNED_DAYS - days)
        pair = certificate.self_signed(["mail.oak.test"], start)
        (tmp_path / f"{name}.pem").write_bytes(pair.chain_pem)
        (tmp_path / f"{name}.key").write_bytes(pair.key_pem)
    (tmp_path / "link.pem").symlink_to("good.pem")
    for chain, key, problem in (
        ("link.pem", "good.key", ""),
        ("ended.pem", "ended.key", "default: the certificate expired on"),
        ("good.pem", "stranger.key", "default: the private key belongs to none of the certificates"),
        ("missing.pem", "good.key", "certificates_certificate_file"),
    ):
        site.write(
            "group_vars/mail/tls.yml",
            f"""
            certificates_source: provided
            certificates_certificate_file: {tmp_path}/{chain}
            certificates_private_key_file: {tmp_path}/{key}
            """,
        )
        result = site.run()
        assert (result.status == 0) is not bool(problem), result.output
        assert problem in result.output
        assert "PRIVATE KEY" not in result.output


def test_a_list_that_alone_turns_clients_away_is_refused() -> None:
    specs = {
        "postfix": {"postfix_dnsbl_sites": {"type": "list", "elements": "dict"}, "postfix_dnsbl_threshold": {"type": "int", "default": 3}}
    }

    def found(**variables: object) -> str:
        reader = Reader()
        check_variables(reader, variables, specs)
        return "\n".join(str(problem) for problem in reader.report.problems)

    one, two = {"name": "a.test", "weight": 2}, {"name": "A.test", "weight": 1}
    assert found(postfix_dnsbl_sites=[one, {"name": "b.test", "weight": 2}]) == ""
    assert "postfix_dnsbl_sites[1]: a.test alone would turn everybody away if it failed" in found(postfix_dnsbl_sites=[one, two])
    assert "gives 2 points, 2 are enough" in found(postfix_dnsbl_sites=[one], postfix_dnsbl_threshold=2)
    assert found(postfix_dnsbl_sites=[{"name": "good.test", "weight": -5}]) == ""
