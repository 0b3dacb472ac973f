#!/usr/bin/env python3
"""The local lab: bare Debian machines on a bridge of their own, and the internet around them. `lab.py --help` lists the commands."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from laboratory import doctor, host, images, machines, network, packages, world
from laboratory.host import CACHE, STATE, LabError, Process, alive, lock, say, write

COMMANDS = """commands:
  up [--release trixie|bookworm] [--machines mail world twin] [--like LAB]
                            boot the lab, or what is missing of it; its mail host as a copy of that in another lab, which has to be idle
  down                      end the lab and remove everything it made
  status [--json]           what runs, and where its files are
  shell MACHINE             a shell on a machine
  run MACHINE -- COMMAND    a command on a machine
  exec -- COMMAND           a command on this computer, but in the lab's network and with its name server
  publish FILE.json         put records into the lab's DNS, making zones as needed (- reads standard input):
                            {"zones": [name], "records": [{"name", "type", "value", "ttl"}]}
  doctor [--install]        say what this computer lacks to run the lab, and the cure
  images [--remove]         build the images now, or remove those not in use
"""


class Lab:
    """One lab, known by its name; what it has is written in lab.json before it is made."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,23}", name):
            raise LabError(f"{name!r} is no name for a lab: up to 24 of a-z, 0-9 and -")
        self.name = name
        self.home = machines.home(name)
        self.file = self.home / "lab.json"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return lock(f"lab-{self.name}", f"waiting for another command on the lab {self.name}")

    def load(self) -> dict[str, Any]:
        """Processes noted before this computer last started are none of ours."""
        empty: dict[str, Any] = {"boot": host.boot(), "machines": {}}
        try:
            state = dict(json.loads(self.file.read_text()))
        except (OSError, ValueError):
            return empty
        return state if state.get("boot", host.boot()) == host.boot() else empty

    def save(self, state: dict[str, Any]) -> None:
        write(self.file, json.dumps(state, indent=2) + "\n")

    def running(self, state: dict[str, Any], machine: str) -> bool:
        known = state["machines"].get(machine, {}).get("process")
        return bool(known) and network.exists(self.name) and alive(Process(*known))

    def require(self, machine: str | None = None) -> None:
        state = self.load()
        if not network.exists(self.name):
            raise LabError(f"the lab {self.name} is not up; start it with: lab.py --lab {self.name} up")
        if machine and not self.running(state, machine):
            raise LabError(f"{machine} does not run in the lab {self.name}; it has {', '.join(state['machines']) or 'nothing'}")

    def up(self, release: str, wanted: list[str], like: str | None = None) -> None:
        """Boot what does not run yet; what died, or never got ready, is cleaned away first."""
        began = time.monotonic()
        if like and Lab(like).load()["machines"].get("mail", {}).get("release") != release:
            raise LabError(f"the lab {like} has no mail host of {release} to copy")
        found = doctor.lacks()
        if found:
            raise LabError("\n".join(["this computer cannot run the lab:", *(f"  {what}\n    → {cure}" for what, cure in found)]))
        with self.lock():
            state = self.load()
            # One without the other: a run was killed, or the computer restarted.
            if network.exists(self.name) != self.file.exists() or not state.get("network", True):
                say(f"lab {self.name}: clearing what an earlier run left")
                self._clear(state)
                state = self.load()
            for machine, known in state["machines"].items():
                if machine in wanted and machine != "world" and known["release"] != release and self.running(state, machine):
                    raise LabError(f"{machine} runs {known['release']}; `lab.py --lab {self.name} down` first, or use another lab")
            for machine in [
                name for name, known in state["machines"].items() if not (known.get("ready", True) and self.running(state, name))
            ]:
                say(f"{machine}: clearing what is left of it")
                self._stop(state, machine)
            self._network(state)
            missing = [name for name in wanted if name not in state["machines"]]
            if missing:
                self._boot(state, release, missing, like)
            say(f"lab {self.name}: {', '.join(state['machines'])} up after {time.monotonic() - began:.1f} s")

    def _network(self, state: dict[str, Any]) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.save(state)
        if not network.exists(self.name):
            self.save({**state, "network": False})
            network.create(self.name)
            state["network"] = True
            self.save(state)
        packages.start()
        forwarder = state.get("forwarder")
        if not forwarder or not alive(Process(*forwarder)):
            state["forwarder"] = packages.forward(self.name)
            self.save(state)

    def _boot(self, state: dict[str, Any], release: str, missing: list[str], like: str | None) -> None:
        needed = {name: "world" if name == "world" else release for name in missing}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            making = {image: pool.submit(images.ensure, image, self.name) for image in set(needed.values())}
            world.prepare(self.name)
            machines.make_keys(self.name)
            paths = {image: made.result() for image, made in making.items()}
            for name in missing:
                where = paths[needed[name]]
                state["machines"][name] = {"image": str(where), "release": "trixie" if name == "world" else release, "ready": False}
                self.save(state)
                machines.stop(self.name, name, None)
                machines.prepare(self.name, machines.MACHINES[name], where, like if name == "mail" else None)
                state["machines"][name]["process"] = machines.start(self.name, machines.MACHINES[name])
                self.save(state)
            settling = {name: pool.submit(self._settle, name, Process(*state["machines"][name]["process"])) for name in missing}
            for name, settled in settling.items():
                settled.result()
                state["machines"][name]["ready"] = True
                self.save(state)

    def _settle(self, name: str, supervisor: Process) -> None:
        began = time.monotonic()
        machines.wait(self.name, name, supervisor)
        if name == "world":
            world.ready(self.name)
        say(f"{name}: ready after {time.monotonic() - began:.1f} s, {network.v4(machines.MACHINES[name].number)}")

    def _stop(self, state: dict[str, Any], machine: str) -> None:
        known = state["machines"].pop(machine, {}).get("process")
        machines.stop(self.name, machine, Process(*known) if known else None)
        self.save(state)

    def _clear(self, state: dict[str, Any]) -> None:
        network.remove(self.name)
        if state.get("forwarder"):
            forwarder = Process(*state["forwarder"])
            host.end([forwarder.pid], lambda pid: host.process(pid) == forwarder)
        for machine in machines.MACHINES:
            known = state["machines"].get(machine, {}).get("process")
            machines.stop(self.name, machine, Process(*known) if known else None)
        shutil.rmtree(self.home, ignore_errors=True)

    def down(self) -> None:
        """Remove everything this lab made; the images and the package cache's files stay for the next one."""
        with self.lock():
            was_up = self.home.exists() or network.exists(self.name)
            if was_up:
                self._clear(self.load())
            packages.stop_unless_used()
            say(f"lab {self.name}: down" if was_up else f"lab {self.name}: was not up")

    def status(self, as_json: bool) -> None:
        state = self.load()
        rows = {
            name: {
                "address": network.v4(machines.MACHINES[name].number),
                "address6": network.v6(machines.MACHINES[name].number),
                "release": known["release"],
                "running": self.running(state, name),
            }
            for name, known in state["machines"].items()
        }
        up = network.exists(self.name)
        if as_json:
            summary = {"lab": self.name, "up": up, "namespace": network.name(self.name), "home": str(self.home)}
            print(json.dumps({**summary, "machines": rows}, indent=2))
            return
        print(f"lab {self.name}: {'up' if up else 'down'}, namespace {network.name(self.name)}, files in {self.home}")
        for name, row in rows.items():
            runs = "running" if row["running"] else "dead"
            print(f"  {name:6} {row['release']:9} {runs:8} {row['address']:14} {row['address6']}")
        others = sorted(path.parent.name for path in STATE.glob("*/lab.json") if path.parent.name != self.name)
        if others:
            print(f"other labs: {', '.join(others)}")

    def on_machine(self, machine: str, command: list[str]) -> int:
        self.require(machine)
        """Several words arrive as they are; a single one is a line for the machine's shell."""
        options = ["-t"] if not command and sys.stdin.isatty() else []
        line = command if len(command) < 2 else [shlex.join(command)]
        return subprocess.run([*machines.ssh(self.name, machine, *options), *line], check=False).returncode

    def in_namespace(self, command: list[str]) -> int:
        """Names must not be asked of this computer's own resolver: /etc/resolv.conf and nsswitch.conf are the lab's there."""
        self.require()
        dns = self.home / "dns"
        mounts = [f"mount --bind {dns}/{name} $(readlink -f /etc/{name})" for name in ("resolv.conf", "nsswitch.conf")]
        script = " && ".join([*mounts, 'exec "$@"'])
        words = network.inside(self.name, ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "lab", *command])
        return subprocess.run(words, check=False).returncode

    def publish(self, file: str) -> None:
        self.require("world")
        document = sys.stdin.read() if file == "-" else Path(file).read_text()
        try:
            parsed = json.loads(document)
        except ValueError as error:
            raise LabError(f"{file}: no JSON: {error}") from error
        world.publish(self.name, json.dumps(parsed))


