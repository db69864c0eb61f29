"""Notes a share of the searches, and writes them beside the search path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any, Final, TypeAlias

from service.app.exclude_ids import plain_ids
from service.app.query_log.files import QueryLog
from service.app.search import ParsedSearch

log = logging.getLogger(__name__)

_Noted: TypeAlias = tuple[str, dict[str, Any]]

_FLUSH_S: Final = 2.0
_SWEEP_S: Final = 600.0
_WAITING_MAX: Final = 1000
"""Of one worker between two writes; what comes on top is not kept."""
_EXCLUDED_MAX: Final = 1000
"""A query with more exclusions is not kept: it would not be the same one without them."""


class QueryRecorder:
    """Event loop only; files are written on a thread of `executor`."""

    def __init__(
        self,
        query_log: QueryLog,
        executor: Executor,
        chance: Callable[[], float],
        *,
        percent: int,
        flush_s: float = _FLUSH_S,
    ) -> None:
        """chance: evenly spread over 0 to 1. percent: of the searches; 0 keeps none, and only what is old
        is removed. flush_s: between two writes."""
        self._flush_s = flush_s
        self._writing: tuple[list[_Noted], Future[None]] | None = None
        self._log = query_log
        self._executor = executor
        self._chance = chance
        self._share = percent / 100
        self._waiting: list[_Noted] = []
        self._swept_at = float("-inf")

    def record_query(self, search: ParsedSearch) -> None:
        """Keep an answered search by text or by items, or leave it out. No key, no address, no answer."""
        if self._chance() >= self._share or len(self._waiting) >= _WAITING_MAX:
            return
        request = search.request
        is_text = isinstance(search.content, str)
        if not (is_text or search.like_ids) or request.offset or request.after is not None:
            return  # a picture, a vector, or another page of a query that was kept
        if len(request.exclude_ids) > _EXCLUDED_MAX:
            return
        # As it was read, and without its mode: a report compares the vectors that two models make of a text,
        # and has neither keyboard nor synonyms; what was typed would be embedded as it stands.
        fields: dict[str, Any] = {"query": search.content} if is_text else {"like_ids": list(search.like_ids)}
        if search.unlike_ids:
            fields["unlike_ids"] = list(search.unlike_ids)
        if len(request.exclude_ids):
            fields["exclude_ids"] = list(plain_ids(request.exclude_ids))
        if request.filter is not None:
            fields["filter"] = request.filter
        if request.max_distance is not None:
            fields["max_distance"] = request.max_distance
        self._waiting.append((search.collection.name, fields))

    async def write_regularly(self) -> None:
        """Write what was noted every two seconds, and at the end; remove what is old now and then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(self._flush_s)
                await self._write()
                if loop.time() >= self._swept_at + _SWEEP_S:
                    self._swept_at = loop.time()
                    await loop.run_in_executor(self._executor, self._log.sweep)
        finally:
            self._write_rest()

    async def _write(self) -> None:
        taken = self.taken()
        if taken:
            future = self._executor.submit(self._log.append, taken)
            self._writing = taken, future
            await asyncio.wrap_future(future)
            self._writing = None

    def _write_rest(self) -> None:
        """What waits for a thread would be dropped with the others that wait; what is written by one now is
        waited for, since a file is written by one at a time."""
        if self._writing is not None:
            taken, future = self._writing
            if future.cancel():
                self._log.append(taken)
            else:
                wait([future])
        self._log.append(self.taken())

    def taken(self) -> list[_Noted]:
        """Return what was noted since the last call, with the names of the collections."""
        taken, self._waiting = self._waiting, []
        return taken
