"""O1: what the inventory puts above our settings is listed by name, and what breaks a promise is told with that promise."""

from __future__ import annotations

import pytest
from ansible.module_utils.mailwright.overrides import PROMISES, VARIABLES, Setting, broken, settings
from ansible.module_utils.mailwright.reader import Reader
from ansible.module_utils.mailwright.variables import check_variables, overridden

TLS = "no password is taken without TLS"
RELAY = "nobody relays through this host without a login"


def promises(variable: str, value: object) -> list[str]:
    found = [broken(setting) for setting in settings(variable, value)]
    return [promise.promise for promise in found if promise]


@pytest.mark.parametrize(
    ("variable", "value", "labels"),
    [
        ("postfix_main_overrides", {"smtp_helo_timeout": "77s", "b": 1}, ["main.cf: smtp_helo_timeout", "main.cf: b"]),
        (
            "postfix_master_overrides",
            {"smtp/unix": {"maxproc": 5, "options": {"smtp_bind_address": ""}}},
            ["master.cf: smtp/unix.maxproc", "master.cf: smtp/unix.options.smtp_bind_address"],
        ),
        ("postfix_tables", {"vip": "a b\n"}, ["table: vip"]),
        (
            "dovecot_overrides",
            {"2.4": "mail_max = 5\nservice imap-login {\n  client_limit = 9\n}\n# no = 1\n"},
            ["dovecot: 2.4.mail_max", "dovecot: 2.4.service", "dovecot: 2.4.client_limit"],
        ),
        (
            "nginx_overrides",
            {"http": {"gzip": True}, "servers": "server {\n  listen 8080;\n}\n"},
            ["nginx: http.gzip", "nginx: servers.server", "nginx: servers.listen"],
        ),
        ("rspamd_overrides", {"actions": {"reject": 20}, "x": [1, 2]}, ["rspamd: actions.reject", "rspamd: x"]),
        ("redis_overrides", {"save": ["900 1", "60 9"]}, ["redis: save"]),
        ("resolver_overrides", {"num-threads": 3}, ["unbound: num-threads"]),
        ("fail2ban_overrides", {"sshd": {"maxretry": 3}}, ["fail2ban: sshd.maxretry"]),
        ("rspamd_overrides", {}, []),
        ("rspamd_overrides", None, []),
    ],
)
def test_settings_are_listed_by_name(variable: str, value: object, labels: list[str]) -> None:
    assert [setting.label for setting in settings(variable, value)] == labels


