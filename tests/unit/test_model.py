"""The checked model: every problem of an inventory at once, each at its place."""

from __future__ import annotations

import re
import textwrap

import pytest
import yaml
from ansible.module_utils.mailwright.builder import DomainFile, check
from ansible.module_utils.mailwright.model import Model
from ansible.module_utils.mailwright.reader import Reader
from ansible.module_utils.mailwright.schema import RFC_2142_NAMES, SPAM_PRESETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HASH = "'{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2E$qqSCqQPLbO7RKU9qFwvGng7oRhGvLyCDXSi1xSyDwa4'"
RSPAMD_HASH = "$2$e6b6kh1opyabxhf3o8sjq1jybh3zd6ea$zbmm1p3yozk1w6cju7ub4mcwz55j85duy61nr4mhzgdkti1mihrb"
WEB = {"host": "rspamd.oak.test", "password_hash": RSPAMD_HASH}
BASE = {"mail_hostname": "mail.oak.test", "mail_postmaster": "root@good.test"}


def read(*domains: str, in_clear: bool = False, **variables: object) -> tuple[Model | None, list[str], list[str]]:
    """Model, problems as `key.path: value: reason; cure`, warnings. HASH in a text becomes a hash."""
    reader = Reader()
    files = [DomainFile(yaml.safe_load(textwrap.dedent(text).replace("HASH", HASH)), "") for text in domains]
    model = check(reader, {**BASE, **variables}, files, in_clear=lambda _: in_clear)
    return model, [str(problem) for problem in reader.report.problems], reader.report.warnings


def problems(*domains: str, **variables: object) -> str:
    model, found, _ = read(*domains, **variables)
    assert (model is None) == bool(found)
    return "\n".join(found)


def accepted(*domains: str, **variables: object) -> Model:
    model, found, _ = read(*domains, **variables)
    assert found == []
    assert model is not None
    return model


ALICE = "domain: oak.test\nmailboxes: [{name: alice, password_hash: HASH}]\n"


# -- structure


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "got nothing, a mapping with the keys domain,"),
        ("[]", "got a list, a mapping"),
        ("text", "text: got text, a mapping"),
        ("mailboxes: []", "required key domain is missing"),
        ("domain:", "required key domain is missing"),
        ("domain: no", "domain: false: got a boolean, text is needed; put it in quotes"),
        ("domain: 1e3", "domain: 1e3: a single label"),
        ("domain: 1.5", "domain: 1.5: got a float, text is needed; put it in quotes"),
        ("domain: 2026-01-01", "domain: 2026-01-01: got a date, text is needed; put it in quotes"),
        ("domain: {a: b}", "domain: got a mapping, text is needed"),
        ("domain: oak.test\nmailbox: []", "mailbox: unknown key; did you mean mailboxes?"),
        ("domain: oak.test\nxyz: []", "xyz: unknown key; the keys are domain,"),
        ("domain: oak.test\nno: []", "False: the key is a boolean, text is needed; put it in quotes"),
        ("domain: oak.test\nmailboxes: {alice: x}", "mailboxes: got a mapping, a list is needed"),
        ("domain: oak.test\nmailboxes: [alice]", "mailboxes[0]: alice: got text, a mapping with the keys name,"),
        ("domain: oak.test\nmailboxes: [~]", "mailboxes[0]: got nothing, a mapping"),
        ("domain: oak.test\nmailboxes: [{password_hash: HASH}]", "mailboxes[0]: required key name is missing"),
        (
            "domain: oak.test\nmailboxes: [{name: a, password_hash: HASH, qouta: 5G}]",
            "mailboxes[0].qouta: unknown key; did you mean quota?",
        ),
        ("domain: oak.test\nmailboxes: [{name: a, password_hash: HASH, uid: 0}]", "mailboxes[0].uid: unknown key"),
        ("domain: oak.test\nmailboxes: [{name: a, password_hash: HASH, home: /root}]", "mailboxes[0].home: unknown key"),
        (
            "domain: oak.test\nmailboxes: [{name: a, password_hash: HASH, protocols: {imp: false}}]",
            "mailboxes[0].protocols.imp: unknown key; did you mean imap?",
        ),
        (
            "domain: oak.test\nmailboxes: [{name: a, password_hash: HASH, enabled: 'no'}]",
            "mailboxes[0].enabled: no: got text, true or false is needed; write it without quotes",
        ),
        ("domain: oak.test\naliases: [{name: a, to: b}]", "aliases[0].to: b: got text, a list is needed; write [b]"),
        ("domain: oak.test\naliases: [{name: a, to: [~]}]", "aliases[0].to[0]: empty entry; remove it"),
        ("domain: oak.test\naliases: [{name: a, to: []}]", "aliases[0].to: empty list of targets"),
        ("domain: oak.test\naliases: [{name: a}]", "aliases[0]: required key to is missing"),
    ],
)
def test_a_wrong_structure_is_named_with_its_path(text: str, problem: str) -> None:
    assert problem in problems(text)


def test_yaml_that_refers_to_itself_ends_in_a_problem() -> None:
    assert "mailboxes[0]: got a list" in problems("domain: oak.test\nmailboxes: &a [*a]")


def test_every_problem_is_reported_at_once() -> None:
    text = """
        domain: oak.test
        mailboxes:
          - {name: a b, password_hash: HASH}
          - {name: b, password_hash: HASH, quota: 5g}
        aliases:
          - {name: c, to: [nobody]}
        """
    assert len(problems(text, "domain: localhost", mail_hostname="x", mail_queue_lifetime="5").splitlines()) == 6


def test_required_variables_are_asked_for() -> None:
    reader = Reader()
    assert check(reader, {}, where="host mx1") is None
    assert [str(problem) for problem in reader.report.problems] == [
        "host mx1: mail_hostname: required variable is missing; set mail_hostname for this host or its group",
        "host mx1: mail_postmaster: required variable is missing; set mail_postmaster for this host or its group",
    ]


@pytest.mark.parametrize("value", [[], ["x"], {"a": "b"}, 5, True, "x", None])
@pytest.mark.parametrize("place", ["mailboxes", "aliases", "quota", "dkim", "spam", "catch_all", "domain", "alias_patterns"])
def test_no_type_anywhere_is_more_than_a_problem(place: str, value: object) -> None:
    check(Reader(), BASE, [DomainFile({"domain": "oak.test", place: value}, "")])


ROUTE_KEYS = ["relay", "recipients", "next_hop", "port", "user", "sender", "recipient", "action", "client", "reply"]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["domain", "mailboxes", "name", "password", "aliases", "to", "quota", "spam", "dkim", "selector", "x", *ROUTE_KEYS]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


PLAIN_VARIABLES = [
    *("mail_spam", "mail_transports", "mail_dkim_keys", "mail_domains", "mail_networks"),
    *("mail_relays", "mail_access", "mail_tls_policies"),
]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(PLAIN, st.dictionaries(st.sampled_from(PLAIN_VARIABLES), PLAIN))
def test_whatever_yaml_holds_is_checked_without_an_exception(content: object, variables: dict[str, object]) -> None:
    reader = Reader()
    model = check(reader, {**BASE, **variables}, [DomainFile(content, "")])
    assert (model is None) == bool(reader.report.problems)


# -- domains


def test_a_domain_is_folded_and_shown_in_both_forms() -> None:
    assert list(accepted("domain: Bücher.TEST").domains) == ["xn--bcher-kva.test"]
    assert "domain: BÜCHER.test (xn--bcher-kva.test): duplicate of" in problems("domain: bücher.test", "domain: BÜCHER.test")
    assert "duplicate of" in problems("domain: bücher.test", "domain: xn--bcher-kva.test")


def test_the_host_name_is_no_mail_domain() -> None:
    assert "domain: mail.oak.test: this is mail_hostname" in problems("domain: mail.oak.test")


