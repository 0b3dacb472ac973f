"""The package cache, the lab's only way out: one proxy (proxy.py) for all labs, on a unix socket, for Debian's archive alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

from . import limits, network
from .host import CACHE, NETNS, LabError, Process, alive, end, lock, process, say, tail, write

PORT = 3142
USER = "_apt"
PYTHON = "/usr/bin/python3"  # not a virtual environment's: the user the proxy becomes may not be able to read that
STORE = CACHE / "packages"
RUN = Path("/run/mailwright-lab")
SOCKET = RUN / "packages.sock"
PID = RUN / "packages.json"
OUTPUT = RUN / "packages.log"


def _running() -> Process | None:
    try:
        known = Process(*json.loads(PID.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return known if alive(known) else None


def _answers() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(SOCKET))
        except OSError:
            return False
        return True


def start() -> None:
    """Start the shared cache unless it runs."""
    with lock("packages", "waiting for another lab to start or stop the package cache"):
        RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
        limits.raise_for_machines(RUN)
        known = _running()
        if known and _answers():
            return
        if known:
            end([known.pid], lambda pid: process(pid) == known)
        with OUTPUT.open("w") as output:
            daemon = subprocess.Popen(
                [PYTHON, "-IB", str(Path(__file__).with_name("proxy.py")), str(SOCKET), str(STORE), USER],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        write(PID, json.dumps(process(daemon.pid)))
        deadline = time.monotonic() + 15
        while not _answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"the package cache does not start:\n{tail(OUTPUT)}")
            time.sleep(0.05)
        say("package cache started")


def stop_unless_used() -> None:
    """The last lab takes the cache down; a lab is there as long as its namespace is."""
    with lock("packages", "waiting for another lab to start or stop the package cache"):
        if NETNS.is_dir() and any(NETNS.glob("mw-*")):
            return
        known = _running()
        if known:
            end([known.pid], lambda pid: process(pid) == known)
        limits.restore(RUN)
        shutil.rmtree(RUN, ignore_errors=True)


def forward(lab: str) -> Process:
    """Let the machines of a lab reach the cache at the bridge's address."""
    listen = f"TCP-LISTEN:{PORT},bind={network.v4(network.BRIDGE)},fork,reuseaddr"
    forwarder = subprocess.Popen(
        network.inside(lab, ["socat", listen, f"UNIX-CONNECT:{SOCKET}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = process(forwarder.pid)
    if started is None:
        raise LabError("socat does not start")
    return started


def proxy() -> str:
    return f"http://{network.v4(network.BRIDGE)}:{PORT}"