@pytest.mark.parametrize(
    ("variable", "value", "promise"),
    [
        ("postfix_main_overrides", {"mynetworks": "127.0.0.0/8 0.0.0.0/0"}, RELAY),
        ("postfix_main_overrides", {"mynetworks": "[::]/0"}, RELAY),
        ("postfix_main_overrides", {"smtpd_relay_restrictions": ""}, RELAY),
        ("postfix_main_overrides", {"smtpd_relay_restrictions": "permit_mynetworks permit"}, RELAY),
        ("postfix_main_overrides", {"smtpd_tls_auth_only": False}, TLS),
        ("postfix_master_overrides", {"submission/inet": {"options": {"smtpd_tls_security_level": "may"}}}, TLS),
        ("postfix_main_overrides", {"smtpd_tls_protocols": ">=TLSv1"}, "one TLS profile in every service"),
        ("postfix_main_overrides", {"soft_bounce": "yes"}, "what is refused is refused for good, and its sender told"),
        ("postfix_main_overrides", {"milter_default_action": "accept"}, "no mail passes unfiltered and unsigned while the filter is down"),
        ("dovecot_overrides", {"2.3": "disable_plaintext_auth = no"}, TLS),
        ("dovecot_overrides", {"2.4": "protocol imap {\n  auth_allow_cleartext = yes\n}"}, TLS),
        ("dovecot_overrides", {"2.4": "passdb static {\n}"}, "the inventory is the only source of mailboxes"),
        ("nginx_overrides", {"http": {"server_tokens": True}}, "no version is told"),
        ("nginx_overrides", {"servers": "server {\n    ssl_protocols TLSv1;\n}"}, "one TLS profile in every service"),
        ("rspamd_overrides", {"worker-normal": {"bind_socket": "*:11333"}}, "the filter listens on the loopback only"),
        ("rspamd_overrides", {"worker-proxy": {"discard_on_reject": True}}, "what is refused is refused for good, and its sender told"),
        ("redis_overrides", {"port": 6379}, "only the filter can talk to Redis"),
        ("redis_overrides", {"unixsocketperm": 777}, "only the filter can talk to Redis"),
        ("resolver_overrides", {"access-control": ["10.0.0.0/8 allow", "0.0.0.0/0 allow"]}, "the resolver is for this host only"),
        ("resolver_overrides", {"interface": ["127.0.0.1", "192.0.2.1"]}, "the resolver is for this host only"),
        ("fail2ban_overrides", {"sshd": {"enabled": False}}, "who guesses passwords is shut out"),
    ],
)
def test_what_breaks_a_promise_is_told_with_it(variable: str, value: object, promise: str) -> None:
    assert promises(variable, value) == [promise]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("postfix_main_overrides", {"mynetworks": "127.0.0.0/8 10.0.0.0/24", "smtpd_tls_protocols": ">=TLSv1.2, !SSLv3, !TLSv1"}),
        ("postfix_main_overrides", {"smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination", "soft_bounce": False}),
        ("postfix_main_overrides", {"smtpd_relay_restrictions": "permit_mynetworks, $mine", "smtpd_tls_security_level": "may"}),
        (
            "postfix_master_overrides",
            {"submission/inet": {"options": {"smtpd_sasl_auth_enable": True, "smtpd_tls_security_level": "encrypt"}}},
        ),
        ("postfix_master_overrides", {"127.0.0.1:10027/inet": {"options": {"smtpd_relay_restrictions": "permit_mynetworks, reject"}}}),
        ("dovecot_overrides", {"2.4": "auth_allow_cleartext = no\nssl = required\n"}),
        ("nginx_overrides", {"http": {"server_tokens": "off", "gzip": "on"}, "main": {"user": "www-data"}}),
        ("rspamd_overrides", {"worker-normal": {"bind_socket": "127.0.0.1:11333"}, "options": {"local_addrs": ["10.0.0.0/8"]}}),
        ("redis_overrides", {"port": 0, "unixsocketperm": 770, "maxmemory": "1gb"}),
        (
            "resolver_overrides",
            {"interface": ["127.0.0.1", "::1"], "access-control": "0.0.0.0/0 refuse", "module-config": '"validator iterator"'},
        ),
        ("fail2ban_overrides", {"sshd": {"maxretry": 3, "enabled": True}}),
    ],
)
def test_what_breaks_none_is_not_told(variable: str, value: object) -> None:
    assert promises(variable, value) == []


def test_every_promise_is_about_settings_that_can_be_overridden() -> None:
    assert {promise.service for promise in PROMISES} <= {*VARIABLES.values(), "postfix", "port 25", "submission"}
    for promise in PROMISES:
        assert promise.keys
        assert promise.when


def test_the_administrator_has_the_last_word_but_not_over_others() -> None:
    roles = {"postfix": {"postfix_main_overrides": {"type": "dict"}}}
    reader = Reader()
    check_variables(reader, {"postfix_main_overrides": {"soft_bounce": "yes", "smtp_helo_timeout": "5s"}}, roles, "host mx1")
    assert reader.report.problems == []
    assert reader.report.warnings == [
        "host mx1: postfix_main_overrides: main.cf: soft_bounce breaks a promise: what is refused is refused for good, and its sender told"
    ]
    check_variables(reader, {"postfix_main_overrides": {"mynetworks": "0.0.0.0/0"}}, roles, "host mx1")
    assert [str(problem) for problem in reader.report.problems] == [
        f"host mx1: postfix_main_overrides: main.cf: mynetworks breaks a promise: {RELAY}; take it out"
    ]


@pytest.mark.parametrize(("variable", "value"), [("postfix_tables", {"../main.cf": ""}), ("redis_overrides", {"a\nport": 1})])
def test_a_name_is_a_name(variable: str, value: object) -> None:
    role = variable.partition("_")[0]
    reader = Reader()
    check_variables(reader, {variable: value}, {role: {variable: {"type": "dict"}}})
    assert ["is no name of a setting" in str(problem) for problem in reader.report.problems] == [True]


def test_a_value_is_never_listed() -> None:
    found = overridden(Reader(), {"redis_overrides": {"requirepass": "hush"}, "postfix_tables": {"logins": "server user:hush"}})
    assert found == ["table: logins", "redis: requirepass"]
    assert Setting("redis_overrides", ("requirepass",), "requirepass", "hush").label == "redis: requirepass"
