# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Names as mail knows them: domains, hosts, local parts, addresses, selectors, networks.

Every function takes text and returns the one form used everywhere (lower case, A-labels), or raises `Invalid`. What is
accepted contains no white space, no control character and none of the characters that mean something in a Postfix table,
a Dovecot passwd-file, a path or a shell.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import re
import unicodedata
import warnings

import idna

from .errors import Invalid

__all__ = [
    "access_name",
    "address",
    "address_pattern",
    "client",
    "dns_name",
    "domain",
    "folder",
    "folder_directory",
    "greeting",
    "host",
    "ip_address",
    "is_meant",
    "list_answer",
    "local_part",
    "network",
    "network_of",
    "next_hop",
    "reply",
    "selector",
    "server",
    "split",
    "target",
    "unicode_domain",
]

LABEL_LIMIT = 63
# RFC 1035 allows 255 octets on the wire, which is 253 characters as text.
DOMAIN_LIMIT = 253
# RFC 5321, 4.5.3.1.1 and 4.5.3.1.3 (256 octets of path, two of them angle brackets).
LOCAL_PART_LIMIT = 64
ADDRESS_LIMIT = 254
# Less than a file system's 255: all levels are one directory. In the modified UTF-7 that IMAP has for it.
FOLDER_LIMIT = 200

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9._+=-]*")
# Somebody else's mailbox: RFC 5322 atoms without what a Postfix table or an old router could read as an instruction.
_FOREIGN_LOCAL_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=&'~*?^-]*")
_PATTERN = re.compile(r"[a-z0-9._+=\-\[\]()*?{},|\\]+")
_DNS_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_TLD = re.compile(r"\.([a-z]{2,63}|xn--[a-z0-9-]{2,59})")
# An answer of access(5) in main.cf: what Postfix would expand or read as a bracket is out.
_REPLY = re.compile(r"([45])[0-9][0-9] ([45])\.[0-9]{1,3}\.[0-9]{1,3}( [!#%-\[\]-z|~]+)+")
REPLY_LIMIT = 200
_HARMLESS_ESCAPES = re.compile(r"\\(?![dw.+*?()\[\]{}|-])")
# Scripts that one label may mix: written Japanese, Korean and Chinese do (Unicode TR 39, "highly restrictive").
_MIXABLE = (
    {"LATIN", "CJK", "HIRAGANA", "KATAKANA"},
    {"LATIN", "CJK", "HANGUL"},
    {"LATIN", "CJK", "BOPOMOFO"},
)


def _refuse_characters(text: str, what: str) -> None:
    """Refuse what no name may hold, naming the character."""
    if not text:
        raise Invalid("empty", f"write the {what}")
    # "{{" first: it is the likeliest reason for braces, spaces and quotes.
    if "{{" in text or "{%" in text:
        raise Invalid("'{{' not allowed", f"a {what} is written out; expressions are not evaluated here")
    for char in text:
        # Cc control, Cf format (bidi marks, zero width), Cs lone surrogates, Co private use, Zl and Zp separators
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} and char not in "\u200c\u200d":
            raise Invalid(f"control character U+{ord(char):04X} not allowed")
    if text != text.strip():
        raise Invalid("leading or trailing space", "remove it")
    for char in text:
        if char.isspace():
            raise Invalid("space not allowed" if char == " " else f"white space U+{ord(char):04X} not allowed")


def _scripts(label: str) -> set[str]:
    return {unicodedata.name(char, "UNKNOWN").split()[0].removesuffix("-") for char in label if unicodedata.category(char)[0] == "L"}


def _a_label(label: str, shown: str, allow_confusable: bool) -> str:
    """One label as an A-label, by IDNA 2008 (RFC 5891)."""
    if not label:
        raise Invalid("empty label", "two dots follow each other, or the name begins with a dot")
    if label.isascii():
        for char in label:
            if not (char.isalnum() or char == "-"):
                raise Invalid(f"character {char!r} not allowed")
        if label[0] == "-" or label[-1] == "-":
            raise Invalid(f"label {label!r} begins or ends with '-'")
        if len(label) > LABEL_LIMIT:
            raise Invalid(f"label longer than {LABEL_LIMIT} characters")
        if not label.startswith("xn--"):
            if label[2:4] == "--":
                raise Invalid(f"label {label!r} has '--' in the third and fourth place, which is reserved (RFC 5891)")
            return label
        try:
            unicode_label = idna.ulabel(label)
            encoded = idna.alabel(unicode_label).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise Invalid(f"invalid IDNA label {label!r} ({error})") from None
        if encoded != label:
            raise Invalid(f"invalid IDNA label {label!r} (not in its one valid form)")
    else:
        unicode_label = label
        try:
            encoded = idna.alabel(label).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise Invalid(f"not valid by IDNA 2008 ({error})") from None
    scripts = _scripts(unicode_label)
    if len(scripts) > 1 and not allow_confusable and not any(scripts <= mix for mix in _MIXABLE):
        raise Invalid(
            f"label {unicode_label!r} mixes the scripts {' and '.join(sorted(scripts))} ({encoded}) and can be taken for another name",
            "set allow_confusable: true for this domain if it is meant",
        )
    return encoded


