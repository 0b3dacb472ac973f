# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What goes wrong: one exception for one value, one for an activation, one record for one line of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ActivationError", "Invalid", "Problem", "show"]

_SHOWN = 80


class Invalid(ValueError):
    """A value that cannot be used: why, and where it helps what to write instead."""

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(f"{reason}; {cure}" if cure else reason)
        self.reason = reason
        self.cure = cure


class ActivationError(Exception):
    """A generation could not be made live; the message says what is live now."""


def show(value: object) -> str:
    """The value as one printable line: control characters escaped, long ones cut."""
    if isinstance(value, str):
        text = value if value.isprintable() and value == value.strip() and value else json.dumps(value)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (ValueError, RecursionError):
            text = f"<{type(value).__name__}>"
    text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


@dataclass(frozen=True)
class Problem:
    """One line of the report. `where` is FILE:LINE or a name of what was read; `value` is already masked if secret."""

    where: str
    path: str
    value: str
    reason: str
    cure: str = ""

    def __str__(self) -> str:
        parts: Sequence[str] = [part for part in (self.where, self.path, self.value, self.reason) if part]
        return ": ".join(parts) + (f"; {self.cure}" if self.cure else "")