def test_domains_come_from_files_and_from_the_variable() -> None:
    model = accepted("domain: oak.test", mail_domains=[{"domain": "elm.test"}])
    assert list(model.domains) == ["elm.test", "oak.test"]
    assert "domain: oak.test: duplicate of mail_domains[0].domain" in problems("domain: oak.test", mail_domains=[{"domain": "oak.test"}])


def test_a_path_in_the_variable_names_the_entry() -> None:
    assert "mail_domains[1].mailboxes[0].name: a b: space not allowed" in problems(
        mail_domains=[{"domain": "elm.test"}, {"domain": "oak.test", "mailboxes": [{"name": "a b", "password": "x"}]}]
    )


# -- mailboxes


@pytest.mark.parametrize(
    ("mailboxes", "problem"),
    [
        (
            "[{name: a, password_hash: HASH}, {name: A, password_hash: HASH}]",
            "mailboxes[1].name: A: duplicate mailbox, a@oak.test is also at",
        ),
        ("[{name: a, password_hash: HASH, aliases: [a]}]", "mailboxes[0].aliases[0]: a: mailbox and alias have the same address"),
        ("[{name: a, password_hash: HASH, aliases: [b, b]}]", "mailboxes[0].aliases[1]: b: duplicate alias"),
        ("[{name: a, password_hash: HASH, aliases: [b]}, {name: b, password_hash: HASH}]", "mailboxes[1].name: b: mailbox and alias have"),
        ("[{name: a+b, password_hash: HASH}]", "mailboxes[0].name: a+b: holds the recipient delimiter '+'"),
        ("[{name: a@oak.test, password_hash: HASH}]", "character '@' not allowed"),
        ("[{name: 12, password_hash: HASH}]", "mailboxes[0].name: 12: got an integer"),
        ("[{name: a}]", "mailboxes[0]: required key password or password_hash is missing; give one of them"),
        ("[{name: a, password: x, password_hash: HASH}]", "mailboxes[0]: both password and password_hash; remove one"),
        ("[{name: a, password: ''}]", "mailboxes[0].password: ***: empty"),
        ("[{name: a, password: 12345}]", "mailboxes[0].password: ***: got an integer, text is needed; put it in quotes"),
        ("[{name: a, password: [hunter2]}]", "mailboxes[0].password: ***: got a list, text is needed"),
        ("[{name: a, password_hash: hunter2}]", "mailboxes[0].password_hash: ***: scheme missing"),
        ("[{name: a, password_hash: '{PLAIN}hunter2'}]", "mailboxes[0].password_hash: ***: scheme PLAIN is too weak"),
        ("[{name: a, password_hash: HASH, send_only: true, receive_only: true}]", "mailboxes[0]: both send_only and receive_only"),
        ("[{name: a, password_hash: HASH, password_update: never}]", "mailboxes[0].password_update: never: not one of always, on_create"),
    ],
)
def test_a_wrong_mailbox_is_named(mailboxes: str, problem: str) -> None:
    found = problems(f"domain: oak.test\nmailboxes: {mailboxes}")
    assert problem in found
    assert "hunter2" not in found


@pytest.mark.parametrize(("quota", "octets"), [("5G", 5 * 2**30), ("1K", 1024), ("1M", 2**20), ("2T", 2**41), ("unlimited", 0)])
def test_a_quota_is_counted_in_binary_units(quota: str, octets: int) -> None:
    model = accepted(f"domain: oak.test\nmailboxes: [{{name: a, password_hash: HASH, quota: {quota}}}]")
    assert model.mailboxes["a@oak.test"].quota == octets


@pytest.mark.parametrize("quota", ["5g", "-1", "5GB", "1e9", "0", "10E", "1.5G", "5 G", "99999999T", "''", "true", "[1]", "5", "٣G"])
def test_a_quota_without_a_known_unit_is_refused(quota: str) -> None:
    assert "mailboxes[0].quota" in problems(f"domain: oak.test\nmailboxes: [{{name: a, password_hash: HASH, quota: {quota}}}]")


@pytest.mark.parametrize("retention", ["0", "-1d", "30", "never", "1.5d", "true", "[1]", "''"])
def test_a_retention_is_a_time_or_unlimited(retention: str) -> None:
    text = "domain: oak.test\nmailboxes: [{{name: a, password_hash: HASH, junk_retention: {}}}]"
    assert "mailboxes[0].junk_retention" in problems(text.format(retention))
    assert accepted(text.format("2d")).mailboxes["a@oak.test"].junk_retention == 172800
    assert accepted(text.format("unlimited"), mail_junk_retention="1d").mailboxes["a@oak.test"].junk_retention == 0


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("''", "empty script"),
        ("'  '", "empty script"),
        ('"keep;\\0"', "character U+0000"),
        ('"keep;\\uD800"', "character U+D800"),
        ("[keep]", "got a list"),
        ("'require \"vnd.dovecot.pipe\";'", "vnd.dovecot.pipe not allowed"),
        ("'require \"vnd.d\\ovecot.pi\\pe\";'", "vnd.dovecot.pipe not allowed"),
    ],
)
def test_a_script_is_text_and_starts_no_program(script: str, problem: str) -> None:
    assert f"sieve_before: {problem}" in re.sub(
        "sieve_before: .*?: ", "sieve_before: ", problems(f"domain: oak.test\nsieve_before: {script}")
    )


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ("' '", "empty text"),
        ('"a\\0"', "character U+0000 not allowed"),
        ('"a\\rBcc: x"', "character U+000D not allowed"),
        ('"a\\u202Eb"', "character U+202E not allowed"),
        ("[a]", "got a list, text is needed"),
        ("x" * 901, "a word that is too long"),
        ("'" + "x " * 2001 + "'", "longer than 4000 characters"),
    ],
)
def test_a_legal_note_is_lines_of_text(note: str, problem: str) -> None:
    assert problem in problems(f"domain: oak.test\nlegal_note: {note}")
    assert accepted("domain: oak.test\nlegal_note: |\n  a  \n\n  b\n\n").domains["oak.test"].legal_note == "a\n\nb"


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("{name: A}", "public_folders[0]: nobody may see it; give everyone or access"),
        ("{name: A, everyone: own}", "public_folders[0].everyone: own: not one of read, add, write"),
        ("{name: ../A, everyone: read}", "public_folders[0].name: ../A: a level begins or ends with a space or a dot"),
        (
            "{name: A, access: [{who: bbo}]}",
            "public_folders[0].access[0].who: bbo@oak.test: no mailbox or alias bbo@oak.test",
        ),
        ("{name: A, access: [{who: a@elm.test}]}", "public_folders[0].access[0].who: a@elm.test: not an address of oak.test"),
        (
            "{name: A, access: [{who: bob}, {who: bob@oak.test}]}",
            "public_folders[0].access[1].who: bob@oak.test: bob@oak.test is named twice",
        ),
        ("{name: A B, everyone: read, address: a}", "public_folders[0].address: a: a folder with an address has no space and no dot"),
        ("{name: A, everyone: read, address: bob}", "public_folders[0].address: bob: duplicate mailbox"),
        ("{name: A, everyone: read}, {name: A, everyone: add}", "public_folders[1].name: A: duplicate of"),
    ],
)
def test_a_wrong_public_folder_is_named(folder: str, problem: str) -> None:
    domain = f"domain: oak.test\nmailboxes: [{{name: bob, password_hash: HASH}}]\npublic_folders: [{folder}]"
    assert problem in problems(domain, "domain: elm.test\nmailboxes: [{name: a, password_hash: HASH}]")


