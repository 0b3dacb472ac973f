# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What a run changes on a host, or in check mode would: collected from the results of its tasks, told to people. Names only, no secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ["SECTIONS", "add_result", "new_host", "render"]

# Module of `mail_directory` → section of the report.
SECTIONS: Final = {
    "mail_domains": "domains",
    "mail_mailboxes": "mailboxes",
    "mail_aliases": "aliases",
    "mail_maps": "maps",
    "dkim_keys": "dkim_keys",
}
# Names of one kind that the text shows; the JSON form has all.
SHOWN: Final = 100

# What a message of the role base, and one of validate.yml, begins with.
PACKAGES: Final = "Packages to install"
OVERRIDES: Final = "Overrides"

Host = dict[str, Any]


def new_host() -> Host:
    """A host of which nothing is known to change."""
    return {
        "overrides": [],
        "packages": [],
        **{section: {"added": [], "changed": {}, "removed": []} for section in SECTIONS.values()},
        "archived": [],
        "restored": [],
        "certificates": {},
        "dns": {"added": [], "changed": [], "removed": []},
        "files": {"written": [], "removed": []},
        "services": {},
        "other": [],
    }


def add_result(host: Host, action: str, task: str, result: Mapping[str, Any]) -> None:
    """Add what one task changed. `action` is the module, `task` its name; what no rule knows is told by that name."""
    if action.endswith(".debug"):
        # The role base names them so, before apt has its way.
        label, _, names = str(result.get("msg", "")).partition(": ")
        host["packages"] += names.split() if label == PACKAGES else []
        host["overrides"] += names.split(", ") if label == OVERRIDES else []
    if not result.get("changed") or action.endswith((".apt", ".debug")):
        return
    if action == "config_tree":
        host["files"]["written"] += result["changed_paths"]
        host["files"]["removed"] += result["removed_paths"]
        for unit, what in result["units"].items():
            _service(host, unit, what)
    elif action == "mail_directory":
        _add_mail_data(host, result)
    elif action == "tls_certificate" and "changes" in result:
        host["certificates"].update({one["name"]: one["reason"] for one in result["changes"]})
        host["certificates"].update(dict.fromkeys(result["removed"], "it is no longer wanted"))
    elif action == "dns_publish" and result["lines"]:
        _add_records(host["dns"], result["lines"])
    elif task not in host["other"]:
        host["other"].append(task)


def _add_mail_data(host: Host, result: Mapping[str, Any]) -> None:
    # "~ NAME: FIELD: old → new", as plan.py writes it; secrets are masked there.
    lines = {line[2:] for part in result["diff"] for line in part.get("prepared", "").splitlines() if line.startswith("~ ")}
    names = False
    for module, done in result["lists"].items():
        section = host[SECTIONS[module]]
        section["added"] += done["added"]
        section["removed"] += done["removed"]
        for name in done["changed_names"]:
            section["changed"][name] = next((line[len(name) + 2 :] for line in lines if line.startswith(f"{name}: ")), "")
        host["archived"] += done.get("to_archive", [])
        host["restored"] += done.get("to_restore", [])
        host["files"]["written"] += done.get("rewritten", [])
        for unit in done.get("to_reload", []):
            _service(host, f"{unit}.service", "reload")
        names = names or bool(done["added"] or done["changed_names"] or done["removed"] or done.get("rewritten"))
    if not names:
        # Put right, although nothing was declared anew.
        host["files"]["written"] += result.get("files", [])


def _add_records(section: dict[str, list[str]], lines: Iterable[str]) -> None:
    """Records by name and type. In check mode a second task of the run finds once more what the first did."""
    # "+ NAME. TTL TYPE VALUE", as the module writes it.
    found = [(sign, f"{name.rstrip('.')} {kind}") for sign, name, _, kind, *_ in map(str.split, lines)]
    added, removed = ({name for sign, name in found if sign == wanted} for wanted in "+-")
    for key, names in (("added", added - removed), ("changed", added & removed), ("removed", removed - added)):
        section[key] = sorted({*section[key], *names})


def _service(host: Host, unit: str, what: str) -> None:
    """The strongest of what is done to a unit."""
    order = ["enable", "reload", "restart", "start"]
    host["services"][unit] = max((what, host["services"].get(unit, what)), key=order.index)


def is_changed(host: Host) -> bool:
    """Whether anything is in it that changes the host."""
    return {**host, "overrides": []} != new_host()


def render(document: Mapping[str, Any]) -> str:
    """The text for people: one paragraph for each host, then the problems, then one sentence."""
    lines: list[str] = []
    changed = 0
    for name, host in document["hosts"].items():
        changed += is_changed(host)
        if host != new_host():
            lines += [name, *(f"  {line}" for line in _lines(host)), ""]
    lines += [f"{host}: {text}" for host, text in document["problems"]]
    if document["problems"]:
        lines.append("A run would stop there.")
    elif changed:
        lines.append(f"A run would change {changed} of {len(document['hosts'])} hosts. Nothing was changed now.")
    else:
        lines.append("A run would change nothing.")
    return "\n".join(lines) + "\n"


def _lines(host: Host) -> Iterator[str]:
    if host["packages"]:
        yield f"packages to install: {' '.join(host['packages'])}"
    for section in SECTIONS.values():
        found = host[section]
        yield from _cut(section, [f"+ {name}" for name in found["added"]])
        yield from _cut(section, [f"~ {name}: {text}" if text else f"~ {name}" for name, text in found["changed"].items()])
        yield from _cut(section, [f"- {name}" for name in found["removed"]])
    yield from _cut("mail", [f"- {name}: to the archive" for name in host["archived"]])
    yield from _cut("mail", [f"+ {name}: back from the archive" for name in host["restored"]])
    yield from _cut(
        "certificate", [f"~ {name}: {reason}; the services that use it are reloaded" for name, reason in host["certificates"].items()]
    )
    for sign, key in (("+", "added"), ("~", "changed"), ("-", "removed")):
        yield from _cut("dns", [f"{sign} {name}" for name in host["dns"][key]])
    yield from _cut("override", [f"  {name}" for name in host["overrides"]])
    yield from _cut("files", [f"~ {path}" for path in host["files"]["written"]])
    yield from _cut("files", [f"- {path}" for path in host["files"]["removed"]])
    yield from _cut("services", [f"~ {unit}: {what}" for unit, what in host["services"].items()])
    yield from _cut("other", [f"~ {task}" for task in host["other"]])


def _cut(section: str, lines: list[str]) -> Iterator[str]:
    shown = lines[:SHOWN] + ([f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])
    yield from (f"{section:11} {line}" for line in shown)
