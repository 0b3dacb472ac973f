# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What running daemons must be told, or waited for, when mail data changes: Postfix's databases, reloads and queue, Dovecot's second."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from .commands import run
from .errors import ActivationError

__all__ = [
    "await_dovecot",
    "drain_queue",
    "postfix_master",
    "postmap",
    "reload_postfix",
]

# Seconds that sessions with the old patterns get, when an address moves to a new pattern, and messages with a recipient that was a mailbox,
# when it becomes an alias.
DRAIN: Final = 30.0


def postmap(source: Path, configuration: Path) -> None:
    """Rebuild the database of `source` in place: one lmdb transaction. Owner and mode become the source's (postmap(1)).

    `configuration` is a directory with an empty main.cf: the tables must not depend on a configuration that is written later.
    """
    done = subprocess.run(  # noqa: S603 -- fixed program, path of our own
        ["/usr/sbin/postmap", "-c", str(configuration), f"lmdb:{source}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ActivationError(f"postmap {source}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def reload_postfix(drain: bool) -> bool:
    """Tell a running Postfix what no daemon notices by itself: a new pcre file, a new domain; true where one runs.

    A daemon ends after the session it is in. With `drain`, return when those with the old patterns have ended, or after DRAIN seconds.
    """
    master = postfix_master()
    if not master:
        return False
    old = _readers_of_patterns(master) if drain else set()
    done = subprocess.run(["/usr/sbin/postfix", "reload"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ActivationError(f"postfix reload: {done.stderr.strip()}")
    until = time.monotonic() + DRAIN
    while old & _readers_of_patterns(master) and time.monotonic() < until:
        time.sleep(0.1)  # between two looks: a process that is no child of ours tells nobody when it ends
    return True


def postfix_master() -> str:
    """The process number of a running Postfix, or empty."""
    file = Path("/var/spool/postfix/pid/master.pid")
    if not Path("/etc/postfix/main.cf").exists() or not file.exists():
        return ""
    if subprocess.run(["/usr/sbin/postfix", "status"], capture_output=True, check=False).returncode:
        return ""
    return file.read_text().strip()


def drain_queue(addresses: Collection[str], spool: Path = Path("/var/spool/postfix")) -> None:
    """Return when no message under way has one of these recipients, or after DRAIN seconds.

    cleanup(8) has looked for an alias when it got the recipient, long before the delivery. What is being received now may have them,
    too: a file of the incoming queue is executable when it is complete. A deferred message looks for aliases again when it is requeued.
    """
    if not postfix_master():
        return

    def incomplete() -> set[str]:
        found = set()
        for path in (spool / "incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not path.stat().st_mode & 0o100:
                    found.add(path.name)
        return found

    receiving = incomplete()
    until = time.monotonic() + DRAIN
    while time.monotonic() < until:
        receiving &= incomplete()
        queue = subprocess.run(["/usr/sbin/postqueue", "-j"], capture_output=True, text=True, check=False).stdout
        rows = [json.loads(line) for line in queue.splitlines()]
        rows = [row for row in rows if any(recipient["address"].lower() in addresses for recipient in row["recipients"])]
        waiting = [row["queue_id"] for row in rows if row["queue_name"] == "deferred"]
        if waiting:
            names = "".join(f"{name}\n" for name in waiting)
            subprocess.run(["/usr/sbin/postsuper", "-r", "-", "deferred"], input=names, capture_output=True, text=True, check=False)
        if not receiving and not [row for row in rows if row["queue_name"] != "hold"]:
            return
        time.sleep(0.05)  # between two looks: Postfix tells nobody when a message has left


def await_dovecot(newcomer: str = "", running: Path = Path("/run/dovecot/master.pid")) -> None:
    """Return when Dovecot has looked at its passwd-files, or will before it answers: it does so once in each second of the clock.

    Where somebody asked in this one, that is the next; where nobody did, it knows a `newcomer` of the file of users at once.
    """
    if running.exists() and not (newcomer and run(["doveadm", "user", newcomer], timeout=10)[0] == 0):
        time.sleep(1.01 - time.time() % 1)  # the condition is the clock's next second


def _readers_of_patterns(master: str) -> set[str]:
    """Process numbers of the daemons that hold aliases: children of master, see proc(5)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if rest.split()[1] == master and name in ("smtpd", "cleanup", "verify", "proxymap"):
                found.add(path.parent.name)
    return found
