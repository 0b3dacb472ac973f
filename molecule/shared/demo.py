"""`make demo`: a bare host in the lab becomes a mail server and exchanges mail with the world, told as a short story.

`--converge-only` stops before the mail is exchanged: a host ready for the behaviour tests and benchmarks. With `--inventory DIR` the mail
data is that inventory's; the lab's own settings (addresses, DNS root, certificate authority) are laid over it: nothing leaves the lab.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "molecule/shared"
LAB_INVENTORY = ROOT / "inventories/lab"


def say(text: str = "") -> None:
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and tell how long it took."""
    say(f"\n== {title}")
    start = time.monotonic()
    yield
    say(f"   done in {time.monotonic() - start:.1f} s")


class Lab:
    """The lab's command line, for one lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = {**os.environ, "MAILWRIGHT_LAB": name}
        self.command = [sys.executable, str(SHARED / "lab.py"), "--lab", name]

    def call(self, *arguments: str) -> None:
        subprocess.run([*self.command, *arguments], check=True, env=self.environment)

    def playbook(self, playbook: Path, inventory: Path, *arguments: str, quiet: bool = False) -> None:
        """Run a playbook, showing each task as it starts; on failure show what Ansible said."""
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), str(playbook), "-i", str(inventory), *arguments]
        if inventory.resolve() != LAB_INVENTORY:
            argv += [f"-e@{path}" for path in sorted((LAB_INVENTORY / "group_vars/all").glob("*.yml"))]
        log_path = ROOT / "build" / f"{self.name}-{playbook.stem}.log"
        log_path.parent.mkdir(exist_ok=True)
        start = time.monotonic()
        environment = {**self.environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        with (
            log_path.open("w") as log,
            subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run,
        ):
            for line in run.stdout or ():
                log.write(line)
                task = re.match(r"TASK \[(.*?)\] \*", line)
                if task and not quiet:
                    say(f"   {time.monotonic() - start:6.1f} s  {task[1]}")
        if run.returncode != 0:
            tail = log_path.read_text().splitlines()[-60:]
            raise SystemExit("\n".join(["", *tail, "", f"ansible-playbook failed; the whole output is in {log_path}"]))


def converge(lab: Lab, release: str, inventory: Path) -> None:
    """Boot the lab and bring its mail host to the state the inventory declares."""
    with step(f"The lab: a bare Debian host ({release}), and a small internet around it"):
        lab.call("up", "--release", release)
    with step("The owner of the domains delegates them to a name server of the world"):
        lab.playbook(SHARED / "publish.yml", inventory, quiet=True)
    with step("ansible-playbook site.yml"):
        lab.playbook(ROOT / "site.yml", inventory)
    lab.playbook(SHARED / "model.yml", inventory, "-e", f"model_file={model_path(lab.name)}", quiet=True)


def model_path(name: str) -> Path:
    """Where a lab's compiled inventory is kept for the correspondent and the behaviour tests (mode 0600: it holds passwords)."""
    return ROOT / "build" / f"{name}-model.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", choices=["bookworm", "trixie"], default="trixie")
    parser.add_argument("--inventory", type=Path, default=LAB_INVENTORY)
    parser.add_argument("--lab", default=os.environ.get("MAILWRIGHT_LAB", "demo"))
    parser.add_argument("--converge-only", action="store_true")
    options = parser.parse_args()
    lab = Lab(options.lab)
    if subprocess.run([*lab.command, "doctor"], check=False).returncode != 0:
        raise SystemExit("This machine cannot boot the lab; the lines above say what is missing and what to do.")
    start = time.monotonic()
    converge(lab, options.release, options.inventory)
    if options.converge_only:
        return
    with step("Mail"):
        lab.call("exec", "--", sys.executable, str(SHARED / "demo_mail.py"), str(model_path(lab.name)))
    hostname = json.loads(model_path(lab.name).read_text())["hostname"]
    tool = f"MAILWRIGHT_LAB={lab.name} .venv/bin/python molecule/shared/lab.py"
    say(f"""
The whole story took {time.monotonic() - start:.0f} s. Where to look next:

  a shell on the mail host    {tool} shell mail
  its web page                {tool} exec -- curl -sk --resolve {hostname}:443:198.51.100.10 https://{hostname}/
  its IMAP server             {tool} exec -- openssl s_client -quiet -connect 198.51.100.10:993
  what a change would do      MAILWRIGHT_LAB={lab.name} .venv/bin/ansible-playbook site.yml -i {options.inventory} --check --diff
  tear it all down            make down
""")


if __name__ == "__main__":
    main()
