"""Writers of one process share commits: who comes while one is under way is in the next.

PostgreSQL syncs once for each transaction, and writers of a collection take turns. So whoever gets the turn
takes along what waits, and the others find their results when it is over. No thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from index_store.errors import IndexStoreError, Unavailable, WriteFailed
from index_store.hints import TRY_AGAIN
from index_store.types import Ack, WriteBatch

BATCHES_MAX = 256
ROWS_MAX = 20_000
"""Of one commit; a batch with more is alone in its own."""


@dataclass(slots=True, eq=False)
class _WaitingBatch:
    batch: WriteBatch
    outcome: Ack | BaseException | None = None

    @property
    def rows(self) -> int:
        return len(self.batch.items) + len(self.batch.deletes)


class CommitQueue:
    """The writers of one collection in this process. Any thread."""

    def __init__(
        self, commit: Callable[[Sequence[WriteBatch]], Sequence[Ack | IndexStoreError]], wait_s: float
    ) -> None:
        """commit: stores some batches in one commit. wait_s: for the turn."""
        self._commit = commit
        self._wait_s = wait_s
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[_WaitingBatch] = []

    def write_in_turn(self, batch: WriteBatch) -> Ack:
        """Return once the batch is stored. Raises what refuses it, or what `commit` raises; WriteFailed where
        the turn does not come."""
        mine = _WaitingBatch(batch)
        with self._lock:
            self._waiting.append(mine)
        if not self._turn.acquire(timeout=self._wait_s):
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            if mine.outcome is None:
                text = f"writes before this one have taken {self._wait_s:g} s; it may or may not be stored"
                raise WriteFailed(f"{text}, repeating it is safe", TRY_AGAIN)
        else:
            try:
                if mine.outcome is None:
                    self._commit_some(mine)
            finally:
                self._turn.release()
        if isinstance(mine.outcome, Ack):
            return mine.outcome
        assert mine.outcome is not None
        raise mine.outcome

    def _commit_some(self, mine: _WaitingBatch) -> None:
        """Commit what waits, up to and with `mine`. The turn is held."""
        some = self._next_some()
        while mine not in some:
            self._store(some)
            some = self._next_some()
        self._store(some)

    def _next_some(self) -> list[_WaitingBatch]:
        with self._lock:
            rows, count = 0, 0
            for each in self._waiting[:BATCHES_MAX]:
                rows += each.rows
                if count and rows > ROWS_MAX:
                    break
                count += 1
            some, self._waiting = self._waiting[:count], self._waiting[count:]
        return some

    def _store(self, some: Sequence[_WaitingBatch]) -> None:
        try:
            outcomes: Sequence[Ack | BaseException] = self._commit([each.batch for each in some])
        except Unavailable as exc:
            outcomes = [type(exc)(str(exc), exc.hint) for _ in some]
        except BaseException as exc:
            for each in some:
                each.outcome = exc
            raise
        for each, outcome in zip(some, outcomes, strict=True):
            each.outcome = outcome