@pytest.mark.parametrize("level", [0, 101, "80", 80.5, True])
def test_a_quota_warning_is_a_percentage(level: object) -> None:
    assert "mail_quota_warnings[0]" in problems(mail_quota_warnings=[level])
    assert accepted(mail_quota_warnings=[90, 50, 90]).settings["quota_warnings"] == [90, 50]


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        (
            [{"name": "a", "password_hash": HASH[1:-1]}, {"name": "a", "password_hash": HASH[1:-1]}],
            "mail_master_users[1].name: a: duplicate of",
        ),
        ([{"name": "a", "password_hash": "hunter2"}], "mail_master_users[0].password_hash: ***: scheme missing"),
        ([{"name": "a", "password_hash": "{PLAIN}hunter2"}], "mail_master_users[0].password_hash: ***: scheme PLAIN is too weak"),
        ([{"name": "a"}], "mail_master_users[0]: required key password_hash is missing"),
        ([{"name": "a@oak.test", "password_hash": HASH[1:-1]}], "mail_master_users[0].name: a@oak.test"),
        ([{"name": "a:b", "password_hash": HASH[1:-1]}], "mail_master_users[0].name: a:b"),
    ],
)
def test_a_wrong_master_user_is_named(users: list[dict[str, str]], problem: str) -> None:
    found = problems(mail_master_users=users)
    assert problem in found
    assert "hunter2" not in found


def test_a_quota_falls_back_to_the_domain_and_then_to_the_default() -> None:
    mailboxes = "mailboxes: [{name: a, password_hash: HASH}]"
    assert accepted(f"domain: oak.test\n{mailboxes}").mailboxes["a@oak.test"].quota == 5 * 2**30
    assert accepted(f"domain: oak.test\n{mailboxes}", mail_default_quota="1G").mailboxes["a@oak.test"].quota == 2**30
    assert accepted(f"domain: oak.test\nquota: 3M\n{mailboxes}").mailboxes["a@oak.test"].quota == 3 * 2**20


def test_a_password_in_clear_needs_a_vault_or_the_flag() -> None:
    text = "domain: oak.test\nmailboxes: [{name: a, password: hunter2}]"
    assert problems(text, in_clear=False) == ""
    assert problems(text, in_clear=True).startswith("mailboxes[0].password: ***: password in clear in an unencrypted file; encrypt it")
    assert problems(text, in_clear=True, mail_allow_plaintext_passwords=True) == ""


def test_allowed_weak_hashes_are_listed() -> None:
    weak = "'{SHA512-CRYPT}$6$salt$" + "x" * 86 + "'"
    _, found, warnings = read(f"domain: oak.test\nmailboxes: [{{name: a, password_hash: {weak}, allow_weak_hash: true}}]")
    assert found == []
    assert warnings == ["1 mailboxes have weak password hashes (allow_weak_hash): a@oak.test"]


# -- aliases


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ("[{name: a, to: [a]}]", "aliases[0].to: a@oak.test: a@oak.test is an alias of itself and no mailbox receives its mail"),
        ("[{name: a, to: [b]}, {name: b, to: [a]}]", "alias loop a@oak.test → b@oak.test → a@oak.test"),
        ("[{name: a, to: [b]}, {name: b, to: [c]}, {name: c, to: [a]}]", "loop a@oak.test → b@oak.test → c@oak.test → a@oak.test"),
        ("[{name: a, to: [b+x]}, {name: b, to: [a+y]}]", "alias loop a@oak.test → b@oak.test → a@oak.test"),
        ("[{name: a, to: [a+tag]}]", "a@oak.test is an alias of itself"),
        ("[{name: a, to: [elsewhere@elm.test]}]", "alias loop a@oak.test → @elm.test → a@oak.test"),
        ("[{name: a, to: [alcie]}]", "aliases[0].to[0]: alcie@oak.test: no mailbox or alias alcie@oak.test; did you mean alice@oak.test?"),
        ("[{name: alice, to: [x@good.test]}]", "aliases[0].name: alice: mailbox and alias have the same address"),
        ("[{name: a, to: [alice]}, {name: A, to: [alice]}]", "aliases[1].name: A: duplicate alias, a@oak.test is also at"),
        ("[{name: a+x, to: [alice]}]", "aliases[0].name: a+x: holds the recipient delimiter"),
        ("[{name: a@elm.test, to: [alice]}]", "aliases[0].name: a@elm.test: character '@' not allowed"),
        ("[{name: '.*', to: [alice]}]", "aliases[0].name: .*:"),
        ("[{name: '@oak.test', to: [alice]}]", "aliases[0].name: @oak.test:"),
        ("[{name: a, to: ['|/bin/sh']}]", "aliases[0].to[0]: |/bin/sh: commands, files and included lists are not supported"),
        ("[{name: a, to: ['/dev/null']}]", "aliases[0].to[0]: /dev/null: commands, files"),
        ("[{name: a, to: [':include:/etc/passwd']}]", "commands, files"),
        ("[{name: a, to: [a b@good.test]}]", "aliases[0].to[0]: a b@good.test: space not allowed"),
        ("[{name: a, to: ['${x}@good.test']}]", "character '$' not allowed"),
        ("[{name: a, to: [robot]}]", "aliases[0].to[0]: robot@oak.test: robot@oak.test is send_only and receives nothing"),
    ],
)
def test_a_wrong_alias_is_named(aliases: str, problem: str) -> None:
    oak = f"""
domain: oak.test
mailboxes: [{{name: alice, password_hash: HASH}}, {{name: robot, password_hash: HASH, send_only: true}}]
aliases: {aliases}
"""
    elm = "domain: elm.test\ncatch_all: " + ("a@oak.test" if "elsewhere" in aliases else "x@good.test")
    assert problem in problems(oak, elm)


def test_a_loop_is_reported_once() -> None:
    assert len(problems("domain: oak.test\naliases: [{name: a, to: [b]}, {name: b, to: [a]}, {name: c, to: [a, b]}]").splitlines()) == 1


def test_targets_reach_other_domains_tags_nested_aliases_and_patterns() -> None:
    model = accepted(
        ALICE + "aliases: [{name: a, to: [alice+tag, b, bob@Elm.TEST, ticket-1, X@Good.test, alice+tag]}, {name: B, to: [Alice]}]\n"
        "alias_patterns: [{pattern: 'ticket-[0-9]+', to: [alice]}]",
        "domain: elm.test\nmailboxes: [{name: bob, password_hash: HASH}]",
    )
    assert model.aliases["a@oak.test"].to == [
        "alice+tag@oak.test",
        "b@oak.test",
        "bob@elm.test",
        "ticket-1@oak.test",
        "X@good.test",
    ]
    assert model.aliases["b@oak.test"].to == ["alice@oak.test"]


def test_the_expansion_limit_is_counted_as_postfix_counts() -> None:
    """Every branch counts, one that two aliases share twice; the limit itself is allowed."""
    members = ", ".join(f"m{number}@good.test" for number in range(5))
    text = f"domain: oak.test\naliases: [{{name: a, to: [{members}]}}, {{name: b, to: [a, x@good.test]}}, {{name: c, to: [a, b]}}]"
    assert problems(text, mail_alias_expansion_limit=11) == ""
    assert problems(text, mail_alias_expansion_limit=10) == (
        "aliases[2].to: c@oak.test becomes 11 addresses, the limit is 10; use fewer members or raise mail_alias_expansion_limit"
    )


@pytest.mark.parametrize("length", [100, 101, 5000])
def test_a_chain_has_a_limit(length: int) -> None:
    aliases = [{"name": f"a{number}", "to": [f"a{number + 1}"]} for number in range(length - 1)]
    aliases.append({"name": f"a{length - 1}", "to": ["x@good.test"]})
    reader = Reader()
    check(reader, BASE, [DomainFile({"domain": "oak.test", "aliases": aliases}, "")])
    found = [problem.reason for problem in reader.report.problems]
    assert len(found) == max(0, length - 100)
    if found:
        assert f"a chain of {length} aliases, the limit is 100" in found


def test_a_catch_all_must_exist() -> None:
    assert "catch_all: nobody@oak.test: no mailbox or alias nobody@oak.test" in problems("domain: oak.test\ncatch_all: nobody")
    assert accepted(ALICE + "catch_all: alice").aliases["@oak.test"].to == ["alice@oak.test"]


