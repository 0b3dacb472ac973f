# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Runs the module of the same name for each folder, batch by batch, and tells how far it is; options and results are documented there."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

COUNTS = ("learned", "known", "short", "failed")


class ActionModule(ActionBase):
    """One round trip for statistics and reset, one every few seconds while messages are learned."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The first failure ends it: what was learned stays, and is known the next time."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        arguments = dict(self._task.args)
        action = arguments.get("action", "statistics")
        folders = []
        mailboxes = arguments.get("mailboxes") or []
        mailboxes = [mailboxes] if isinstance(mailboxes, str) else mailboxes
        if action in ("spam", "ham"):
            if not mailboxes or not arguments.get("folder"):
                return {**result, "failed": True, "msg": "say which mailboxes (a list) and which folder"}
            host = variables.get("inventory_hostname")
            for mailbox in mailboxes:
                row: dict[str, Any] = {"mailbox": str(mailbox), "folder": str(arguments["folder"]), "errors": []}
                row.update(dict.fromkeys(COUNTS, 0))
                folders.append(row)
                after = ""
                while True:
                    options = {**arguments, "mailboxes": [mailbox], "after": after}
                    done = self._execute_module("mail_learning", options, task_vars=variables)
                    if done.get("failed"):
                        return {**result, **done, "folders": folders}
                    batch = done["batch"]
                    row.update({name: row[name] + batch[name] for name in COUNTS})
                    row.update(left=batch["left"], errors=(row["errors"] + batch["errors"])[:3])
                    result["changed"] = result.get("changed", False) or done["changed"]
                    self._display.display(f"{host}: {line(row)}")
                    after = batch["next"]
                    if not after:
                        break
            result["statistics"] = done["statistics"]
            result["folders"] = folders
        else:
            result.update(self._execute_module("mail_learning", arguments, task_vars=variables))
            if result.get("failed"):
                return result
        known = result["statistics"]
        told = f"learned in all: {known['spam']} as spam, {known['ham']} as ham; {known['tokens']} words are remembered"
        return {**result, "report": [*map(line, folders), told]}


def line(row: dict[str, Any]) -> str:
    """What became of a folder so far."""
    done = sum(row[name] for name in COUNTS)
    text = (
        f"{row['mailbox']} {row['folder']}: {done} of {done + row['left']} messages, {row['learned']} learned, {row['known']} known before"
    )
    text += f", {row['short']} too short" if row["short"] else ""
    return text + (f", {row['failed']} failed ({'; '.join(row['errors'])})" if row["failed"] else "")
