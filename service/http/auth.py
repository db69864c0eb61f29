"""Who may call: keys by role, compared in constant time, before a body is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from enum import IntEnum

from service.http.wire.body import Headers
from service.http.wire.problems import HttpRefusal


class Role(IntEnum):
    """A key of a higher role opens the routes of the lower ones."""

    SEARCH = 1
    WRITE = 2
    ADMIN = 3


class Keys:
    """Every accepted key. Several of one role make rotation possible without a gap."""

    def __init__(self, keys: Mapping[Role, Sequence[str]]) -> None:
        self._by_role = {role: tuple(key.encode() for key in keys.get(role, ())) for role in Role}
        self._is_search_open = not self._by_role[Role.SEARCH]

    def check(self, role: Role, headers: Headers, peer: str | None) -> None:
        """Raises HttpRefusal 401 without a key, 403 with a wrong one.

        peer: the address of the connection itself; what a proxy says about it never opens anything.
        """
        if role is Role.SEARCH and self._is_search_open:
            return
        if not any(self._by_role[each] for each in Role if each >= role):
            _require_loopback(headers, peer)
            return
        offered = _offered_key(headers)
        if offered is None:
            raise HttpRefusal(
                401, "key_missing", "This route needs a key.", headers={"www-authenticate": "Bearer"}
            )
        # Every key is compared, so the time tells neither which one fits nor how far.
        fits = [
            hmac.compare_digest(offered, key) for each in Role if each >= role for key in self._by_role[each]
        ]
        if not any(fits):
            raise HttpRefusal(403, "key_refused", "The key does not open this route.")


def _offered_key(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key")


def _require_loopback(headers: Headers, peer: str | None) -> None:
    """Without a key only this machine itself may write: no proxy in between (its caller is unknown), and no
    page in a browser that reached 127.0.0.1 under a name of its own (DNS rebinding)."""
    is_direct = not any(name in headers for name in (b"x-forwarded-for", b"forwarded", b"x-real-ip"))
    if is_direct and is_loopback(peer) and _is_local_name(headers.get(b"host", b"")):
        return
    raise HttpRefusal(
        403, "loopback_only", "Without a configured key this route answers loopback peers only."
    )


def is_loopback(peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_local_name(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class TrustedProxies:
    """Networks whose word about a caller's address is good enough for the log."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def caller(self, headers: Headers, peer: str | None) -> str | None:
        """Return the address to log."""
        if not self._networks or peer is None:
            return peer
        hops = [hop.strip() for hop in headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
        address = peer
        for hop in reversed([hop for hop in hops if hop]):
            if not self._trusts(address):
                break
            address = hop
        return address[:64]

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)
