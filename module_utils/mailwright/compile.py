# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""From the checked model to the rows that modules, templates and tests read. Shapes: docs/architecture.md."""

from __future__ import annotations

import hashlib
import html
import ipaddress
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from .model import Mailbox, Model
from .names import folder_directory
from .records import mta_sts_policy, policy_host
from .routes import Relayed, Smarthost, hop
from .schema import LIST_SUBJECTS

__all__ = ["compile_rows"]

Row = dict[str, Any]

# Answers of access(5). REJECT takes an enhanced status code in front of its text.
FORGED: Final = "REJECT 5.7.1 Mail from this domain is sent by its own users only, with authentication"
SEND_ONLY: Final = "REJECT 5.7.1 This mailbox receives no mail"
INTERNAL: Final = "REJECT 5.7.1 This address takes mail from its own users only"
# No login: it has no domain.
NOBODY: Final = "nobody"
DISABLED: Final = "550 5.2.1 Mailbox disabled"

# Below it a destination is one of forwarded mail; main.cf routes it, no DNS ever has it (RFC 6761).
DETOUR: Final = "forward.invalid"

UNKNOWN: Final = "550 5.1.1 No such recipient"
# Go on with the next restriction; ask the next hop (both access(5)).
LISTED: Final = "DUNNO"
VERIFY: Final = "reject_unverified_recipient"

# Mean size of the certificates of names that only the web server answers to.
WEB_NAMES: Final = 40

_KINDS: Final = ("client", "helo", "sender", "recipient")
_VERBS: Final[Mapping[str, str]] = {"allow": "allowed", "block": "blocked"}
# How a protocol is called in the inventory, and for Dovecot.
_PROTOCOLS: Final[Mapping[str, str]] = {"imap": "imap", "pop3": "pop3", "sieve": "sieve", "submission": "smtp"}
# Answers of a list that say what its zone does not: Lua patterns for 127.0.x.2 to 127.0.x.254 (RFC 5782; others are errors).
_LISTED: Final = ("127%.0%.%d+%.[2-9]", "127%.0%.%d+%.[1-9]%d", "127%.0%.%d+%.1%d%d", "127%.0%.%d+%.2[0-4]%d", "127%.0%.%d+%.25[0-4]")
_KEY = re.compile(r"[!-~]+", re.ASCII)
_ANSWER = re.compile(r"[!-~]+( [!-~]+)*", re.ASCII)


