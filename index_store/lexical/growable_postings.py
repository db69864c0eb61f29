"""Postings of rows that keep coming, in memory."""

from __future__ import annotations

import threading
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
_BEHIND_ROWS = 256
UNREAD_MAX = 2048
"""So many rows a search reads itself, in 80 ms; more are left to the thread that keeps up."""


def _new_stream() -> defaultdict[int, tuple[array[int], array[int]]]:
    return defaultdict(lambda: (array("i"), array("B")))


@dataclass(slots=True)
class _GrowableStream:
    """Of one stream. by_gram: rows, and how often each holds the gram. lengths: as `PostingSource` has
    them."""

    by_gram: defaultdict[int, tuple[array[int], array[int]]] = field(default_factory=_new_stream)
    lengths: array[int] = field(default_factory=lambda: array("i"))


class GrowablePostings:
    """Rows 0.. of a delta, read when they are first asked for: 40 us a row, which searches by vectors alone
    need not wait for. Safe from any thread."""

    def __init__(self, fields: Sequence[str], metadata: Callable[[int, int], Sequence[str | None]]) -> None:
        """fields: whose texts count. metadata: gives the JSON texts of rows start to stop."""
        self._fields = tuple(fields)
        self._metadata = metadata
        self._lock = threading.Lock()
        self._rows = 0
        self._streams = {stream: _GrowableStream() for stream in STREAMS}

    def first(self, count: int) -> PostingsView:
        """Return the postings of the first `count` rows; reads those that were not yet."""
        while self._rows < count:
            with self._lock:  # let go after each lot: searches wait no longer than for one
                if self._rows < count:
                    self._read(self._rows, min(count, self._rows + _ROWS_AT_ONCE))
        return PostingsView(self, count)

    def has_many_unread(self, count: int) -> bool:
        """Return whether many of the first `count` rows are not read yet, and words are wanted."""
        return bool(self._fields) and count - self._rows > _BEHIND_ROWS

    def unread(self, count: int) -> int:
        """Return how many of the first `count` rows are not read yet."""
        return max(0, count - self._rows)

    def _read(self, start: int, stop: int) -> None:
        texts = [document_text(each, self._fields) for each in self._metadata(start, stop)]
        for stream, grams_of in STREAMS.items():
            own = self._streams[stream]
            run = sorted_chunk(grams_of(texts), start, len(texts))
            each = zip(run.grams.tolist(), run.rows.tolist(), run.counts.tolist(), strict=True)
            for gram, row, held in each:
                rows, counts = own.by_gram[gram]
                rows.append(row)
                counts.append(held)
            own.lengths.extend(run.lengths.tolist())
        self._rows = stop

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
            return np.array(self._streams[stream].lengths[:count], np.int32)


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
        return codes_of(self.lengths(stream))
