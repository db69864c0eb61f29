"""Counts the stages of each search once it has ended, and keeps the slowest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from service.app.monitoring.recall_sampler import RecallSampler
from service.app.query_log.recorder import QueryRecorder
from service.app.search import ParsedSearch
from service.observing.slow_searches import SlowSearches
from service.observing.stage_timing import StageTiming

_SHARE_S: Final = 1.0


class SearchMeter:
    """Event loop only."""

    def __init__(
        self,
        times: StageTiming,
        slow: SlowSearches,
        sampler: RecallSampler,
        recorder: QueryRecorder | None,
    ) -> None:
        """recorder: None where no queries are kept."""
        self._recorder = recorder
        self._times = times
        self._slow = slow
        self._sampler = sampler

    def search_ended(
        self,
        search: ParsedSearch,
        began_at: float,
        answered_at: float,
        ended_at: float,
        request_id: bytes,
        error: Exception | None = None,
    ) -> None:
        """Count a search whose answer is made. began_at: when its request was whole; answered_at: when the
        index had answered; ended_at: when the answer was encoded; all on `time.perf_counter`. error: what it
        ended with instead of an answer."""
        if search.search_s:
            in_line_s = search.asked_at - began_at - search.embed_s
            self._times.note_search(in_line_s, search.wait_s, search.search_s, ended_at - answered_at)
            if ended_at >= self._sampler.due_at and error is None:
                self._sampler.offer(search)
        if self._recorder is not None and error is None:
            self._recorder.record_query(search)
        took_s = ended_at - began_at
        if took_s > self._slow.floor_s:
            about = _about(search, began_at, ended_at - answered_at, request_id, error)
            self._slow.keep_if_slow(took_s, about)

    def count_waiting(self) -> None:
        """Count the searches that ended since the last second."""
        self._times.add_searches()

    def slowest_searches(self, limit: int) -> list[Mapping[str, Any]]:
        """Return the slowest searches of the last minutes, of all workers. From any thread."""
        return self._slow.slowest(limit)

    async def share_regularly(self) -> None:
        """Show what this worker has measured to the others."""
        while True:
            await asyncio.sleep(_SHARE_S)
            self._slow.share()
            self._times.add_searches()


def _about(
    search: ParsedSearch,
    began_at: float,
    encode_s: float,
    request_id: bytes,
    error: Exception | None,
) -> Mapping[str, Any]:
    """What is told of a slow search: no text, no vector, no value of a filter."""
    timer, request = search, search.request
    in_line = timer.asked_at - began_at - timer.embed_s if timer.asked_at else 0.0
    stages = {
        "admission": in_line,
        "embed": timer.embed_s,
        "search_wait": timer.wait_s,
        "search": timer.search_s,
        "encode": encode_s,
    }
    return {
        "request_id": request_id.decode(),
        "collection": search.collection.name,
        "query": _kind(search),
        "top_k": request.k,
        "offset": request.offset,
        "excluded": len(request.exclude_ids),
        "has_filter": request.filter is not None,
        "error": None if error is None else type(error).__name__,
        "stages_ms": {name: round(seconds * 1000, 3) for name, seconds in stages.items()},
        "plan": [{"way": way, "ef": ef, "rows": rows} for way, ef, rows in timer.steps],
    }


def _kind(search: ParsedSearch) -> str:
    if search.like_ids:
        return "items"
    if search.request.text is not None:
        return search.request.text.mode
    if search.content is None:
        return "vector"
    return "text" if isinstance(search.content, str) else "picture"