@functools.lru_cache(maxsize=65536)
def _fold_domain(text: str, what: str, allow_confusable: bool) -> str:
    _refuse_characters(text, what)
    if text.startswith("["):
        raise Invalid("an address, not a domain", "write a name")
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        raise Invalid("an address, not a domain", "write a name")
    for char in "/*$`%@,:;\\'\"|<>(){}#!?&=+_":
        if char in text:
            raise Invalid(
                "wildcards are not supported here" if char == "*" else f"character {char!r} not allowed",
                "write the domain alone, without the part before '@'" if char == "@" else "",
            )
    if text.endswith(".") and not text.endswith(".."):
        raise Invalid("trailing dot", "remove it")
    folded = unicodedata.normalize("NFC", text.lower())
    labels = folded.split(".")
    name = ".".join(_a_label(label, text, allow_confusable) for label in labels)
    if len(name) > DOMAIN_LIMIT:
        raise Invalid(f"longer than {DOMAIN_LIMIT} characters")
    if len(labels) < 2:
        raise Invalid("a single label; a dot is needed", "write the full name, such as example.org")
    if labels[-1].isdigit():
        raise Invalid("the last label is a number, so this is no domain")
    return name


def domain(text: str, *, allow_confusable: bool = False) -> str:
    """A domain name as lower-case A-labels. Refuses addresses, single labels, wildcards, root dots and mixed scripts."""
    return _fold_domain(text, "domain name", allow_confusable)


def host(text: str) -> str:
    """A fully qualified host name, by the same rules as a domain."""
    return _fold_domain(text, "host name", False)


def unicode_domain(name: str) -> str:
    """The form of `domain(name)` that people read, for messages and pages."""
    try:
        return idna.decode(name)
    except (idna.IDNAError, UnicodeError):
        return name


@functools.lru_cache(maxsize=262144)
def folder(text: str) -> str:
    """The name of an IMAP folder, with '/' between levels."""
    text = unicodedata.normalize("NFC", text)
    for level in text.split("/"):
        if not level:
            raise Invalid("an empty level: '/' is between two names")
        if (found := re.search(r"[^\w .&+-]", level)) is not None:
            raise Invalid(f"character {found[0]!r} not allowed", "use letters, digits, space and _ . & + -")
        if level != level.strip() or level[0] == "." or level[-1] == ".":
            raise Invalid("a level begins or ends with a space or a dot")
    if text.upper().partition("/")[0] == "INBOX":
        raise Invalid("INBOX is every mailbox's own")
    if len(folder_directory(text)) > FOLDER_LIMIT:
        raise Invalid(f"longer than {FOLDER_LIMIT} octets, all its levels together")
    return text


def folder_directory(text: str) -> str:
    """The directory of a folder in a Maildir++ (modified UTF-7 of RFC 3501, 5.1.3; a dot within a name is escaped as Dovecot does)."""
    octets = re.sub(
        r"&|[^\x00-\x7f]+",
        lambda found: (
            "&-" if found[0] == "&" else f"&{base64.b64encode(found[0].encode('utf-16-be')).decode().rstrip('=').replace('/', ',')}-"
        ),
        text,
    )
    return "." + octets.replace(".", r"\2e").replace("/", ".")


def local_part(text: str) -> str:
    """The part before '@' of an address of ours, in lower case: it becomes a path, a login and a key of tables."""
    if _LOCAL_PART.fullmatch(text) and len(text) <= LOCAL_PART_LIMIT and ".." not in text and text[-1] != ".":
        return text
    _refuse_characters(text, "local part")
    if not text.isascii():
        raise Invalid("non-ASCII local part: SMTPUTF8 is not enabled", "use letters a-z, digits and . _ - + =")
    folded = text.lower()
    if folded[0] == "." or folded[-1] == ".":
        raise Invalid("begins or ends with a dot")
    if ".." in folded:
        raise Invalid("two dots follow each other")
    if folded[0] == "-":
        raise Invalid("begins with '-', which programs read as an option")
    if folded[0] in "\"'":
        raise Invalid("quoted local parts are not supported")
    for char in folded:
        if not _LOCAL_PART.fullmatch("a" + char):
            raise Invalid(f"character {char!r} not allowed", "use letters a-z, digits and . _ - + =")
    if not _LOCAL_PART.fullmatch(folded):
        raise Invalid(f"begins with {folded[0]!r}", "begin with a letter or digit")
    if len(folded) > LOCAL_PART_LIMIT:
        raise Invalid(f"local part longer than {LOCAL_PART_LIMIT} characters")
    return folded