def compile_rows(model: Model) -> Row:
    """Plain JSON types. Raises AssertionError when a row could be read by a daemon as anything but itself."""
    settings = dict(model.settings)
    extras = _extras(model)
    rows: Row = {
        "hostname": settings["hostname"],
        "domains": [{"name": name} for name in sorted(model.domains)],
        "relayed_domains": [{"name": name} for name in sorted(model.relayed)],
        "mailboxes": [_mailbox(mailbox, extras.get(address, {})) for address, mailbox in sorted(model.mailboxes.items())],
        "aliases": _aliases(model),
        "maps": {
            "sender_logins": _map(_sender_logins(model)),
            "own_domains": _map({key: FORGED for name in model.domains for key in (name, f".{name}")}),
            "recipient_access": _map(_with_twins(model, _recipient_access(model))),
            "internal_recipients": _map(_with_twins(model, _internal_recipients(model))),
            "relay_domains": _map(dict.fromkeys(model.relayed, "OK")),
            "relay_recipients": _map(_relay_recipients(model)),
            "transports": _map(_transports(model)),
            "sender_transports": _map(_sender_transports(model)),
            "forward_routes": _map(_forward_routes(model, _transports(model))),
            "tls_policies": _map(_tls_policies(model)),
            **{name: _map(entries) for name, entries in _access(settings["access"]).items()},
        },
        # The nearest domain first.
        "tls_policies_subdomains": sorted(
            (row for row in _map(_tls_policies(model)) if row["key"].startswith(".")), key=lambda row: -row["key"].count(".")
        ),
        "relay_passwords": _map(_relay_passwords(model.smarthosts)),
        "access": _access_by_configuration(settings.pop("access")),
        "helo_exceptions": _helo_exceptions(settings["helo"]),
        "filter": _filter(settings.pop("filter")),
        "filter_web": settings.pop("filter_web"),
        "blocklists": [_blocklist(entry) for entry in settings.pop("blocklists")],
        "sending_limits": {
            mailbox.address: mailbox.sending_limit for mailbox in model.mailboxes.values() if mailbox.sending_limit is not None
        },
        "alias_patterns": [
            {"pattern": f"^(?:{pattern.pattern})@{re.escape(name)}$", "to": _enabled(model, pattern.to) or list(pattern.to)}
            for name, domain in sorted(model.domains.items())
            for pattern in model.domains[domain.alias_of or name].patterns
        ],
        "hidden_copies": _hidden_copies(model),
        "dkim_keys": [{"domain": name, **key} for name, domain in sorted(model.domains.items()) for key in domain.dkim_keys],
        "spam_settings": _spam_settings(model),
        "forwarders": _forwarders(model),
        "certificate_names": _host_names(model),
        "certificates": (certificates := _certificates(model)),
        "policies": _policies(model, certificates),
        "largest_quota": _largest_quota(model),
        "deleted_to_trash": any(mailbox.deleted_to_trash for mailbox in model.mailboxes.values()),
        "dns": _dns(model),
        "dns_updates": model.dns_updates,
        "public_folders": _public_folders(model),
        "sieve_scripts": _sieve_scripts(model),
        "legal_notes": _legal_notes(model),
        "ldap": model.ldap,
        "settings": settings,
    }
    _assert_inert(rows)
    return rows


def _dns(model: Model) -> Row:
    """What records.py makes every DNS record from."""
    settings = model.settings
    own = [
        {
            "name": name,
            "kind": "alias" if domain.alias_of else "own",
            "preference": 10,
            "signed": bool(domain.dkim_keys),
            "hosts": domain.certificate,
            **domain.dns,
        }
        for name, domain in sorted(model.domains.items())
    ]
    # Where mail goes on to the other MX hosts of the domain, this host is the one to be tried last.
    relayed = [
        {"name": name, "kind": "relayed", "preference": 20 if domain.next_hop == name else 10, "signed": False}
        for name, domain in sorted(model.relayed.items())
    ]
    return {
        **{key: settings[key] for key in ("hostname", "hostnames", "addresses", "caa")},
        "ttl": settings["dns_ttl"],
        "services_off": model.services_off,
        "zones": [zone for entry in model.dns_updates for zone in entry["zones"]],
        "domains": [*own, *relayed, *({"name": name, "kind": "parked", "signed": False} for name in sorted(model.parked))],
    }


def _host_names(model: Model) -> list[str]:
    return list(dict.fromkeys([model.settings["hostname"], *model.settings["hostnames"]]))


def _certificates(model: Model) -> list[Row]:
    """The host's own, then one for each domain that has names the host's lacks, then those of names that only the web server answers to."""
    own = _host_names(model)
    rows = [{"name": "default", "names": own, "mail_names": []}]
    for name, domain in sorted(model.domains.items()):
        mail_names = [host for host in domain.certificate if host not in own]
        if mail_names:
            rows.append({"name": name, "names": mail_names, "mail_names": mail_names})
    known = {host for row in rows for host in row["names"]}
    web_names = [policy_host(name) for name, domain in sorted(model.domains.items()) if domain.dns["mta_sts"] != "disabled"]
    groups: dict[str, list[str]] = {}
    web_names = [host for host in web_names if host not in known]
    for host in web_names:
        groups.setdefault(_web_group(model, host, len(web_names)), []).append(host)
    return rows + [{"name": name, "names": hosts, "mail_names": []} for name, hosts in sorted(groups.items())]


