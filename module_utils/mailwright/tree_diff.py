# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What a plan for a tree tells people: Ansible's diff, and messages without the secrets."""

from __future__ import annotations

import contextlib
import grp
import pwd
import re
from collections.abc import Iterable, Mapping

from .entries import ABSENT, Entry
from .tree import Tree, attribute_of
from .tree_plan import Plan, Wanted


def describe(tree: Tree, wanted: Mapping[str, Wanted], plan: Plan) -> list[dict[str, str]]:
    """The plan as Ansible's diff, contents of secret files left out."""
    diff = []
    for path, live in plan.writes.items():
        attribute = wanted[path].attribute
        diff += diff_entries(path, live, wanted[path].entry, attribute.secret)
        if live.kind == "file" and describe_owner(live) != str(attribute):
            diff.append(diff_texts(f"{path} (owner and mode)", f"{describe_owner(live)}\n", f"{attribute}\n"))
    for path, live in plan.removals.items():
        # Whether it was secret is not recorded; what not everybody may read might be.
        secret = attribute_of(path, tree.attributes).secret or not live.mode & 0o004
        diff += diff_entries(path, live, plan.restored[path], secret)
    if plan.directories:
        diff.append(diff_texts("directories", "", "".join(f"{path}\n" for path in plan.directories)))
    if plan.actions:
        diff.append(diff_texts("units", "", "".join(f"{action} {name}\n" for name, action in plan.actions.items())))
    return diff


def diff_entries(path: str, before: Entry, after: Entry, secret: bool) -> list[dict[str, str]]:
    """One file's part of the diff, none where the contents are the same."""
    if (before.kind, before.data, before.target) == (after.kind, after.data, after.target):
        return []

    def show(entry: Entry, hidden: str) -> str:
        if entry.kind == "absent":
            return ""
        if entry.kind == "link":
            return f"(symbolic link to {entry.target})\n"
        return hidden if secret else entry.data.decode(errors="replace")

    return [diff_texts(path, show(before, "(secret, as it was)\n"), show(after, "(secret, different)\n"))]


def diff_texts(header: str, before: str, after: str) -> dict[str, str]:
    """One part of Ansible's diff."""
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def describe_owner(live: Entry) -> str:
    """Like an Attribute; numbers where there is no name."""
    user, group = str(live.uid), str(live.gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(live.uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(live.gid).gr_name
    return f"{user}:{group} {live.mode:04o}"


def secret_words(wanted: Mapping[str, Wanted], plan: Plan) -> list[str]:
    """What secret files, new and live, hold that no message may: all of a line but its key, words from 6 characters."""
    words: set[str] = set()
    for path, want in wanted.items():
        if not want.attribute.secret:
            continue
        live = plan.writes.get(path, ABSENT)
        for line in (want.data + b"\n" + live.data).decode(errors="replace").splitlines():
            found = [word for word in re.split(r"[\s\"'=;,{}<>]+", line) if word]
            if found and not found[0].startswith("#"):
                words.update(word for word in found[len(found) > 1 :] if len(word) >= 6)
    return sorted(words, key=len, reverse=True)


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets."""
    for word in secrets:
        text = text.replace(word, "********")
    return text