def test_catch_alls_that_pass_mail_round_are_a_loop() -> None:
    assert "alias loop @oak.test → @elm.test → @oak.test" in problems(
        "domain: oak.test\ncatch_all: x@elm.test", "domain: elm.test\ncatch_all: y@oak.test"
    )


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (".*", "matches alice@oak.test, which is declared"),
        ("al.ce", "matches alice@oak.test, which is declared"),
        ("alice.+", "matches alice@oak.test, which is declared"),
        ("post.*", "matches postmaster@oak.test, which is declared"),
        ("^x", "not allowed in a pattern"),
    ],
)
def test_a_pattern_leaves_declared_names_alone(pattern: str, problem: str) -> None:
    assert problem in problems(f"{ALICE}alias_patterns: [{{pattern: '{pattern}', to: [alice]}}]")


def test_a_misspelt_foreign_domain_is_asked_about() -> None:
    _, found, warnings = read("domain: example.test\naliases: [{name: a, to: [bob@exmaple.test]}]")
    assert found == []
    assert warnings == ["aliases[0].to[0]: bob@exmaple.test: not a domain of this inventory; did you mean example.test?"]


# -- RFC 2142


def test_every_domain_has_the_names_of_rfc_2142() -> None:
    model = accepted(ALICE + "aliases: [{name: abuse, to: [alice]}]", "domain: elm.test", mail_postmaster="alice@oak.test")
    for domain in ("oak.test", "elm.test"):
        for name in RFC_2142_NAMES:
            assert model.aliases[f"{name}@{domain}"].to == ["alice@oak.test"]


def test_declared_names_of_rfc_2142_stay_what_they_are() -> None:
    model = accepted(
        "domain: oak.test\nmailboxes: [{name: alice, password_hash: HASH, aliases: [hostmaster]}, {name: webmaster, password_hash: HASH}]\n"
        "aliases: [{name: abuse, to: [x@good.test]}]"
    )
    assert model.aliases["abuse@oak.test"].to == ["x@good.test"]
    assert model.aliases["hostmaster@oak.test"].to == ["alice@oak.test"]
    assert "webmaster@oak.test" not in model.aliases
    assert model.aliases["postmaster@oak.test"].to == ["root@good.test"]


def test_the_postmaster_must_exist_and_receive() -> None:
    assert problems("domain: oak.test", mail_postmaster="postmaster@oak.test") == (
        "mail_postmaster: postmaster@oak.test: no mailbox or alias postmaster@oak.test; declare it, or remove it here"
    )
    robot = "domain: oak.test\nmailboxes: [{name: robot, password_hash: HASH, send_only: true}]"
    assert "mail_postmaster: robot@oak.test: robot@oak.test is send_only" in problems(robot, mail_postmaster="robot@oak.test")
    assert "alias loop" in problems("domain: oak.test\naliases: [{name: abuse, to: [webmaster]}]", mail_postmaster="abuse@oak.test")


# -- shared variables


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("mail_hostname", "mail", "mail_hostname: mail: a single label"),
        ("mail_hostnames", ["a b"], "mail_hostnames[0]: a b: space not allowed"),
        ("mail_postmaster", "root", "mail_postmaster: root: no '@'"),
        ("mail_domains", {}, "mail_domains: got a mapping, a list is needed"),
        ("mail_default_quota", "5GB", "mail_default_quota: 5GB: not a size"),
        ("mail_message_size_limit", "unlimited", "mail_message_size_limit: unlimited: not a size"),
        ("mail_recipient_delimiter", "+-", "mail_recipient_delimiter: +-: not one of"),
        ("mail_queue_lifetime", "5", "mail_queue_lifetime: 5: not a time"),
        ("mail_queue_lifetime", 5, "mail_queue_lifetime: 5: not a time"),
        ("mail_bounce_lifetime", "6d", "mail_bounce_lifetime: longer than mail_queue_lifetime"),
        (
            "mail_tls_profile",
            "intermdiate",
            "mail_tls_profile: intermdiate: not one of modern, intermediate, old; did you mean intermediate?",
        ),
        ("mail_spam", "hihg", "mail_spam: hihg: no such preset; there are verylow, low, medium, high, veryhigh; did you mean high?"),
        ("mail_spam", {"greylist": 4, "junk": 3, "reject": 15}, "mail_spam: the scores must rise"),
        ("mail_spam", {"greylist": 4, "junk": 6}, "mail_spam: required key reject is missing"),
        ("mail_spam", {"greylist": "4", "junk": 6, "reject": 9}, "mail_spam.greylist: 4: got text, a number is needed"),
        ("mail_dkim_keys", [{"selector": "A"}], "mail_dkim_keys[0].selector: A: not one DNS label"),
        ("mail_dkim_keys", [{"selector": "a.b/.."}], "mail_dkim_keys[0].selector: a.b/..: not one DNS label"),
        ("mail_dkim_keys", [{"selector": "A", "bits": 1024}], "mail_dkim_keys[0].bits: 1024: not between 2048 and 4096"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "x", "port": 0}], "mail_transports[0].port: 0: not a port"),
        ("mail_dkim_keys", [{"selector": "a"}, {"selector": "a"}], "mail_dkim_keys[1].selector: a: duplicate of"),
        ("mail_dkim_keys", [{"bits": 2048}, {"bits": 3072}], "mail_dkim_keys[1].selector: missing, as in mail_dkim_keys[0]"),
        ("mail_dkim_keys", [{"private_key": "hunter2"}], "mail_dkim_keys[0].selector: missing; a given key needs the selector"),
        ("mail_domains", [{"domain": "oak.test", "dkim": [{"shared": True}]}], "mail_domains[0].dkim[0].shared: unknown key"),
        ("mail_dkim_keys", [{"selector": "a", "bits": 1024}], "mail_dkim_keys[0].bits: 1024: not between 2048 and 4096"),
        ("mail_dkim_keys", [{"selector": "a", "bits": 8192}], "mail_dkim_keys[0].bits: 8192: not between 2048 and 4096"),
        ("mail_dkim_keys", [{"selector": "a", "algorithm": "ed25519", "bits": 256}], "mail_dkim_keys[0].bits: 256: an Ed25519 key has"),
        ("mail_dkim_keys", [{"selector": "a", "algorithm": "dsa"}], "mail_dkim_keys[0].algorithm: dsa: not one of rsa, ed25519"),
        ("mail_dkim_keys", [{"selector": "a", "private_key": "hunter2"}], "mail_dkim_keys[0].private_key: ***: not PEM"),
        (
            "mail_transports",
            [{"destination": "a.test", "next_hop": "[b.test]", "port": 99999}],
            "mail_transports[0].port: 99999: not a port",
        ),
        ("mail_transports", [{"destination": "a.test", "next_hop": "[b.test]", "port": 0}], "mail_transports[0].port: 0: not a port"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "[b.test]", "port": "abc"}], "port: abc: got text, a whole number"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "[b.test"}], "mail_transports[0].next_hop: [b.test: '[' without ']'"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "$(id)"}], "character '$' not allowed"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "b.test", "transport": "pipe"}], "transport: pipe: not one of smtp,"),
        ("mail_transports", [{"destination": "*", "next_hop": "b.test"}], "mail_transports[0].destination: *: '*' would route"),
        ("mail_transports", [{"destination": "oak.test", "next_hop": "b.test"}], "destination: oak.test: a domain of our own"),
        ("mail_transports", [{"destination": "a@oak.test", "next_hop": "b.test"}], "destination: a@oak.test: a domain of our own"),
        ("mail_transports", [{"destination": "a.test", "next_hop": "[mail.oak.test]"}], "this host itself: mail would loop"),
        (
            "mail_transports",
            [{"destination": "a.test", "next_hop": "b.test"}, {"destination": "A.test", "next_hop": "c.test"}],
            "mail_transports[1].destination: a.test: duplicate of",
        ),
        ("mail_tls_policies", [{"destination": "a.test", "level": "verfiy"}], "level: verfiy: not one of none,"),
        ("mail_tls_policies", [{"destination": "a.test", "level": "none"}], "mail_tls_policies[0].level: none: mail would go in clear"),
        ("mail_tls_policies", [{"destination": "a.test", "level": "may", "match": ["b.test"]}], "the level may has no match"),
        ("mail_tls_policies", [{"destination": "a.test", "level": "secure", "match": ["b.test\nx"]}], "match[0]: b.test\\u000ax: control"),
        ("mail_tls_policies", [{"destination": "[a.test]:0", "level": "secure"}], "not a port"),
        ("mail_networks", ["0.0.0.0/0"], "mail_networks[0]: 0.0.0.0/0: would make an open relay"),
        ("mail_alias_expansion_limit", 0, "mail_alias_expansion_limit: 0: not between 1 and 1000"),
        ("mail_hide_secrets", "yes", "mail_hide_secrets: yes: got text, true or false is needed"),
    ],
)
def test_a_wrong_shared_variable_is_named(variable: str, value: object, problem: str) -> None:
    found = problems("domain: oak.test", **{variable: value})
    assert problem in found.replace('"', "").replace("\\n", "\\u000a")
    assert "hunter2" not in found


