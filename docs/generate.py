# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Write docs/reference/ from the one place where each key and variable is declared; `--check` only tells whether it is current."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
sys.path.insert(0, str(PROJECT / "module_utils"))

# It needs the path above, hence E402.
from mailwright.findings import KINDS  # noqa: E402
from mailwright.overrides import PROMISES  # noqa: E402
from mailwright.schema import DOMAIN, RFC_2142_NAMES, SHARED, SPAM_PRESETS, TYPES, Key  # noqa: E402

NOTE = "<!-- Written by docs/generate.py. Change {source} instead. -->\n"
HEADER = "| key | type | default | meaning |\n|---|---|---|---|\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """A value as it is written in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n...\n").strip()
    return f"`{text}`"


def key_rows(keys: Mapping[str, Key], prefix: str = "") -> Iterator[str]:
    for name, key in keys.items():
        kind = (
            f"{key.type} by {key.of}"
            if key.type == "scores"
            else f"list of {key.of}"
            if key.of
            else "list of mappings"
            if key.type == "list"
            else key.type
        )
        if key.choices:
            kind = ", ".join(code(choice) for choice in key.choices)
        default = "**required**" if key.required else "" if key.default is None else code(key.default)
        help_text = key.help + (" (secret)" if key.secret else "")
        yield f"| `{prefix}{name}` | {cell(kind)} | {cell(default)} | {cell(help_text)} |\n"
        if key.keys is not None and key is not SHARED["mail_domains"]:
            yield from key_rows(key.keys, f"{prefix}{name}{'[]' if key.type == 'list' else ''}.")


def inventory() -> str:
    presets = "".join(f"| `{name}` | {' | '.join(f'{score:g}' for score in preset.values())} |\n" for name, preset in SPAM_PRESETS.items())
    types = "".join(f"| {name} | {cell(meaning)} |\n" for name, meaning in TYPES.items())
    return f"""{NOTE.format(source="module_utils/mailwright/schema.py")}
# Inventory

Mail data is checked as a whole before any host is contacted: `ansible-playbook playbooks/validate.yml -i INVENTORY`.
Every problem is printed as `FILE:LINE: key.path: value: reason; cure`. The roles' own variables are in [roles.md](roles.md).

## Domain files

Each file `domains/NAME.yml` of the inventory (beside `hosts.yml`) is one mapping, and so is each entry of `mail_domains`.
References (`"{{{{ variable }}}}"`) and vaulted values (`!vault`) work in every value but the names: `domain`, `name`, `pattern`,
`selector`, `destination`, `recipients`, a mailbox's `aliases`, and whom entries of `mail_relays` and `mail_access` are about.
They are written out, so that a file says what it is about. Which rule wins where several apply: [routing.md](../routing.md).

{HEADER}{"".join(key_rows(DOMAIN))}
## Variables of hosts and groups

{HEADER}{"".join(key_rows(SHARED))}
## Spam scores

`spam` and `mail_spam` are the name of a preset, or a mapping with all three scores.

| preset | {" | ".join(next(iter(SPAM_PRESETS.values())))} |
|---|---|---|---|
{presets}
## What is added

- {", ".join(f"`{name}@`" for name in RFC_2142_NAMES)} of each domain go to `mail_postmaster` unless the domain declares them (RFC 2142).
- A mailbox may send as itself and as each of its `aliases`; an alias or group with `send_as: true` may be used by all mailboxes it ends in;
  `send_as` of a mailbox names further addresses of ours, other people's among them.
- An alias domain (`alias_of`) has every address of the other domain, and no other: mail to them, sending as them, refusals, spam scores.
  It has DKIM keys of its own.
- Members of a group get its mail as if it had been written to them: their own forwards, filters and scores apply. `except` leaves members
  out of this group only; who is a member by two ways gets one copy. What a mailbox forwards never makes somebody a member.
- A disabled mailbox gets nothing as a member either; an address whose members are all disabled is refused.
- A hidden copy is for one address, once for each message, however many of its recipients call for it. The sender hears nothing
  of it, and it is not copied again. A domain's own setting takes the place of the common one; an alias with two targets serves for
  both. Mail between our own people is sent and received: it has both copies, or one where they go to the same address.
- A tag goes on with the mail: what is sent to `info+x@` arrives at `alice+x@`, also outside.
- `internal: true` is about the address that the sender writes to: strangers who name it are refused (554), submitted mail, `mail_networks`
  and the host itself are not. A public alias or group that ends there still lets mail in.
- A declared mailbox or alias wins over `mail_aliases` without a domain, and over `catch_all`; `alias_patterns` must not match
  declared names.

## Types

| type | meaning |
|---|---|
{types}"""


