# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What a run would change: two sets of named rows compared. Pure, so that check mode is "do not write"."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from .errors import Invalid

__all__ = ["MASK", "Plan", "Row", "keyed", "make_plan", "rows_of"]

Row = Mapping[str, str]
T = TypeVar("T")
Rows = TypeVar("Rows", list[Any], dict[str, Any])

MASK: Final = "***"


@dataclass(frozen=True)
class Plan:
    """Names in order; `changed` and `removed` exist now, `added` do not."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: int
    current: Mapping[str, Row]
    desired: Mapping[str, Row]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def names(self) -> dict[str, list[str]]:
        """The three lists of a module's result."""
        return {"added": list(self.added), "changed_names": list(self.changed), "removed": list(self.removed)}

    def lines(self, secret: Collection[str] = ()) -> list[str]:
        """One line per name, `+` added, `~` changed, `-` removed; the fields in `secret` are masked."""

        def shown(name: str, field: str, row: Row) -> str:
            return MASK if field in secret else row.get(field, "") or "(none)"

        lines = []
        for name in self.added:
            row = self.desired[name]
            fields = ", ".join(f"{field}: {shown(name, field, row)}" for field in row)
            lines.append(f"+ {name}" + (f": {fields}" if fields else ""))
        for name in self.changed:
            old, new = self.current[name], self.desired[name]
            different = [field for field in {**old, **new} if old.get(field) != new.get(field)]
            lines.append(
                f"~ {name}: "
                + ", ".join(
                    f"{field}: {MASK} (changed)" if field in secret else f"{field}: {shown(name, field, old)} → {shown(name, field, new)}"
                    for field in different
                )
            )
        lines.extend(f"- {name}" for name in self.removed)
        return lines


def make_plan(current: Mapping[str, Row], desired: Mapping[str, Row]) -> Plan:
    """Compare rows by name; a row is a mapping of field to text."""
    return Plan(
        added=tuple(sorted(desired.keys() - current.keys())),
        changed=tuple(sorted(name for name, row in desired.items() if name in current and current[name] != row)),
        removed=tuple(sorted(current.keys() - desired.keys())),
        unchanged=sum(current.get(name) == row for name, row in desired.items()),
        current=current,
        desired=desired,
    )


def rows_of(text: str | Rows, kind: type[Rows]) -> Rows:
    """What a module's argument of type `json` holds: as one text, 100 000 rows pass Ansible's own checks in no time. Raises Invalid."""
    try:
        rows = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise Invalid(f"not JSON: {error}") from None
    if not isinstance(rows, kind):
        raise Invalid(f"a {kind.__name__} is expected")
    return rows


def keyed(what: str, rows: Iterable[Any], key: str, fields: Collection[str], read: Callable[[dict[str, Any]], T]) -> dict[str, T]:
    """Rows by their `key`, each read by `read`. `what` names the list in messages, `fields` are all a row may and must have.

    Raises Invalid with every wrong row, and with both indexes where two rows have the same name. Values are never shown.
    """
    found: dict[str, T] = {}
    indexes: dict[str, int] = {}
    wrong: list[str] = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != set(fields):
            wrong.append(f"{what}[{index}]: a mapping of {', '.join(sorted(fields))} is expected")
            continue
        name = row[key]
        if not isinstance(name, str) or not name:
            wrong.append(f"{what}[{index}].{key}: a text is expected")
            continue
        if name in indexes:
            wrong.append(f"{what}[{indexes[name]}] and {what}[{index}] are both {name}")
            continue
        indexes[name] = index
        try:
            found[name] = read(dict(row))
        except Invalid as error:
            wrong.append(f"{what}[{index}]: {error}")
    if wrong:
        raise Invalid("; ".join(wrong))
    return found