def _web_group(model: Model, host: str, total: int) -> str:
    """Let's Encrypt has at most 100 names on a certificate and 300 certificates in 3 hours. A domain more changes one group alone."""
    groups = 1
    while total > groups * WEB_NAMES:
        groups *= 2
    # By DNS-01 a certificate's names are proved with one key.
    zones = [entry["zones"] for entry in model.dns_updates]
    holder = next((i for i, names in enumerate(zones) if any(host == zone or host.endswith(f".{zone}") for zone in names)), None)
    number = int.from_bytes(hashlib.sha256(host.encode()).digest()[:4], "big") % groups
    return f"web-{number}" if holder is None else f"web-{holder}-{number}"


def _policies(model: Model, certificates: list[Row]) -> list[Row]:
    """What the web server says at which names (MTA-STS), by certificate."""
    holder = {host: row["name"] for row in reversed(certificates) for host in row["names"]}
    found: dict[tuple[str, str], list[str]] = {}
    for name, domain in sorted(model.domains.items()):
        if (mode := domain.dns["mta_sts"]) != "disabled":
            found.setdefault((holder[policy_host(name)], mode), []).append(policy_host(name))
    return [
        {"certificate": certificate, "names": names, "text": mta_sts_policy(mode, [model.settings["hostname"]])}
        for (certificate, mode), names in sorted(found.items())
    ]


def _mailbox(mailbox: Mailbox, extras: Mapping[str, str]) -> Row:
    denied = {
        name
        for protocol, name in _PROTOCOLS.items()
        if not mailbox.enabled or not mailbox.protocols[protocol] or (protocol == "submission" and mailbox.receive_only)
    }
    return {
        "address": mailbox.address,
        "password": mailbox.password,
        "password_hash": mailbox.password_hash,
        "password_update": mailbox.password_update,
        "quota_bytes": mailbox.quota,
        "denied_protocols": sorted(denied),
        "enabled": mailbox.enabled,
        "junk_filing": mailbox.junk_filing,
        "extras": dict(extras),
    }


def _extras(model: Model) -> dict[str, dict[str, str]]:
    """What few mailboxes have, by the names of passwd_file.py."""
    found: dict[str, dict[str, str]] = {}

    def note(address: str, name: str, value: str) -> None:
        found.setdefault(address, {})[name] = value

    for address, mailbox in model.mailboxes.items():
        for name in ("junk_retention", "trash_retention"):
            if value := getattr(mailbox, name):
                note(address, name, str(value))
        if mailbox.deleted_to_trash:
            note(address, "deleted_to_trash", "yes")
        if mailbox.folder is not None:
            note(address, "folder", f"{address.rpartition('@')[2]}/{folder_directory(mailbox.folder)}")
    for domain in model.domains.values():
        if domain.public_folders and domain.public_quota:
            for mailbox in domain.mailboxes:
                note(mailbox.address, "public_quota", str(domain.public_quota))
        # Only members of the domain itself: a folder of another domain has the same name as ours for those who look at it.
        own = {mailbox.address for mailbox in domain.mailboxes if mailbox.folder is None}
        groups: dict[str, list[str]] = {}
        for group in sorted({who for folder in domain.public_folders for who in folder.access if who not in model.mailboxes}):
            for member in model.members([group]).keys() & own:
                groups.setdefault(member, []).append(group)
        for member, names in groups.items():
            note(member, "acl_groups", ",".join(names))
    return found


# RFC 4314. Nobody administers a public folder but the inventory.
_RIGHTS: Final[Mapping[str, str]] = {"read": "lrs", "add": "lrsip", "write": "lrswipte"}


def _public_folders(model: Model) -> dict[str, dict[str, str]]:
    """Domain → directory → text of dovecot-acl."""
    return {
        name: {
            folder_directory(folder.name): "".join(
                [
                    *([f"anyone {_RIGHTS[folder.everyone]}\n"] if folder.everyone else []),
                    *(f"{'user' if who in model.mailboxes else 'group'}={who} {_RIGHTS[r]}\n" for who, r in sorted(folder.access.items())),
                ]
            )
            for folder in domain.public_folders
        }
        for name, domain in sorted(model.domains.items())
        if domain.public_folders
    }


