"""Renders a role's trees as `config_tree` does, by Ansible's own engine, for tests of what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
# The host's own, and one for clients that ask for its name.
CERTIFICATES: list[dict[str, Any]] = [
    {"name": "default", "names": ["mail.oak.test", "imap.oak.test"], "mail_names": []},
    {"name": "elm.test", "names": ["mail.elm.test"], "mail_names": ["mail.elm.test"]},
]
SETTINGS: dict[str, Any] = {
    "hostname": "mail.oak.test",
    "networks": [],
    "recipient_delimiter": "+",
    "message_size_limit": 52428800,
    "spam": {"greylist": 4.0, "junk": 6.0, "reject": 15.0},
    "mta_sts_outgoing": True,
    "dmarc_reports": {"organisation": None, "from": None},
    "authentication": {
        "spf": {"fail": "score", "softfail": "score", "permerror": "score", "temperror": "score"},
        "dkim": {"fail": "score", "permerror": "score", "temperror": "score"},
        "dmarc": {"reject": "reject", "quarantine": "junk", "none": "score", "temperror": "score"},
        "arc": {"trusted_sealers": []},
    },
    "greylisting": True,
    "spam_marks": {"subject": None, "status": False, "score": False, "level": False},
    "spam_scores": {"symbols": {}, "groups": {}},
    "spam_trainers": None,
    "reputation": False,
    "origins": {"countries": {}, "networks": {}, "updates": True},
    "missing_headers": {"from": "reject", "date": "score"},
    "sending_limit": 500,
    "antivirus": {"action": "none", "unscanned": "defer", "updates": True, "signatures": []},
    "quarantine": {"mailbox": None, "notify": [], "notify_recipients": True, "spam": False},
    "attachments": {"refuse": ["executables"], "extensions": [], "types": []},
}
# What compile_rows leaves beside them.
ROWS: dict[str, Any] = {
    "hostname": "mail.oak.test",
    "domains": [],
    "dkim_keys": [],
    "spam_settings": [],
    "forwarders": [],
    "filter": {action: {"clients": [], "senders": [], "recipients": []} for action in ("allow", "block", "no_greylisting")},
    "filter_web": None,
    "blocklists": [],
    "sending_limits": {},
    "certificates": CERTIFICATES[:1],
    "deleted_to_trash": False,
    "sieve_scripts": {},
    "legal_notes": {},
    "ldap": None,
    "public_folders": {},
    "settings": SETTINGS,
}


def render(role: str, *trees: str, mail: dict[str, Any] | None = None, **variables: object) -> dict[str, str]:
    """Path on the host → text of every file the trees write; `mail` and `variables` are added to the defaults."""
    folder = ROOT / "roles" / role
    known: dict[str, Any] = {
        **yaml.safe_load((folder / "defaults/main.yml").read_text()),
        **yaml.safe_load((folder / "vars/main.yml").read_text()),
    }
    known = {name: trusted(value) for name, value in known.items()}
    known["mail"] = {**ROWS, **(mail or {})}
    known["mail_file_header"] = "Written by Mailwright."
    known.update(variables)
    templar = Templar(loader=DataLoader(), variables=known).copy_with_new_env(searchpath=[str(ROOT / "templates")])
    written = {}
    for tree in trees or (".",):
        base = folder / "templates" / tree
        for source in sorted(path for path in base.rglob("*") if path.is_file() and path.suffix != ".j2"):
            # None is what Ansible makes of a template that renders to nothing.
            text = templar.template(trust_as_template(source.read_text()), escape_backslashes=False)
            if text is not None and str(text).strip():
                written[f"/{source.relative_to(base)}"] = str(text)
    return written


def trusted(value: object) -> object:
    """The role's own defaults may refer to other variables; text from an inventory may not."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value
