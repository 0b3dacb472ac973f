"""What a run asks a host first."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[2]
ASK = f"""
import sys
sys.path.insert(0, {str(PROJECT / "tests")!r})
import conftest, importlib.util
spec = importlib.util.spec_from_file_location("host_facts", {str(PROJECT / "library/host_facts.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.ssh_connection())
"""


def test_the_administrators_address_is_known_behind_a_program_that_hides_it() -> None:
    # As sudo does: the shell knows, its child is started without environment.
    shell = 'env -i "$0" -c "$1"; true'
    argv = ["env", "SSH_CONNECTION=192.0.2.9 50000 198.51.100.10 22", "sh", "-c", shell, sys.executable, ASK]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout == "192.0.2.9 50000 198.51.100.10 22\n"


def test_who_listens_on_a_port_is_named(load_plugin: Callable[[str], ModuleType]) -> None:
    facts = load_plugin("library/host_facts.py")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert facts.listener(port) == Path("/proc/self/comm").read_text().strip()
        # A connection to it is no listener.
        with socket.create_connection(server.getsockname()) as client:
            assert facts.listener(client.getsockname()[1]) == ""
    assert facts.listener(port) == ""


def test_memory_is_known(load_plugin: Callable[[str], ModuleType]) -> None:
    assert load_plugin("library/host_facts.py").memory() > 2**27
