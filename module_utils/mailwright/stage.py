# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Lets a service's own checker see files that are not live yet under the names they will have."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .commands import run, shorten

# <sched.h>, <sys/mount.h>; os.unshare is new in Python 3.12.
CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

InStage = Callable[[str], bool]


def check_staged(directories: Sequence[str], arrange: Callable[[InStage], None], commands: Sequence[Sequence[str]]) -> list[str]:
    """Run `commands` where copies that `arrange` has changed lie in place of `directories`; a sentence per failure.

    `arrange` gets a function that tells whether a path is in a copy; it must write nothing else. The copies are in memory,
    in the mount namespace of a child process: nothing leaks out, and the kernel clears up however that process ends.
    See unshare(2), mount_namespaces(7), tmpfs(5).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Only _exit: nothing of the parent's (its buffers, its exit handlers) may happen twice.
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as report:
                json.dump(check_in_namespace(directories, arrange, commands), report)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    os.waitpid(child, 0)
    faults: list[str] = json.loads(text) if text else ["the process that runs the checks died"]
    return faults


def check_in_namespace(directories: Sequence[str], arrange: Callable[[InStage], None], commands: Sequence[Sequence[str]]) -> list[str]:
    """The child's part of check_staged; the calling process never gets back to the host's mounts."""
    try:
        arrange(enter_stage(directories))
    except OSError as error:
        return [f"the files cannot be staged: {error}"]
    faults = []
    for command in commands:
        status, output = run(command)
        if status:
            faults.append(f"check {' '.join(command)!r} failed ({status}): {shorten(output)}")
    return faults


def enter_stage(directories: Iterable[str]) -> InStage:
    """Leave the host's mount namespace and mount copies over `directories`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int, what: str) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), what)

    call(libc.unshare(CLONE_NEWNS), "private mount namespace")
    call(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "/")
    found = sorted({os.path.realpath(directory) for directory in directories})
    roots = [root for root in found if not any(root.startswith(f"{other}/") for other in found)]
    for root in roots:
        held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        call(libc.mount(b"mailwright", os.fsencode(root), b"tmpfs", 0, b"mode=0700"), root)
        copy_directory(Path(f"/proc/self/fd/{held}"), Path(root))
        os.close(held)

    def in_stage(path: str) -> bool:
        # By its real parent: a link out of the copy leads to the live file.
        parent = os.path.realpath(Path(path).parent)
        return any(parent == root or parent.startswith(f"{root}/") for root in roots)

    return in_stage


def copy_directory(source: Path, target: Path) -> None:
    """Copy what is in `source` with owners, modes, times and links; sockets, pipes and devices are left out."""
    for found in os.scandir(source):
        copy = target / found.name
        info = found.stat(follow_symlinks=False)
        if found.is_symlink():
            copy.symlink_to(Path(found.path).readlink())
        elif found.is_dir():
            copy.mkdir()
            copy_directory(Path(found.path), copy)
            continue
        elif found.is_file():
            shutil.copyfile(found.path, copy)
        else:
            continue
        os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)
        shutil.copystat(found.path, copy, follow_symlinks=False)
    info = source.stat()
    os.chown(target, info.st_uid, info.st_gid)
    shutil.copystat(source, target)
