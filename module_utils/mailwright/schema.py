# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Every key of the inventory, once: type, default, meaning. The checks and docs/reference/inventory.md are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = [
    "ALIAS_DOMAIN_KEYS",
    "ATTACHMENT_CLASSES",
    "DOMAIN",
    "LIST_SUBJECTS",
    "PARKED_KEYS",
    "RELAYED_KEYS",
    "RFC_2142_NAMES",
    "SHARED",
    "SIGNATURE_FORMATS",
    "SPAM_PRESETS",
    "TYPES",
    "Key",
]


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
    # Type of each entry of a list without keys, and of the names of scores.
    of: str = ""


TYPES: Final[Mapping[str, str]] = {
    "access_address": "address, domain (its subdomains too), .domain (its subdomains only), .tld",
    "access_client": "address, network in CIDR notation, or verified host name: domain (its subdomains too), .domain, .tld",
    "access_network": "address, or network in CIDR notation",
    "access_name": "domain (its subdomains too), .domain (its subdomains only), .tld",
    "as_number": "number of an autonomous system, such as AS64500",
    "address": "address; the domain may be written in letters of any script",
    "attachment_class": "one of the values named",
    "alias_name": "local part, which means every domain delivered here; or address, which means that one",
    "boolean": "true or false",
    "choice": "one of the values named",
    "country": "country code of ISO 3166 in capitals, such as CN",
    "destination": "domain, .domain (its subdomains) or address",
    "dns_name": "name in the DNS; labels may begin with _",
    "domain": "domain name; capitals and letters of any script become lower-case A-labels",
    "duration": "time: whole numbers with a unit s, m, h, d or w, such as 5d or 1d 12h",
    "file_extension": "end of a file name after its last dot: letters, digits, _ and -",
    "folder": "name of a folder: letters, digits, space and _ . & + -; '/' is between a folder and one in it",
    "greeting": "name in HELO or EHLO: domain (its subdomains too), .domain (its subdomains only), or one label",
    "greeting_pattern": "regular expression for the whole name",
    "host": "fully qualified host name",
    "integer": "whole number",
    "ip_address": "IPv4 or IPv6 address",
    "ldap_attribute": "name of an attribute of a directory (LDAP)",
    "ldap_dn": "distinguished name, such as ou=people,dc=example,dc=org",
    "ldap_filter": "search filter in parentheses (RFC 4515)",
    "ldap_server": "ldaps://host, with or without :port",
    "limit": "whole number from 1; or unlimited",
    "list": "list",
    "list_subject": "client, received, helo, rdns, sender, from, reply_to or urls",
    "list_answer": "address in 127.0.0.0/8, such as 127.0.0.2",
    "local_part": "part of an address before '@': a-z, 0-9 and . _ - + =",
    "mapping": "mapping",
    "match": "host name, .domain, or one of hostname, nexthop, dot-nexthop",
    "network": "network in CIDR notation, such as 192.0.2.0/24",
    "media_type": "MIME type: type/subtype or type/*",
    "next_hop": "domain (its MX hosts) or [host] or [address]",
    "note": "text of one or more lines",
    "number": "number",
    "pattern": "regular expression for the whole part before '@'",
    "percent": "whole number from 1 to 100",
    "policy_destination": "domain, .domain, [host] or [host]:port",
    "reply": "SMTP reply in one line: code 4xx or 5xx, enhanced code, text, such as 554 5.7.1 Not from here",
    "retention": "time, as in 90d; or unlimited",
    "rule": "name of a rule or a group of Rspamd, such as MISSING_TO",
    "scores": "mapping of names to points",
    "secret": "text, best from a vault",
    "selector": "one DNS label",
    "sender": "address, or domain (without its subdomains)",
    "server": "host name or address",
    "sieve": "text of a Sieve script (RFC 5228); lookup('ansible.builtin.file', …) reads one from a file",
    "signature_file": "name of a file for ClamAV: letters, digits and . _ -, with an ending of text formats such as .ndb",
    "size": "size in binary units: a whole number with K, M, G or T, such as 500M",
    "quota": "size in binary units: a whole number with K, M, G or T, such as 5G; or unlimited",
    "spam": "name of a preset, or a mapping with the scores greylist, junk and reject",
    "target": "address, or a local part of the same domain",
    "text": "text",
}

