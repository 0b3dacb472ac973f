# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Checks of what is accepted and how it is filtered: greetings, lists in the DNS, whose mail is let through, marks, scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from .errors import Invalid
from .model import Model
from .reader import BROKEN, At, suggest
from .routes import Owner, here

__all__ = ["check_filter_web", "check_junk", "check_policy"]

# What `rspamadm pw` prints: kind, salt, key (z-base-32).
_RSPAMD_HASH: Final = re.compile(r"\$[12]\$[13-9a-km-uw-z]{16,}\$[13-9a-km-uw-z]{40,}")
# What rspamd_bayes_autolearn leaves out.
AUTOLEARN: Final[Mapping[str, float]] = {"spam": 12, "ham": -5}
# Octets: in base64 it is one encoded word (RFC 2047, 2).
MARK_LIMIT: Final = 40


def check_junk(owner: Owner, root: At, model: Model) -> None:
    """What stands on junk, what single rules give, what is learned, who teaches. Leaves plain values; no trainers: None, everybody."""
    settings = owner.settings
    subject = settings["spam_marks"]["subject"]
    if subject is not None and not (subject.strip() and subject.isprintable() and len(subject.encode()) <= MARK_LIMIT):
        spot = root.item("mail_spam_marks").item("subject")
        owner.refuse(spot, f"not text in one line of at most {MARK_LIMIT} octets", "such as [SPAM]", value=subject)
    for name, value in settings["spam_scores"].items():
        settings["spam_scores"][name] = value or {}
    for name, points in settings["spam_scores"]["groups"].items():
        if points <= 0:
            spot = root.item("mail_spam_scores").item("groups").item(name)
            owner.refuse(spot, "not above zero: it is the most that the group gives", value=points)
    _autolearn(owner, root)
    if root.item("mail_spam_trainers").value is None:
        settings["spam_trainers"] = None
        return
    trainers = []
    for at, address in settings["spam_trainers"]:
        members = [key for key in model.members([address]) if key in model.mailboxes and model.mailboxes[key].folder is None]
        if not members:
            near = suggest(address, (*model.mailboxes, *model.aliases))
            owner.refuse(at, "no mailbox here, and no group or alias of such", near or "name mailboxes of this inventory", value=address)
        trainers += members
    settings["spam_trainers"] = sorted(set(trainers))


def _autolearn(owner: Owner, root: At) -> None:
    """Rspamd learns spam only from what is junk or refused, and ham only from what arouses no suspicion."""
    spot = root.item("rspamd_bayes_autolearn")
    try:
        given = owner.reader.resolve(spot.value)
        limits = {name: owner.reader.resolve(value) for name, value in given.items()} if isinstance(given, Mapping) else {}
    except Invalid:
        # Of a host's facts, known later.
        return
    spot.become(given)
    if not limits or not all(isinstance(value, int | float) for value in limits.values()):
        return
    spam, ham = (limits.get(name, default) for name, default in AUTOLEARN.items())
    scores = owner.settings["spam"]
    if ham >= spam:
        owner.refuse(spot, f"ham ({ham:g}) is not below spam ({spam:g})", "write them as in {spam: 12, ham: -5}", value=None)
    if spam < scores["junk"] and "spam" in limits:
        reason = f"mail_spam makes mail junk from {scores['junk']:g} points; less is never learned as spam"
        owner.refuse(spot.item("spam"), reason, f"write {scores['junk']:g} or more", value=spam)
    if ham >= scores["greylist"] and "ham" in limits:
        reason = f"mail_spam suspects mail from {scores['greylist']:g} points; that is never learned as ham"
        owner.refuse(spot.item("ham"), reason, f"write less than {scores['greylist']:g}", value=ham)


def check_filter_web(owner: Owner, root: At) -> None:
    """F9: a name of its own, and a password. Leaves None in the settings where there is no web interface."""
    web, spot = owner.settings["filter_web"], root.item("mail_filter_web")
    given = {name for name, value in web.items() if value is not None}
    if web["host"] is None:
        if given:
            owner.refuse(spot, "host is missing", "name one of mail_hostnames", value=None)
        owner.settings["filter_web"] = None
        return
    if web["host"] not in owner.settings["hostnames"] or web["host"] == owner.settings["hostname"]:
        near = suggest(web["host"], owner.settings["hostnames"])
        owner.refuse(
            spot.item("host"), "not one of mail_hostnames", near or "add it there: it needs a certificate and DNS records", web["host"]
        )
    for name in ("password_hash", "enable_password_hash"):
        if web[name] is not None and _RSPAMD_HASH.fullmatch(web[name]) is None:
            owner.refuse(spot.item(name), "not a hash of Rspamd's", "make one on the host: rspamadm pw", secret=True)
    if web["password_hash"] is None:
        owner.refuse(spot, "password_hash is missing", "make one on the host: rspamadm pw", value=None)
    web["networks"] = list(dict.fromkeys(value for _, value in web["networks"] or ()))


def check_policy(owner: Owner, root: At, domains: Iterable[str], lowest_reject: float) -> None:
    """Leaves plain values in the settings. `lowest_reject`: the lowest score that somebody's mail is refused at."""
    settings = owner.settings
    helo = settings["helo"]
    for name in ("exceptions", "exception_patterns"):
        helo[name] = list(dict.fromkeys(value for _, value in helo[name] or ()))
    _antivirus(owner, root)
    attachments = settings["attachments"]
    for name in ("refuse", "extensions", "types"):
        attachments[name] = list(dict.fromkeys(value for _, value in attachments[name] or ()))
    _filter(owner, set(domains))
    _blocklists(owner, lowest_reject)
    _origins(owner, root, lowest_reject)


