"""Root file systems made by mmdebstrap, one per recipe, kept for all labs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from . import network, packages
from .host import CACHE, STATE, LabError, lock, say

IMAGES = CACHE / "images"
STALE = 14 * 86400  # s; older package lists name versions the archive no longer has
RELEASES = ("trixie", "bookworm")

_BASE = [
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "python3", "python3-apt"),
    *("iproute2", "ca-certificates", "openssl"),
]
_WORLD = [
    *("knot", "knot-dnsutils", "pebble", "postfix", "postfix-lmdb", "libsasl2-modules", "sasl2-bin", "opendkim", "opendkim-tools"),
    *("swaks", "libnet-ssleay-perl", "libio-socket-inet6-perl", "curl", "procps", "ldnsutils", "slapd"),
]
# Host keys and the machine's name in the world are made per boot.
_HOOKS = [
    'rm -f "$1"/etc/ssh/ssh_host_*',
    'systemctl --root="$1" enable systemd-networkd.service ssh.service',
    'rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/apt/apt.conf.d/99mmdebstrap',
]


def recipe(image: str) -> dict[str, Any]:
    """All that decides what an image holds."""
    release = "trixie" if image == "world" else image
    if release not in RELEASES:
        raise LabError(f"there is no image {image!r}, only {', '.join((*RELEASES, 'world'))}")
    return {
        "release": release,
        "packages": sorted(_BASE + (_WORLD if image == "world" else [])),
        "sources": [
            f"deb http://deb.debian.org/debian {release} main",
            f"deb http://deb.debian.org/debian {release}-updates main",
            f"deb http://deb.debian.org/debian-security {release}-security main",
        ],
        "hooks": _HOOKS,
        "version": 1,
    }


def path(image: str) -> Path:
    key = hashlib.sha256(json.dumps(recipe(image), sort_keys=True).encode()).hexdigest()[:12]
    return IMAGES / f"{image}-{key}"


def in_use() -> set[str]:
    """Images under the machines of any lab."""
    used: set[str] = set()
    for state in STATE.glob("*/lab.json"):
        try:
            machines = json.loads(state.read_text())["machines"].values()
        except (OSError, ValueError, KeyError):
            continue
        used.update(machine["image"] for machine in machines)
    return used


def ensure(image: str, lab: str) -> Path:
    """The image, built when missing or stale, through the package cache of a running lab."""
    where = path(image)
    with lock(f"image-{where.name}", f"waiting for another run to build the image {image}"):
        if where.is_dir():
            if time.time() - where.stat().st_mtime < STALE or str(where) in in_use():
                return where
            say(f"image {image}: older than {STALE // 86400} days")
            shutil.rmtree(where)
        _build(image, where, lab)
    return where


def _build(image: str, where: Path, lab: str) -> None:
    made_of = recipe(image)
    began = time.monotonic()
    say(f"image {image}: building (once; under a minute on an ordinary connection)")
    new = where.with_name(where.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    IMAGES.mkdir(mode=0o700, parents=True, exist_ok=True)
    IMAGES.chmod(0o700)
    command = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"]
    command += ["--include=" + ",".join(made_of["packages"])]
    command += [f'--aptopt=Acquire::http::Proxy "{packages.proxy()}"', "--skip=cleanup/apt/lists"]
    command += [f"--customize-hook={hook}" for hook in made_of["hooks"]]
    command += [made_of["release"], str(new), "-"]
    said = []
    with subprocess.Popen(
        network.inside(lab, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd="/",
    ) as build:
        assert build.stdin and build.stderr
        build.stdin.write("\n".join(made_of["sources"]) + "\n")
        build.stdin.close()
        for line in build.stderr:
            said.append(line.rstrip())
            if line.startswith("I: ") and any(word in line for word in ("download", "install", "extract", "update")):
                say(f"image {image}: {line[3:].strip()}")
    if build.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        raise LabError("\n  ".join([f"the image {image} could not be built:", *said[-15:]]))
    new.rename(where)
    say(f"image {image}: built in {time.monotonic() - began:.0f} s")
    _forget_older(image, where)


def _forget_older(image: str, current: Path) -> None:
    used = in_use()
    for other in IMAGES.glob(f"{image}-*"):
        if other == current or str(other) in used or other.name.endswith(".new"):
            continue
        if time.time() - other.stat().st_mtime > STALE:
            shutil.rmtree(other, ignore_errors=True)
