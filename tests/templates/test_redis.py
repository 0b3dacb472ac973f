"""The Redis tree."""

from __future__ import annotations

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