def test_settings_are_normalised() -> None:
    settings = accepted(
        "domain: oak.test",
        mail_hostname="Mail.OAK.test",
        mail_hostnames=["Web.bücher.test"],
        mail_message_size_limit="20M",
        mail_queue_lifetime="1d 12h",
        mail_networks=["2001:DB8::/64"],
        mail_spam={"greylist": 1, "junk": 2, "reject": 3},
        mail_tls_policies=[{"destination": "[A.test]:587", "level": "secure", "match": ["b.test", ".c.test"]}],
    ).settings
    assert settings["hostname"] == "mail.oak.test"
    assert settings["hostnames"] == ["web.xn--bcher-kva.test"]
    assert settings["message_size_limit"] == 20 * 2**20
    assert settings["queue_lifetime"] == 129600
    assert settings["bounce_lifetime"] == 86400
    assert settings["networks"] == ["2001:db8::/64"]
    assert settings["spam"] == {"greylist": 1.0, "junk": 2.0, "reject": 3.0}
    assert settings["tls_policies"] == [{"destination": "[a.test]:587", "level": "secure", "match": ["b.test", ".c.test"]}]
    assert settings["recipient_delimiter"] == "+"


def test_without_a_delimiter_a_plus_is_part_of_the_name() -> None:
    model = accepted("domain: oak.test\nmailboxes: [{name: a+b, password_hash: HASH}]", mail_recipient_delimiter="")
    assert list(model.mailboxes) == ["a+b@oak.test"]


def test_a_domain_has_the_common_keys_its_own_or_none() -> None:
    model = accepted("domain: oak.test", "domain: elm.test\ndkim: false", "domain: ash.test\ndkim: [{selector: mine, algorithm: ed25519}]")
    assert [(key["selector"], key["algorithm"]) for key in model.domains["oak.test"].dkim_keys] == [(None, "rsa"), (None, "ed25519")]
    assert model.domains["elm.test"].dkim_keys == []
    assert model.domains["ash.test"].dkim_keys == [
        {"selector": "mine", "algorithm": "ed25519", "bits": None, "private_key": None, "shared": False}
    ]


def test_a_target_that_looks_like_a_misspelt_name_is_asked_about_where_the_catch_all_hides_it() -> None:
    _, found, warnings = read(ALICE + "catch_all: alice\naliases: [{name: a, to: [alcie]}]")
    assert found == []
    assert warnings == ["aliases[0].to[0]: alcie@oak.test: reaches the catch-all only; did you mean alice@oak.test?"]


# -- routes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "relay: {next_hop: '[b.test]'}",
            "relay: it is not said which recipients exist, so mail to others would be accepted and then bounced",
        ),
        ("relay: {port: 25}\nverify_recipients: true", "relay: required key next_hop is missing"),
        ("relay: {next_hop: b test}\nverify_recipients: true", "relay.next_hop: b test: space not allowed"),
        ("relay: {next_hop: '[b.test]', port: 0}\nverify_recipients: true", "relay.port: 0: not a port from 1 to 65535"),
        ("relay: {next_hop: '[b.test]', tls: verfiy}\nverify_recipients: true", "relay.tls: verfiy: not one of may,"),
        ("relay: {next_hop: '[b.test]', tls: none}\nverify_recipients: true", "relay.tls: none: not one of may,"),
        ("relay: {next_hop: '[192.0.2.1]', tls: secure}\nverify_recipients: true", "[192.0.2.1] is an address: there is no name"),
        (
            "relay: {next_hop: '[mail.oak.test]'}\nverify_recipients: true",
            "relay.next_hop: [mail.oak.test]: this host itself: mail would loop",
        ),
        ("relay: b.test\nverify_recipients: true", "relay: b.test: got text, a mapping with the keys next_hop,"),
        ("relay: {next_hop: '[b.test]'}\nverify_recipients: true\nrecipients: [a]", "recipients: both recipients and verify_recipients"),
        ("relay: {next_hop: '[b.test]'}\nrecipients: []", "recipients: empty list of recipients"),
        ("relay: {next_hop: '[b.test]'}\nrecipients: [a, A]", "recipients[1]: a: duplicate of recipients[0]"),
        ("relay: {next_hop: '[b.test]'}\nrecipients: [a b]", "recipients[0]: a b: space not allowed"),
        (
            "relay: {next_hop: '[b.test]'}\nrecipients: [a]\nmailboxes: [{name: a, password_hash: HASH}]",
            "mailboxes: not for a relayed domain",
        ),
        ("relay: {next_hop: '[b.test]'}\nrecipients: [a]\ncatch_all: x@y.test", "catch_all: not for a relayed domain"),
        ("relay: {next_hop: '[b.test]'}\nrecipients: [a]\ndkim: []", "dkim: not for a relayed domain"),
        ("recipients: [a]", "recipients: only for a relayed domain"),
        ("verify_recipients: true", "verify_recipients: true: only for a relayed domain"),
    ],
)
def test_a_wrong_relayed_domain_is_named(text: str, problem: str) -> None:
    assert problem in problems(f"domain: ash.test\n{text}")


RELAYED = "domain: ash.test\nrelay: {next_hop: '[b.test]'}\nrecipients: [zoe]"


def test_a_domain_is_delivered_here_or_relayed() -> None:
    assert "domain: Ash.test (ash.test): duplicate of domain, a relayed domain" in problems(RELAYED, "domain: Ash.test")
    assert "domain: ash.test: duplicate of domain" in problems("domain: ash.test", RELAYED)
    assert "domain: mail.oak.test: this is mail_hostname" in problems(RELAYED.replace("ash", "mail.oak"))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("zoe@ash.test", ""),
        ("zoe+tag@ash.test", ""),
        ("abuse@ash.test", ""),
        ("zoeh@ash.test", "aliases[0].to[0]: zoeh@ash.test: not among the recipients of that relayed domain; did you mean zoe?"),
    ],
)
def test_an_alias_into_a_relayed_domain_ends_in_a_known_recipient(target: str, problem: str) -> None:
    found = problems(ALICE + f"aliases: [{{name: a, to: [{target}]}}]", RELAYED)
    assert (problem in found) if problem else not found


TRANSPORT = {"destination": "a.test", "next_hop": "[b.test]"}
SMARTHOST = {"next_hop": "[smart.test]", "port": 587, "user": "relay", "password": "hunter2"}
ADDRESSED = {**SMARTHOST, "next_hop": "[192.0.2.1]"}


