#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""All that a run must know of a host beforehand, in one round trip; what is untouched is found out in module_utils/mailwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright import dkim_state, host_dns, transaction
from ansible.module_utils.mailwright.directory import Directory
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.tree import TreeError
from ansible.module_utils.mailwright.units import UnitError

DOCUMENTATION = r"""
module: host_facts
short_description: Gather the few facts that the roles need, and what is untouched
description:
  - Returns facts under the names that M(ansible.builtin.setup) gives them, and which of some packages are missing.
  - Compares everything that earlier runs made (configuration trees with their units, mail data) with what they recorded of it, and returns
    a seal for each thing that is untouched, a digest of the request that made it. M(config_tree) and M(mail_directory) that ask for just
    the same again need no round trip of their own.
  - Writes nothing. Has to run as root.
options:
  packages:
    description: Names of Debian packages to look for; C(NAME@13) only where C(VERSION_ID) is 13.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
author: Mailwright contributors
"""

EXAMPLES = r"""
- name: See what host this is
  host_facts:
    packages: [nginx]
  no_log: true
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: success
  type: dict
  contains:
    distribution:
      description: V(Debian), or the ID of C(/etc/os-release).
      type: str
    distribution_version:
      description: What C(/etc/debian_version) or C(/etc/os-release) says, such as V(12.11).
      type: str
    distribution_major_version:
      description: VERSION_ID of C(/etc/os-release), such as V(12); empty for a release that has none yet.
      type: str
    service_mgr:
      description: V(systemd), or the name of process 1.
      type: str
    env:
      description: SSH_CONNECTION, if the connection is one, also behind sudo.
      type: dict
    missing_packages:
      description: Those of O(packages) that are not installed, in order.
      type: list
      elements: str
    free_space:
      description: Octets that are free where packages and mail go, C(/var).
      type: int
    mail_volume:
      description: Size in octets of the file system of C(/var/vmail), or of what it will be made in.
      type: int
    port_25:
      description: Name of the program that listens there, empty where there is none, or where no packages are missing.
      type: str
    memory:
      description: Octets of memory and swap together.
      type: int
    tree_seals:
      description: Seals by name of a M(config_tree); none while packages are missing, which change files and units.
      type: dict
    dkim_pending:
      description: Whether DKIM keys wait for their records, for the filter or for their end.
      type: bool
    dns_seal:
      description: Seal of what M(dns_publish) published, while the keys in it are the same; empty otherwise.
      type: str
    directory_seals:
      description: Seals and digests of the lists of M(mail_directory), by the module that stages each, and the salt for new ones.
      type: dict
"""


def os_release() -> dict[str, str]:
    """os-release(5), without its quotes."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}


def distribution() -> dict[str, str]:
    """Name and versions of the system."""
    release = os_release()
    debian = Path("/etc/debian_version")
    name = release.get("ID", "unknown")
    number = release.get("VERSION_ID", "")
    version = debian.read_text().strip() if name == "debian" and debian.exists() else number
    return {
        "distribution": "Debian" if name == "debian" else name,
        "distribution_version": version,
        "distribution_major_version": number.partition(".")[0],
    }


def missing(module: AnsibleModule, release: str) -> list[str]:
    """The packages of this release that dpkg does not call installed."""
    named = (entry.partition("@") for entry in module.params["packages"])
    packages = [name for name, _, wanted in named if wanted in ("", release)]
    # Where there is no dpkg, the play ends at its next task.
    query = shutil.which("dpkg-query")
    if not packages or not query:
        return []
    # It fails where it does not know one of them, and lists the others all the same.
    _, output, _ = module.run_command([query, "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *packages])
    installed = {name for name, _, status in (line.partition(" ") for line in output.splitlines()) if status == "installed"}
    return sorted(set(packages) - installed)


def ssh_connection() -> str | None:
    """Where the administrator comes from: SSH_CONNECTION of this process or of one above it, since sudo hides it."""
    pid = os.getpid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        for entry in environment:
            name, _, value = entry.partition(b"=")
            if name == b"SSH_CONNECTION":
                return value.decode(errors="replace")
    return None


def space() -> dict[str, int]:
    """Room on the disks (statvfs(3)), 0 where it cannot be told."""
    found = {"free_space": 0, "mail_volume": 0}
    with contextlib.suppress(OSError):
        status = os.statvfs("/var")
        found["free_space"] = status.f_bavail * status.f_frsize
        status = os.statvfs(next(path for path in ("/var/vmail", "/var") if Path(path).is_dir()))
        found["mail_volume"] = status.f_blocks * status.f_frsize
    return found


def listener(port: int, proc: Path = Path("/proc")) -> str:
    """The program that listens on a TCP port, or empty; see proc(5)."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                # 0A is TCP_LISTEN.
                if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                    sockets.add(f"socket:[{fields[9]}]")
    for process in proc.glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in sockets for handle in (process / "fd").iterdir()):
                return (process / "comm").read_text().strip()
    return "an unknown program" if sockets else ""


def memory() -> int:
    """Memory and swap together, 0 where it cannot be told."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        return (found["MemTotal"] + found["SwapTotal"]) * 1024
    return 0


def seals(module: AnsibleModule) -> dict[str, Any]:
    """What is as it was left."""
    found: dict[str, Any] = {}
    looks = {
        "tree_seals": transaction.standing,
        "directory_seals": Directory().standing,
        "dkim_pending": lambda: dkim_state.is_pending(Path("/var/lib/mailwright/dkim")),
        "dns_seal": host_dns.standing,
    }
    for name, look in looks.items():
        try:
            found[name] = look()
        # The tasks themselves will say what is wrong, each in its place.
        except (OSError, ValueError, Invalid, TreeError, UnitError) as error:
            module.warn(f"{name}: {error}")
    return found


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(argument_spec={"packages": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True)
    facts: dict[str, Any] = {"distribution": "an unknown system", "distribution_version": "", "distribution_major_version": ""}
    with contextlib.suppress(OSError):
        facts.update(distribution())
    connection = ssh_connection()
    facts.update(
        service_mgr="systemd" if Path("/run/systemd/system").is_dir() else Path("/proc/1/comm").read_text().strip(),
        env={"SSH_CONNECTION": connection} if connection else {},
        missing_packages=missing(module, facts["distribution_major_version"]),
        **space(),
        memory=memory(),
        port_25="",
        tree_seals={},
        directory_seals={"salt": "", "lists": {}},
        dkim_pending=False,
        dns_seal="",
    )
    if facts["missing_packages"]:
        facts["port_25"] = listener(25)
    else:
        facts.update(seals(module))
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