# F1: scores of Rspamd from which a message is greylisted, filed as junk, refused.
SPAM_PRESETS: Final[Mapping[str, Mapping[str, float]]] = {
    "verylow": {"greylist": 9.0, "junk": 12.0, "reject": 30.0},
    "low": {"greylist": 6.0, "junk": 8.0, "reject": 20.0},
    "medium": {"greylist": 4.0, "junk": 6.0, "reject": 15.0},
    "high": {"greylist": 3.0, "junk": 4.5, "reject": 10.0},
    "veryhigh": {"greylist": 2.0, "junk": 3.0, "reject": 7.0},
}

# M18: these of RFC 2142 exist in every domain.
RFC_2142_NAMES: Final = ("postmaster", "abuse", "hostmaster", "webmaster")

SPAM_SCORES: Final[Mapping[str, Key]] = {
    "greylist": Key("number", "score from which a message is delayed once", required=True),
    "junk": Key("number", "score from which it is filed into Junk", required=True),
    "reject": Key("number", "score from which it is refused", required=True),
}

_DKIM_KEY: Final[Mapping[str, Key]] = {
    "selector": Key(
        "selector",
        "DNS label of the key, unique in its domain; such a key stays until another one is declared. Without it the host names the key by "
        "date (`rsa-20261121`), and `playbooks/rotate-dkim.yml` can rotate it",
        literal=True,
    ),
    "algorithm": Key("choice", "kind of key (RFC 6376, RFC 8463)", default="rsa", choices=("rsa", "ed25519")),
    "bits": Key("integer", "size of an RSA key, 2048 to 4096", default=2048),
    "private_key": Key(
        "secret",
        "PEM of a key that exists already, with its selector; without it the host makes one and keeps it",
        secret=True,
    ),
}
_COMMON_DKIM_KEY: Final[Mapping[str, Key]] = {
    **_DKIM_KEY,
    "shared": Key("boolean", "one key for all domains that have no `dkim` of their own; each publishes its record", default=False),
}

