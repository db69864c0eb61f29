"""One thread that searches: it takes whatever queued while it was busy and answers it in one call. Where a
search waits for a server instead of computing, several threads search, one request a call.

There is no wait timer, and under load the wake-ups are shared. While callers come one at a time, the event
loop searches itself what is light: waking the thread and being woken costs a tenth of such a search
(docs/decisions/0080).

Line and calls are counted in work, not in heads (`search_cost`): a heavy request is a call of its own, so
between two of them deadlines are looked at and light ones get their turn.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from queue import SimpleQueue
from typing import Protocol

import msgspec

from index_store.errors import IndexStoreError
from index_store.port import BatchSearch, SeqSource, VectorIndex
from index_store.types import SearchOutcome, SearchRequest, SearchResult
from service.app.search_cost import cost_of
from service.errors import DeadlineExceeded, Overloaded
from service.observing.metrics import Metrics
from service.observing.search_timer import SearchTimer

log = logging.getLogger(__name__)

_BATCH_MAX = 64
"""More would let one call hold back those who come during it."""
_BATCH_COST_MAX = 128.0
"""Of one call, unless it is for one request."""
_SMOOTHING = 0.1
_LONE_MIN = 8
"""So many in a row must have come alone: callers at the same time are served better by the thread."""
_LIGHT_COST = 2.0
_LOOP_S_MAX = 0.001
"""What the loop may be held up: as long as by encoding the largest answer that is encoded there."""
_AFTER_SLOW = 100
"""So many lone searches go to the thread after one that held up the loop for longer."""
_REQUEST_OF = attrgetter("request")
_SWEEP_S = 0.02
"""How late a deadline may be noticed: one look at everyone who waits costs less than a timer for each."""


class SearchIndex(VectorIndex, BatchSearch, SeqSource, Protocol):
    """What the queue needs of an index."""


class ResultHandler(Protocol):
    """Who is told how a search ended, on the event loop and once. A future of asyncio is one."""

    def done(self) -> bool:
        """Return whether nobody waits any more."""

    def set_result(self, result: SearchResult, /) -> None:
        """Take the result."""

    def set_exception(self, exception: Exception, /) -> None:
        """Take the error instead of a result."""


class _Waiting(msgspec.Struct, eq=False):
    """One request in line. A Struct, since there is one for every search. is_over: its handler was told, or
    does not wait any more."""

    collection: str
    request: SearchRequest
    deadline: float
    handler: ResultHandler
    cost: float
    timer: SearchTimer
    is_over: bool = False


class LoneSearches:
    """Decides which searches the event loop does itself: light ones, while nobody else asks. Event loop
    only."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def note_company(self) -> None:
        """Several asked at once, or one while others waited: the thread serves them together."""
        self._in_a_row = min(self._in_a_row, 0)

    def note_lone(self, request: SearchRequest, cost: float, expected_s: float) -> bool:
        """Return whether the loop should do this search, which came alone. expected_s: how long it takes."""
        self._in_a_row += 1
        return (
            self._in_a_row > _LONE_MIN
            and cost <= _LIGHT_COST
            and expected_s <= _LOOP_S_MAX
            and request.filter is None
            and not request.exact
        )

    def note_slow(self) -> None:
        """A search on the loop took longer than it may (files that are not in memory yet, a busy machine):
        the thread does the next ones."""
        self._in_a_row = -_AFTER_SLOW


