"""Boot an image as a machine of a lab: overlay in a private mount namespace, systemd-nspawn, SSH with keys known beforehand."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from . import network, packages
from .host import STATE, LabError, Process, alive, end, every_pid, process, run, tail, write

CGROUPS = Path("/sys/fs/cgroup")
WORLD_TREE = Path(__file__).parent.parent / "world"
# What a mail host has from the world of its lab, and a copy has to get from that of its own: certificates, and what it has in the DNS.
OF_THE_WORLD = [f"etc/letsencrypt/{name}" for name in ("accounts", "archive", "live", "renewal")] + ["var/lib/mailwright/dns"]
RESOLVER = 2


class Machine(NamedTuple):
    """Where a machine stands in the lab."""

    name: str
    number: int  # of its first address
    fqdn: str
    others: tuple[int, ...] = ()


MACHINES = {
    "mail": Machine("mail", 10, "mail.oak.test"),
    "twin": Machine("twin", 11, "twin.oak.test"),
    "world": Machine("world", RESOLVER, "ns.world.test", tuple(range(21, 27))),
}


def home(lab: str) -> Path:
    return STATE / lab


def _directory(lab: str, name: str) -> Path:
    return home(lab) / "machines" / name


def network_unit(machine: Machine) -> str:
    lines = ["[Match]", "Name=host0", "", "[Network]", "IPv6AcceptRA=no", "LinkLocalAddressing=ipv6"]
    for number in (machine.number, *machine.others):
        lines += ["", "[Address]", f"Address={network.v4(number)}/24"]
        lines += ["", "[Address]", f"Address={network.v6(number)}/64", "DuplicateAddressDetection=none"]
    return "\n".join(lines) + "\n"


def known_hosts(keys: dict[str, str]) -> str:
    """One line per machine, for its names and addresses."""
    lines = []
    for name, key in keys.items():
        machine = MACHINES[name]
        names = (name, machine.fqdn, network.v4(machine.number), network.v6(machine.number))
        lines.append(f"{','.join(names)} {key}")
    return "\n".join(lines) + "\n"


def ssh_config(lab: str) -> str:
    """For `ssh -F`: every machine by its name, from inside the namespace; commands share a connection, as a new one costs a login."""
    keys = home(lab) / "ssh"
    lines = []
    for machine in MACHINES.values():
        lines += [f"Host {machine.name} {machine.fqdn}", f"  HostName {network.v4(machine.number)}"]
    lines += [
        "Host *",
        "  User root",
        f"  IdentityFile {keys}/id_ed25519",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {keys}/known_hosts",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  BatchMode yes",
        "  LogLevel ERROR",
        f"  ControlPath {keys}/%n.sock",
        "  ControlMaster auto",
        "  ControlPersist 60",
        "  ServerAliveInterval 5",
    ]
    return "\n".join(lines) + "\n"


def make_keys(lab: str) -> None:
    """The lab's key, the host keys of all machines and what ssh must know of them."""
    keys = home(lab) / "ssh"
    if (keys / "config").exists():
        return
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(0o700)
    for name in ("id_ed25519", *(f"host-{machine}" for machine in MACHINES)):
        for file in (keys / name, keys / f"{name}.pub"):
            file.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab-{lab}", "-f", keys / name])
    write(keys / "known_hosts", known_hosts({name: (keys / f"host-{name}.pub").read_text().strip() for name in MACHINES}))
    write(keys / "config", ssh_config(lab))