@pytest.mark.parametrize(
    ("variable", "entries", "problem"),
    [
        ("mail_transports", [{"destination": "a.test"}], "mail_transports[0]: required key next_hop is missing; only a slow lane"),
        ("mail_transports", [{"destination": "a.test", "transport": "turtle", "port": 25}], "[0].port: 25: a port without next_hop"),
        ("mail_transports", [{**TRANSPORT, "destination": "ash.test"}], "destination: ash.test: a relayed domain, declared at"),
        ("mail_transports", [{**TRANSPORT, "destination": "x@ash.test"}], "destination: x@ash.test: a relayed domain, declared at"),
        ("mail_transports", [{**TRANSPORT, "destination": "mail.oak.test"}], "destination: mail.oak.test: a domain of our own"),
        ("mail_tls_policies", [{"destination": "[192.0.2.1]", "level": "verify"}], "level: [192.0.2.1] is an address"),
        ("mail_relays", [SMARTHOST, SMARTHOST], "mail_relays[1]: a smarthost for everything else is also declared at mail_relays[0]"),
        ("mail_relays", [{**SMARTHOST, "sender": s} for s in ("A.test", "a.test")], "mail_relays[1]: a.test is also declared at"),
        ("mail_relays", [{**SMARTHOST, "sender": "a.test", "recipient": "b.test"}], "mail_relays[0]: both sender and recipient"),
        ("mail_relays", [{**SMARTHOST, "sender": "*"}], "mail_relays[0].sender: *: wildcards are not supported"),
        ("mail_relays", [{**SMARTHOST, "recipient": "oak.test"}], "mail_relays[0].recipient: oak.test: a domain of our own"),
        ("mail_relays", [{**SMARTHOST, "recipient": "*"}], "mail_relays[0].recipient: *: '*' would route"),
        ("mail_relays", [{**SMARTHOST, "recipient": "ash.test"}], "recipient: ash.test: a relayed domain"),
        ("mail_relays", [{**SMARTHOST, "next_hop": "[smart.test"}], "next_hop: [smart.test: '[' without ']'"),
        ("mail_relays", [{**SMARTHOST, "next_hop": "[mail.oak.test]"}], "next_hop: [mail.oak.test]: this host itself"),
        ("mail_relays", [{**SMARTHOST, "port": 99999}], "port: 99999: not a port"),
        ("mail_relays", [{**SMARTHOST, "port": 465}], "port: 465: TLS from the first octet is not supported here"),
        ("mail_relays", [{**SMARTHOST, "tls": "may"}], "tls: may: with may the password could go in clear"),
        ("mail_relays", [ADDRESSED], "[192.0.2.1] is an address: there is no name to compare its certificate with"),
        ("mail_relays", [{"next_hop": "[smart.test]", "user": "relay"}], "mail_relays[0]: user without password"),
        ("mail_relays", [{"next_hop": "[smart.test]", "password": "hunter2"}], "mail_relays[0]: password without user"),
        ("mail_relays", [{**SMARTHOST, "user": "a:b"}], "mail_relays[0].user: a:b: character ':' not allowed"),
        ("mail_relays", [{**SMARTHOST, "password": "hunter2\nx y"}], "mail_relays[0].password: ***: a character that is not printable"),
        ("mail_relays", [{**SMARTHOST, "password": "hunter2  x"}], "mail_relays[0].password: ***: a space at an end"),
        ("mail_relays", [{**SMARTHOST, "password": ""}], "mail_relays[0].password: ***: empty"),
        (
            "mail_relays",
            [SMARTHOST, {**SMARTHOST, "recipient": "b.test", "user": "x"}],
            "mail_relays[1]: another login at [smart.test]:587 is declared at mail_relays[0]",
        ),
        (
            "mail_relays",
            [SMARTHOST, {**SMARTHOST, "sender": "b.test", "tls": "encrypt"}],
            "mail_relays[1].tls: encrypt: the TLS policy of [smart.test]:587 is also declared at mail_relays[0]",
        ),
        ("mail_access", [{"action": "block"}], "mail_access[0]: nobody is named"),
        ("mail_access", [{"action": "deny", "sender": "a.test"}], "mail_access[0].action: deny: not one of allow, block"),
        ("mail_access", [{"action": "block", "client": "192.0.2.1", "sender": "a.test"}], "mail_access[0]: client, sender together"),
        ("mail_access", [{"action": "block", "client": "192.0.2.1/24"}], "client: 192.0.2.1/24: host bits are set; write 192.0.2.0/24"),
        ("mail_access", [{"action": "allow", "client": "0.0.0.0/0"}], "mail_access[0].client: 0.0.0.0/0: it is everybody"),
        ("mail_access", [{"action": "block", "client": "192.0.2"}], "client: 192.0.2: neither an address nor a network"),
        ("mail_access", [{"action": "block", "sender": "top"}], "mail_access[0].sender: top: a single label"),
        ("mail_access", [{"action": "block", "sender": ".t$p"}], "mail_access[0].sender: .t$p: character '$' not allowed"),
        ("mail_access", [{"action": "block", "helo": "a b"}], "mail_access[0].helo: a b: space not allowed"),
        (
            "mail_access",
            [{"action": "block", "recipient": "x@oka.test"}],
            "x@oka.test: not a domain of this inventory; did you mean oak.test?",
        ),
        (
            "mail_access",
            [{"action": "allow", "sender": "a.test", "reply": "550 5.7.1 x"}],
            "mail_access[0].reply: 550 5.7.1 x: what is allowed",
        ),
        ("mail_access", [{"action": "block", "sender": "a.test", "reply": "No"}], "mail_access[0].reply: No: not a reply in the form"),
        (
            "mail_access",
            [{"action": "block", "sender": "a.test", "reply": "550 4.7.1 No"}],
            "the codes 550 and 4.7.1 contradict each other",
        ),
        (
            "mail_access",
            [{"action": "block", "sender": "a.test", "reply": "250 2.0.0 Yes"}],
            "reply: 250 2.0.0 Yes: not a reply in the form",
        ),
        ("mail_access", [{"action": "block", "sender": "a.test", "reply": "550 5.7.1 $x}"}], "not a reply in the form 554 5.7.1 Text"),
        ("mail_access", [{"action": a, "sender": "a.test"} for a in ("allow", "block")], "mail_access[1]: a.test is also declared at"),
    ],
)
def test_a_wrong_route_is_named(variable: str, entries: list[object], problem: str) -> None:
    found = problems("domain: oak.test", RELAYED, **{variable: entries})
    assert problem in found.replace('"', "")
    assert "hunter2" not in found


def test_the_tls_to_a_next_hop_is_said_once() -> None:
    policy = [{"destination": "[smart.test]:587", "level": "encrypt"}]
    assert "the TLS policy of [smart.test]:587 is also declared at mail_tls_policies[0]" in problems(
        mail_relays=[SMARTHOST], mail_tls_policies=policy
    )


def test_a_smarthosts_password_does_not_stand_in_clear() -> None:
    _, found, _ = read("domain: oak.test", in_clear=True, mail_relays=[SMARTHOST])
    assert found == ["mail_relays[0].password: ***: password in clear in an unencrypted file; encrypt it with ansible-vault"]
    assert read("domain: oak.test", in_clear=True, mail_relays=[SMARTHOST], mail_allow_plaintext_passwords=True)[1] == []


def test_the_password_of_a_smarthost_is_not_among_the_settings() -> None:
    model = accepted("domain: oak.test", mail_relays=[SMARTHOST])
    assert "hunter2" not in repr(model)