def split(text: str) -> tuple[str, str]:
    """Local part and domain of an address that has exactly one '@'."""
    if text.count("@") != 1:
        raise Invalid("no '@'" if "@" not in text else "more than one '@'", "write local-part@domain")
    local, _, name = text.partition("@")
    return local, name


def address(text: str) -> str:
    """An address of ours: local part and domain both folded."""
    _refuse_characters(text, "address")
    local, name = split(text)
    if not local:
        raise Invalid("nothing before '@'", "write local-part@domain")
    return f"{local_part(local)}@{domain(name)}"


@functools.lru_cache(maxsize=65536)
def target(text: str) -> str:
    """An address that mail may be sent on to: ours or anybody's. The case of a foreign local part is kept.

    Refuses everything that local(8) or an alias table would take for a command, a file, a list or two addresses.
    """
    if text[:1] in ("|", "/") or text.startswith((":include:", '"|', '"/')):
        raise Invalid("commands, files and included lists are not supported as targets", "write an address")
    _refuse_characters(text, "address")
    if "," in text:
        raise Invalid("character ',' not allowed", "write a list with one address per entry")
    local, name = split(text)
    if not local:
        raise Invalid("nothing before '@'", "write an address")
    name = domain(name)
    if not local.isascii():
        raise Invalid("non-ASCII local part: SMTPUTF8 is not enabled")
    for char in local:
        if not _FOREIGN_LOCAL_PART.fullmatch("a" + char):
            raise Invalid(f"character {char!r} not allowed")
    if not _FOREIGN_LOCAL_PART.fullmatch(local):
        raise Invalid(f"begins with {local[0]!r}")
    if local[-1] == "." or ".." in local:
        raise Invalid("a dot at the end or two in a row")
    if len(local) > LOCAL_PART_LIMIT or len(local) + 1 + len(name) > ADDRESS_LIMIT:
        raise Invalid(f"longer than {LOCAL_PART_LIMIT} characters before '@' or {ADDRESS_LIMIT} in all")
    return f"{local}@{name}"


def selector(text: str) -> str:
    """A DKIM selector of one label (RFC 6376, 3.1): it becomes a DNS name and a file name."""
    _refuse_characters(text, "selector")
    if len(text) > LABEL_LIMIT:
        raise Invalid(f"longer than {LABEL_LIMIT} characters")
    if not _LABEL.fullmatch(text):
        raise Invalid("not one DNS label", "use lower-case letters, digits and inner '-'")
    return text


def address_pattern(text: str) -> str:
    """A regular expression for whole local parts, in the part of PCRE that cannot name another domain, look around or run away.

    Allowed are the characters of local parts, `.` `[]` `()` `*` `?` `+` `{}` `|` and the escapes `\\d`, `\\w` and of punctuation.
    """
    _refuse_characters(text, "pattern")
    for char in text:
        if not _PATTERN.fullmatch(char):
            raise Invalid(
                f"character {char!r} not allowed in a pattern",
                "the pattern stands for the part before '@', from its beginning to its end" if char in "@^$" else "",
            )
    if "(?" in text:
        raise Invalid("'(?' not allowed in a pattern")
    if "{," in text:
        raise Invalid("'{,' not allowed in a pattern", "write {0,")
    if _HARMLESS_ESCAPES.search(text):
        raise Invalid("unknown escape in a pattern", "\\d, \\w and escaped punctuation are known")
    if re.search(r"[)][*+{]", text):
        raise Invalid("a repeated group can take very long to match", "repeat single characters or [sets]")
    try:
        # Python warns of what other engines read differently, such as a set inside a set.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(text)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise Invalid(f"not a regular expression ({error})") from None
    return text


