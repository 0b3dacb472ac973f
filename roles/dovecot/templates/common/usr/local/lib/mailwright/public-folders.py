"""Makes the public folders below /var/vmail/.public equal to /etc/dovecot/public-folders.json: {domain: {directory: text of dovecot-acl}}.

Runs as vmail, whose files these are. A folder that is no longer declared goes to .removed/<when>/<domain>/, with its mail.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

WANTED = Path("/etc/dovecot/public-folders.json")
PUBLIC = Path("/var/vmail/.public")
ACL = "dovecot-acl"

os.umask(0o077)
wanted = json.loads(WANTED.read_text()) if WANTED.exists() else {}
for domain, folders in wanted.items():
    for name, acl in folders.items():
        folder = PUBLIC / domain / name
        for part in ("cur", "new", "tmp"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "maildirfolder").touch()
        if not (folder / ACL).exists() or (folder / ACL).read_text() != acl:
            (folder / "dovecot-acl.new").write_text(acl)
            (folder / "dovecot-acl.new").replace(folder / ACL)
for path in sorted(PUBLIC.glob(f"*/.*/{ACL}")):
    folder, domain = path.parent, path.parent.parent.name
    # One that we did not make has no list of its own.
    if not domain.startswith(".") and folder.name not in wanted.get(domain, {}):
        removed = PUBLIC / ".removed" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) / domain
        removed.mkdir(parents=True, exist_ok=True)
        folder.rename(removed / folder.name)
# Dovecot makes its list of them anew.
for path in PUBLIC.glob("*/dovecot-acl-list"):
    path.unlink(missing_ok=True)