# -- policy


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"mail_helo": {"level": "stric"}}, "mail_helo.level: stric: not one of lenient, rfc, strict; did you mean strict?"),
        ({"mail_helo": {"exceptions": ["a b"]}}, "mail_helo.exceptions[0]: a b: space not allowed"),
        ({"mail_helo": {"exception_patterns": ["(a"]}}, "mail_helo.exception_patterns[0]: (a: not a regular expression"),
        ({"mail_helo": {"exception_patterns": ["a/ OK"]}}, "mail_helo.exception_patterns[0]: a/ OK: "),
        ({"mail_missing_headers": {"to": "reject"}}, "mail_missing_headers.to: unknown key; the keys are from, date"),
        ({"mail_missing_headers": {"date": "discard"}}, "mail_missing_headers.date: discard: not one of score, reject"),
        ({"mail_filter": [{"action": "allow"}]}, "mail_filter[0]: nobody is named; name one of client, sender, recipient"),
        (
            {"mail_filter": [{"action": "allow", "sender": "a.test", "recipient": "oak.test"}]},
            "mail_filter[0]: sender, recipient together; name one of",
        ),
        (
            {"mail_filter": [{"action": "block", "recipient": "oak.test"}]},
            "mail_filter[0].recipient: oak.test: the filter blocks by sender, not by recipient; mail_access does",
        ),
        (
            {"mail_filter": [{"action": "allow", "recipient": "oka.test"}]},
            "oka.test: not a domain of this inventory; did you mean oak.test?",
        ),
        (
            {"mail_filter": [{"action": "allow", "sender": "A.test"}, {"action": "allow", "sender": "a.test"}]},
            "mail_filter[1]: a.test is also declared at ",
        ),
        ({"mail_filter": [{"action": "allow", "client": "0.0.0.0/0"}]}, "mail_filter[0].client: 0.0.0.0/0: it is everybody"),
        ({"mail_antivirus": {"action": "delete"}}, "mail_antivirus.action: delete: not one of none, reject, quarantine, tag"),
        ({"mail_antivirus": {"action": "quarantine"}}, "mail_quarantine: mailbox is missing; name the mailbox"),
        ({"mail_antivirus": {"action": "reject", "updates": False}}, "mail_antivirus: neither updates nor signatures; nothing would be"),
        ({"mail_antivirus": {"signatures": [{"name": "../x.ndb", "text": "x"}]}}, "signatures[0].name: ../x.ndb: not a file name"),
        ({"mail_antivirus": {"signatures": [{"name": "main.cvd", "text": "x"}]}}, "not a format that ClamAV reads as text: cdb, "),
        ({"mail_antivirus": {"signatures": [{"name": "x.ndb", "text": " "}]}}, "empty; ClamAV does not start"),
        ({"mail_antivirus": {"signatures": 2 * [{"name": "x.ndb", "text": "x"}]}}, "signatures[1].name: x.ndb: duplicate of "),
        ({"mail_quarantine": {"spam": True}}, "mail_quarantine: mailbox is missing"),
        ({"mail_quarantine": {"mailbox": "nobody@oak.test"}}, "mail_quarantine.mailbox: nobody@oak.test: nobody@oak.test is not a mailbox"),
        ({"mail_quarantine": {"mailbox": "alice@oak.test"}}, "the quarantine has a quota: what no more fits would go back to forged"),
        ({"mail_attachments": {"refuse": ["executable"]}}, "mail_attachments.refuse[0]: executable: not one of executables, "),
        ({"mail_attachments": {"extensions": [".exe"]}}, "extensions[0]: .exe: not an extension: letters, digits, _ and -; write exe"),
        ({"mail_attachments": {"types": ['x"/y']}}, "not a MIME type; such as application/zip or video/*"),
        ({"mail_blocklists": [{"zone": "l.test", "score": 1}]}, "mail_blocklists[0]: required key of is missing"),
        ({"mail_blocklists": [{"zone": "l.test", "of": ["url"], "score": 1}]}, "of[0]: url: not one of client, "),
        ({"mail_blocklists": [{"zone": "l.test", "of": ["urls"], "score": 1, "answers": ["127.255.255.1"]}]}, "tell of errors"),
        ({"mail_blocklists": [{"zone": "l.test", "of": ["urls"], "score": 1, "answers": ["10.0.0.1"]}]}, "not in 127.0.0.0/8"),
        ({"mail_blocklists": [{"zone": 'l"; }.test', "of": ["urls"], "score": 1}]}, "mail_blocklists[0].zone: "),
        ({"mail_blocklists": 2 * [{"zone": "l.test", "of": ["urls"], "score": 1}]}, "mail_blocklists[1].zone: l.test: duplicate of "),
        (
            {"mail_blocklists": [{"zone": "l.test", "of": ["urls"], "score": 15}]},
            "mail_blocklists[0].score: 15.0: one list alone would refuse mail: some mail is refused from 15 points; give it fewer points",
        ),
        ({"mail_origins": {"countries": ["CN"]}}, "countries: got a list, a mapping of names to numbers is needed; such as {CN: 0.5}"),
        ({"mail_origins": {"countries": {"cn": 1}}}, "mail_origins.countries.cn: cn: not a country code of ISO 3166; write CN"),
        ({"mail_origins": {"countries": {"UK": 1}}}, "UK: not a country code of ISO 3166; write GB"),
        ({"mail_origins": {"countries": {"ZZ": 1}}}, "ZZ: not a country code of ISO 3166; such as CN"),
        ({"mail_origins": {"countries": {False: 1}}}, 'without quotes this is a boolean in YAML, not Norway; write "NO"'),
        ({"mail_origins": {"countries": {"CN": "much"}}}, "mail_origins.countries.CN: much: got text, a number is needed"),
        ({"mail_origins": {"networks": {64500: 1}}}, "mail_origins.networks.64500: 64500: AS and a number are needed; write AS64500"),
        ({"mail_origins": {"networks": {"as64500": 1}}}, "AS and a number are needed; write AS64500"),
        ({"mail_origins": {"networks": {"AS4294967296": 1}}}, "not the number of an autonomous system; such as AS64500"),
        ({"mail_origins": {"networks": {"AS1 /etc": 1}}}, "not the number of an autonomous system"),
        (
            {"mail_origins": {"countries": {"CN": 15, "RU": 1}}},
            "mail_origins.countries.CN: 15.0: the origin alone would refuse mail: some mail is refused",
        ),
        ({"mail_origins": {"countries": {"CN": 9}, "networks": {"AS1": 6}}}, "mail_origins: a country and a network together would refuse"),
        ({"mail_spam_marks": {"subject": "two\nlines"}}, "not text in one line of at most 40"),
        ({"mail_spam_marks": {"subject": " "}}, "not text in one line"),
        ({"mail_spam_marks": {"subject": "[" + 20 * "ü"}}, "of at most 40 octets; such as [SPAM]"),
        (
            {"mail_spam_scores": {"symbols": ["A"]}},
            "symbols: got a list, a mapping of names to numbers is needed; such as {MISSING_TO: 0.5}",
        ),
        ({"mail_spam_scores": {"symbols": {"A": "much"}}}, "mail_spam_scores.symbols.A: much: got text, a number is needed"),
        ({"mail_spam_scores": {"symbols": {'A"}': 1}}}, "not a name of Rspamd's: letters, digits and _ . -"),
        ({"mail_spam_scores": {"groups": {"headers": 0}}}, "mail_spam_scores.groups.headers: 0.0: not above zero: it is the most"),
        ({"rspamd_bayes_autolearn": {"spam": -6}}, "rspamd_bayes_autolearn: ham (-5) is not below spam (-6); write them as in"),
        ({"rspamd_bayes_autolearn": {"spam": 8, "ham": 8}}, "rspamd_bayes_autolearn: ham (8) is not below spam (8)"),
        (
            {"rspamd_bayes_autolearn": {"spam": 5.5}},
            "rspamd_bayes_autolearn.spam: 5.5: mail_spam makes mail junk from 6 points; less is never learned as spam; write 6 or more",
        ),
        (
            {"rspamd_bayes_autolearn": {"spam": 8}, "mail_spam": "verylow"},
            "rspamd_bayes_autolearn.spam: 8: mail_spam makes mail junk from 12",
        ),
        (
            {"rspamd_bayes_autolearn": {"ham": 4}},
            "rspamd_bayes_autolearn.ham: 4: mail_spam suspects mail from 4 points; that is never learned as ham; write less than 4",
        ),
        ({"mail_spam_trainers": ["alcie@oak.test"]}, "alcie@oak.test: no mailbox here, and no group or alias of such; did you mean alice@"),
        ({"mail_spam_trainers": ["friend@good.test"]}, "mail_spam_trainers[0]: friend@good.test: no mailbox here"),
        ({"mail_filter_web": {"password_hash": RSPAMD_HASH}}, "mail_filter_web: host is missing; name one of mail_hostnames"),
        ({"mail_filter_web": WEB}, "mail_filter_web.host: rspamd.oak.test: not one of mail_hostnames; add it there"),
        ({"mail_filter_web": {**WEB, "host": "mail.oak.test"}}, "mail_filter_web.host: mail.oak.test: not one of mail_hostnames"),
        ({"mail_filter_web": {"host": "rspamd.oak.test"}}, "mail_filter_web: password_hash is missing; make one on the host"),
        ({"mail_filter_web": {**WEB, "password_hash": "hunter2"}}, "mail_filter_web.password_hash: ***: not a hash of Rspamd's; make one"),
        ({"mail_filter_web": {**WEB, "networks": ["::/0"]}}, "mail_filter_web.networks[0]: ::/0: it is everybody"),
        ({"mail_sending_limit": 0}, "mail_sending_limit: 0: not between 1 and 1000000; no limit is written unlimited"),
        ({"mail_sending_limit": "many"}, "mail_sending_limit: many: got text, a whole number is needed"),
    ],
)
def test_a_wrong_policy_is_named(variables: dict[str, object], problem: str) -> None:
    assert problem in problems(ALICE, **variables)


