"""Can this machine run the lab? What is missing, precisely, and the cure."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import machines
from .host import CACHE, STATE, run, say

# Command → Debian package that brings it.
COMMANDS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "socat": "socat",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "/usr/bin/python3": "python3",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DISK = 3  # GB


class Lack(NamedTuple):
    """Something the lab needs and does not find, and what to do about it."""

    what: str
    cure: str


def missing_packages() -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = {package for command, package in COMMANDS.items() if not shutil.which(command, path=path)}
    if not KEYRING.exists():
        packages.add("debian-archive-keyring")
    return sorted(packages)


def _works(command: list[str]) -> str | None:
    """None when the command succeeds, else its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def _disk(path: Path) -> Lack | None:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free >= DISK * 10**9:
        return None
    return Lack(f"{free / 10**9:.1f} GB are free under {path}, the lab needs {DISK} GB", "make room, or mount a disk there")


def _overlay() -> Lack | None:
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE, prefix=".doctor-") as place:
        for part in ("lower", "upper", "work", "root"):
            (Path(place) / part).mkdir()
        options = ",".join(f"{part}dir={place}/{part}" for part in ("lower", "upper", "work"))
        mount = f"mount -t overlay overlay -o {options} {place}/root"
        reason = _works(["unshare", "--mount", "--propagation", "private", "sh", "-c", mount])
    if reason is None:
        return None
    cure = f"load the kernel's overlay module (modprobe overlay); {STATE} must be on a disk's file system such as ext4 or xfs"
    return Lack(f"overlay mounts do not work: {reason}", cure)


def _control_groups() -> Lack | None:
    if machines.booted_by_systemd():
        return None
    groups = machines.hierarchies()
    probe = groups[0] / f"mw-doctor-{os.getpid()}" if groups else None
    try:
        if probe:
            probe.mkdir()
            probe.rmdir()
            return None
        reason = "no systemd or unified hierarchy is mounted"
    except OSError as error:
        reason = str(error)
    cure = "mount them (mount -t cgroup2 none /sys/fs/cgroup), or give the container they are missing in more rights"
    return Lack(f"control groups under /sys/fs/cgroup cannot be made: {reason}", cure)


def _bridge() -> Lack | None:
    namespace = "unshare --net sh -c"
    reason = _works([*namespace.split(), "ip link add br0 type bridge && ip link add mw0 type veth peer name mw1"])
    if reason:
        return Lack(f"no network namespace with a bridge and a veth can be made: {reason}", "use a kernel with these modules")
    if not Path("/proc/sys/net/ipv6").exists():
        return Lack("the kernel has IPv6 switched off", "boot without ipv6.disable=1")
    return None


def lacks() -> list[Lack]:
    """Everything that keeps the lab from running here; empty when it can run."""
    if platform.system() != "Linux":
        return [Lack(f"this is {platform.system()}", "use a Debian 12 or 13 machine, a virtual one will do")]
    if os.geteuid() != 0:
        return [Lack("the lab needs root", "run the command as root, or with sudo")]
    found = []
    if platform.machine() not in ("x86_64", "aarch64"):
        found.append(Lack(f"untested processor {platform.machine()}", "use x86_64 or aarch64"))
    if not importlib.util.find_spec("cryptography"):
        cure = "run `make setup` and use .venv/bin/python, or install python3-cryptography"
        found.append(Lack(f"{sys.executable} has no cryptography", cure))
    packages = missing_packages()
    if packages:
        cure = "lab.py doctor --install, which runs apt-get install " + " ".join(packages)
        return [*found, Lack("Debian packages are missing: " + ", ".join(packages), cure)]
    checks = (_overlay(), _control_groups(), _bridge(), _disk(CACHE), _disk(STATE))
    return found + [lack for lack in dict.fromkeys(checks) if lack]


def install() -> None:
    """Install what is missing; the user's machine gets no new service from it."""
    packages = missing_packages()
    if not packages:
        return
    if not shutil.which("apt-get"):
        return
    say("installing " + " ".join(packages))
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=environment)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=environment)
    finally:
        if ours:
            policy.unlink()
