# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Native settings that the inventory puts above ours (`*_overrides`): what they are called, and which of them break a promise."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["PROMISES", "VARIABLES", "Promise", "Setting", "broken", "settings"]

# Variable → what its settings are listed under.
VARIABLES: Final[Mapping[str, str]] = {
    "postfix_main_overrides": "main.cf",
    "postfix_master_overrides": "master.cf",
    "postfix_tables": "table",
    "dovecot_overrides": "dovecot",
    "nginx_overrides": "nginx",
    "rspamd_overrides": "rspamd",
    "redis_overrides": "redis",
    "resolver_overrides": "unbound",
    "fail2ban_overrides": "fail2ban",
}
# Of a text in a service's own language: "key = value", "key value;" and "key {".
_LINES: Final[Mapping[str, re.Pattern[str]]] = {
    "dovecot_overrides": re.compile(r"^[ \t]*([\w/]+)[ \t]*(?:=[ \t]*(.*)|[^={}\n]*\{.*)$", re.MULTILINE),
    "nginx_overrides": re.compile(r"^[ \t]*(\w+)(?:[ \t]+([^;{]*))?[;{]", re.MULTILINE),
}


@dataclass(frozen=True)
class Setting:
    """One native setting: `path` is its place in the variable, `key` its name in the service's language, `value` its text on one line."""

    variable: str
    path: tuple[str, ...]
    key: str
    value: str

    @property
    def label(self) -> str:
        """As it is listed; without the value, which may be a secret."""
        return f"{VARIABLES[self.variable]}: {'.'.join(self.path)}"


@dataclass(frozen=True)
class Promise:
    """What is promised, and what breaks it: a setting of these `keys` (with *) whose value has `broken` in it, in words `when`."""

    service: str
    keys: Sequence[str]
    when: str
    broken: str
    promise: str
    # It harms others: no warning, but an error.
    refused: bool = False


_EVERYBODY: Final = r"/0(?![\d.])"
_WEAK: Final = r"ssl|tlsv1(?:$|[^.\d])|tlsv1\.[01]\b"
_NOT_LOOPBACK: Final = r"(?:^|[\s,])(?!127\.|\[?::1|localhost|/)[^\s,]"
_DATA: Final = ("virtual_mailbox_domains", "virtual_mailbox_maps", "virtual_alias_maps", "relay_domains", "relay_recipient_maps")
_RESTRICTIONS: Final = ("smtpd_client_restrictions", "smtpd_sender_restrictions", "smtpd_recipient_restrictions")

