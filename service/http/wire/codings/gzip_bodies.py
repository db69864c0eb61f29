"""Request bodies that come packed, unpacked in small pieces: who reads them bounds what they grow to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from service.http.wire.body import Headers
from service.http.wire.problems import HttpRefusal

_GZIP = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 128 << 10
"""A third of a millisecond of work; others get their turn between two."""
_MEMBERS_MAX = 16
_PLAIN = (b"", b"identity")
_PACKED = (b"gzip", b"x-gzip")


def is_packed(headers: Headers) -> bool:
    """Return whether the body is gzip. Raises HttpRefusal for any other coding but identity, which says that
    nothing was done to it."""
    coding = headers.get(b"content-encoding", b"").strip().lower()
    if coding not in _PLAIN + _PACKED:
        raise HttpRefusal(
            415,
            "unsupported_media_type",
            "This Content-Encoding is not read: send without, or gzip.",
            headers={"accept-encoding": "gzip"},
        )
    return coding in _PACKED


class GzipUnpacker:
    """One body, as its parts arrive."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._members = 1

    def pieces(self, part: bytes) -> Iterator[bytes]:
        """Yield what the next part unpacks to, a small piece at a time. Raises HttpRefusal for what is no
        gzip."""
        is_full = False
        while part or is_full:
            if self._stream.eof and part:
                self._next_member()
            try:
                piece = self._stream.decompress(part, _PIECE_BYTES)
            except zlib.error as exc:
                raise _malformed() from exc
            is_full = len(piece) == _PIECE_BYTES and not self._stream.eof
            part = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            yield piece

    def finish(self) -> None:
        """Raises HttpRefusal where the end of the body is missing."""
        if not self._stream.eof:
            raise _malformed()

    def _next_member(self) -> None:
        self._members += 1
        if self._members > _MEMBERS_MAX:
            raise _malformed()
        self._stream = zlib.decompressobj(_GZIP)


def _malformed() -> HttpRefusal:
    return HttpRefusal(400, "malformed_gzip", "The body is not well-formed gzip.")