def markup(text: str | list[str]) -> str:
    """Ansible's documentation markup as Markdown."""
    joined = " ".join(text) if isinstance(text, list) else text
    joined = re.sub(r"[CVOME]\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"`\1`", joined)
    joined = re.sub(r"B\(([^)]*)\)", r"**\1**", joined)
    joined = re.sub(r"I\(([^)]*)\)", r"*\1*", joined)
    joined = re.sub(r"L\(([^,)]*), *([^)]*)\)", r"[\1](\2)", joined)
    return re.sub(r"U\(([^)]*)\)", r"<\1>", joined)


def option_rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = option.get("type", "str")
        if kind == "list" and "elements" in option:
            kind = f"list of {option['elements']}"
        if option.get("choices"):
            kind = ", ".join(code(choice) for choice in option["choices"])
        default = "**required**" if option.get("required") else code(option["default"]) if "default" in option else ""
        yield f"| `{prefix}{name}` | {cell(kind)} | {cell(default)} | {cell(markup(option.get('description', '')))} |\n"
        if option.get("options"):
            yield from option_rows(option["options"], f"{prefix}{name}{'[]' if option.get('type') == 'list' else ''}.")


def roles() -> str:
    parts = [
        NOTE.format(source="meta/argument_specs.yml of the role"),
        "\n# Roles\n\nThe public variables of every role. Mail data, which several roles share, is in [inventory.md](inventory.md).\n",
    ]
    for path in sorted(PROJECT.glob("roles/*/meta/argument_specs.yml")):
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        options: dict[str, Mapping[str, Any]] = {}
        for spec in specs.values():
            options |= {name: option for name, option in (spec.get("options") or {}).items() if name not in options}
        main = specs.get("main") or next(iter(specs.values()))
        parts.append(f"\n## {path.parent.parent.name}\n\n{markup(main.get('short_description', ''))}.\n")
        if main.get("description"):
            parts.append(f"\n{markup(main['description'])}\n")
        if options:
            parts.append(f"\n{HEADER}{''.join(option_rows(options))}")
    return "".join(parts)


def dns_check() -> str:
    rows = "".join(f"| `{name}` | {kind.severity} | {cell(kind.cause)} | {cell(kind.cure)} |\n" for name, kind in KINDS.items())
    return f"""{NOTE.format(source="module_utils/mailwright/findings.py")}
# Findings of the DNS check

How to run it, and what its exit codes mean: [operations.md](../operations.md#is-the-dns-right).
An *error* means that mail is lost, refused or taken for spam, or soon will be; a *warning* that a protection is missing or not what
the inventory says; a *notice* is worth knowing and changes no exit code.

| finding | severity | cause | cure |
|---|---|---|---|
{rows}"""


def promises() -> str:
    rows = ""
    for one in PROMISES:
        keys = ", ".join(f"`{key}`" for key in one.keys)
        rows += f"| {one.service} | {keys} | {cell(one.when)} | {cell(one.promise)} | {'refused' if one.refused else 'warning'} |\n"
    return f"""{NOTE.format(source="module_utils/mailwright/overrides.py")}
# Settings that break a promise

What native settings are, and how they are merged: [overrides.md](../overrides.md). `port 25` is `main.cf` and the service `smtpd/pass` of
`master.cf`, `submission` that service of `master.cf`, `postfix` all of both.

| service | setting | where it is | promise | |
|---|---|---|---|---|
{rows}"""


def main(arguments: list[str]) -> int:
    stale = []
    for name, text in (("inventory", inventory()), ("roles", roles()), ("dns-check", dns_check()), ("promises", promises())):
        path = DOCS / "reference" / f"{name}.md"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(PROJECT)))
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"{', '.join(stale)}: not current; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
