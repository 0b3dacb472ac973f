# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Reads mappings of the inventory by their schema, remembers where each value stands, and notes every problem.

Nothing here reads files or knows Ansible. The caller passes two functions: `resolve` makes a plain value of one from the
inventory (references, vaults; raises `Invalid`), `locate` names the FILE:LINE of one.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from . import ldap, names, schema
from .errors import Invalid, Problem, show
from .schema import Key

__all__ = ["BROKEN", "At", "Plain", "Reader", "Report", "duration", "kind", "suggest", "unknown"]

# Dovecot and the file system count in signed 64 bits.
SIZE_CEILING: Final = 2**63
# ISO 3166-1, and XK for Kosovo, which registries use.
_COUNTRIES: Final = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH "
    "CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN "
    "GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI "
    "LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM "
    "PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD "
    "TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW"
)
_UNITS: Final[Mapping[str, int]] = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# sieve_max_script_size of dovecot.conf.
SIEVE_LIMIT: Final = 256 * 1024
# Of a text below mail, in characters; and of a word of it in HTML, in octets: a line has at most 998 (RFC 5322, 2.1.1).
NOTE_LIMIT: Final = 4000
WORD_LIMIT: Final = 900
# Whatever YAML can hold.
Plain: TypeAlias = Any
BROKEN: Final = object()


class At:
    """Where a value stands: enough to say its path and its line, computed only for a problem."""

    __slots__ = ("key", "name", "parent", "value", "where")

    def __init__(self, value: object, name: str = "", parent: At | None = None, key: object = None, where: str = "") -> None:
        self.value = value
        self.name = name
        self.parent = parent
        self.key = key
        self.where = where

    def path(self) -> str:
        parts: list[str] = []
        at: At | None = self
        while at is not None:
            parts.append(at.name)
            at = at.parent
        text = ""
        for part in reversed(parts):
            text += part if not text or part.startswith("[") or not part else f".{part}"
        return text

    def place(self, locate: Callable[[object], str | None]) -> str:
        at: At | None = self
        while at is not None:
            key = at.key
            if key is None and at.parent is not None and isinstance(at.parent.value, Mapping):
                # true, false and null carry no line; the key beside them does.
                key = next((name for name in at.parent.value if name == at.name), None)
            found = at.where or locate(at.value) or locate(key)
            if found:
                return found
            at = at.parent
        return ""

    def child(self, name: str, value: object, key: object = None) -> At:
        return At(value, name, self, key)

    def item(self, name: str) -> At:
        """The value of a key of the mapping that stands here."""
        return At(self.value.get(name) if isinstance(self.value, (dict, Mapping)) else None, name, self)

    def become(self, value: object) -> None:
        """Go on with what a reference stands for; the reference still tells the line if that has none."""
        if value is not self.value:
            self.key, self.value = (self.value if self.key is None else self.key), value


@dataclass
class Report:
    """What was found wrong, in the order of the inventory."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def suggest(word: str, known: Iterable[str]) -> str:
    """A cure for a misspelt name, or the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else ""


