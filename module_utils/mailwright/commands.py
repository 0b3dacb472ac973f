# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Commands of the host, run without a shell and with nothing of the caller's environment."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

TIMEOUT = 180.0
OUTPUT_LIMIT = 3000
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}


def run(
    command: Sequence[str], timeout: float = TIMEOUT, text: str = "", environment: Mapping[str, str] | None = None, exact: bool = False
) -> tuple[int, str]:
    """The command's status (124 after `timeout` seconds, 127 where it cannot be started) and all it printed; it reads `text`.

    `exact`: to the last byte; those that are not UTF-8 become surrogates, which `text` may have too.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments without a shell, from the role
            command,
            input=text.encode(errors="surrogateescape"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **(environment or {})},
            cwd="/",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return 124, f"{output}(no end after {timeout:.0f} s)"
    except OSError as error:
        return 127, str(error)
    if exact:
        return done.returncode, done.stdout.decode(errors="surrogateescape")
    return done.returncode, done.stdout.decode(errors="replace").strip()


def shorten(text: str) -> str:
    """For a message: the end, where errors stand."""
    return text if len(text) <= OUTPUT_LIMIT else "…" + text[-OUTPUT_LIMIT:]


def find_command(name: str) -> str | None:
    """The command's path, None where it is missing."""
    return shutil.which(name, path=ENVIRONMENT["PATH"])
