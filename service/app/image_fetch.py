"""Pictures behind an address, for callers that name one instead of sending it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from image_fetch.errors import FetchFailed, FetchRefused
from image_fetch.fetch import PictureFetch
from service.errors import InvalidImage

_GRACE_S = 0.5


class PictureFetcher:
    """Fits `service.app.ingest.PictureSource`. The exchange runs on `executor`, one thread a fetch."""

    def __init__(self, pictures: PictureFetch, executor: Executor) -> None:
        self._pictures = pictures
        self._executor = executor

    async def fetch(self, url: str) -> bytes:
        """Return the body behind `url`. Raises InvalidImage (image_url_refused, image_url_failed)."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._pictures.s_max + _GRACE_S):  # for a free thread as well
                return await loop.run_in_executor(self._executor, self._pictures.fetch, url)
        except TimeoutError as exc:
            raise InvalidImage("image_url_failed", "The picture took too long to fetch.") from exc
        except FetchRefused as exc:
            raise InvalidImage("image_url_refused", str(exc)) from exc
        except FetchFailed as exc:
            raise InvalidImage("image_url_failed", str(exc)) from exc