def kind(value: object) -> str:
    for kinds, name in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "text"),
        (Mapping, "a mapping"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return name
    if value is None:
        return "nothing"
    name = type(value).__name__.lower()
    if "date" in name:
        return "a date"
    return "a vaulted value" if "encrypted" in name else f"a {name}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    cure = "put it in quotes" if isinstance(value, bool | int | float) or "date" in type(value).__name__.lower() else ""
    raise Invalid(f"got {kind(value)}, text is needed", cure)


def _size(value: object) -> int:
    text = _text(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    match = re.fullmatch(r"([0-9]{1,19})([A-Za-z]*)", text, re.ASCII)
    if match is None or match[2] not in _UNITS:
        cure = f"write {match[1]}{match[2][0].upper()}" if match and match[2][:1].upper() in _UNITS else "such as 500M"
        raise Invalid("not a size: a whole number and one of the units K, M, G, T is needed", cure)
    octets = int(match[1]) * _UNITS[match[2]]
    if octets == 0:
        raise Invalid("zero", "no limit is written unlimited where it is possible")
    if octets >= SIZE_CEILING:
        raise Invalid("more than 8 EiB")
    return octets


def _quota(value: object) -> int:
    """Octets; 0 is unlimited."""
    if value == "unlimited":
        return 0
    if value == 0 and not isinstance(value, bool):
        raise Invalid("zero", "no limit is written unlimited")
    return _size(value)


def duration(value: object) -> int:
    """Seconds. Raises Invalid."""
    text = _text(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    if re.fullmatch(r"[0-9]{1,9}[smhdw]( *[0-9]{1,9}[smhdw])*", text, re.ASCII) is None:
        raise Invalid("not a time: whole numbers, each with s, m, h, d or w, are needed", "such as 5d or 1d 12h")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if seconds == 0:
        raise Invalid("zero")
    # Postfix keeps times in a signed int.
    if seconds >= 2**31:
        raise Invalid("longer than 68 years")
    return seconds


def _retention(value: object) -> int:
    """Seconds; 0 is for ever."""
    return 0 if value == "unlimited" else duration(value)


def _sieve(value: object) -> str:
    """What a compiler will look at on the host; here only that it is text, and starts no program."""
    text = _text(value)
    if not text.strip():
        raise Invalid("empty script", "remove the key")
    if (found := re.search(r"[^\n\t -~\u00a0-\ud7ff\ue000-\U0010ffff]", text)) is not None:
        raise Invalid(f"character U+{ord(found[0]):04X} not allowed")
    if len(text.encode()) > SIEVE_LIMIT:
        raise Invalid(f"longer than {SIEVE_LIMIT // 1024} KiB")
    # A backslash means nothing before most characters, and does not hide a word.
    if (found := re.search(r"vnd\.dovecot\.(?:pipe|execute|filter|debug)", text.replace("\\", ""))) is not None:
        raise Invalid(f"{found[0]} not allowed: no script of the inventory starts programs")
    return text if text.endswith("\n") else text + "\n"


def _note(value: object) -> str:
    """Lines for people, without white space at their ends."""
    text = "\n".join(line.rstrip() for line in _text(value).strip("\n").split("\n"))
    if not text.strip():
        raise Invalid("empty text", "remove the key")
    if (
        found := re.search(r"[^\n -~\u00a0-\u2027\u2030-\u2065\u206a-\ud7ff\ue000-\ufdcf\ufdf0-\uffef\U00010000-\U0010ffff]", text)
    ) is not None:
        raise Invalid(f"character U+{ord(found[0]):04X} not allowed")
    if len(text) > NOTE_LIMIT:
        raise Invalid(f"longer than {NOTE_LIMIT} characters")
    if any(len(html.escape(word).encode("ascii", "xmlcharrefreplace")) > WORD_LIMIT for word in text.split()):
        raise Invalid("a word that is too long for a line of a message (RFC 5322, 2.1.1)")
    return text


def _percent(value: object) -> int:
    number = _integer(value)
    if not 1 <= number <= 100:
        raise Invalid("not between 1 and 100")
    return number


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, true or false is needed", "write it without quotes" if isinstance(value, str) else "")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, a whole number is needed")
    return int(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Invalid(f"got {kind(value)}, a number is needed")
    number = float(value)
    if not -1000 <= number <= 1000:
        raise Invalid("not between -1000 and 1000")
    return number


def _destination(value: object) -> str:
    text = _text(value)
    if text == "*":
        raise Invalid("'*' would route mail for everybody, our own domains included, to one place", "name the destinations")
    if "@" in text:
        return names.target(text).lower()
    return f".{names.domain(text[1:])}" if text.startswith(".") else names.domain(text)


def _sender(value: object) -> str:
    text = _text(value)
    return names.target(text).lower() if "@" in text else names.domain(text)


def _access_address(value: object) -> str:
    text = _text(value)
    return names.target(text).lower() if "@" in text else names.access_name(text)


def _policy_destination(value: object) -> str:
    text = _text(value)
    match = re.fullmatch(r"(\[[^\[\]]*\])(?::([0-9]{1,6}))?", text)
    if match is None:
        return f".{names.domain(text[1:])}" if text.startswith(".") else names.next_hop(text)
    port = f":{_port(int(match[2]))}" if match[2] else ""
    return names.next_hop(match[1]) + port


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise Invalid("not a port from 1 to 65535")
    return port


def _match(value: object) -> str:
    text = _text(value)
    if text in ("hostname", "nexthop", "dot-nexthop"):
        return text
    return f".{names.domain(text[1:])}" if text.startswith(".") else names.host(text)


def _alias_name(value: object) -> str:
    text = _text(value)
    return names.address(text) if "@" in text else names.local_part(text)


def _limit(value: object) -> int:
    """0 is unlimited."""
    if value == "unlimited":
        return 0
    number = _integer(value)
    if not 1 <= number <= 1_000_000:
        raise Invalid("not between 1 and 1000000", "no limit is written unlimited" if number == 0 else "")
    return number


def _list_subject(value: object) -> str:
    text = _text(value)
    if text not in schema.LIST_SUBJECTS:
        near = suggest(text, schema.LIST_SUBJECTS)
        raise Invalid(f"not one of {', '.join(schema.LIST_SUBJECTS)}", near)
    return text


def _attachment_class(value: object) -> str:
    return _choice(value, Key("choice", "", choices=schema.ATTACHMENT_CLASSES))


def _file_extension(value: object) -> str:
    text = _text(value).lower()
    if re.fullmatch(r"[a-z0-9_-]{1,32}", text, re.ASCII) is None:
        raise Invalid("not an extension: letters, digits, _ and -", f"write {text[1:]}" if text.startswith(".") else "")
    return text


def _media_type(value: object) -> str:
    text = _text(value).lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]{0,126})", text, re.ASCII) is None:
        raise Invalid("not a MIME type", "such as application/zip or video/*")
    return text


def _signature_file(value: object) -> str:
    text = _text(value)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.[a-z0-9]+", text, re.ASCII) is None:
        raise Invalid("not a file name: letters, digits and . _ -")
    if text.rpartition(".")[2] not in schema.SIGNATURE_FORMATS:
        raise Invalid(f"not a format that ClamAV reads as text: {', '.join(schema.SIGNATURE_FORMATS)}")
    return text


def _rule(value: object) -> str:
    text = _text(value)
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", text) is None:
        raise Invalid("not a name of Rspamd's: letters, digits and _ . -")
    return text


def _country(value: object) -> str:
    if value is False:
        raise Invalid("without quotes this is a boolean in YAML, not Norway", 'write "NO"')
    text, countries = _text(value), _COUNTRIES.split()
    if text not in countries:
        upper = "GB" if text.upper() == "UK" else text.upper()
        raise Invalid("not a country code of ISO 3166", f"write {upper}" if upper in countries else "such as CN")
    return text


def _as_number(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    found = re.fullmatch(r"(?:AS)?([1-9][0-9]{0,9})", text, re.ASCII | re.IGNORECASE)
    if found is None or int(found[1]) >= 2**32:
        raise Invalid("not the number of an autonomous system", "such as AS64500")
    if text != f"AS{found[1]}":
        raise Invalid("AS and a number are needed", f"write AS{found[1]}")
    return text


# For messages: a name that has a score.
_SCORED: Final = {"rule": "MISSING_TO", "country": "CN", "as_number": "AS64500"}
_PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "access_address": _access_address,
    "access_client": lambda value: names.client(_text(value)),
    "access_network": lambda value: names.network_of(_text(value)),
    "access_name": lambda value: names.access_name(_text(value)),
    "address": lambda value: names.target(_text(value)),
    "alias_name": _alias_name,
    "as_number": _as_number,
    "attachment_class": _attachment_class,
    "boolean": _boolean,
    "country": _country,
    "destination": _destination,
    "dns_name": lambda value: names.dns_name(_text(value)),
    "domain": _text,  # read by the caller, which knows allow_confusable
    "duration": duration,
    "file_extension": _file_extension,
    "folder": lambda value: names.folder(_text(value)),
    "greeting": lambda value: names.greeting(_text(value)),
    "greeting_pattern": lambda value: names.address_pattern(_text(value)),
    "host": lambda value: names.host(_text(value)),
    "integer": _integer,
    "ip_address": lambda value: names.ip_address(_text(value)),
    "ldap_attribute": lambda value: ldap.attribute(_text(value)),
    "ldap_dn": lambda value: ldap.dn(_text(value)),
    "ldap_filter": lambda value: ldap.filter_text(_text(value)),
    "ldap_server": lambda value: ldap.server(_text(value)),
    "limit": _limit,
    "list_answer": lambda value: names.list_answer(_text(value)),
    "list_subject": _list_subject,
    "local_part": lambda value: names.local_part(_text(value)),
    "match": _match,
    "media_type": _media_type,
    "network": lambda value: names.network(_text(value)),
    "next_hop": lambda value: names.next_hop(_text(value)),
    "note": _note,
    "number": _number,
    "pattern": lambda value: names.address_pattern(_text(value)),
    "percent": _percent,
    "policy_destination": _policy_destination,
    "quota": _quota,
    "reply": lambda value: names.reply(_text(value)),
    "retention": _retention,
    "rule": _rule,
    "secret": _text,
    "selector": lambda value: names.selector(_text(value)),
    "sender": _sender,
    "server": lambda value: names.server(_text(value)),
    "sieve": _sieve,
    "signature_file": _signature_file,
    "size": _size,
    "target": _text,  # read by the caller, which knows the domain
    "text": _text,
}


def _is_simple(key: Key) -> bool:
    return not (key.type == "mapping" and key.keys is not None) and (key.default is None or isinstance(key.default, bool))


class Reader:
    """Reads mappings by a schema and notes every problem."""

    def __init__(
        self,
        resolve: Callable[[object], Plain] = lambda value: value,
        locate: Callable[[object], str | None] = lambda value: None,
    ) -> None:
        self.resolve = resolve
        self.locate = locate
        self.report = Report()
        # By the identity of a mapping of the schema, which lives as long as the program.
        self._known: dict[int, tuple[dict[str, Plain], dict[str, Key]]] = {}

    def refuse(self, at: At, reason: str, cure: str = "", value: object = BROKEN, secret: bool = False) -> None:
        value = at.value if value is BROKEN else value
        if secret:
            shown = "***"
        elif isinstance(value, str | int | float) or "date" in type(value).__name__.lower():
            shown = show(value if isinstance(value, bool | int | float) else str(value))
        else:
            # A container may hold a secret.
            shown = ""
        self.report.problems.append(Problem(at.place(self.locate), at.path(), shown, reason, cure))

    def mapping(self, raw: object, keys: Mapping[str, Key], at: At) -> dict[str, Any] | None:
        """The values of `keys`, defaults filled in; BROKEN for a required one that is missing or wrong; None for no mapping."""
        raw = self.plain(raw, at)
        if raw is BROKEN:
            return None
        at.become(raw)
        if not isinstance(raw, Mapping):
            self.refuse(at, f"got {kind(raw)}, a mapping with the keys {', '.join(keys)} is needed")
            return None
        values: dict[str, Any] = {}
        for name, value in raw.items():
            key = keys.get(name) if isinstance(name, str) else None
            if key is None:
                self.refuse(At(None, show(str(name)), at, name), *unknown(name, keys))
                continue
            if value is None:
                continue
            child = At(value, str(name), at)
            parsed = self.value(key, value, child)
            if parsed is not BROKEN:
                values[str(name)] = parsed
        plain, others = self._defaults(keys)
        for name, key in others.items():
            if name in values:
                continue
            if key.required and raw.get(name) is None:
                self.refuse(at, f"required key {name} is missing", value=None)
            values[name] = BROKEN if key.required else self.default(key)
        return {**plain, **values}

    def _defaults(self, keys: Mapping[str, Key]) -> tuple[dict[str, Plain], dict[str, Key]]:
        """Defaults that are the same for every mapping, and the keys that need a look at each: most of the work of 100 000 mailboxes."""
        found = self._known.get(id(keys))
        if found is None:
            simple = {name: key.default for name, key in keys.items() if not key.required and _is_simple(key)}
            found = self._known[id(keys)] = simple, {name: key for name, key in keys.items() if name not in simple}
        return found

    def default(self, key: Key) -> Plain:
        if key.type == "mapping" and key.keys is not None:
            return {name: self.default(inner) for name, inner in key.keys.items()}
        if key.default is None or isinstance(key.default, bool):
            return key.default
        return self.value(key, key.default, At(key.default))

    def plain(self, raw: object, at: At, key: Key | None = None) -> Plain:
        """The value without references and vaults; containers as they are."""
        secret = key is not None and key.secret
        try:
            if key is not None and key.literal:
                return str(raw) if isinstance(raw, str) else raw
            return self.resolve(raw)
        except Invalid as error:
            self.refuse(at, error.reason, error.cure, secret=secret)
        return BROKEN

    def value(self, key: Key, raw: object, at: At) -> Plain:
        value = self.plain(raw, at, key)
        if value is BROKEN:
            return value
        try:
            if key.type == "choice":
                return _choice(value, key)
            if key.type == "spam":
                return self.spam(value, at)
            if key.type == "scores":
                return self.scores(value, at, key.of)
            if key.type == "mapping":
                return self.mapping(value, key.keys or {}, at) or BROKEN
            if key.type == "list":
                return self.items(key, value, at)
            return _PARSERS[key.type](value)
        except Invalid as error:
            # What the reference stands for says more than the reference.
            self.refuse(at, error.reason, error.cure, value=value, secret=key.secret)
        return BROKEN

    def items(self, key: Key, value: object, at: At) -> Plain:
        if key is schema.DOMAIN["dkim"] and isinstance(value, bool):
            return None if value else []
        if key is schema.DOMAIN["certificate"] and isinstance(value, bool):
            return value
        if not isinstance(value, list | tuple):
            cure = f"write [{value}]" if isinstance(value, str) and key.of and "{" not in value else ""
            raise Invalid(f"got {kind(value)}, a list is needed", cure if key.of != "secret" else "")
        at.become(value)
        entries: list[tuple[At, Any]] = []
        for index, raw in enumerate(value):
            child = At(raw, f"[{index}]", at)
            if key.keys is not None:
                parsed: Any = self.mapping(raw, key.keys, child)
            elif raw is None:
                self.refuse(child, "empty entry", "remove it")
                continue
            else:
                parsed = self.value(Key(key.of, "", literal=key.of == "local_part"), raw, child)
            if parsed is not None and parsed is not BROKEN:
                entries.append((child, parsed))
        return entries

    def scores(self, value: object, at: At, of: str) -> dict[str, float]:
        """By name."""
        if not isinstance(value, Mapping):
            raise Invalid(f"got {kind(value)}, a mapping of names to numbers is needed", f"such as {{{_SCORED[of]}: 0.5}}")
        at.become(value)
        found: dict[str, float] = {}
        for name, raw in value.items():
            child = At(raw, str(name), at, name)
            try:
                _PARSERS[of](name)
            except Invalid as error:
                self.refuse(child, error.reason, error.cure, value=str(name))
                continue
            number = self.value(Key("number", ""), raw, child)
            if number is not BROKEN:
                found[name] = number
        return found

    def spam(self, value: object, at: At) -> dict[str, float] | object:
        if isinstance(value, str):
            preset = schema.SPAM_PRESETS.get(value)
            if preset is None:
                raise Invalid(f"no such preset; there are {', '.join(schema.SPAM_PRESETS)}", suggest(value, schema.SPAM_PRESETS))
            return dict(preset)
        scores = self.mapping(value, schema.SPAM_SCORES, at)
        if scores is None or BROKEN in scores.values():
            return BROKEN
        if not scores["greylist"] <= scores["junk"] <= scores["reject"]:
            self.refuse(at, "the scores must rise: greylist, junk, reject")
            return BROKEN
        return scores


def _choice(value: object, key: Key) -> str:
    text = _text(value)
    if text not in key.choices:
        raise Invalid(f"not one of {', '.join(choice or repr('') for choice in key.choices)}", suggest(text, key.choices))
    return text


def unknown(name: object, keys: Iterable[str]) -> tuple[str, str]:
    if not isinstance(name, str):
        return f"the key is {kind(name)}, text is needed", "put it in quotes"
    keys = list(keys)
    return "unknown key", suggest(name, keys) or f"the keys are {', '.join(keys)}"
