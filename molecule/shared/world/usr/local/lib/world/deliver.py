#!/usr/bin/python3
"""Postfix hands a message over: keep it as /var/mail/world/DOMAIN/USER/new/…, making the mailbox as needed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

domain, user, queue_id = sys.argv[1:]
if any("/" in part or part.startswith(".") for part in (domain, user)):
    sys.exit(67)  # EX_NOUSER
mailbox = Path("/var/mail/world") / domain / user
for part in ("tmp", "new", "cur"):
    (mailbox / part).mkdir(parents=True, exist_ok=True)
name = f"{time.time_ns()}.{os.getpid()}.{queue_id}"
(mailbox / "tmp" / name).write_bytes(sys.stdin.buffer.read())
(mailbox / "tmp" / name).rename(mailbox / "new" / name)
