# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Every key of the inventory, once: type, default, meaning. The checks and docs/reference/inventory.md are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ALIAS_DOMAIN_KEYS", "DOMAIN", "RELAYED_KEYS", "RFC_2142_NAMES", "SHARED", "SPAM_PRESETS", "TYPES", "Key"]


@dataclass(frozen=True)
class Key:
    """One key of a mapping. `type` is a name from `TYPES`, or `mapping` or `list` with `keys` or `of`."""

    type: str
    help: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    # The value is never shown.
    secret: bool = False
    # Written out in the inventory, so that a file says what it is about: no expression is evaluated here.
    literal: bool = False
    # Of a mapping, or of each mapping of a list.
    keys: Mapping[str, Key] | None = None
    # Type of each entry of a list without keys.
    of: str = ""


TYPES: Final[Mapping[str, str]] = {
    "access_address": "address, domain (its subdomains too), .domain (its subdomains only), .tld",
    "access_client": "address, network in CIDR notation, or verified host name: domain (its subdomains too), .domain, .tld",
    "access_name": "domain (its subdomains too), .domain (its subdomains only), .tld",
    "address": "address; the domain may be written in letters of any script",
    "alias_name": "local part, which means every domain delivered here; or address, which means that one",
    "boolean": "true or false",
    "choice": "one of the values named",
    "destination": "domain, .domain (its subdomains) or address",
    "domain": "domain name; capitals and letters of any script become lower-case A-labels",
    "duration": "time: whole numbers with a unit s, m, h, d or w, such as 5d or 1d 12h",
    "host": "fully qualified host name",
    "integer": "whole number",
    "list": "list",
    "local_part": "part of an address before '@': a-z, 0-9 and . _ - + =",
    "mapping": "mapping",
    "match": "host name, .domain, or one of hostname, nexthop, dot-nexthop",
    "network": "network in CIDR notation, such as 192.0.2.0/24",
    "next_hop": "domain (its MX hosts) or [host] or [address]",
    "number": "number",
    "pattern": "regular expression for the whole part before '@'",
    "policy_destination": "domain, .domain, [host] or [host]:port",
    "reply": "SMTP reply in one line: code 4xx or 5xx, enhanced code, text, such as 554 5.7.1 Not from here",
    "secret": "text, best from a vault",
    "selector": "one DNS label",
    "sender": "address, or domain (without its subdomains)",
    "size": "size in binary units: a whole number with K, M, G or T, such as 500M",
    "quota": "size in binary units: a whole number with K, M, G or T, such as 5G; or unlimited",
    "spam": "low, medium or high, or a mapping with the scores greylist, junk and reject",
    "target": "address, or a local part of the same domain",
    "text": "text",
}

# F1: scores of Rspamd from which a message is greylisted, filed as junk, refused.
SPAM_PRESETS: Final[Mapping[str, Mapping[str, float]]] = {
    "low": {"greylist": 6.0, "junk": 8.0, "reject": 20.0},
    "medium": {"greylist": 4.0, "junk": 6.0, "reject": 15.0},
    "high": {"greylist": 3.0, "junk": 4.5, "reject": 10.0},
}

# M18: these of RFC 2142 exist in every domain.
RFC_2142_NAMES: Final = ("postmaster", "abuse", "hostmaster", "webmaster")

SPAM_SCORES: Final[Mapping[str, Key]] = {
    "greylist": Key("number", "score from which a message is delayed once", required=True),
    "junk": Key("number", "score from which it is filed into Junk", required=True),
    "reject": Key("number", "score from which it is refused", required=True),
}

_DKIM_KEY: Final[Mapping[str, Key]] = {
    "selector": Key("selector", "DNS label of the key, unique in its domain", required=True, literal=True),
    "algorithm": Key("choice", "kind of key (RFC 6376, RFC 8463)", default="rsa", choices=("rsa", "ed25519")),
    "bits": Key("integer", "size of an RSA key, 2048 to 4096", default=2048),
    "private_key": Key(
        "secret",
        "PEM of a key that exists already; without it the host makes one and keeps it",
        secret=True,
    ),
}

