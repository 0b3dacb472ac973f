"""Has Dovecot take up what deliveries have written to the index logs of folders that nobody reads.

A delivery adds to dovecot.index.log and never writes dovecot.index, because that would cost each one the whole of dovecot-uidlist. So it
reads that log from the last time that the folder was read, which is slow where it is long. Nothing is lost without this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LONG = 128 * 1024  # Dovecot rewrites an index that far behind; some 600 messages
LATER = 60  # seconds after dovecot.index: what Dovecot itself adds to the log while it writes that one is no delivery
RECENT = 3600  # seconds; what cannot be read, such as a disabled mailbox, is left alone until the next delivery


def entries(directory: str) -> Iterator[os.DirEntry[str]]:
    """The directories in a directory, none where it cannot be read."""
    try:
        with os.scandir(directory) as found:
            yield from sorted((entry for entry in found if entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)
    except OSError:
        return


def is_long(folder: str) -> bool:
    """Whether deliveries have written much since the index was written, lately."""
    try:
        log = Path(folder, "dovecot.index.log").stat()
    except OSError:
        return False
    if log.st_size < LONG or log.st_mtime < time.time() - RECENT:
        return False
    try:
        return log.st_mtime > Path(folder, "dovecot.index").stat().st_mtime + LATER
    except OSError:
        return True


def users(root: str) -> Iterator[str]:
    """Addresses with such a folder below `root`/DOMAIN/NAME/Maildir."""
    for domain in entries(root):
        if domain.name.startswith("."):
            continue
        for user in entries(domain.path):
            maildir = f"{user.path}/Maildir"
            folders = (entry.path for entry in entries(maildir) if entry.name.startswith("."))
            if is_long(maildir) or any(map(is_long, folders)):
                yield f"{user.name}@{domain.name}"


def main(root: str) -> int:
    """The exit code of doveadm."""
    found = list(users(root))
    if not found:
        return 0
    # <5>: a notice (sd-daemon(3)), since the unit logs no less.
    print(f"<5>{len(found)} mailboxes: {' '.join(found[:10])}{' …' if len(found) > 10 else ''}", flush=True)
    # doveadm wants a file that it can go back in.
    with tempfile.NamedTemporaryFile("w") as names:
        names.write("\n".join(found) + "\n")
        names.flush()
        # To count messages a folder is read; `doveadm index` would index those for searches, too, that are to have no such index.
        command = ["doveadm", "mailbox", "status", "-F", names.name, "messages", "*"]
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode  # noqa: S603 - fixed words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