def _sieve_scripts(model: Model) -> dict[str, str]:
    """Path below /etc/dovecot/sieve → text. A script is found by the address of the mailbox or by its domain."""
    found: dict[str, str] = {}
    for place in ("before", "after"):
        owners = {"host": model.settings[f"sieve_{place}"]}
        owners |= {name: getattr(domain, f"sieve_{place}") for name, domain in model.domains.items()}
        owners |= {address: getattr(mailbox, f"sieve_{place}") for address, mailbox in model.mailboxes.items()}
        found |= {f"{place}/{name}.sieve": text for name, text in sorted(owners.items()) if text is not None}
    if (quarantine := model.settings["quarantine"])["mailbox"] is not None:
        found[f"before/{quarantine['mailbox']}.sieve"] = _quarantine_script(quarantine, model.settings["postmaster"])
    return found


def _legal_notes(model: Model) -> dict[str, dict[str, list[str]]]:
    """Domain of the author → the note as lines of text and of HTML, which is ASCII and so fits into every charset."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, domain in sorted(model.domains.items()):
        note = model.domains[domain.alias_of or name].legal_note
        if note is not None:
            wrapped = [textwrap.wrap(line, 76, break_long_words=False, break_on_hyphens=False) or [""] for line in note.split("\n")]
            escaped = [[html.escape(part).encode("ascii", "xmlcharrefreplace").decode() for part in parts] for parts in wrapped]
            breaks = [part for parts in escaped for part in [*parts[:-1], f"{parts[-1]}<br>"]]
            found[name] = {
                "text": [part for parts in wrapped for part in parts],
                "html": ['<div style="margin-top: 1em">', *breaks, "</div>"],
            }
    return found


# What somebody is told about a message in quarantine; variables of Sieve are made safe for a URI by :encodeurl.
_QUARANTINED: Final = (
    "A message was not delivered. It waits in the quarantine of this mail server.\r\n\r\n"
    "From: {from}\r\nTo: {recipients}\r\nSubject: {subject}\r\nReason: {reason}\r\nId: {id}\r\n\r\n"
    "Who expects it asks the postmaster ({postmaster}) to release it, and names the id. All others need do nothing.\r\n"
)
_QUARANTINED_FIELDS: Final[Mapping[str, str]] = {
    "from": "X-Quarantine-Sender",
    "recipients": "X-Quarantine-Recipients",
    "subject": "Subject",
    "reason": "X-Quarantine-Reason",
    "id": "X-Quarantine-Id",
}


def _quarantine_script(quarantine: Mapping[str, Any], postmaster: str) -> str:
    """Files what is quarantined into Junk, and tells whom it concerns."""
    lines = ['require ["fileinto", "variables", "enotify"];', 'if header :matches "X-Quarantine-Id" "*" {']
    for name, header in _QUARANTINED_FIELDS.items():
        lines += [f'  set "{name}" "";', f'  if header :matches "{header}" "*" {{ set :encodeurl "{name}" "${{1}}"; }}']
    body = "".join(
        f"${{{part[1:-1]}}}" if part[1:-1] in _QUARANTINED_FIELDS else quote(part.replace("{postmaster}", postmaster), safe="")
        for part in re.split(r"(\{(?!postmaster)\w+\})", _QUARANTINED)
    )
    told = f'notify :from "{postmaster}" :message "A message is in quarantine"'
    if quarantine["notify"]:
        lines.append(f'  {told} "mailto:{"%2C".join(quote(address, safe="@") for address in quarantine["notify"])}?body={body}";')
    lines += [
        '  if header :matches "X-Quarantine-Notify" "*" {',
        f'    {told} "mailto:${{1}}?body={body}";',
        "  }",
        '  fileinto "Junk";',
        "  stop;",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _enabled(model: Model, to: Iterable[str]) -> list[str]:
    """Without mailboxes that are disabled: what a group keeps sending there would fill them up and then bounce."""
    return [address for address in to if (box := model.mailboxes.get(model.base(address))) is None or box.enabled]


def _largest_quota(model: Model) -> Row:
    largest = max(model.mailboxes.values(), key=lambda mailbox: (mailbox.quota, mailbox.address), default=None)
    return {"address": largest.address, "bytes": largest.quota} if largest else {"address": "", "bytes": 0}


def _aliases(model: Model) -> list[Row]:
    rows = {address: _enabled(model, alias.to) or list(alias.to) for address, alias in model.aliases.items()}
    for domain in model.domains.values():
        # Postfix looks a catch-all up before it knows about mailboxes: an entry to itself keeps each from being swallowed. And nobody in
        # a directory has an alias for a mailbox of the inventory.
        if domain.catch_all is not None or domain.name in model.ldap_domains():
            rows.update((mailbox.address, [mailbox.address]) for mailbox in domain.mailboxes)
    for mailbox in model.mailboxes.values():
        if mailbox.forward is not None:
            rows[mailbox.address] = _enabled(model, mailbox.forward.to) or list(mailbox.forward.to)
    # Every address by name, so that one that does not exist is refused and not found out about later.
    for twin, original in _twins(model, (*model.mailboxes, *model.aliases)):
        rows[twin] = rows[original] if original.startswith("@") else [original]
    return [{"address": address, "to": to} for address, to in sorted(rows.items())]


def _twins(model: Model, addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(address of an alias domain, the one it stands for) for each of these that has such."""
    aliases: dict[str, list[str]] = {}
    for name, domain in model.domains.items():
        if domain.alias_of is not None:
            aliases.setdefault(domain.alias_of, []).append(name)
    if aliases:
        for address in addresses:
            local, _, name = address.rpartition("@")
            for alias in aliases.get(name, ()):
                yield f"{local}@{alias}", address