# Each is matched on lower-case text. The first that fits a setting counts.
PROMISES: Final[Sequence[Promise]] = (
    Promise("postfix", ("mynetworks",), "everybody is in it", _EVERYBODY, "nobody relays through this host without a login", refused=True),
    Promise(
        "postfix",
        ("relay_domains",),
        "every domain is in it",
        r"static:|regexp:\{|\*",
        "nobody relays through this host without a login",
        refused=True,
    ),
    Promise(
        "postfix",
        ("smtpd_relay_restrictions", "submission_relay_restrictions"),
        "nothing in it refuses",
        r"^(?!.*(?:\$|\breject\b|\bdefer\b|\b(?:reject|defer)_unauth_destination\b))",
        "nobody relays through this host without a login",
        refused=True,
    ),
    Promise("postfix", ("smtpd_tls_auth_only",), "no", r"^no$", "no password is taken without TLS"),
    Promise("port 25", ("smtpd_sasl_auth_enable",), "yes", r"^yes$", "logins are on ports 465 and 587 only"),
    Promise("submission", ("smtpd_tls_security_level",), "other than encrypt", r"^(?!encrypt$)", "no password is taken without TLS"),
    Promise("port 25", ("smtpd_tls_security_level",), "other than may", r"^(?!may$)", "port 25 offers TLS, and serves those who cannot"),
    Promise(
        "postfix", ("smtp_tls_security_level", "smtp_tls_policy_maps"), "always", "", "DANE, MTA-STS and mail_tls_policies are kept to"
    ),
    Promise("postfix", ("smtp*_tls_*protocols",), "older than TLS 1.2", rf"(?<!!)\b(?:{_WEAK})", "one TLS profile in every service"),
    Promise("postfix", ("smtpd_tls_*ciphers", "tls_medium_cipherlist"), "always", "", "one TLS profile in every service"),
    Promise(
        "postfix",
        ("smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_key_file"),
        "always",
        "",
        "renewals and TLSA records follow the live certificate",
    ),
    Promise("postfix", ("smtpd_forbid_bare_newline", "smtpd_forbid_unauth_pipelining"), "no", r"^no$", "smuggled messages are refused"),
    Promise("postfix", ("soft_bounce",), "yes", r"^yes$", "what is refused is refused for good, and its sender told"),
    Promise("postfix", ("smtpd_reject_unlisted_recipient",), "no", r"^no$", "unknown recipients are refused at RCPT"),
    Promise(
        "postfix", ("milter_default_action",), "accept", r"^accept$", "no mail passes unfiltered and unsigned while the filter is down"
    ),
    Promise(
        "postfix",
        ("smtpd_milters", "non_smtpd_milters"),
        "without Rspamd",
        r"^(?!.*(?:11332|\$smtpd_milters))",
        "mail is filtered and signed",
    ),
    Promise("postfix", _DATA, "always", "", "the inventory is the only source of mail data"),
    Promise("postfix", ("smtpd_sender_login_maps",), "always", "", "senders belong to their logins"),
    Promise("postfix", _RESTRICTIONS, "always", "", "what the inventory declares on senders, clients and recipients is kept to"),
    Promise("postfix", ("disable_vrfy_command",), "no", r"^no$", "nobody can ask which addresses exist"),
    Promise("postfix", ("message_size_limit",), "always", "", "one limit of size in every component (mail_message_size_limit)"),
    Promise(
        "postfix",
        ("default_transport", "sender_dependent_default_transport_maps"),
        "always",
        "",
        "forwarded mail gets a sender of this host (SRS)",
    ),
    Promise("postfix", ("virtual_transport",), "always", "", "mail is stored by Dovecot, with quota and Sieve"),
    Promise("postfix", ("smtpd_client_*_limit",), "0", r"^0$", "no client can use the server up"),
    Promise("postfix", ("inet_protocols",), "other than all", r"^(?!all$)", "IPv4 and IPv6"),
    Promise("dovecot", ("disable_plaintext_auth",), "no", r"^no$", "no password is taken without TLS"),
    Promise("dovecot", ("auth_allow_cleartext",), "yes", r"^yes$", "no password is taken without TLS"),
    Promise("dovecot", ("ssl",), "other than required", r"^(?!required$)", "no password is taken without TLS"),
    Promise("dovecot", ("auth_debug_passwords", "auth_verbose_passwords"), "other than no", r"^(?!no$)", "no password is in a log"),
    Promise("dovecot", ("ssl_min_protocol", "ssl_cipher_list"), "always", "", "one TLS profile in every service"),
    Promise(
        "dovecot",
        ("mail_location", "mail_path", "mail_driver", "mail_home"),
        "always",
        "",
        "mail lies where removal and archive look for it",
    ),
    Promise("dovecot", ("passdb", "userdb"), "always", "", "the inventory is the only source of mailboxes"),
    Promise("nginx", ("ssl_protocols", "ssl_ciphers"), "always", "", "one TLS profile in every service"),
    Promise("nginx", ("server_tokens",), "on", r"^(?!off$)", "no version is told"),
    Promise("nginx", ("user",), "root", r"^root", "no service has more rights than it needs"),
    Promise("rspamd", ("bind_socket",), "not on the loopback", _NOT_LOOPBACK, "the filter listens on the loopback only"),
    Promise(
        "rspamd",
        ("local_addrs", "local_networks", "secure_ip"),
        "everybody is in it",
        _EVERYBODY,
        "strangers' mail is filtered, and the filter is not for them",
    ),
    Promise(
        "rspamd",
        ("discard_on_reject", "quarantine_on_reject"),
        "true",
        r"^yes$",
        "what is refused is refused for good, and its sender told",
    ),
    Promise("rspamd", ("soft_reject_on_timeout",), "false", r"^no$", "no mail passes unfiltered and unsigned while the filter is down"),
    Promise("redis", ("port", "tls-port"), "other than 0", r"^(?!0$)", "only the filter can talk to Redis"),
    Promise("redis", ("unixsocketperm",), "open to everybody", r"[1-7]$", "only the filter can talk to Redis"),
    Promise(
        "unbound", ("access-control",), "everybody is in it", rf"{_EVERYBODY}\s+allow", "the resolver is for this host only", refused=True
    ),
    Promise("unbound", ("interface",), "not the loopback", _NOT_LOOPBACK, "the resolver is for this host only"),
    Promise("unbound", ("val-permissive-mode",), "yes", r"^yes$", "answers of the DNS are validated (DANE)"),
    Promise("unbound", ("module-config",), "without validator", r"^(?!.*validator)", "answers of the DNS are validated (DANE)"),
    Promise("fail2ban", ("ignoreip",), "always", "", "mail_networks and fail2ban_ignored_networks are never shut out"),
    Promise("fail2ban", ("enabled",), "false", r"^(?:no|false)$", "who guesses passwords is shut out"),
)
# Services of master.cf → whose promises they must keep.
_MASTER: Final[Mapping[str, tuple[str, ...]]] = {
    "smtpd/pass": ("port 25", "postfix"),
    "submission/inet": ("submission", "postfix"),
    "submissions/inet": ("postfix",),
}


def settings(variable: str, value: object) -> Iterator[Setting]:
    """The settings in the value of one of `VARIABLES`, in its order."""
    if value is not None:
        yield from _settings(variable, value, ())


def _settings(variable: str, value: object, path: tuple[str, ...]) -> Iterator[Setting]:
    if isinstance(value, Mapping) and (value or not path):
        for name, inner in value.items():
            yield from _settings(variable, inner, (*path, str(name)))
        return
    lines = _LINES.get(variable)
    if lines and isinstance(value, str) and path[-1:] in (("2.3",), ("2.4",), ("servers",)):
        for found in lines.finditer(value):
            yield Setting(variable, (*path, found[1]), found[1], _text(found[2] or ""))
        return
    yield Setting(variable, path, path[-1] if path else "", "" if variable == "postfix_tables" else _text(value))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return " ".join(str("" if value is None else value).split())


def broken(setting: Setting) -> Promise | None:
    """The promise that a setting breaks."""
    scopes = _scopes(setting)
    value = setting.value.lower()
    fitting = (one for one in PROMISES if one.service in scopes and any(fnmatch.fnmatchcase(setting.key, key) for key in one.keys))
    return next((one for one in fitting if re.search(one.broken, value)), None)


def _scopes(setting: Setting) -> tuple[str, ...]:
    if setting.variable == "postfix_master_overrides":
        return _MASTER.get(setting.path[0], ("postfix",))
    service = VARIABLES[setting.variable]
    return ("port 25", "postfix") if service == "main.cf" else (service,)