_PROTOCOLS: Final[Mapping[str, Key]] = {
    "imap": Key("boolean", "IMAP", default=True),
    "pop3": Key("boolean", "POP3", default=True),
    "submission": Key("boolean", "sending with AUTH", default=True),
    "sieve": Key("boolean", "ManageSieve", default=True),
}

_MAILBOX: Final[Mapping[str, Key]] = {
    "name": Key("local_part", "local part of its address, and with the domain its login", required=True, literal=True),
    "password": Key("secret", "clear text from a vault; hashed on the host, once", secret=True),
    "password_hash": Key("secret", "hash with its scheme, such as {ARGON2ID}$argon2id$… (`doveadm pw -s ARGON2ID`)", secret=True),
    "password_update": Key(
        "choice",
        "always: the inventory owns the password; on_create: it only seeds it. Default: mail_password_update",
        choices=("always", "on_create"),
    ),
    "allow_weak_hash": Key("boolean", "accept a hash weaker than ARGON2ID and BLF-CRYPT (migration)", default=False),
    "quota": Key("quota", "limit of stored mail. Default: the domain's, then mail_default_quota"),
    "enabled": Key("boolean", "false: no login by any protocol, and mail to it is refused", default=True),
    "protocols": Key("mapping", "protocols it may use", keys=_PROTOCOLS),
    "send_only": Key("boolean", "mail to it is refused", default=False),
    "receive_only": Key("boolean", "it may not send", default=False),
    "aliases": Key("list", "further names of this mailbox in its domain; it may send as each", of="local_part"),
    "send_as": Key("list", "further addresses of ours that it may send as", of="target"),
    "forward": Key("list", "who gets its mail as well, or instead", of="target"),
    "keep_copy": Key("boolean", "with forward: false keeps nothing in the mailbox itself", default=True),
    "internal": Key("boolean", "mail from outside to any of its names is refused", default=False),
    "spam": Key("spam", "scores for mail to it. Default: the domain's, then mail_spam"),
    "junk_filing": Key("boolean", "false: junk stays in the inbox", default=True),
    "description": Key("text", "for the reader of the file"),
}

_ALIAS: Final[Mapping[str, Key]] = {
    "name": Key("local_part", "local part of the alias", required=True, literal=True),
    "to": Key("list", "who gets its mail", required=True, of="target"),
    "send_as": Key("boolean", "its members with a mailbox here may send as it", default=False),
    "internal": Key("boolean", "mail from outside to it is refused", default=False),
    "description": Key("text", "for the reader of the file"),
}

_COMMON_ALIAS: Final[Mapping[str, Key]] = {
    **_ALIAS,
    "name": Key("alias_name", "its name; what a domain declares itself comes first there", required=True, literal=True),
    "to": Key("list", "who gets its mail; a name without '@' is one of the same domain", required=True, of="target"),
}

_GROUP: Final[Mapping[str, Key]] = {
    "name": Key("local_part", "local part of its address", required=True, literal=True),
    "members": Key(
        "list", "mailboxes, groups, aliases and others who get its mail, each by their own settings", required=True, of="target"
    ),
    "except": Key("list", "members of its groups and aliases who do not; a group or alias stands for its members", of="target"),
    "send_as": Key("boolean", "its members with a mailbox here may send as it", default=False),
    "internal": Key("boolean", "mail from outside to it is refused", default=False),
    "description": Key("text", "for the reader of the file"),
}

_ALIAS_PATTERN: Final[Mapping[str, Key]] = {
    "pattern": Key("pattern", "which names; must not match a declared mailbox or alias", required=True, literal=True),
    "to": Key("list", "who gets their mail", required=True, of="target"),
    "description": Key("text", "for the reader of the file"),
}

# What an alias domain may say.
ALIAS_DOMAIN_KEYS: Final = ("domain", "alias_of", "allow_confusable", "description", "spam", "dkim")
# What a relayed domain may say.
RELAYED_KEYS: Final = ("domain", "allow_confusable", "description", "spam", "relay", "recipients", "verify_recipients")
# Security levels that never mean clear text by decree.
_TLS_LEVELS: Final = ("may", "encrypt", "dane", "dane-only", "verify", "secure")