def _with_twins(model: Model, entries: Mapping[str, str]) -> dict[str, str]:
    """The same for alias domains, which have no entries of their own."""
    return {**entries, **{twin: entries[original] for twin, original in _twins(model, entries)}}


def _sender_logins(model: Model) -> dict[str, str]:
    logins: dict[str, set[str]] = {}
    for mailbox in model.mailboxes.values():
        for address in (mailbox.address, *mailbox.aliases, *mailbox.send_as):
            logins.setdefault(address, set()).add(mailbox.address)
    for alias in model.aliases.values():
        if alias.send_as and (members := model.members(alias.to).keys() & model.mailboxes.keys()):
            logins.setdefault(alias.address, set()).update(members)
    # What the inventory has and nobody may use is not for somebody in a directory either.
    for address in model.aliases:
        if address.rpartition("@")[2] in model.ldap_domains() and address[0] != "@":
            logins.setdefault(address, {NOBODY})
    for twin, original in list(_twins(model, logins)):
        logins.setdefault(twin, set()).update(logins[original])
    return {address: ",".join(sorted(members)) for address, members in logins.items()}


def _recipient_access(model: Model) -> dict[str, str]:
    answers: dict[str, str] = {}
    for mailbox in model.mailboxes.values():
        answer = DISABLED if not mailbox.enabled else SEND_ONLY if mailbox.send_only else None
        if answer is not None:
            answers.update(dict.fromkeys((mailbox.address, *mailbox.aliases), answer))
    # Nobody is left who could receive.
    answers.update({name: DISABLED for name, alias in model.aliases.items() if name[0] != "@" and not _enabled(model, alias.to)})
    return answers


def _internal_recipients(model: Model) -> dict[str, str]:
    answers = {alias.address: INTERNAL for alias in model.aliases.values() if alias.internal}
    for mailbox in model.mailboxes.values():
        if mailbox.internal:
            answers.update(dict.fromkeys((mailbox.address, *mailbox.aliases), INTERNAL))
    return answers