def build_images() -> None:
    """Images need a way to the package cache, so a lab without machines is made for the time of building."""
    maker = Lab(f"images-{os.getpid()}")
    try:
        maker.up("trixie", [])
        with concurrent.futures.ThreadPoolExecutor() as pool:
            made = [pool.submit(images.ensure, image, maker.name) for image in (*images.RELEASES, "world")]
            for image in made:
                print(image.result())
    finally:
        maker.down()


def remove_images() -> None:
    used = images.in_use()
    for path in sorted(images.IMAGES.glob("*")):
        if str(path) not in used:
            shutil.rmtree(path)
            say(f"removed {path}")
    if not used:
        packages.stop_unless_used()
        if not packages.SOCKET.exists():
            shutil.rmtree(CACHE, ignore_errors=True)


def show_doctor(install: bool) -> int:
    if install and os.geteuid() == 0:
        doctor.install()
    found = doctor.lacks()
    for what, cure in found:
        print(f"missing: {what}\n  cure: {cure}")
    if not found:
        print("this computer can run the lab")
    return 1 if found else 0


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab.py", description="The local lab.", epilog=COMMANDS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = os.environ.get("MAILWRIGHT_LAB") or "demo"
    parser.add_argument("--lab", default=name, metavar="NAME", help="which lab (default: $MAILWRIGHT_LAB or demo)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up")
    up.add_argument("--release", choices=images.RELEASES, default="trixie")
    up.add_argument("--machines", nargs="+", choices=sorted(machines.MACHINES), default=["mail", "world"])
    up.add_argument("--like", metavar="LAB")
    commands.add_parser("down")
    commands.add_parser("status").add_argument("--json", action="store_true")
    for command in ("shell", "run"):
        commands.add_parser(command).add_argument("machine", choices=sorted(machines.MACHINES))
    commands.add_parser("exec")
    commands.add_parser("publish").add_argument("file")
    commands.add_parser("doctor").add_argument("--install", action="store_true")
    commands.add_parser("images").add_argument("--remove", action="store_true")
    own, rest = words, []
    if "--" in words:
        cut = words.index("--")
        own, rest = words[:cut], words[cut + 1 :]
    parsed = parser.parse_args(own)
    parsed.rest = rest
    if parsed.command in ("run", "exec") and not rest:
        parser.error(f"{parsed.command} needs a command after --")
    if parsed.command not in ("run", "exec") and rest:
        parser.error(f"{parsed.command} takes nothing after --")
    return parsed


def main(words: list[str]) -> int:
    asked = arguments(words)
    try:
        if asked.command == "doctor":
            return show_doctor(asked.install)
        if os.geteuid() != 0:
            raise LabError("the lab needs root: run the command as root, or with sudo")
        lab = Lab(asked.lab)
        match asked.command:
            case "up":
                lab.up(asked.release, asked.machines, asked.like)
            case "down":
                lab.down()
            case "status":
                lab.status(asked.json)
            case "shell":
                return lab.on_machine(asked.machine, [])
            case "run":
                return lab.on_machine(asked.machine, asked.rest)
            case "exec":
                return lab.in_namespace(asked.rest)
            case "publish":
                lab.publish(asked.file)
            case "images":
                remove_images() if asked.remove else build_images()
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
