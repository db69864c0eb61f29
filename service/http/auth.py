"""Who may call: keys by role, compared in constant time, before a body is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from enum import IntEnum

from service.access import is_loopback, named_keys
from service.http.wire.body import Headers
from service.http.wire.problems import HttpRefusal

_PROXY_FIELDS = frozenset(
    (
        b"cdn-loop", b"cf-connecting-ip", b"client-ip", b"forwarded", b"proxy-connection", b"true-client-ip",
        b"via", b"x-amzn-trace-id", b"x-client-ip", b"x-cluster-client-ip", b"x-real-ip",
    )
)  # fmt: skip
_PROXY_PREFIXES = (b"x-forwarded-", b"x-original-", b"x-envoy-")


_KEY = "key "


class Role(IntEnum):
    """A key of a higher role opens the routes of the lower ones."""

    SEARCH = 1
    WRITE = 2
    ADMIN = 3


class TrustedProxies:
    """Networks of proxies whose X-Forwarded-For is believed, for the log only."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(each) for each in networks]
        self.are_none = not self._networks

    def caller(self, headers: Headers, peer: str | None) -> str | None:
        """Return the address to log, without blanks: a proxy hands on whatever its caller wrote."""
        if not self._networks or peer is None:
            return peer
        hops = [hop.strip() for hop in headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
        address = peer
        for hop in reversed([hop for hop in hops if hop]):
            if not self._trusts(address):
                break
            address = "".join(hop.split())
        return address[:64]

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


class Keys:
    """Every accepted key. Several of one role make rotation possible without a gap."""

    def __init__(
        self, keys: Mapping[Role, Sequence[str]], proxies: TrustedProxies, *, is_open_to_loopback: bool
    ) -> None:
        """is_open_to_loopback: this machine may do without a key what no key is set for."""
        self._proxies = proxies
        named = {role: named_keys(role.name.lower(), keys.get(role, ())) for role in Role}
        self._opening = {
            role: tuple(
                (key.encode(), f"{_KEY}{name}") for each in Role if each >= role for name, key in named[each]
            )
            for role in Role
        }
        self._is_search_open = not named[Role.SEARCH]
        self._is_open_to_loopback = is_open_to_loopback

    def check(self, role: Role, headers: Headers, peer: str | None) -> str:
        """Return who calls: the key by its name (`key_name`), or the address where no key is asked for. Work
        that queues is shared out among those.

        peer: the address of the connection itself; what a proxy says about it never opens anything.
        Raises HttpRefusal 401 without a key, 403 with a wrong one.
        """
        if role is Role.SEARCH and self._is_search_open:
            return self._place(headers, peer)
        if not self._opening[role]:
            if not self._is_open_to_loopback:
                raise _no_key_set(role)
            _require_this_machine(headers, peer)
            return self._place(headers, peer)
        offered = _offered_key(headers)
        if offered is None:
            raise HttpRefusal(
                401, "key_missing", "This route needs a key.", headers={"www-authenticate": "Bearer"}
            )
        # Every key is compared, so the time tells neither which one fits nor how far.
        fits = [caller for key, caller in self._opening[role] if hmac.compare_digest(offered, key)]
        if not fits:
            raise HttpRefusal(403, "key_refused", "The key does not open this route.")
        return fits[0]

    def opens(self, role: Role, headers: Headers, peer: str | None) -> bool:
        """Return whether `check` lets this caller pass."""
        try:
            self.check(role, headers, peer)
        except HttpRefusal:
            return False
        return True

    def _place(self, headers: Headers, peer: str | None) -> str:
        """Return the caller's address; of IPv6 its /64 network, because one host owns a whole network."""
        address = (peer if self._proxies.are_none else self._proxies.caller(headers, peer)) or ""
        return _network(address) if ":" in address else address


def key_name(caller: str) -> str | None:
    """Return the name of the key that `Keys.check` told, or None where it told an address."""
    return caller[len(_KEY) :] if caller.startswith(_KEY) else None


def _network(address: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else f"{int(parsed) >> 64:x}"


def _no_key_set(role: Role) -> HttpRefusal:
    return HttpRefusal(
        403,
        "no_key_set",
        f"No key is set that opens this route: start with {role.name}_API_KEY, or with "
        "KEYLESS_WRITES=loopback to open it to every program on the service's machine.",
    )


def _offered_key(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key")


def _require_this_machine(headers: Headers, peer: str | None) -> None:
    """Without a key only this machine itself may write: no proxy in between (its caller is unknown), and no
    page in a browser, be it of another site or one that reached 127.0.0.1 under a name of its own (DNS
    rebinding). A proxy that adds no header is not seen here, hence KEYLESS_WRITES."""
    host = headers.get(b"host", b"")
    proxied = next(
        (name for name in headers if name in _PROXY_FIELDS or name.startswith(_PROXY_PREFIXES)), None
    )
    if not is_loopback(peer):
        reason = "This request comes from another machine."
    elif proxied is not None:
        reason = f"This request came through a proxy: it has the header {_shown(proxied)}."
    elif not _is_local_name(host):
        reason = f"The Host header {_shown(host)} is not localhost or an IP address."
    elif _is_foreign_page(headers, host):
        reason = f"This request comes from a web page (Origin {_shown(headers.get(b'origin', b''))})."
    else:
        return
    raise HttpRefusal(403, "loopback_only", f"{reason} Without a key this route answers this machine only.")


def _is_proxys(name: bytes) -> bool:
    return name in _PROXY_FIELDS or name.startswith(_PROXY_PREFIXES)


def _is_foreign_page(headers: Headers, host: bytes) -> bool:
    origin = headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2] != host:
        return True
    return headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")


def _shown(value: bytes) -> str:
    return value[:100].decode("latin-1")


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