def _relay_recipients(model: Model) -> dict[str, str]:
    """Answers of access(5) for recipients of relayed domains; one that is not listed gets its domain's."""
    answers: dict[str, str] = {}
    for name, domain in model.relayed.items():
        answers[name] = VERIFY if domain.recipients is None else UNKNOWN
        answers.update(dict.fromkeys((f"{local}@{name}" for local in domain.recipients or ()), LISTED))
    # RFC 2142 names that go to our postmaster.
    answers.update({address: LISTED for address in model.aliases if address.rpartition("@")[2] in model.relayed})
    return answers


def _transports(model: Model) -> dict[str, str]:
    found = {
        entry["destination"]: f"{entry['transport']}:" + (hop(entry["next_hop"], entry["port"]) if entry["next_hop"] else "")
        for entry in model.settings["transports"]
    }
    found.update({host.recipient: _lane(host) for host in model.smarthosts if host.recipient is not None})
    # ".example.org" must not catch our own names below it; ":" leaves their route alone (transport(5)).
    for name in (*model.domains, model.settings["hostname"]):
        labels = name.split(".")
        if any("." + ".".join(labels[start:]) in found for start in range(1, len(labels))):
            found[name] = ":"
    found.update({name: f"relay:{hop(domain.next_hop, domain.port)}" for name, domain in model.relayed.items()})
    return found


def _lane(host: Smarthost) -> str:
    """Which client of Postfix sends to a smarthost, and where to. Only those named here ever log in anywhere (see master.cf)."""
    lane = "smtp" if host.user is None else "smarthost" if host.sender is None else "sender-smarthost"
    return f"{lane}:{hop(host.next_hop, host.port)}"


def _sender(host: Smarthost) -> str:
    """A sender as the tables by sender have it as a key; a whole domain is `@domain`."""
    sender = host.sender or ""
    return sender if "@" in sender else f"@{sender}"


def _relay_passwords(hosts: Iterable[Smarthost]) -> dict[str, str]:
    return {
        hop(host.next_hop, host.port) if host.sender is None else _sender(host): f"{host.user}:{host.password}"
        for host in hosts
        if host.user is not None
    }


def _sender_transports(model: Model) -> dict[str, str]:
    """Who sends from here by right, and by which way; `<>` are bounces. Everybody else's mail that leaves is being forwarded (main.cf)."""
    names = (model.settings["hostname"], *model.domains, *model.relayed, *model.settings["srs_exempt"])
    rest = next((_lane(host) for host in model.smarthosts if host.sender is None and host.recipient is None), "smtp:")
    by_sender = {_sender(host): _lane(host) for host in model.smarthosts if host.sender is not None}
    return {"<>": rest, **{f"@{name}": rest for name in names}, **by_sender}


def _forward_routes(model: Model, transports: Iterable[str]) -> dict[str, str]:
    """A route of its own would come before the detour for forwarded mail (transport(5)): the destination gets another name until then."""
    lists = [alias.to for alias in model.aliases.values()]
    lists += [mailbox.forward.to for mailbox in model.mailboxes.values() if mailbox.forward is not None]
    lists += [pattern.to for domain in model.domains.values() for pattern in domain.patterns]
    named = {address.rpartition("@")[2] for to in lists for address in to}
    found: set[str] = set()
    here = {*model.domains, *model.relayed, model.settings["hostname"]}
    for destination in transports:
        name = destination.rpartition("@")[2]
        if name.startswith("."):
            found.update(f"@{domain}" for domain in named if domain.endswith(name) and domain not in here)
        elif name not in here:
            found.add(destination if "@" in destination else f"@{name}")
    return {key: f"{key}.{DETOUR}" for key in found}


def _forwarders(model: Model) -> list[str]:
    """Addresses whose mail goes on to other servers, all of it or a copy; `@domain` is a catch-all."""
    here = {*model.domains, *model.relayed, model.settings["hostname"]}
    found: set[str] = set()
    passing = list(model.passed_on())
    while True:
        more = {
            alias.address
            for alias in passing
            if alias.address not in found
            and any(to.rpartition("@")[2] not in here or to in found or model.base(to) in found for to in alias.to)
        }
        if not more:
            return sorted(found | {twin for twin, _ in _twins(model, found)})
        found |= more