_RELAY: Final[Mapping[str, Key]] = {
    "next_hop": Key("next_hop", "server that gets its mail; the domain itself: its other MX hosts, for a backup MX", required=True),
    "port": Key("integer", "TCP port, 1 to 65535. Default: 25"),
    "tls": Key("choice", "security level, as in mail_tls_policies. Default: as for all other mail", choices=_TLS_LEVELS),
}

# A file of <inventory>/domains/, or an entry of mail_domains.
DOMAIN: Final[Mapping[str, Key]] = {
    "domain": Key("domain", "the mail domain", required=True, literal=True),
    "allow_confusable": Key("boolean", "accept a label that mixes scripts", default=False),
    "description": Key("text", "for the reader of the file"),
    "alias_of": Key("domain", "domain delivered here whose addresses all exist in this one too, also to send as", literal=True),
    "catch_all": Key("target", "who gets mail for names that do not exist; without it such mail is refused"),
    "hidden_copy": Key("target", "gets a copy of all mail to the domain. Default: mail_hidden_copy"),
    "hidden_copy_outgoing": Key("target", "gets a copy of all mail that is sent as an address of it. Default: mail_hidden_copy_outgoing"),
    "quota": Key("quota", "quota of its mailboxes. Default: mail_default_quota"),
    "spam": Key("spam", "scores for mail to the domain. Default: mail_spam"),
    "dkim": Key("list", "its signing keys; false: not signed. Default: mail_dkim_keys", keys=_DKIM_KEY),
    "mailboxes": Key("list", "its mailboxes", keys=_MAILBOX),
    "groups": Key("list", "addresses of groups of people", keys=_GROUP),
    "aliases": Key("list", "addresses that pass mail on", keys=_ALIAS),
    "alias_patterns": Key("list", "aliases by regular expression", keys=_ALIAS_PATTERN),
    "relay": Key("mapping", "another server delivers its mail; then recipients or verify_recipients says who exists", keys=_RELAY),
    "recipients": Key("list", "of a relayed domain: the local parts that exist; mail to others is refused", of="local_part"),
    "verify_recipients": Key("boolean", "of a relayed domain: its server is asked who exists, before mail is accepted", default=False),
}

_TRANSPORT: Final[Mapping[str, Key]] = {
    "destination": Key("destination", "mail to what", required=True, literal=True),
    "next_hop": Key("next_hop", "server that gets it; a slow lane can go without, to the MX hosts of the destination"),
    "port": Key("integer", "TCP port, 1 to 65535. Default: the protocol's"),
    "transport": Key(
        "choice",
        "client of Postfix; polite and turtle are slow lanes (postfix_polite, postfix_turtle)",
        default="smtp",
        choices=("smtp", "relay", "lmtp", "polite", "turtle"),
    ),
}

_SMARTHOST: Final[Mapping[str, Key]] = {
    "sender": Key("sender", "for mail with this envelope sender", literal=True),
    "recipient": Key("destination", "for mail to this destination; not a domain of ours", literal=True),
    "next_hop": Key("next_hop", "the smarthost", required=True),
    "port": Key("integer", "TCP port, 1 to 65535; with STARTTLS. Default: 25"),
    "user": Key("text", "login there"),
    "password": Key("secret", "its password, from a vault", secret=True),
    "tls": Key(
        "choice",
        "security level, as in mail_tls_policies. Default: secure with a user, else as for all other mail",
        choices=_TLS_LEVELS,
    ),
    "description": Key("text", "for the reader of the file"),
}

_ACCESS: Final[Mapping[str, Key]] = {
    "action": Key("choice", "allow wins over block", required=True, choices=("allow", "block")),
    "client": Key("access_client", "the server that connects", literal=True),
    "helo": Key("access_name", "the name it greets with", literal=True),
    "sender": Key("access_address", "envelope sender", literal=True),
    "recipient": Key("access_address", "recipient here; together with sender: mail from one to the other", literal=True),
    "reply": Key("reply", "answer to what is blocked", default="554 5.7.1 Refused by local policy"),
    "description": Key("text", "for the reader of the file"),
}

