"""Searches that leave out what was answered under the same key before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from index_store.errors import IndexStoreError
from index_store.types import SearchRequest, SearchResult
from service.app.exclude_ids import joined_ids
from service.app.seen.seen_items import SeenItems
from service.collections import Collection
from service.errors import InvalidInput, TryLater

T = TypeVar("T")


class UnseenSearch:
    """Event loop only; what is remembered is read and written on threads of `readers`."""

    def __init__(self, seen: SeenItems | None, readers: Executor) -> None:
        """seen: None where nothing may be remembered."""
        self._seen = seen
        self._readers = readers

    async def find_unseen(
        self,
        collection: Collection,
        key: str,
        request: SearchRequest,
        find: Callable[[], Awaitable[SearchResult]],
        ask: Callable[[SearchRequest], Awaitable[SearchResult]],
        *,
        is_reset: bool,
    ) -> tuple[SearchResult, bool]:
        """Search by `find` without what was shown, and remember what it finds: delivered or not; return that,
        and whether a good match is, or may be, among what was left out. `find` completes `request`; `ask`
        asks the index. is_reset: begin anew. Raises InvalidInput, and as `find`."""
        seen, name, excluded = self._seen, collection.name, request.exclude_ids
        if seen is None:
            raise InvalidInput("seen_key", "is off: SEEN_KEYS_MAX is 0")
        if is_reset:
            await self._on_reader(partial(seen.forget, name, key))
        shown = await self._on_reader(partial(seen.shown_ids, name, key))
        request.exclude_ids = joined_ids(excluded, shown)
        result = await find()
        has_shown_match = False
        if shown and request.confidence is not None and not has_good_match(collection, result):
            best = replace(request, exclude_ids=excluded, k=1, offset=0, ranking=None, with_metadata=False)
            has_shown_match = True
            with suppress(IndexStoreError, TryLater):  # the answer is there; not known is not none
                has_shown_match = has_good_match(collection, await ask(best))
        ids = [hit.id for hit in result.hits]
        await self._on_reader(partial(seen.note_shown, name, key, ids))
        return replace(result, next_page=None), has_shown_match  # a cursor would belong to other exclusions

    async def _on_reader(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)


def has_good_match(collection: Collection, result: SearchResult) -> bool:
    """Return whether any hit is as likely as a good match of the collection is."""
    good = collection.good_match_min
    return any(hit.confidence is not None and hit.confidence >= good for hit in result.hits)