def _antivirus(owner: Owner, root: At) -> None:
    antivirus, quarantine = owner.settings["antivirus"], owner.settings["quarantine"]
    seen: dict[str, At] = {}
    signatures = []
    for at, entry in antivirus["signatures"] or ():
        name, text = entry["name"], entry["text"]
        if name is BROKEN or text is BROKEN:
            continue
        if seen.setdefault(name, at) is not at:
            owner.refuse(at.item("name"), f"duplicate of {owner.place(seen[name])}", value=name)
        if not text.strip():
            owner.refuse(at.item("text"), "empty", "ClamAV does not start with such a file", value="")
        signatures.append({"name": name, "text": text if text.endswith("\n") else f"{text}\n"})
    antivirus["signatures"] = signatures
    if antivirus["action"] != "none" and not antivirus["updates"] and not signatures:
        owner.refuse(root.item("mail_antivirus"), "neither updates nor signatures", "nothing would be found", value=None)
    quarantine["notify"] = [value for _, value in quarantine["notify"] or ()]
    if quarantine["mailbox"] is None and (antivirus["action"] == "quarantine" or quarantine["spam"]):
        owner.refuse(root.item("mail_quarantine"), "mailbox is missing", "name the mailbox that gets what is quarantined", value=None)


def _filter(owner: Owner, domains: set[str]) -> None:
    entries = []
    seen: dict[tuple[str, str, str], At] = {}
    for at, entry in owner.settings["filter"]:
        given = at.value if isinstance(at.value, Mapping) else {}
        kinds = [kind for kind in ("client", "sender", "recipient") if given.get(kind) is not None]
        if len(kinds) != 1:
            reason = f"{', '.join(kinds)} together" if kinds else "nobody is named"
            owner.refuse(at, reason, "name one of client, sender, recipient", value=None)
            continue
        kind, action = kinds[0], entry["action"]
        if action == "block" and kind != "sender":
            owner.refuse(at.item(kind), f"the filter blocks by sender, not by {kind}", "mail_access does", value=given[kind])
            continue
        if entry[kind] is None or action is BROKEN:
            continue
        if kind == "recipient" and not here(entry[kind], domains):
            near = suggest(entry[kind].rpartition("@")[2], domains)
            owner.refuse(at.item(kind), "not a domain of this inventory", near, value=entry[kind])
        first = seen.setdefault((action, kind, entry[kind]), at)
        if first is not at:
            owner.refuse(at, f"{entry[kind]} is also declared at {owner.place(first)}", "remove one", value=None)
        entries.append({"action": action, "kind": kind, "what": entry[kind]})
    owner.settings["filter"] = entries


def _blocklists(owner: Owner, lowest_reject: float) -> None:
    entries = []
    seen: dict[str, At] = {}
    for at, entry in owner.settings["blocklists"]:
        zone, score = entry["zone"], entry["score"]
        if zone is BROKEN or score is BROKEN or entry["of"] is BROKEN:
            continue
        zone = zone.lower()
        if re.fullmatch(r"([a-z0-9_]([a-z0-9_-]*[a-z0-9])?\.)+[a-z0-9-]+", zone) is None or len(zone) > 200:
            owner.refuse(at.item("zone"), "not a domain name", value=entry["zone"])
            continue
        first = seen.setdefault(zone, at)
        if first is not at:
            owner.refuse(at.item("zone"), f"duplicate of {owner.place(first)}", "ask one list once", value=zone)
        # A list that has gone mad lists everybody.
        if score >= lowest_reject:
            owner.refuse(
                at.item("score"),
                f"one list alone would refuse mail: some mail is refused from {lowest_reject:g} points",
                "give it fewer points",
                value=score,
            )
        of = list(dict.fromkeys(value for _, value in entry["of"]))
        if not of:
            owner.refuse(at.item("of"), "nothing is looked up", "name client, sender, urls or another", value=None)
        answers = list(dict.fromkeys(value for _, value in entry["answers"] or ()))
        entries.append({"zone": zone, "of": of, "answers": answers, "score": score})
    owner.settings["blocklists"] = entries


def _origins(owner: Owner, root: At, lowest_reject: float) -> None:
    origins, spot = owner.settings["origins"], root.item("mail_origins")
    most = {}
    for kind in ("countries", "networks"):
        origins[kind] = origins[kind] or {}
        # A client is in one country and one system, and nobody can help where he is.
        name, most[kind] = max(origins[kind].items(), key=lambda entry: entry[1], default=("", 0.0))
        if most[kind] >= lowest_reject:
            owner.refuse(
                spot.item(kind).item(name),
                f"the origin alone would refuse mail: some mail is refused from {lowest_reject:g} points",
                "give it fewer points; mail_access refuses clients",
                value=most[kind],
            )
    if max(most.values()) < lowest_reject <= sum(most.values()):
        reason = f"a country and a network together would refuse mail: some mail is refused from {lowest_reject:g} points"
        owner.refuse(spot, reason, "give them fewer points", value=None)