class SearchQueue:
    """`ask` from the event loop that called `start`; one thread searches, or the loop itself."""

    def __init__(
        self,
        index: SearchIndex,
        metrics: Metrics,
        *,
        queue_requests_max: int,
        queue_ms_max: int,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds that only go forward, for deadlines and for how long a search takes."""
        self._index = index
        self._metrics = metrics
        self._clock = clock
        self._queue_requests_max = queue_requests_max
        self._queue_s_max = queue_ms_max / 1000
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._gathered: list[_Waiting] = []
        self._unanswered: deque[_Waiting] = deque()
        self._asked = 0  # written by the event loop
        self._asked_cost = 0.0
        self._taken = 0  # written by who searches, under `_counting`
        self._taken_cost = 0.0
        self._counting = threading.Lock()
        self._sweeper: asyncio.TimerHandle | None = None
        self._seconds_per_cost = 0.001
        self._lone = LoneSearches()
        self._threads = [
            threading.Thread(target=self._run, name="search", daemon=True) for _ in range(threads)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the threads. Call on the event loop that asks."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer what is queued, then stop the threads."""
        self._hand_over()
        self._queue.put(None)
        if self._loop is not None:
            for thread in self._threads:
                thread.join()

    def cost_at_once(self) -> float:
        """Return how much work one caller should have in line at a time: what is done within half of the
        longest wait, as measured."""
        return self._queue_s_max / 2 / self._seconds_per_cost

    def ask(
        self, collection: str, request: SearchRequest, deadline: float, timer: SearchTimer | None = None
    ) -> asyncio.Future[SearchResult]:
        """deadline: on `time.monotonic`. Raises Overloaded; the future DeadlineExceeded, IndexStoreError."""
        assert self._loop is not None
        answer: asyncio.Future[SearchResult] = self._loop.create_future()
        self.put(collection, request, deadline, answer, timer or SearchTimer())
        return answer

    def put(
        self,
        collection: str,
        request: SearchRequest,
        deadline: float,
        handler: ResultHandler,
        timer: SearchTimer,
    ) -> None:
        """As `ask`, for an handler of the caller's own."""
        loop = self._loop
        assert loop is not None
        queued = self._asked - self._taken
        expected_s = (self._asked_cost - self._taken_cost) * self._seconds_per_cost
        if queued >= self._queue_requests_max or expected_s > self._queue_s_max:
            raise Overloaded(
                "Too many searches are waiting.", retry_after_s=max(1.0, expected_s), reason="search"
            )
        timer.asked_at = time.perf_counter()
        timer.steps = request.steps = []
        waiting = _Waiting(collection, request, deadline, handler, cost_of(request), timer)
        self._unanswered.append(waiting)
        if self._sweeper is None:
            self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop)
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(waiting)
        self._asked += 1
        self._asked_cost += waiting.cost

    def _hand_over(self) -> None:
        """Wake the thread once for all who came in one turn of the loop, or answer a lone one here."""
        gathered, self._gathered = self._gathered, []
        if len(gathered) == 1 == len(self._unanswered):  # the thread has nothing to do
            one = gathered[0]
            expected_s = one.cost * self._seconds_per_cost
            is_light = self._lone.note_lone(one.request, one.cost, expected_s)
            is_computed_here = len(self._threads) == 1
            if is_computed_here and is_light and self._index.is_caught_up(one.collection):
                began_at = self._clock()
                settled, _ = self._next_answers(gathered)
                if self._clock() - began_at > _LOOP_S_MAX:
                    self._lone.note_slow()
                self._settle(settled)
                return
        else:
            self._lone.note_company()
        if len(self._threads) > 1:
            for one in gathered:
                self._queue.put([one])
        elif gathered:
            self._queue.put(gathered)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those whose deadline has passed; look again while anyone waits."""
        now = self._clock()
        still: deque[_Waiting] = deque()
        for waiting in self._unanswered:
            if waiting.handler.done():
                continue
            if waiting.deadline <= now:
                late = DeadlineExceeded("The search took longer than its deadline.")
                waiting.handler.set_exception(late)
            else:
                still.append(waiting)
        self._unanswered = still
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop) if still else None

    def _run(self) -> None:
        assert self._loop is not None
        waiting: list[_Waiting] = []
        while self._take(waiting):
            settled, waiting = self._next_answers(waiting)
            try:
                self._loop.call_soon_threadsafe(self._settle, settled)
            except RuntimeError:
                return  # the loop closed under us: nobody waits any more

    def _take(self, waiting: list[_Waiting]) -> bool:
        """Put what has queued behind `waiting`, or one request of it where others take the next; wait only if
        that is empty. False: all is answered."""
        while not waiting or (len(self._threads) == 1 and not self._queue.empty()):
            gathered = self._queue.get()
            if gathered is None:
                self._queue.put(None)  # for when what came before is answered
                break
            waiting.extend(gathered)
        return bool(waiting)

    def _next_answers(
        self, waiting: list[_Waiting]
    ) -> tuple[list[tuple[_Waiting, SearchResult | Exception]], list[_Waiting]]:
        """Answer the next ones in one call; return what they get, and what waits on. By the thread, or by the
        loop while the thread has nothing."""
        started = self._clock()
        wanted, cost, waiting = self._next_batch(waiting, started)
        settled = self._answer(wanted)
        if wanted:
            per_cost = (self._clock() - started) / cost / len(self._threads)
            with self._counting:
                self._seconds_per_cost += _SMOOTHING * (per_cost - self._seconds_per_cost)
        return settled, waiting

    def _next_batch(
        self, waiting: list[_Waiting], now: float
    ) -> tuple[list[_Waiting], float, list[_Waiting]]:
        """Return what the next call answers, its cost, and what waits on. One request at least leaves the
        line, be it one that nobody waits for any more."""
        wanted: list[_Waiting] = []
        taken, taken_cost, cost = 0, 0.0, 0.0
        for each in waiting[:_BATCH_MAX]:
            if taken and taken_cost + each.cost > _BATCH_COST_MAX:
                break
            taken += 1
            taken_cost += each.cost
            if each.deadline <= now:
                continue  # told by the sweep
            if each.handler.done():
                each.is_over = True
            else:
                wanted.append(each)
                cost += each.cost
        with self._counting:
            self._taken += taken
            self._taken_cost += taken_cost
        return wanted, cost, waiting[taken:]

    def _answer(self, batch: Sequence[_Waiting]) -> list[tuple[_Waiting, SearchResult | Exception]]:
        by_collection: dict[str, list[_Waiting]] = {}
        for each in batch:
            by_collection.setdefault(each.collection, []).append(each)
        settled: list[tuple[_Waiting, SearchResult | Exception]] = []
        for collection, group in by_collection.items():
            self._metrics.searched(len(group))
            began_at = time.perf_counter()
            settled.extend(zip(group, self._results(collection, group), strict=True))
            took_s = time.perf_counter() - began_at
            for each in group:
                each.timer.wait_s = began_at - each.timer.asked_at
                each.timer.search_s = took_s
        return settled

    def _results(self, collection: str, group: Sequence[_Waiting]) -> Sequence[SearchOutcome | Exception]:
        try:
            return self._index.search_each(collection, list(map(_REQUEST_OF, group)))
        except IndexStoreError as exc:
            return [exc] * len(group)  # none of them would fare better alone
        except Exception as exc:
            if len(group) == 1:
                log.exception("search_failed", extra={"collection": collection})
                self._metrics.unexpected("search")
                return [exc]
        # Nobody foresaw what one request of the batch met: each gets the answer it would have got alone.
        return [result for each in group for result in self._results(collection, [each])]

    def _settle(self, settled: Sequence[tuple[_Waiting, SearchResult | Exception]]) -> None:
        for waiting, result in settled:
            waiting.is_over = True
            if waiting.handler.done():
                continue
            if isinstance(result, Exception):
                waiting.handler.set_exception(result)
            else:
                waiting.handler.set_result(result)
        # They are answered in the order in which they came: nothing of them need be kept until the sweep.
        while self._unanswered and self._unanswered[0].is_over:
            self._unanswered.popleft()
