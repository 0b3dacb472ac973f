"""A network namespace per lab with one bridge: the same addresses in every lab, and no way out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .host import NETNS, end, process, processes_in_namespace, run

V4 = "198.51.100."
V6 = "2001:db8:25::"
BRIDGE = 1
CLIENTS = range(100, 151)


def v4(number: int) -> str:
    return f"{V4}{number}"


def v6(number: int) -> str:
    """The address whose last group reads like the IPv4 one: ::10 for .10."""
    return f"{V6}{number}"


def name(lab: str) -> str:
    return f"mw-{lab}"


def path(lab: str) -> Path:
    return NETNS / name(lab)


def exists(lab: str) -> bool:
    return path(lab).exists()


def inside(lab: str, command: Sequence[str | Path]) -> list[str]:
    """`ip netns exec` would mount /sys anew, which nspawn does not survive; nsenter changes the network alone."""
    return ["nsenter", f"--net={path(lab)}", *map(str, command)]


def create(lab: str) -> None:
    run(["ip", "netns", "add", name(lab)])
    settings = "for name in all default lo; do echo 0 >/proc/sys/net/ipv6/conf/$name/disable_ipv6; done"
    run(inside(lab, ["sh", "-c", settings]))
    lines = ["link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 up"]
    for number in [BRIDGE, *CLIENTS]:
        lines += [f"addr add {v4(number)}/24 dev br0", f"addr add {v6(number)}/64 dev br0 nodad"]
    run(inside(lab, ["ip", "-batch", "-"]), input="\n".join(lines) + "\n")


def remove(lab: str) -> None:
    """End all that lives in the namespace (machines, forwarders, forgotten clients), then the namespace."""
    if not exists(lab):
        return
    where = path(lab)
    for _ in range(5):
        pids = processes_in_namespace(where)
        if not any(process(pid) for pid in pids):
            break
        end(pids, lambda pid: pid in processes_in_namespace(where))
    subprocess.run(["ip", "netns", "del", name(lab)], capture_output=True, check=False)
