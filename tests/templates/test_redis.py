"""The Redis tree, and what Redis itself says to it where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from rendering import render

CONF = "/etc/redis/redis.conf"


def directives(text: str) -> dict[str, list[str]]:
    """Directive → its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found.setdefault(name, []).append(value)
    return found


def test_redis_listens_on_no_port() -> None:
    conf = directives(render("redis")[CONF])
    assert conf["port"] == ["0"]
    assert "bind" not in conf
    assert conf["unixsocket"] == ["/run/redis/redis-server.sock"]
    assert conf["unixsocketperm"] == ["770"]


def test_nobody_reconfigures_a_running_redis() -> None:
    assert {'CONFIG ""', 'DEBUG ""'} <= set(directives(render("redis")[CONF])["rename-command"])


@pytest.mark.parametrize(("limit", "octets"), [("256M", 268435456), ("1G", 1073741824), (1000000, 1000000)])
def test_the_memory_limit_is_binary(limit: object, octets: int) -> None:
    assert directives(render("redis", redis_memory_limit=limit)[CONF])["maxmemory"] == [str(octets)]


def test_a_memory_limit_cannot_carry_a_second_directive() -> None:
    with pytest.raises(Exception, match="human_to_bytes"):
        render("redis", redis_memory_limit="1G\nport 6379")


def test_a_full_disk_does_not_stop_the_filter() -> None:
    assert directives(render("redis")[CONF])["stop-writes-on-bgsave-error"] == ["no"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")
def test_redis_accepts_the_file(tmp_path: Path) -> None:
    text = render("redis")[CONF].replace("/run/redis/", f"{tmp_path}/").replace("/var/lib/redis", str(tmp_path))
    (tmp_path / "redis.conf").write_text(text)
    with subprocess.Popen(["redis-server", tmp_path / "redis.conf"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        ready = next((line for line in server.stdout if "Ready to accept" in line), "")
        server.terminate()
    assert ready