class _Upper:
    """The writable layer of a machine before its boot; directories look as in the image below."""

    def __init__(self, root: Path, image: Path) -> None:
        self.root, self.image = root, image

    def directory(self, path: str) -> Path:
        made = self.root
        for part in Path(path).parts:
            made = made / part
            if not made.exists():
                made.mkdir()
                below = self.image / made.relative_to(self.root)
                if below.is_dir():
                    shutil.copystat(below, made)
                    os.chown(made, below.stat().st_uid, below.stat().st_gid)
                else:
                    made.chmod(0o755)
        return made

    def file(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        self.directory(str(Path(path).parent))
        write(self.root / path, text, mode)


def prepare(lab: str, machine: Machine, image: Path, like: str | None = None) -> None:
    """Lay out the machine's directory and all that is its own in the writable layer; the rest of that comes from the lab `like`."""
    base = _directory(lab, machine.name)
    for part in ("upper", "work", "root"):
        (base / part).mkdir(parents=True)
    if like:
        run(["cp", "--archive", "--no-target-directory", _directory(like, machine.name) / "upper", base / "upper"])
        for path in OF_THE_WORLD:
            shutil.rmtree(base / "upper" / path, ignore_errors=True)
    keys = home(lab) / "ssh"
    upper = _Upper(base / "upper", image)
    upper.file("etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    if not like:
        # As a provider would; a mail host has its own by now.
        upper.file("etc/hostname", machine.name + "\n")
        upper.file("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {machine.fqdn} {machine.name}\n")
        upper.file("etc/resolv.conf", f"nameserver {network.v4(RESOLVER)}\nnameserver {network.v6(RESOLVER)}\n")
    # Named so that it comes before the 80-container-host0.network which systemd ships.
    upper.file("etc/systemd/network/10-host0.network", network_unit(machine))
    upper.file("etc/apt/apt.conf.d/01lab", f'Acquire::http::Proxy "{packages.proxy()}";\n')
    upper.file("etc/ssh/ssh_host_ed25519_key", (keys / f"host-{machine.name}").read_bytes(), 0o600)
    upper.file("etc/ssh/ssh_host_ed25519_key.pub", (keys / f"host-{machine.name}.pub").read_bytes())
    upper.directory("root/.ssh").chmod(0o700)
    upper.file("root/.ssh/authorized_keys", (keys / "id_ed25519.pub").read_bytes(), 0o600)
    upper.file("usr/local/share/ca-certificates/mailwright-lab.crt", (home(lab) / "ca" / "ca.pem").read_bytes())
    if machine.name == "world":
        for source in (WORLD_TREE, home(lab) / "world"):
            for file in sorted(source.rglob("*")):
                if "__pycache__" in file.parts:
                    continue
                if file.is_symlink():
                    upper.directory(str(file.parent.relative_to(source)))
                    (upper.root / file.relative_to(source)).symlink_to(file.readlink())
                elif file.is_file():
                    upper.file(str(file.relative_to(source)), file.read_bytes(), 0o755 if os.access(file, os.X_OK) else 0o644)
    write(base / "boot", _boot_script(lab, machine.name, image), 0o755)


def booted_by_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def hierarchies() -> list[Path]:
    """Where a machine without systemd above it gets its own control group: on v2, or on systemd's part of v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [CGROUPS / name for name in ("systemd", "unified") if (CGROUPS / name).is_dir()]


def _boot_script(lab: str, name: str, image: Path) -> str:
    base = _directory(lab, name)
    # Tests need no disk that survives a crash of this computer: without it, what calls fsync does not wait.
    volatile = ",volatile" if os.environ.get("MAILWRIGHT_LAB_DISK") == "volatile" else ""
    unit = f"mw-{lab}-{name}"
    options = ["--quiet", "--boot", "--register=no", f"--directory={base}/root", f"--machine={unit}"]
    options += [f"--hostname={name}", "--network-bridge=br0", "--console=pipe", "--link-journal=no"]
    options += ["--resolv-conf=off", "--timezone=off"]
    lines = ["#!/bin/sh", "# Runs in the lab's network namespace and a mount namespace of its own.", "set -e"]
    if not booted_by_systemd():
        # With systemd as process 1, nspawn asks it for a scope; here the group is made by hand.
        options.append("--keep-unit")
        for hierarchy in hierarchies():
            lines += [f"mkdir -p {hierarchy}/{unit}", f"echo $$ >{hierarchy}/{unit}/cgroup.procs"]
    lines += [
        f"mount -t overlay overlay -o lowerdir={image},upperdir={base}/upper,workdir={base}/work{volatile} {base}/root",
        "# nspawn leaves the lock of its root behind when it is killed; its name is noted for the one who does.",
        f"stat -c /run/systemd/nspawn/locks/inode-%d:%i {base}/root >{base}/lock",
        f"chroot {base}/root update-ca-certificates >/dev/null 2>&1",
        "export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
        "# 133 asks for a restart: the machine was rebooted.",
        "while :; do",
        "  code=0",
        f"  systemd-nspawn {' '.join(options)} || code=$?",
        "  [ $code -eq 133 ] || exit $code",
        "done",
    ]
    return "\n".join(lines) + "\n"


def start(lab: str, machine: Machine) -> Process:
    base = _directory(lab, machine.name)
    command = ["unshare", "--mount", "--propagation", "private", str(base / "boot")]
    with (base / "console.log").open("w") as console:
        supervisor = subprocess.Popen(
            network.inside(lab, command),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd="/",
        )
    started = process(supervisor.pid)
    if started is None:
        raise LabError(f"{machine.name} does not boot:\n{tail(base / 'console.log')}")
    return started


def ssh(lab: str, name: str, *options: str) -> list[str]:
    config = str(home(lab) / "ssh" / "config")
    return network.inside(lab, ["ssh", "-F", config, *options, name])


def wait(lab: str, name: str, supervisor: Process, patience: float = 90) -> None:
    """Until the machine takes commands over SSH."""
    deadline = time.monotonic() + patience
    while True:
        answer = subprocess.run([*ssh(lab, name, "-o", "ConnectTimeout=2"), "true"], capture_output=True, check=False)
        if answer.returncode == 0:
            return
        console = tail(_directory(lab, name) / "console.log")
        if not alive(supervisor):
            raise LabError(f"{name} ended while booting:\n{console}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} does not answer SSH: {answer.stderr.decode().strip()}\n{console}")
        time.sleep(0.1)


def _groups(lab: str, name: str) -> list[Path]:
    """The control groups made by hand for the machine, deepest first; groups may vanish while we look."""
    found = []
    for hierarchy in hierarchies():
        found += [Path(top) for top, _, _ in os.walk(hierarchy / f"mw-{lab}-{name}", topdown=False)]
    return found


def _in_groups(lab: str, name: str, pid: int) -> bool:
    try:
        rows = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    unit = f"mw-{lab}-{name}"
    return any(f"/{unit}/" in f"{row}/" or f"/{unit}.scope/" in f"{row}/" for row in rows)


def _session(supervisor: Process) -> set[int]:
    """The supervisor and what it started, also when it is gone itself."""
    found = set()
    for pid in every_pid():
        try:
            if os.getsid(pid) == supervisor.pid:
                found.add(pid)
        except OSError:
            continue
    leader = process(supervisor.pid)
    return found if leader is None or leader == supervisor else set()


def stop(lab: str, name: str, supervisor: Process | None) -> None:
    """End a machine at once and remove all it had; nothing in it is kept."""
    if supervisor:
        end(_session(supervisor), lambda pid: pid in _session(supervisor))
    for _ in range(3):
        left = [pid for pid in every_pid() if _in_groups(lab, name, pid)]
        end(left, lambda pid: _in_groups(lab, name, pid))
    if booted_by_systemd():
        # Waits until the scope is gone, so that the next machine of this name can have it.
        subprocess.run(["systemctl", "stop", f"mw-{lab}-{name}.scope"], capture_output=True, check=False)
    for group in _groups(lab, name):
        _remove_group(group)
    note = _directory(lab, name) / "lock"
    if note.exists() and (held := note.read_text().strip()).startswith("/run/systemd/nspawn/locks/inode-"):
        Path(held).unlink(missing_ok=True)
    shutil.rmtree(_directory(lab, name), ignore_errors=True)
    shutil.rmtree(Path("/run/systemd/nspawn/propagate") / f"mw-{lab}-{name}", ignore_errors=True)


def _remove_group(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
    raise LabError(f"the control group {group} cannot be removed: processes are left in it")
