#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What the roles must know of a host, in one short round trip: ansible.builtin.setup and a package query take three times as long."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_facts
short_description: Gather the few facts that the roles need
description:
  - Returns facts under the names that M(ansible.builtin.setup) gives them, and which of some packages are missing.
options:
  packages:
    description: Names of Debian packages to look for.
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
  become: false
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
      description: SSH_CONNECTION, if the connection is one.
      type: dict
    missing_packages:
      description: Those of O(packages) that are not installed, in order.
      type: list
      elements: str
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


def missing(module: AnsibleModule) -> list[str]:
    """The packages that dpkg does not call installed."""
    packages = module.params["packages"]
    # Where there is no dpkg, the play ends at its next task.
    query = shutil.which("dpkg-query")
    if not packages or not query:
        return []
    # It fails where it does not know one of them, and lists the others all the same.
    _, output, _ = module.run_command([query, "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *packages])
    installed = {name for name, _, status in (line.partition(" ") for line in output.splitlines()) if status == "installed"}
    return sorted(set(packages) - installed)


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(argument_spec={"packages": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True)
    try:
        facts = {
            **distribution(),
            "service_mgr": "systemd" if Path("/run/systemd/system").is_dir() else Path("/proc/1/comm").read_text().strip(),
            "env": {name: os.environ[name] for name in ("SSH_CONNECTION",) if name in os.environ},
            "missing_packages": missing(module),
        }
    except OSError as error:
        module.fail_json(msg=f"cannot find out what host this is: {error}")
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