@pytest.mark.parametrize("limits", [None, {}, {"spam": 6}, {"ham": 3.9}, {"spam": 40, "ham": -40}])
def test_limits_of_learning_that_fit_the_scores_are_taken(limits: object) -> None:
    accepted(ALICE, rspamd_bayes_autolearn=limits)


def test_the_usual_limits_of_learning_are_nobodys_fault() -> None:
    accepted(ALICE, mail_spam={"greylist": -9, "junk": 20, "reject": 30})


def test_the_strictest_mailbox_decides_how_much_one_list_may_give() -> None:
    lists = [{"zone": "l.test", "of": ["urls"], "score": 7}]
    accepted(ALICE, mail_blocklists=lists)
    strict = "domain: oak.test\nmailboxes: [{name: alice, password_hash: HASH, spam: veryhigh}]\n"
    assert "one list alone" in problems(strict, mail_blocklists=lists)


def test_origins_may_give_and_take_as_long_as_they_do_not_refuse() -> None:
    nothing = accepted(ALICE).settings["origins"]
    assert nothing == {"countries": {}, "networks": {}, "updates": True}
    found = accepted(ALICE, mail_origins={"countries": {"CN": 9, "NO": -20}, "networks": {"AS64500": 5.9}, "updates": False})
    assert found.settings["origins"] == {"countries": {"CN": 9, "NO": -20}, "networks": {"AS64500": 5.9}, "updates": False}


@pytest.mark.parametrize("preset", ["verylow", "low", "medium", "high", "veryhigh"])
def test_a_preset_of_spam_scores_holds_for_a_domain_and_a_mailbox(preset: str) -> None:
    model = accepted(f"domain: oak.test\nspam: {preset}\nmailboxes: [{{name: alice, password_hash: HASH, spam: {preset}}}]\n")
    assert model.domains["oak.test"].spam == model.mailboxes["alice@oak.test"].spam == SPAM_PRESETS[preset]


def test_trainers_are_mailboxes_and_the_members_of_groups() -> None:
    people = """
        domain: oak.test
        mailboxes: [{name: alice, password_hash: HASH}, {name: bob, password_hash: HASH}, {name: carol, password_hash: HASH}]
        groups: [{name: staff, members: [alice, bob, friend@good.test], except: [bob]}]
        """
    assert accepted(people).settings["spam_trainers"] is None, "everybody"
    assert accepted(people, mail_spam_trainers=[]).settings["spam_trainers"] == []
    found = accepted(people, mail_spam_trainers=["staff@oak.test", "carol@oak.test"])
    assert found.settings["spam_trainers"] == ["alice@oak.test", "carol@oak.test"]


def test_the_web_interface_of_the_filter_is_off_unless_it_has_a_name_and_a_password() -> None:
    assert accepted(ALICE).settings["filter_web"] is None
    found = accepted(ALICE, mail_hostnames=["rspamd.oak.test"], mail_filter_web={**WEB, "networks": ["192.0.2.1"]}).settings["filter_web"]
    assert found == {**WEB, "enable_password_hash": None, "networks": ["192.0.2.1/32"]}


DIRECTORY: dict[str, object] = {
    "servers": ["ldaps://ldap.good.test", "ldaps://[2001:DB8::1]:1636"],
    "base": "dc=test",
    "bind_dn": "cn=mail host,dc=test",
    "bind_password": "(&|!*)=:<x>",
    "domains": ["oak.test"],
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"servers": ["http://a.test"]}, "servers[0]: http://a.test: not ldaps://host"),
        ({"servers": ["ldaps://a.test/dc=x"]}, "servers[0]: ldaps://a.test/dc=x: not ldaps://host"),
        ({"servers": ["ldaps://a.test:0"]}, "not a port from 1 to 65535"),
        ({"servers": ["ldap://b.test"]}, "servers[0]: ldap://b.test: STARTTLS"),
        ({"servers": []}, "servers: empty list"),
        ({"domains": []}, "domains: empty list"),
        ({"domains": ["oak.tset"]}, "domains[0]: oak.tset: not a domain that is delivered here; did you mean oak.test?"),
        ({"domains": ["oak.test", "oak.test"]}, "domains[1]: oak.test: duplicate of"),
        ({"base": "example.org"}, "base: example.org: not a distinguished name"),
        ({"bind_dn": 'cn="x",dc=test'}, "not allowed in a distinguished name"),
        ({"bind_password": "a$b"}, "bind_password: ***: character '$' not allowed in this password"),
        ({"bind_password": "a\nb"}, "not allowed in this password"),
        ({"bind_password": " a"}, "white space at an end"),
        ({"user_filter": "objectClass=x"}, "not a filter in one pair of parentheses"),
        ({"user_filter": "(a=b)(c=d)"}, "not a filter in one pair of parentheses"),
        ({"user_filter": "(mail=%u)"}, "character '%' not allowed in a filter"),
        ({"attributes": {"address": "mail=x"}}, "attributes.address: mail=x: not the name of an attribute"),
        ({"bind_dn": None}, "required key bind_dn is missing"),
    ],
)
def test_a_directory_that_cannot_be_meant_is_refused(change: dict[str, object], problem: str) -> None:
    found = problems("domain: oak.test", mail_ldap={**DIRECTORY, **change})
    assert problem in found
    assert str(DIRECTORY["bind_password"]) not in found


def test_the_password_of_a_directory_does_not_stand_in_clear() -> None:
    assert accepted("domain: oak.test").ldap is None
    reader = Reader()
    check(reader, {**BASE, "mail_ldap": DIRECTORY}, [DomainFile({"domain": "oak.test"}, "")], in_clear=lambda _: True)
    assert ["bind_password" in problem.path for problem in reader.report.problems] == [True]


def test_aliases_may_lead_to_users_of_the_directory_who_are_not_known_here() -> None:
    alias = "domain: oak.test\naliases: [{name: sales, to: [lisa]}]"
    assert "no mailbox or alias lisa@oak.test" in problems(alias)
    assert accepted(alias, mail_ldap=DIRECTORY).aliases["sales@oak.test"].to == ["lisa@oak.test"]
    assert accepted("domain: oak.test\ncatch_all: lisa", mail_ldap=DIRECTORY).domains["oak.test"].catch_all is not None
    _, found, warnings = read(f"{ALICE}aliases: [{{name: sales, to: [alise]}}]", mail_ldap=DIRECTORY)
    assert found == []
    reason = "not in the inventory, so a user of the directory; did you mean alice@oak.test?"
    assert warnings == [f"aliases[0].to[0]: alise@oak.test: {reason}"]


def test_a_directory_is_read() -> None:
    found = accepted("domain: oak.test", mail_ldap=DIRECTORY).ldap
    assert found is not None
    assert found["servers"] == ["ldaps://ldap.good.test", "ldaps://[2001:db8::1]:1636"]
    assert (found["address"], found["aliases"]) == ("mail", None)
    assert found["users"] == "(&(objectClass=inetOrgPerson)(|(mail=*@oak.test))(!(mail=.*)))"
