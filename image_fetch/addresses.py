"""Which network addresses are public hosts.

Python's `is_global` follows IANA's registry as of its own release. An IPv6 address may also hold an IPv4
address that another machine unwraps (NAT64, 6to4, Teredo, IPv4-compatible), and so lead into a private
network: none of those is public here, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that IANA has assigned to hosts (RFC 4291). Outside lie NAT64 64:ff9b::/96 and 64:ff9b:1::/48,
IPv4-compatible ::/96, IPv4-mapped ::ffff:0:0/96, site-local fec0::/10, unique local fc00::/7."""
_REFUSED: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
            "2001::/23",  # protocols: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether `address` is one public host, by itself and by what it may be unwrapped to."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed not in _GLOBAL_UNICAST:
        return False
    return parsed.is_global and not parsed.is_multicast and not is_in(address, _REFUSED)


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether `address`, without its zone, lies in one of `networks`. Raises ValueError for no address."""
    parsed = ip_address(address.partition("%")[0])
    return any(parsed in network for network in networks)
