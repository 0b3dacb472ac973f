"""Addresses and networks of the inventory, for the firewall: canonical, merged, refused when they are none."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ansible.errors import AnsibleFilterError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse(item: object) -> Network:
    try:
        return ipaddress.ip_network(str(item), strict=True)
    except ValueError as error:
        raise AnsibleFilterError(f"{item!s} is no address and no network: {error}") from error


def networks(items: Iterable[object], version: int) -> list[str]:
    """Canonical text of the networks of one family; overlapping ones merged, as nftables wants its sets."""
    parsed = [_parse(item) for item in items]
    if version == 4:
        return [str(n) for n in ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv4Network))]
    return [str(n) for n in ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv6Network))]


def address_in(address: str, items: Iterable[object]) -> bool:
    """Whether one of the networks holds the address (an IPv4-mapped one counts as IPv4; a %zone is ignored)."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return any((mapped or found) in network for network in map(_parse, items))


class FilterModule:
    """Ansible's entry."""

    def filters(self) -> dict[str, object]:
        return {"networks": networks, "address_in": address_in}
