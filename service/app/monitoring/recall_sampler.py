"""Recall as callers get it: now and then a real search is asked again, with and without exact search."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

from index_store.errors import IndexStoreError
from index_store.port import VectorIndex
from index_store.types import SearchRequest, SearchResult
from service.app.search import ParsedSearch
from service.observing.metrics import Metrics

log = logging.getLogger(__name__)

_WANTED_MAX: Final = 1000
"""Deeper pages are not sampled: exact search reranks as many rows."""
_SHARE: Final = 0.001
"""Of one core, at most."""
_NICE: Final = 19


class RecallSampler:
    """`offer` on the event loop; measures on a thread of `executor`, one search at a time."""

    def __init__(
        self,
        index: VectorIndex,
        metrics: Metrics,
        executor: Executor,
        every_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """every_s: between two samples of a collection; 0 takes none. executor: of one thread."""
        self._index = index
        self._metrics = metrics
        self._executor = executor
        self._every_s = every_s
        self._clock = clock
        self._is_busy = False
        self._due_at: dict[str, float] = {}
        self.due_at = clock() + every_s if every_s else math.inf
        """Before this no search need be offered."""

    def offer(self, search: ParsedSearch) -> None:
        """Sample an answered search if one of its collection is due. Never waits."""
        now, name, request = self._clock(), search.collection.name, search.request
        if self._is_busy or now < self._due_at.get(name, 0.0) or not _is_fit(request):
            return
        self._is_busy = True
        loop = asyncio.get_running_loop()
        # Copied: the vector of an embedded query stays, the request may be repeated by its owner.
        again = replace(
            request, with_metadata=False, with_vectors=False, with_matches=False, steps=None, min_seq=None
        )
        measured = loop.run_in_executor(self._executor, self._measure, name, again)
        measured.add_done_callback(lambda done: self._note(name, 0.0 if done.cancelled() else done.result()))

    def _measure(self, collection: str, request: SearchRequest) -> float:
        """Count the neighbours that the index found of those that there are. Return the seconds it took."""
        _lower_priority()
        began_at = self._clock()
        try:
            # One call, so that both see the same rows.
            answer, truth = self._index.search(collection, [request, replace(request, exact=True)])
        except IndexStoreError as exc:  # the generation has changed, or it is being closed
            log.debug("recall_not_sampled", extra={"collection": collection, "error": str(exc)})
        except Exception:
            log.exception("recall_not_sampled", extra={"collection": collection})
            self._metrics.unexpected("recall")
        else:
            self._metrics.recalled(collection, _found(answer, truth), len(truth.hits))
        return self._clock() - began_at

    def _note(self, collection: str, took_s: float) -> None:
        self._is_busy = False
        now = self._clock()
        self._due_at[collection] = now + max(self._every_s, took_s / _SHARE)
        self.due_at = now + took_s / _SHARE


def _is_fit(request: SearchRequest) -> bool:
    """Whether approximate search may have missed something, at a price that is worth it."""
    if request.text is not None:
        return False  # what words add is exact
    if request.recommendation is not None or request.ranking is not None:
        return False  # not ordered by distance
    return not request.exact and request.after is None and request.offset + request.k <= _WANTED_MAX


def _found(answer: SearchResult, truth: SearchResult) -> int:
    """Return how many hits are among the nearest; by distance, since equal ones are equally good."""
    if not truth.hits:
        return 0
    farthest = truth.hits[-1].distance
    return min(sum(hit.distance <= farthest for hit in answer.hits), len(truth.hits))


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        thread = threading.get_native_id()
        if os.getpriority(os.PRIO_PROCESS, thread) < _NICE:
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
