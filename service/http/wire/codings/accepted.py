"""Which content codings a caller takes."""

from __future__ import annotations

from service.http.wire.body import Headers

_NAMES = (b"gzip", b"x-gzip", b"*")


def accepts_gzip(headers: Headers) -> bool:
    """Return whether Accept-Encoding (RFC 9110, 12.5.3) allows gzip."""
    given = headers.get(b"accept-encoding")
    if not given:
        return False
    weights = dict(map(_weighted, given.lower().split(b",")))
    return next((weights[name] for name in _NAMES if name in weights), 0.0) > 0


def _weighted(entry: bytes) -> tuple[bytes, float]:
    name, _, parameter = entry.partition(b";")
    key, _, value = parameter.strip().partition(b"=")
    try:
        weight = float(value) if key.strip() == b"q" else 1.0
    except ValueError:
        weight = 0.0
    return name.strip(), weight