PROTOCOLS: Final[Mapping[str, Key]] = {
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
    "protocols": Key("mapping", "protocols it may use", keys=PROTOCOLS),
    "send_only": Key("boolean", "mail to it is refused", default=False),
    "receive_only": Key("boolean", "it may not send", default=False),
    "aliases": Key("list", "further names of this mailbox in its domain; it may send as each", of="local_part"),
    "send_as": Key("list", "further addresses of ours that it may send as", of="target"),
    "forward": Key("list", "who gets its mail as well, or instead", of="target"),
    "keep_copy": Key("boolean", "with forward: false keeps nothing in the mailbox itself", default=True),
    "internal": Key("boolean", "mail from outside to any of its names is refused", default=False),
    "spam": Key("spam", "scores for mail to it. Default: the domain's, then mail_spam"),
    "sending_limit": Key("limit", "recipients per hour that it may write to. Default: mail_sending_limit"),
    "junk_filing": Key("boolean", "false: junk stays in the inbox", default=True),
    "sieve_before": Key("sieve", "script for its mail that comes before its own; after the domain's"),
    "sieve_after": Key("sieve", "script for its mail that comes after its own, unless that one has stopped"),
    "junk_retention": Key("retention", "how long mail stays in its Junk. Default: mail_junk_retention"),
    "trash_retention": Key("retention", "how long mail stays in its Trash. Default: mail_trash_retention"),
    "deleted_to_trash": Key("boolean", "what IMAP clients delete in other folders goes to Trash. Default: mail_deleted_to_trash"),
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

_RIGHTS: Final = ("read", "add", "write")

_FOLDER_ACCESS: Final[Mapping[str, Key]] = {
    "who": Key("target", "mailbox, group or alias of the domain; a mailbox's entry wins over those of groups", required=True),
    "rights": Key("choice", "read; add: and put messages into it; write: and flag and delete them", default="read", choices=_RIGHTS),
}

_PUBLIC_FOLDER: Final[Mapping[str, Key]] = {
    "name": Key("folder", "its name; mail programs show it below Public", required=True, literal=True),
    "address": Key("local_part", "local part of an address whose mail is delivered into it", literal=True),
    "everyone": Key("choice", "rights of every mailbox of the domain. Default: none", choices=_RIGHTS),
    "access": Key("list", "who else sees it", keys=_FOLDER_ACCESS),
    "description": Key("text", "for the reader of the file"),
}

# What an alias domain may say.
ALIAS_DOMAIN_KEYS: Final = (
    "domain",
    "alias_of",
    "allow_confusable",
    "description",
    "spam",
    "dkim",
    "spf",
    "dmarc",
    "mta_sts",
    "tls_reports",
    "certificate",
)
# What a domain without mail may say.
PARKED_KEYS: Final = ("domain", "allow_confusable", "description", "parked")
# What a relayed domain may say.
RELAYED_KEYS: Final = ("domain", "allow_confusable", "description", "spam", "relay", "recipients", "verify_recipients")
# Security levels that never mean clear text by decree.
_TLS_LEVELS: Final = ("may", "encrypt", "dane", "dane-only", "verify", "secure")

_RELAY: Final[Mapping[str, Key]] = {
    "next_hop": Key("next_hop", "server that gets its mail; the domain itself: its other MX hosts, for a backup MX", required=True),
    "port": Key("integer", "TCP port, 1 to 65535. Default: 25"),
    "tls": Key("choice", "security level, as in mail_tls_policies. Default: as for all other mail", choices=_TLS_LEVELS),
}

_SPF: Final[Mapping[str, Key]] = {
    "all": Key(
        "choice",
        "verdict on every other sender; ~all leaves it to DMARC (RFC 7489, 10.1)",
        default="~all",
        choices=("~all", "-all", "?all"),
    ),
    "include": Key("list", "domains whose SPF record holds for ours too, such as a newsletter service", default=[], of="dns_name"),
    "addresses": Key("list", "further addresses and networks that send our mail", default=[], of="access_network"),
}

_DMARC: Final[Mapping[str, Key]] = {
    "policy": Key(
        "choice",
        "what others are asked to do with mail that is not ours (RFC 7489)",
        default="quarantine",
        choices=("none", "quarantine", "reject"),
    ),
    "subdomain_policy": Key("choice", "the same for subdomains. Default: policy", choices=("none", "quarantine", "reject")),
    "reports": Key("list", "who gets the daily reports", default=[], of="address"),
    "failure_reports": Key("list", "who gets reports of single messages", default=[], of="address"),
    "strict": Key("boolean", "true: mail signed or sent as a subdomain does not count", default=False),
}

_MTA_STS: Final = ("disabled", "none", "testing", "enforce")

_CAA: Final[Mapping[str, Key]] = {
    "issue": Key(
        "list", "authorities that may. Default: letsencrypt.org where the certificate comes from there, otherwise no record", of="host"
    ),
    "wildcard": Key("list", "authorities that may issue for wildcards. Default: none may", default=[], of="host"),
    "account": Key("text", "address of the only account there that may (RFC 8657)"),
    "report": Key("address", "who hears of refused requests"),
}

_DNS_UPDATE: Final[Mapping[str, Key]] = {
    "zones": Key("list", "the zones. Default: every zone of ours that the server has and no other entry names", default=[], of="host"),
    "server": Key("server", "its primary name server: host name or address", required=True),
    "port": Key("integer", "TCP port, 1 to 65535", default=53),
    "key_name": Key("dns_name", "name of the TSIG key", required=True),
    "algorithm": Key(
        "choice",
        "of the TSIG key",
        default="hmac-sha256",
        choices=("hmac-sha256", "hmac-sha384", "hmac-sha512"),
    ),
    "secret": Key("secret", "the TSIG key in base64, from a vault", required=True, secret=True),
}


def _overrides(keys: Mapping[str, Key]) -> Mapping[str, Key]:
    """The same keys for one domain, each of which counts on its own."""
    return {name: replace(key, default=None) for name, key in keys.items()}


# A file of <inventory>/domains/, or an entry of mail_domains.
DOMAIN: Final[Mapping[str, Key]] = {
    "domain": Key("domain", "the mail domain", required=True, literal=True),
    "allow_confusable": Key("boolean", "accept a label that mixes scripts", default=False),
    "description": Key("text", "for the reader of the file"),
    "alias_of": Key("domain", "domain delivered here whose addresses all exist in this one too, also to send as", literal=True),
    "catch_all": Key("target", "who gets mail for names that do not exist; without it such mail is refused"),
    "hidden_copy": Key("target", "gets a copy of all mail to the domain. Default: mail_hidden_copy"),
    "hidden_copy_outgoing": Key("target", "gets a copy of all mail that is sent as an address of it. Default: mail_hidden_copy_outgoing"),
    "legal_note": Key("note", "text below mail from its addresses that leaves this host; not below signed or encrypted mail"),
    "quota": Key("quota", "quota of its mailboxes. Default: mail_default_quota"),
    "spam": Key("spam", "scores for mail to the domain. Default: mail_spam"),
    "sieve_before": Key("sieve", "script for mail to its mailboxes that comes before theirs"),
    "sieve_after": Key("sieve", "script for mail to its mailboxes that comes after theirs, unless those have stopped"),
    "dkim": Key("list", "its signing keys; false: not signed. Default: mail_dkim_keys", keys=_DKIM_KEY),
    "spf": Key("mapping", "what differs from mail_spf", keys=_overrides(_SPF)),
    "dmarc": Key("mapping", "what differs from mail_dmarc", keys=_overrides(_DMARC)),
    "mta_sts": Key("choice", "Default: mail_mta_sts", choices=_MTA_STS),
    "tls_reports": Key("list", "Default: mail_tls_reports", of="address"),
    "parked": Key("boolean", "true: it neither gets nor sends mail, and its DNS records say so", default=False),
    "certificate": Key(
        "list",
        "host names in it that get a certificate of their own, for clients that are set up with these; true: mail.<domain>",
        of="host",
    ),
    "mailboxes": Key("list", "its mailboxes", keys=_MAILBOX),
    "public_folders": Key("list", "folders that its mailboxes share", keys=_PUBLIC_FOLDER),
    "public_quota": Key("quota", "limit of mail in its public folders, all together", default="unlimited"),
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

_HELO: Final[Mapping[str, Key]] = {
    "level": Key(
        "choice",
        "lenient: any name; rfc: a full name or [address], as RFC 5321 wants it; strict: also one that the DNS knows and that is not ours",
        default="rfc",
        choices=("lenient", "rfc", "strict"),
    ),
    "exceptions": Key("list", "names that are taken at every level", of="greeting"),
    "exception_patterns": Key("list", "the same by regular expression", of="greeting_pattern"),
}

_MISSING_HEADER_POLICIES: Final = ("score", "reject")
_MISSING_HEADERS: Final[Mapping[str, Key]] = {
    "from": Key("choice", "mail without From; score: points of the filter", default="reject", choices=_MISSING_HEADER_POLICIES),
    "date": Key("choice", "mail without Date", default="score", choices=_MISSING_HEADER_POLICIES),
}

_FILTER: Final[Mapping[str, Key]] = {
    "action": Key(
        "choice",
        "allow: never greylisted, junk, or refused for its score or attachments; block: refused; no_greylisting: not delayed. "
        "allow wins over block",
        required=True,
        choices=("allow", "block", "no_greylisting"),
    ),
    "client": Key("access_network", "address or network that the mail comes from; not with block, see mail_access", literal=True),
    "sender": Key("access_address", "envelope sender, or author in From", literal=True),
    "recipient": Key("access_address", "recipient here; not with block", literal=True),
    "description": Key("text", "for the reader of the file"),
}

_SPAM_MARKS: Final[Mapping[str, Key]] = {
    "subject": Key("text", "what stands in front of the subject of junk, such as [SPAM]; its signatures (DKIM) do not fit it any more"),
    "status": Key("boolean", "header X-Spam-Status of incoming mail: Yes or No, and the score", default=False),
    "score": Key("boolean", "header X-Spam-Score: the score", default=False),
    "level": Key("boolean", "header X-Spam-Level: a star for each whole point, for rules of mail programs", default=False),
}

_FILTER_WEB: Final[Mapping[str, Key]] = {
    "host": Key("host", "name that it is served at, one of mail_hostnames; nothing else is served there. Without it there is none"),
    "password_hash": Key("secret", "hash of the password of who looks and changes nothing (`rspamadm pw`), from a vault", secret=True),
    "enable_password_hash": Key("secret", "hash of the password of who may also teach and change scores. Default: nobody may", secret=True),
    "networks": Key("list", "addresses and networks that reach it. Default: all", of="access_network"),
}

_SPAM_SCORES: Final[Mapping[str, Key]] = {
    "symbols": Key("scores", "points of single rules of Rspamd, by symbol; 0 switches off what it says", of="rule"),
    "groups": Key("scores", "the most points that all rules of a group give together", of="rule"),
}

_ORIGINS: Final[Mapping[str, Key]] = {
    "countries": Key("scores", "points for clients in a country; less than zero is in their favour", of="country"),
    "networks": Key("scores", "points for clients in an autonomous system, which is the network of one provider", of="as_number"),
    "updates": Key("boolean", "the database comes daily from libloc's project; false: from you", default=True),
}

_BLOCKLIST: Final[Mapping[str, Key]] = {
    "zone": Key("domain", "zone of the list in the DNS", required=True, literal=True),
    "of": Key("list", "what is looked up: client, received, helo, rdns, sender, from, reply_to, urls", required=True, of="list_subject"),
    "answers": Key(
        "list",
        "answers that count. Default: 127.0.x.2 to 127.0.x.254, which are listings; errors (127.255.255.x) never do",
        of="list_answer",
    ),
    "score": Key("number", "points for what is listed; below zero for lists of good senders", required=True),
    "description": Key("text", "for the reader of the file"),
}

# What a list of senders, hosts or links is asked about, and how the filter calls that.
LIST_SUBJECTS: Final[Mapping[str, str]] = {
    "client": "from",
    "received": "received",
    "helo": "helo",
    "rdns": "rdns",
    "sender": "from('smtp'):domain",
    "from": "from('mime'):domain",
    "reply_to": "replyto",
    "urls": "urls",
}

# F6: kinds of attachments.
ATTACHMENT_CLASSES: Final = ("executables", "scripts", "macros", "archives", "encrypted_archives")

# F7: text formats of ClamAV's signatures.
SIGNATURE_FORMATS: Final = (
    "cdb",
    "crb",
    "fp",
    "ftm",
    "gdb",
    "hdb",
    "hsb",
    "ign2",
    "ldb",
    "mdb",
    "msb",
    "ndb",
    "pdb",
    "sfp",
    "wdb",
    "yar",
    "yara",
)

_ATTACHMENTS: Final[Mapping[str, Key]] = {
    "refuse": Key(
        "list",
        "kinds, known by names and by content: executables, scripts, macros (Office documents with macros), archives, "
        "encrypted_archives (archives with a password or that cannot be looked into)",
        default=["executables"],
        of="attachment_class",
    ),
    "extensions": Key("list", "further extensions of names, such as iso", of="file_extension"),
    "types": Key("list", "further MIME types, declared or found, such as video/mp4 or video/*", of="media_type"),
}

_SIGNATURES: Final[Mapping[str, Key]] = {
    "name": Key("signature_file", "name of the file on the host; its ending says what it holds, such as .ndb or .hdb", required=True),
    "text": Key("text", "what it holds; lookup('ansible.builtin.file', …) reads it from a file", required=True),
}

_ANTIVIRUS: Final[Mapping[str, Key]] = {
    "action": Key(
        "choice",
        "what happens to infected mail; none: ClamAV is not installed; reject: refused (554); quarantine: goes to mail_quarantine; "
        "tag: gets a header X-Virus, and is junk. From a login here it is always refused",
        default="none",
        choices=("none", "reject", "quarantine", "tag"),
    ),
    "unscanned": Key(
        "choice",
        "mail that cannot be scanned; defer: it comes again later (451), and what exceeds the scanner's limits counts as infected; "
        "accept: it passes",
        default="defer",
        choices=("defer", "accept"),
    ),
    "updates": Key("boolean", "ClamAV's own signatures, kept up to date by freshclam", default=True),
    "signatures": Key("list", "signatures of others, or your own", keys=_SIGNATURES),
}

_QUARANTINE: Final[Mapping[str, Key]] = {
    "mailbox": Key("address", "mailbox of an own domain, with quota: unlimited, that gets what is quarantined, into its folder Junk"),
    "notify": Key("list", "who gets a mail about each such message", of="address"),
    "notify_recipients": Key("boolean", "those whom the message was for get a mail about it too", default=True),
    "spam": Key("boolean", "mail that is refused for its score goes there instead", default=False),
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

_MASTER_USER: Final[Mapping[str, Key]] = {
    "name": Key("local_part", "its name; it logs in to a mailbox as ADDRESS*NAME", required=True, literal=True),
    "password_hash": Key("secret", "hash with its scheme (`doveadm pw -s ARGON2ID`), from a vault", required=True, secret=True),
    "submission": Key("boolean", "it may also send as whoever it logs in as", default=False),
    "description": Key("text", "for the reader of the file"),
}

_LDAP: Final[Mapping[str, Key]] = {
    "servers": Key(
        "list", "its servers, the first that answers; certificates must be good for the host's own store", required=True, of="ldap_server"
    ),
    "base": Key("ldap_dn", "where users are looked for, and below", required=True),
    "bind_dn": Key("ldap_dn", "account that may look", required=True),
    "bind_password": Key("secret", "its password, from a vault", required=True, secret=True),
    "domains": Key("list", "domains of the inventory whose users may be there", required=True, of="domain"),
    "user_filter": Key("ldap_filter", "which entries are users", default="(objectClass=inetOrgPerson)"),
    "attributes": Key(
        "mapping",
        "what an entry calls",
        keys={
            "address": Key("ldap_attribute", "its address, which is its login; it has one", default="mail"),
            "aliases": Key("ldap_attribute", "further addresses, to send as, too. Default: none"),
            "quota": Key("ldap_attribute", "its quota in octets, or with K, M, G or T; 0 is unlimited. Default: mail_default_quota"),
        },
    ),
}

# What a failed check of the sender leads to.
_CONSEQUENCES: Final = ("score", "junk", "defer", "reject")


def _consequence(of: str, default: str = "score") -> Key:
    return Key("choice", of, default=default, choices=_CONSEQUENCES)


# Named by the results of RFC 8601; of DMARC by the policy that the domain publishes.
_AUTHENTICATION: Final[Mapping[str, Key]] = {
    "spf": Key(
        "mapping",
        "results of SPF (RFC 7208), where DMARC does not pass",
        keys={
            "fail": _consequence("the server may not send for this domain (-all)"),
            "softfail": _consequence("it probably may not (~all)"),
            "permerror": _consequence("the domain's record is wrong"),
            "temperror": _consequence("its records could not be had"),
        },
    ),
    "dkim": Key(
        "mapping",
        "results of DKIM (RFC 6376), where no other signature and not DMARC passes",
        keys={
            "fail": _consequence("a signature that does not fit"),
            "permerror": _consequence("a signature that nobody can verify, for one because its key does not exist"),
            "temperror": _consequence("its key could not be had"),
        },
    ),
    "dmarc": Key(
        "mapping",
        "failed DMARC (RFC 7489), by the policy of the domain in From",
        keys={
            "reject": _consequence("p=reject", "reject"),
            "quarantine": _consequence("p=quarantine", "junk"),
            "none": _consequence("p=none"),
            "temperror": _consequence("the policy could not be had"),
        },
    ),
    "arc": Key(
        "mapping",
        "forwarded mail (ARC, RFC 8617)",
        keys={
            "trusted_sealers": Key(
                "list",
                "domains whose word counts: where only they sealed a message, and DMARC passed there, nothing of the above follows",
                of="domain",
            ),
        },
    ),
}

_DMARC_REPORTS: Final[Mapping[str, Key]] = {
    "organisation": Key("text", "who reports: a name for people, in one line", required=True),
    "from": Key("address", "sender of the reports, an address here", required=True),
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
    "mail_quota_warnings": Key(
        "list", "how full a mailbox is (percent) when its owner gets a mail about it", default=[80, 95], of="percent"
    ),
    "mail_junk_retention": Key("retention", "how long mail stays in the folder Junk; then it is deleted", default="unlimited"),
    "mail_trash_retention": Key("retention", "how long mail stays in the folder Trash; then it is deleted", default="unlimited"),
    "mail_deleted_to_trash": Key(
        "boolean",
        "what IMAP clients delete goes to Trash first (for clients that do not move it there themselves); not from Junk, Drafts and Trash",
        default=False,
    ),
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
    "mail_spam_marks": Key("mapping", "how junk is marked, beside the header X-Spam: Yes", keys=_SPAM_MARKS),
    "mail_spam_scores": Key("mapping", "what differs from Rspamd's own scores", keys=_SPAM_SCORES),
    "mail_reputation": Key(
        "boolean",
        "what servers, senders that SPF vouches for, and signers sent before counts: mail of those who sent junk gets points, "
        "that of others loses some; after ten messages of theirs",
        default=False,
    ),
    "mail_filter_web": Key("mapping", "web interface of Rspamd, behind HTTPS and a password", keys=_FILTER_WEB),
    "mail_spam_trainers": Key(
        "list", "mailboxes, groups and aliases whose moves into and out of Junk teach the filter. Default: all mailboxes", of="address"
    ),
    "mail_dkim_keys": Key(
        "list",
        "signing keys of each domain that does not declare its own",
        default=[{"algorithm": "rsa", "bits": 2048}, {"algorithm": "ed25519"}],
        keys=_COMMON_DKIM_KEY,
    ),
    "mail_dkim_rotation": Key(
        "duration", "age at which `playbooks/rotate-dkim.yml` replaces a signing key without a declared selector. Default: only on request"
    ),
    "mail_transports": Key("list", "where mail to some destinations goes", keys=_TRANSPORT),
    "mail_tls_policies": Key("list", "TLS to some destinations", keys=_TLS_POLICY),
    "mail_aliases": Key("list", "aliases of every domain, or of one", keys=_COMMON_ALIAS),
    "mail_relays": Key("list", "smarthosts; an entry with neither sender nor recipient is for all other outgoing mail", keys=_SMARTHOST),
    "mail_access": Key("list", "who is allowed and who is blocked on port 25", keys=_ACCESS),
    "mail_helo": Key("mapping", "what a client on port 25 may greet with", keys=_HELO),
    "mail_missing_headers": Key("mapping", "what happens to mail from outside without a header that it must have", keys=_MISSING_HEADERS),
    "mail_greylisting": Key("boolean", "false: no mail is delayed, whatever it scores", default=True),
    "mail_filter": Key("list", "whose mail the filter lets through, refuses, or does not delay", keys=_FILTER),
    "mail_attachments": Key(
        "mapping", "files that no mail may bring, in archives too; a message with one is refused (554)", keys=_ATTACHMENTS
    ),
    "mail_antivirus": Key("mapping", "all mail through ClamAV, with or without attachments", keys=_ANTIVIRUS),
    "mail_quarantine": Key("mapping", "where mail waits until somebody looks at it (`playbooks/quarantine.yml`)", keys=_QUARANTINE),
    "mail_blocklists": Key("list", "lists in the DNS that give points, beside those that the filter knows", keys=_BLOCKLIST),
    "mail_origins": Key("mapping", "where a client is, by a database on the host, gives points", keys=_ORIGINS),
    "mail_sending_limit": Key("limit", "recipients per hour that a login may write to; then it is told to try again later", default=500),
    "mail_alias_expansion_limit": Key("integer", "most addresses that one alias may become, 1 to 1000", default=200),
    "mail_password_update": Key(
        "choice",
        "always: the inventory owns passwords; on_create: it only seeds them",
        default="always",
        choices=("always", "on_create"),
    ),
    "mail_allow_plaintext_passwords": Key("boolean", "accept passwords that stand in clear in an unencrypted file (lab)", default=False),
    "mail_sieve_before": Key("sieve", "script for all mail to mailboxes; before those of domains and mailboxes, and before junk is filed"),
    "mail_sieve_after": Key("sieve", "script for all mail to mailboxes; after all others, unless one has stopped"),
    "mail_sharing": Key("boolean", "users may share their folders with each other (IMAP's SETACL); shown below Shared", default=False),
    "mail_shared_seen": Key("boolean", "what one reads in a public or shared folder is read for all; false: for each alone", default=False),
    "mail_master_users": Key(
        "list", "people who may log in to every mailbox with their own password; each such login is logged", keys=_MASTER_USER
    ),
    "mail_ldap": Key("mapping", "a directory with further users; what the inventory says of an address wins", keys=_LDAP),
    "mail_hide_secrets": Key("boolean", "keep passwords and keys out of output", default=True),
    "mail_hidden_copy": Key("address", "gets a copy of everything: all mail that comes in or is sent"),
    "mail_hidden_copy_outgoing": Key("address", "gets a copy of all mail that is sent as an address of a domain that says nothing else"),
    "mail_srs_exempt": Key(
        "list",
        "sender domains of others whose mail leaves from here by right (their SPF names this host), so that it is not taken for forwarded",
        of="domain",
    ),
    "mail_addresses": Key("list", "public addresses of this host, for its DNS records. Default: what it has itself", of="ip_address"),
    "mail_spf": Key("mapping", "SPF records; this host is always in them", keys=_SPF),
    "mail_dmarc": Key("mapping", "DMARC records", keys=_DMARC),
    "mail_mta_sts": Key(
        "choice",
        "MTA-STS (RFC 8461): testing only asks for reports (mail_tls_reports), enforce has others refuse to send without good TLS; "
        "none takes a former policy back, later disabled takes it away",
        default="testing",
        choices=_MTA_STS,
    ),
    "mail_tls_reports": Key("list", "who gets reports of TLS failures of servers that send here (RFC 8460)", of="address"),
    "mail_caa": Key("mapping", "who may issue certificates for the names of this host (CAA records)", keys=_CAA),
    "mail_dns_ttl": Key("duration", "lifetime of DNS records in caches, at most 1w", default="1h"),
    "mail_dns_updates": Key("list", "name servers that this host keeps its records on, by dynamic update (RFC 2136)", keys=_DNS_UPDATE),
    "mail_authentication": Key(
        "mapping",
        "what failed checks of the sender of incoming mail lead to: score (counts as spam), junk, defer (451), reject (554)",
        keys=_AUTHENTICATION,
    ),
    "mail_dmarc_reports": Key(
        "mapping", "aggregate reports to the domains that ask for them, once a day; without it none are sent", keys=_DMARC_REPORTS
    ),
    "mail_helo_name": Key("host", "name that outgoing mail greets with; its address and back must agree. Default: mail_hostname"),
    "mail_source_addresses": Key(
        "list", "addresses of the host that mail leaves from, at most one of each family. Default: the kernel's choice", of="ip_address"
    ),
    "mail_mta_sts_outgoing": Key(
        "boolean", "mail to others: their MTA-STS policies (RFC 8461) are asked for and kept; DANE is in both cases", default=True
    ),
    "mail_networks": Key("list", "networks that may relay without AUTH; the host itself always may", of="network"),
}