def _cidr(text: str, otherwise: Invalid) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network without host bits. Raises `otherwise` for what is none."""
    try:
        return ipaddress.ip_network(text, strict=True)
    except ValueError:
        try:
            loose = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise otherwise from None
        raise Invalid("host bits are set", f"write {loose}") from None


def network(text: str) -> str:
    """A trusted network in CIDR notation. Refuses everything that would open the relay to strangers."""
    _refuse_characters(text, "network")
    parsed = _cidr(text, Invalid("not a network in CIDR notation", "write 192.0.2.0/24 or 2001:db8::/64"))
    if parsed.prefixlen == 0:
        raise Invalid("would make an open relay: it is everybody")
    shortest = 16 if parsed.version == 4 else 32
    if parsed.prefixlen < shortest and not parsed.is_private:
        raise Invalid(f"a public network larger than /{shortest} would make an open relay")
    return str(parsed)


def access_name(text: str) -> str:
    """A domain, or with a dot in front what lies below one; that one may be a whole top-level domain."""
    if not text.startswith("."):
        return domain(text)
    folded = text.lower()
    return folded if _TLD.fullmatch(folded) else f".{domain(text[1:])}"


def client(text: str) -> str:
    """An SMTP client: a network in CIDR notation, with a full prefix where an address was given, or a name as `access_name`."""
    _refuse_characters(text, "client")
    if ":" not in text and "/" not in text and not text.replace(".", "").isdigit():
        return access_name(text)
    return network_of(text)


def dns_name(text: str) -> str:
    """A name in the DNS that need not be a host's: one label may do, and labels may begin with `_` (RFC 8552)."""
    _refuse_characters(text, "name")
    folded = text.lower()
    if not all(_DNS_LABEL.fullmatch(label) for label in folded.split(".")):
        raise Invalid("not a name in the DNS", "use labels of a-z, 0-9, '-' and '_' with dots between them")
    if len(folded) > DOMAIN_LIMIT:
        raise Invalid(f"longer than {DOMAIN_LIMIT} characters")
    return folded


def ip_address(text: str) -> str:
    """An address that other hosts can reach this one by, in its shortest form."""
    _refuse_characters(text, "address")
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid("not an IPv4 or IPv6 address", "write 192.0.2.7 or 2001:db8::7") from None
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local:
        raise Invalid("not an address that others can reach")
    if isinstance(parsed, ipaddress.IPv6Address) and (parsed.ipv4_mapped or parsed.scope_id):
        raise Invalid("not an address that others can reach")
    return str(parsed)


def server(text: str) -> str:
    """A host name, or an address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return host(text)


def network_of(text: str) -> str:
    """An address or a network in CIDR notation, with its prefix."""
    _refuse_characters(text, "network")
    parsed = _cidr(text, Invalid("neither an address nor a network", "write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64"))
    if parsed.prefixlen == 0:
        raise Invalid("it is everybody")
    return str(parsed)


def greeting(text: str) -> str:
    """A name in HELO: as `access_name`, or one label, which no domain is."""
    _refuse_characters(text, "greeting")
    folded = text.lower()
    return folded if _LABEL.fullmatch(folded) else access_name(text)


def list_answer(text: str) -> str:
    """An answer of a list in the DNS (RFC 5782). 127.255.255.0/24 tells of errors, such as too many questions."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise Invalid("not an IPv4 address", "such as 127.0.0.2") from None
    if address not in ipaddress.IPv4Network("127.0.0.0/8"):
        raise Invalid("not in 127.0.0.0/8: no list answers so")
    if address in ipaddress.IPv4Network("127.255.255.0/24") or text == "127.0.0.1":
        raise Invalid("that is how lists tell of errors, not of listings")
    return text


def reply(text: str) -> str:
    """A refusal for access(5): code, enhanced code of the same class (RFC 3463), text. `$`, braces, quotes and backslashes are refused."""
    match = _REPLY.fullmatch(text)
    if match is None:
        raise Invalid("not a reply in the form 554 5.7.1 Text", 'ASCII with single spaces; none of $ { } " \\ is possible')
    if match[1] != match[2]:
        raise Invalid(f"the codes {text[:3]} and {text.split()[1]} contradict each other", f"begin both with {match[1]}")
    if len(text) > REPLY_LIMIT:
        raise Invalid(f"longer than {REPLY_LIMIT} characters")
    return text


def next_hop(text: str) -> str:
    """A next hop of Postfix: `example.org` (its MX hosts), `[mail.example.org]` or `[192.0.2.1]` (that host). See transport(5)."""
    _refuse_characters(text, "next hop")
    if not text.startswith("["):
        if "]" in text:
            raise Invalid("']' without '['", "write [host]")
        return host(text)
    if not text.endswith("]"):
        raise Invalid("'[' without ']' at the end", "write [host], and the port apart from it")
    inner = text[1:-1]
    try:
        return f"[{ipaddress.ip_address(inner.removeprefix('IPv6:').removeprefix('ipv6:'))}]"
    except ValueError:
        return f"[{host(inner)}]"


def is_meant(wanted: str, address: str) -> bool:
    """Whether an envelope address is the one that is looked for, is in that domain (not its subdomains), or is none (`<>`)."""
    wanted, address = wanted.lower(), address.lower()
    if wanted == "<>":
        return not address
    return address == wanted if "@" in wanted.removeprefix("@") else address.endswith(f"@{wanted.removeprefix('@')}")