def _hidden_copies(model: Model) -> Row:
    """Rules in the order of their look-up, the first one counts. `except`: the copy's own address, which has the mail already."""

    def names(address: str) -> list[str]:
        mailbox = model.mailboxes.get(address)
        own = [address, *(mailbox.aliases if mailbox is not None else ())]
        return sorted({*own, *(twin for twin, _ in _twins(model, own))})

    recipients: list[Row] = []
    senders: list[Row] = []
    for name, domain in sorted(model.domains.items()):
        original = model.domains[domain.alias_of or name]
        if original.hidden_copy is not None:
            recipients.append({"domain": name, "to": original.hidden_copy, "except": names(original.hidden_copy)})
        if (to := original.hidden_copy_outgoing or model.settings["hidden_copy_outgoing"]) is not None:
            senders.append({"domain": name, "to": to})
    if (everything := model.settings["hidden_copy"]) is not None:
        recipients.append({"domain": None, "to": everything, "except": names(everything)})
    return {"recipients": recipients, "senders": senders}


def _tls_policies(model: Model) -> dict[str, str]:
    named: list[Relayed | Smarthost] = [*model.relayed.values(), *model.smarthosts]
    found = {hop(entry.next_hop, entry.port): entry.tls for entry in named if entry.tls is not None}
    for entry in model.settings["tls_policies"]:
        found[entry["destination"]] = entry["level"] + (f" match={':'.join(entry['match'])}" if entry["match"] else "")
    return found


def _with_subdomains(name: str) -> list[str]:
    """Keys of access(5), without parent_domain_matches_subdomains."""
    return [name] if "@" in name or name.startswith(".") else [name, f".{name}"]


