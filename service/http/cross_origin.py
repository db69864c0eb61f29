"""Which web pages of other origins may call (CORS), and how their browsers are told."""

from __future__ import annotations

from collections.abc import Sequence

from service.http.wire.body import Headers

_ANY = "*"
_EXPOSED = b"X-Request-Id, RateLimit, RateLimit-Policy, Retry-After, ETag"
_METHODS = b"GET, POST, DELETE"
_HEADERS = (
    b"Authorization, X-API-Key, Content-Type, Content-Encoding, X-Request-Id, traceparent, "
    b"If-Match, If-None-Match"
)
_PREFLIGHT_S = b"600"

Fields = Sequence[tuple[bytes, bytes]]


class CrossOrigin:
    """Never allows credentials: keys go in a header, and a browser's cookies mean nothing here."""

    def __init__(self, origins: Sequence[str]) -> None:
        """origins: as a browser sends them, or * for any."""
        self._origins = frozenset(origin.encode() for origin in origins)
        self._is_any = _ANY in origins

    def answer_fields(self, headers: Headers) -> Fields:
        """Return the header fields of an answer to this request; none where its page is not allowed."""
        if self._is_any:
            return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED))
        origin = headers.get(b"origin", b"")
        if origin not in self._origins:
            return ((b"vary", b"Origin"),)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )

    def preflight(self, headers: Headers) -> Fields | None:
        """Return what else a browser is told before it sends a request; None where it did not ask, or the
        page is not allowed."""
        is_allowed = self._is_any or headers.get(b"origin", b"") in self._origins
        if not is_allowed or b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        return (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _HEADERS),
            (b"access-control-max-age", _PREFLIGHT_S),
        )
