"""Pictures fetched by address, for rows whose content is one."""

from __future__ import annotations

from image_fetch.errors import FetchError
from image_fetch.fetch import PictureFetch


class PictureRefused(Exception):
    """The picture cannot be had; the message says why."""


class PictureFetcher:
    """Fetches pictures within the limits of `pictures`. Safe from any thread."""

    def __init__(self, pictures: PictureFetch) -> None:
        self._pictures = pictures

    def picture_at(self, url: str) -> bytes:
        """Return the bytes behind a URL. Raises PictureRefused."""
        try:
            return self._pictures.fetch(url)
        except FetchError as exc:
            raise PictureRefused(f"{url[:200]}: {exc}") from exc
