"""Searches that leave out what was answered under the same key before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import replace

from index_store.types import SearchRequest, SearchResult
from service.app.exclude_ids import joined_ids
from service.app.seen.seen_items import SeenItems
from service.errors import InvalidInput


class UnseenSearch:
    """Event loop only; what is remembered is read and written on threads of `readers`."""

    def __init__(self, seen: SeenItems | None, readers: Executor) -> None:
        """seen: None where nothing may be remembered."""
        self._seen = seen
        self._readers = readers

    async def find_unseen(
        self,
        collection: str,
        key: str,
        request: SearchRequest,
        find: Callable[[], Awaitable[SearchResult]],
        *,
        is_reset: bool,
    ) -> SearchResult:
        """Search by `find` without what was shown, and remember what it finds: delivered or not. is_reset:
        begin anew. Raises InvalidInput, and as `find`."""
        seen, loop = self._seen, asyncio.get_running_loop()
        if seen is None:
            raise InvalidInput("seen_key", "is off: SEEN_KEYS_MAX is 0")
        if is_reset:
            await loop.run_in_executor(self._readers, seen.forget, collection, key)
        shown = await loop.run_in_executor(self._readers, seen.shown_ids, collection, key)
        request.exclude_ids = joined_ids(request.exclude_ids, shown)
        result = await find()
        ids = [hit.id for hit in result.hits]
        await loop.run_in_executor(self._readers, seen.note_shown, collection, key, ids)
        return replace(result, next_page=None)  # a cursor would belong to other exclusions