def _access(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The tables of mail_access but for networks and pairs."""
    tables: dict[str, dict[str, str]] = {f"{verb}_{kind}s": {} for verb in _VERBS.values() for kind in _KINDS}
    for entry in entries:
        kinds = [kind for kind in _KINDS if entry[kind] is not None]
        if len(kinds) == 1 and not _is_network(entry["client"]):
            table = tables[f"{_VERBS[entry['action']]}_{kinds[0]}s"]
            # Where two entries cover one name, that which names it counts.
            keys = _with_subdomains(entry[kinds[0]])
            table.update(dict.fromkeys(keys[1:], _answer(entry)) | table)
            table[keys[0]] = _answer(entry)
    return tables


def _access_by_configuration(entries: list[Mapping[str, Any]]) -> Row:
    """What main.cf must hold: networks, since an lmdb table knows none but on octets; pairs, since access(5) has one key."""
    found: Row = {}
    for action, verb in _VERBS.items():
        mine = [entry for entry in entries if entry["action"] == action]
        networks = [entry for entry in mine if _is_network(entry["client"])]
        # cidr_table(5): the first match counts, so the narrowest first.
        networks.sort(key=lambda entry: (-ipaddress.ip_network(entry["client"]).prefixlen, entry["client"]))
        found[f"{verb}_networks"] = [{"network": entry["client"], "answer": _answer(entry)} for entry in networks]
        pairs: dict[str, dict[str, str]] = {}
        for entry in mine:
            if entry["sender"] is not None and entry["recipient"] is not None:
                senders = pairs.setdefault(entry["recipient"], {})
                keys = _with_subdomains(entry["sender"])
                senders.update(dict.fromkeys(keys[1:], _answer(entry)) | senders)
                senders[keys[0]] = _answer(entry)
        found[f"{verb}_pairs"] = [
            {"recipients": _with_subdomains(recipient), "senders": _map(senders)} for recipient, senders in sorted(pairs.items())
        ]
    return found


def _helo_exceptions(helo: Mapping[str, Any]) -> list[str]:
    """Regular expressions for greetings, in any case."""
    found = []
    for name in helo["exceptions"]:
        below = ".+" if name.startswith(".") else "(?:.+[.])?" if "." in name else ""
        found.append(f"^{below}{re.escape(name)}$")
    return found + [f"^(?:{pattern})$" for pattern in helo["exception_patterns"]]


def _filter(entries: Iterable[Mapping[str, str]]) -> Row:
    """By action: networks, and keys of senders and recipients (addresses, domains, .domains)."""
    found: Row = {action: {"clients": [], "senders": [], "recipients": []} for action in ("allow", "block", "no_greylisting")}
    for entry in entries:
        keys = [entry["what"]] if entry["kind"] == "client" else _with_subdomains(entry["what"])
        found[entry["action"]][f"{entry['kind']}s"] += keys
    return found


def _blocklist(entry: Mapping[str, Any]) -> Row:
    """A rule of Rspamd's module rbl. Answers are Lua patterns."""
    calls = [LIST_SUBJECTS[name] for name in entry["of"]]
    return {
        "zone": entry["zone"],
        "symbol": "MAILWRIGHT_LIST_" + re.sub("[^A-Z0-9]", "_", entry["zone"].upper()),
        "checks": [call for call in calls if ":" not in call],
        "selectors": {name: LIST_SUBJECTS[name] for name in entry["of"] if ":" in LIST_SUBJECTS[name]},
        "answers": [answer.replace(".", "%.") for answer in entry["answers"]] or list(_LISTED),
        "score": entry["score"],
    }


def _is_network(client: str | None) -> bool:
    return client is not None and "/" in client


def _answer(entry: Mapping[str, Any]) -> str:
    return "OK" if entry["action"] == "allow" else str(entry["reply"])


def _map(entries: Mapping[str, str]) -> list[Row]:
    return [{"key": key, "value": value} for key, value in sorted(entries.items())]


def _spam_settings(model: Model) -> list[Row]:
    rows: list[Row] = [
        {"recipient": f"@{name}", **domain.spam} for name, domain in sorted(model.relayed.items()) if domain.spam is not None
    ]
    for name, domain in sorted(model.domains.items()):
        original = model.domains[domain.alias_of or name]
        spam = domain.spam if domain.spam is not None else original.spam
        if spam is not None:
            rows.append({"recipient": f"@{name}", **spam})
        rows.extend(
            {"recipient": f"{address.rpartition('@')[0]}@{name}", **mailbox.spam}
            for mailbox in original.mailboxes
            if mailbox.spam is not None
            for address in (mailbox.address, *mailbox.aliases)
        )
    return rows


def _assert_inert(rows: Row) -> None:
    """The last line of defence: no key or value can break out of its line, field or quotes."""

    def hold(condition: bool, what: str) -> None:
        if not condition:
            raise AssertionError(f"{what} would not stay one entry of its table")

    for row in rows["domains"]:
        hold(_KEY.fullmatch(row["name"]) is not None and "/" not in row["name"], row["name"])
    for row in rows["mailboxes"]:
        hold(_KEY.fullmatch(row["address"]) is not None and not set(row["address"]) & set(":/#,"), row["address"])
        hashed = row["password_hash"]
        hold(hashed is None or (_KEY.fullmatch(hashed) is not None and ":" not in hashed), row["address"])
    for row in (*rows["aliases"], *({"address": r["pattern"], "to": r["to"]} for r in rows["alias_patterns"])):
        hold(_KEY.fullmatch(row["address"]) is not None and row["address"][0] not in "#/", row["address"])
        hold(bool(row["to"]), row["address"])
        for address in row["to"]:
            hold(_KEY.fullmatch(address) is not None and not set(address) & set(',$|"\\/:'), address)
    for row in (*rows["hidden_copies"]["recipients"], *rows["hidden_copies"]["senders"]):
        hold(_KEY.fullmatch(row["to"]) is not None and not set(row["to"]) & set(',$|"\\/:'), row["to"])
    for entries in (*rows["maps"].values(), rows["relay_passwords"]):
        for row in entries:
            hold(_KEY.fullmatch(row["key"]) is not None and row["key"][0] != "#", row["key"])
            hold(_ANSWER.fullmatch(row["value"]) is not None, row["key"])
