# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Loops, depth and size of what mail becomes on its way through aliases, groups and forwards."""

from __future__ import annotations

from typing import Final

from .addresses import Addresses
from .reader import At

__all__ = ["DEPTH_LIMIT", "EXPANSION_CEILING", "check_expansions"]

DEPTH_LIMIT: Final = 100
# Postfix's own limits are 1000; more would be refused at delivery.
EXPANSION_CEILING: Final = 1000


def check_expansions(owner: Addresses) -> None:
    """Loops, depth and size of everything that passes mail on, as Postfix counts them: every branch, duplicates too."""
    model = owner.model
    limit = owner.settings["alias_expansion_limit"]
    leaves: dict[str, int] = {}
    depth: dict[str, int] = {}
    entries: list[tuple[At, str, list[str]]] = [
        *((alias.at, alias.address, alias.to) for alias in model.passed_on()),
        *((p.at, f"{p.pattern}@{domain.name}", p.to) for domain in model.domains.values() for p in domain.patterns),
    ]
    for at, start, targets in entries:
        if start not in leaves:
            _expand(owner, at, start, targets, leaves, depth)
        if leaves[start] > limit:
            owner.refuse(
                at,
                f"{start} becomes {leaves[start]} addresses, the limit is {limit}",
                "use fewer members or raise mail_alias_expansion_limit",
            )
        if depth[start] > DEPTH_LIMIT:
            owner.refuse(at, f"a chain of {depth[start]} aliases, the limit is {DEPTH_LIMIT}")


def _expand(owner: Addresses, at: At, start: str, targets: list[str], leaves: dict[str, int], depth: dict[str, int]) -> None:
    """Count one entry and all it leads to, without recursion: chains may be longer than Python's stack."""
    chain = [start]
    stack = [(start, iter(targets))]
    sums = {start: [0, 0]}
    while stack:
        node, rest = stack[-1]
        step = next(rest, None)
        if step is None:
            stack.pop()
            chain.pop()
            leaves[node], depth[node] = sums[node][0], sums[node][1] + 1
            if stack:
                above = sums[stack[-1][0]]
                above[0] += leaves[node]
                above[1] = max(above[1], depth[node])
            continue
        found = owner.model.rewrite(step)
        if found is None:
            sums[node][0] += 1
            continue
        key, further = found
        if key in leaves:
            sums[node][0] += leaves[key]
            sums[node][1] = max(sums[node][1], depth[key])
        elif key == node and key in owner.model.mailboxes:
            # The copy that a mailbox keeps: Postfix expands an address into itself once.
            sums[node][0] += 1
        elif key == node and key.startswith("@"):
            # A catch-all to a name that does not exist: `references` says so.
            continue
        elif key in chain:
            loop = [*chain[chain.index(key) :], key]
            box = owner.model.mailboxes.get(node)
            entry = box.forward if box is not None else owner.model.aliases.get(node)
            place = entry.at if entry is not None else at
            reason = (
                f"{node} is an alias of itself and no mailbox receives its mail" if len(loop) == 2 else "alias loop " + " → ".join(loop)
            )
            owner.refuse(place, reason, "let one of them end in a mailbox", value=step)
        else:
            chain.append(key)
            sums[key] = [0, 0]
            stack.append((key, iter(further)))