_TLS_POLICY: Final[Mapping[str, Key]] = {
    "destination": Key("policy_destination", "mail sent to what", required=True, literal=True),
    "level": Key(
        "choice",
        "security level (postconf(5), smtp_tls_policy_maps)",
        required=True,
        choices=("none", "may", "encrypt", "dane", "dane-only", "verify", "secure"),
    ),
    "match": Key("list", "names that the certificate must have one of; with verify and secure only", of="match"),
    "allow_plaintext": Key("boolean", "must be true for the level none", default=False),
}

# Variables of hosts and groups. Without `mail_` they are the keys of `mail.settings`.
SHARED: Final[Mapping[str, Key]] = {
    "mail_hostname": Key("host", "name of this host: HELO, certificate, what clients connect to", required=True),
    "mail_hostnames": Key("list", "further names of this host, all on its certificate", of="host"),
    "mail_postmaster": Key(
        "address",
        f"gets mail for {', '.join(f'{name}@' for name in RFC_2142_NAMES)} of each domain that does not declare them (RFC 2142)",
        required=True,
    ),
    "mail_domains": Key("list", "domains, beside the files in domains/ of the inventory", keys=DOMAIN),
    "mail_default_quota": Key("quota", "quota of mailboxes that say nothing else", default="5G"),
    "mail_message_size_limit": Key("size", "largest message, the same in every component", default="50M"),
    "mail_recipient_delimiter": Key(
        "choice", "between a mailbox's name and a tag; empty: no tags", default="+", choices=("+", "-", "=", "_", "")
    ),
    "mail_queue_lifetime": Key("duration", "how long delivery is tried", default="5d"),
    "mail_bounce_lifetime": Key("duration", "how long delivery of a bounce is tried", default="1d"),
    "mail_tls_profile": Key(
        "choice",
        "protocols and ciphers of every service (Mozilla's profiles)",
        default="intermediate",
        choices=("modern", "intermediate", "old"),
    ),
    "mail_spam": Key("spam", "scores", default="medium"),
    "mail_dkim_keys": Key(
        "list",
        "signing keys of each domain that does not declare its own",
        default=[
            {"selector": "mw-rsa", "algorithm": "rsa", "bits": 2048},
            {"selector": "mw-ed25519", "algorithm": "ed25519"},
        ],
        keys=_DKIM_KEY,
    ),
    "mail_transports": Key("list", "where mail to some destinations goes", keys=_TRANSPORT),
    "mail_tls_policies": Key("list", "TLS to some destinations", keys=_TLS_POLICY),
    "mail_aliases": Key("list", "aliases of every domain, or of one", keys=_COMMON_ALIAS),
    "mail_relays": Key("list", "smarthosts; an entry with neither sender nor recipient is for all other outgoing mail", keys=_SMARTHOST),
    "mail_access": Key("list", "who is allowed and who is blocked on port 25", keys=_ACCESS),
    "mail_alias_expansion_limit": Key("integer", "most addresses that one alias may become, 1 to 1000", default=200),
    "mail_password_update": Key(
        "choice",
        "always: the inventory owns passwords; on_create: it only seeds them",
        default="always",
        choices=("always", "on_create"),
    ),
    "mail_allow_plaintext_passwords": Key("boolean", "accept passwords that stand in clear in an unencrypted file (lab)", default=False),
    "mail_hide_secrets": Key("boolean", "keep passwords and keys out of output", default=True),
    "mail_hidden_copy": Key("address", "gets a copy of everything: all mail that comes in or is sent"),
    "mail_hidden_copy_outgoing": Key("address", "gets a copy of all mail that is sent as an address of a domain that says nothing else"),
    "mail_srs_exempt": Key(
        "list",
        "sender domains of others whose mail leaves from here by right (their SPF names this host), so that it is not taken for forwarded",
        of="domain",
    ),
    "mail_networks": Key("list", "networks that may relay without AUTH; the host itself always may", of="network"),
}
