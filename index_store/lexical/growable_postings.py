"""Postings of rows that keep coming, in memory."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from index_store.lexical.analysis import Grams, document_text
from index_store.lexical.postings import (
    STREAMS,
    GramPostings,
    LengthCodes,
    Lengths,
    codes_of,
    sorted_chunk,
)

_ROWS_AT_ONCE = 1024
_CHARS_AT_ONCE = 32_768
"""Of metadata: searches wait for one such lot, some 20 to 80 ms."""
_BEHIND_ROWS = 256
UNREAD_MAX = 2048
READ_S_MAX = 0.25
"""So many rows a search reads itself, of names in 80 ms, and for so long, whatever their length; more are
left to the thread that keeps up."""


def _new_stream() -> defaultdict[int, tuple[array[int], array[int]]]:
    return defaultdict(lambda: (array("i"), array("B")))


@dataclass(slots=True)
class _GrowableStream:
    """Of one stream. by_gram: rows, and how often each holds the gram. lengths, codes: as
    `PostingSource` has them."""

    by_gram: defaultdict[int, tuple[array[int], array[int]]] = field(default_factory=_new_stream)
    lengths: array[int] = field(default_factory=lambda: array("i"))
    codes: array[int] = field(default_factory=lambda: array("B"))


class GrowablePostings:
    """Rows 0.. of a delta, read when they are first asked for: 40 us a row, which searches by vectors alone
    need not wait for. Safe from any thread."""

    def __init__(
        self,
        fields: Sequence[str],
        metadata: Callable[[int, int], Sequence[str | None]],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """fields: whose texts count. metadata: gives the JSON texts of rows start to stop. clock: seconds
        that this thread has worked."""
        self._clock = clock
        self._fields = tuple(fields)
        self._metadata = metadata
        self._lock = threading.Lock()
        self._rows = 0
        self._streams = {stream: _GrowableStream() for stream in STREAMS}

    def first(self, count: int) -> PostingsView | None:
        """Return the postings of the first `count` rows; reads those that were not yet. None where these are
        too many for a search, or take too long: what was read by then stays."""
        if self.unread(count) > UNREAD_MAX:
            return None
        stop_at = self._clock() + READ_S_MAX
        while self.unread(count):
            if self._clock() >= stop_at:
                return None
            self.read_some(count)
        return PostingsView(self, count)

    def read_some(self, count: int) -> None:
        """Read some of the first `count` rows that were not read yet: searches wait for one such lot."""
        with self._lock:
            if self._rows < count:
                self._read(self._rows, min(count, self._rows + _ROWS_AT_ONCE))

    def has_many_unread(self, count: int) -> bool:
        """Return whether many of the first `count` rows, or much text, is left to read."""
        if not self._fields or count <= self._rows:
            return False
        return count - self._rows > _BEHIND_ROWS or self._is_long(self._metadata(self._rows, count))

    @staticmethod
    def _is_long(metadata: Sequence[str | None]) -> bool:
        return sum(len(each) for each in metadata if each is not None) > _CHARS_AT_ONCE

    def unread(self, count: int) -> int:
        """Return how many of the first `count` rows are not read yet."""
        return max(0, count - self._rows)

    def _read(self, start: int, stop: int) -> None:
        """Read rows from `start` on, before `stop`, one at least. Lock held."""
        texts: list[str] = []
        chars = 0
        for metadata in self._metadata(start, stop):
            texts.append(document_text(metadata, self._fields))
            chars += len(metadata or "")
            if chars >= _CHARS_AT_ONCE:
                break
        for stream, grams_of in STREAMS.items():
            own = self._streams[stream]
            run = sorted_chunk(grams_of(texts), start, len(texts))
            each = zip(run.grams.tolist(), run.rows.tolist(), run.counts.tolist(), strict=True)
            for gram, row, held in each:
                rows, counts = own.by_gram[gram]
                rows.append(row)
                counts.append(held)
            own.lengths.frombytes(run.lengths.tobytes())
            own.codes.frombytes(codes_of(run.lengths).tobytes())
        self._rows = start + len(texts)

    def lists_below(self, count: int, stream: str, grams: Grams) -> GramPostings:
        """As `PostingSource.lists`, of the first `count` rows, which were read."""
        rows_bytes, counts_bytes = bytearray(), bytearray()
        stops = np.zeros(len(grams), np.int64)
        with self._lock:
            by_gram = self._streams[stream].by_gram
            for place, gram in enumerate(grams.tolist()):
                if gram in by_gram:
                    rows, counts = by_gram[gram]
                    held = bisect_left(rows, count)
                    rows_bytes += rows[:held].tobytes()
                    counts_bytes += counts[:held].tobytes()
                stops[place] = len(counts_bytes)
        starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
        rows_found, counts_found = np.frombuffer(rows_bytes, np.int32), np.frombuffer(counts_bytes, np.uint8)
        return GramPostings(rows_found, counts_found, starts[: len(stops)], stops)

    def lengths_below(self, count: int, stream: str) -> Lengths:
        """As `PostingSource.lengths`, of the first `count` rows, which were read."""
        with self._lock:
            return np.frombuffer(self._streams[stream].lengths[:count], np.int32)

    def codes_below(self, count: int, stream: str) -> LengthCodes:
        """As `PostingSource.length_codes`, of the first `count` rows, which were read."""
        with self._lock:
            return np.frombuffer(self._streams[stream].codes[:count], np.uint8)


@dataclass(frozen=True, slots=True)
class PostingsView:
    """Fits `PostingSource`: the first `count` rows, whatever comes behind them."""

    growing: GrowablePostings
    count: int

    def lists(self, stream: str, grams: Grams) -> GramPostings:
        """See `PostingSource`."""
        return self.growing.lists_below(self.count, stream, grams)

    def lengths(self, stream: str) -> Lengths:
        """See `PostingSource`."""
        return self.growing.lengths_below(self.count, stream)

    def length_codes(self, stream: str) -> LengthCodes:
        """See `PostingSource`."""
        return self.growing.codes_below(self.count, stream)
