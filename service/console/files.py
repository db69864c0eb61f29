"""The console's files as they go over the wire: each read once, packed once, named by its content."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_PACKED = ".gz"
_FOLDERS = ("frame", "search", "answer", "operate", "viewer")
"""A file's name is its address, whichever of these folders it lies in."""


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """One file. packed: its gzip form. etag: a strong one, of the content."""

    packed: bytes
    media_type: str
    etag: str

    def plain(self) -> bytes:
        """Return the content as it is; unpacked on each call, since every browser takes the packed form."""
        return gzip.decompress(self.packed)


class ConsoleFiles:
    """The files of this package's folders by name, each read at its first use. Safe from any thread.

    A file whose name ends in `.gz` is kept packed and served under the name without it.
    """

    def __init__(self) -> None:
        self._read: dict[str, ConsoleFile] = {}

    def named(self, name: str) -> ConsoleFile | None:
        """Return the file of that name, None when there is none. name: as a caller sent it."""
        if name not in self._read:
            package = files("service.console")
            known = {
                each.name.removesuffix(_PACKED): each
                for folder in _FOLDERS
                for each in package.joinpath(folder).iterdir()
            }
            media_type = _MEDIA_TYPES.get(name[name.rfind(".") :])
            if name not in known or media_type is None:
                return None
            content = known[name].read_bytes()
            packed = content if known[name].name.endswith(_PACKED) else gzip.compress(content, 9, mtime=0)
            digest = hashlib.sha256(packed).hexdigest()[:32]
            self._read[name] = ConsoleFile(packed, media_type, f'"{digest}"')
        return self._read[name]


def page_headers(*, image_hosts: Sequence[str] = (), is_viewer: bool = False) -> dict[str, str]:
    """Return the header fields of every file of the console.

    image_hosts: whose pictures its pages may show beside the service's own. is_viewer: for the viewer of
    openapi.yaml, which draws arrows out of `data:` addresses and makes HTML of the document's Markdown.
    """
    images = ["'self'", "data:" if is_viewer else "blob:", *image_hosts]
    policy = [
        "default-src 'self'",
        f"img-src {' '.join(images)}",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    if not is_viewer:
        policy.append("require-trusted-types-for 'script'")
    return {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",  # asked again each time, and answered 304 by the ETag
        "vary": "Accept-Encoding",
    }
