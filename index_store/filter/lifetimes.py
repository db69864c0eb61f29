"""Which rows may be shown at a moment, by two keys of their metadata: columns of moments, read once.

Sealed rows never change, so their bitmap holds from one bound of any row to the next, and is kept until then.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.port import Bitmap
from index_store.ann.validation import pack_allowed
from index_store.filter.columns import MISSING, KeyColumns, MetadataColumns
from index_store.filter.compile import Mask
from index_store.filter.growable import GrowableColumn
from item_rules.lifetime import Lifetime, ShownSpan

Moments: TypeAlias = npt.NDArray[np.float64]


class _Bound:
    """The moments under one key, by row, as far as they were read."""

    def __init__(self, lifetime: Lifetime, key: str, nothing: float) -> None:
        self._lifetime = lifetime
        self._key = key
        self._nothing = nothing
        self._rows = 0
        self._moments = GrowableColumn(np.float64(nothing), 64)

    def until(self, columns: KeyColumns, count: int) -> Moments | None:
        """Return those of the first `count` rows; None where no row has any."""
        column = columns.column(self._key) if self._key else None
        if column is None:
            return None
        if self._rows < count:
            # Codes of rows to come may mean other values: a column can give way and be made again.
            used, places = np.unique(column.codes.between(self._rows, count), return_inverse=True)
            self._moments.put(self._rows, np.array(self._read(column.values, used.tolist()))[places])
            self._rows = count
        return self._moments.between(0, count)

    def _read(self, values: Sequence[Any], codes: Sequence[int]) -> list[float]:
        moments = (None if code == MISSING else self._lifetime.instant(values[code]) for code in codes)
        return [self._nothing if moment is None else moment for moment in moments]


class GrowableLifetimes:
    """Of rows in memory. Safe from any thread."""

    def __init__(self, columns: KeyColumns) -> None:
        self._columns = columns
        self._bounds: tuple[_Bound, _Bound] | None = None
        self._lock = threading.Lock()

    def shown_rows(self, span: ShownSpan, count: int) -> Mask | None:
        """(count,) bool: which of the first rows are shown; None for all."""
        begins, ends = self.moments(span.lifetime, count)
        if begins is None and ends is None:
            return None
        shown: Mask = np.ones(count, np.bool_) if begins is None else begins <= span.begun_by
        return shown if ends is None else shown & (ends > span.now)

    def moments(self, lifetime: Lifetime, count: int) -> tuple[Moments | None, Moments | None]:
        """Return when the first rows begin and end, in seconds since the epoch; None where none does."""
        with self._lock:
            if self._bounds is None:
                begin = _Bound(lifetime, lifetime.begin_key, -math.inf)
                self._bounds = begin, _Bound(lifetime, lifetime.end_key, math.inf)
            begins, ends = self._bounds
            return begins.until(self._columns, count), ends.until(self._columns, count)


class SealedLifetimes:
    """Of rows that never change. Safe from any thread."""

    def __init__(self, columns: KeyColumns, rows: int) -> None:
        self._growing = GrowableLifetimes(columns)
        self._rows = rows
        self._edges: Moments | None = None
        self._kept: tuple[float, float, Bitmap] | None = None

    def prepare(self, lifetime: Lifetime) -> None:
        """Read the columns, so that no search has to (.3 us a distinct moment)."""
        self._edges_of(lifetime)

    def shown_bits(self, span: ShownSpan) -> Bitmap | None:
        """One bit a row, read-only: which rows are shown; None for all."""
        kept = self._kept
        if kept is not None and kept[0] <= span.begun_by and span.now < kept[1]:
            return kept[2]
        edges = self._edges_of(span.lifetime)
        if not len(edges):
            return None
        mask = self._growing.shown_rows(span, self._rows)
        assert mask is not None, "some row has a bound"
        bits = pack_allowed(mask)
        place = int(edges.searchsorted(span.now, side="right"))
        since = float(edges[place - 1]) if place else -math.inf
        if since <= span.begun_by:  # a page of an older moment is not kept
            self._kept = since, float(edges[place]) if place < len(edges) else math.inf, bits
        return bits

    def _edges_of(self, lifetime: Lifetime) -> Moments:
        edges = self._edges
        if edges is None:
            found = [each for each in self._growing.moments(lifetime, self._rows) if each is not None]
            joined = np.unique(np.concatenate(found)) if found else np.empty(0)
            edges = self._edges = joined[np.isfinite(joined)]
        return edges


def shown_texts(span: ShownSpan, texts: Sequence[str | None]) -> list[bool]:
    """Return which of these metadata, as JSON texts, belong to items that are shown. A text that has rotted
    into no JSON object is not."""
    columns = MetadataColumns()
    try:
        columns.add_texts(0, texts, set(span.lifetime.keys))
    except (TypeError, ValueError, AttributeError, RecursionError):
        return [len(texts) > 1 and shown_texts(span, [text])[0] for text in texts]
    mask = GrowableLifetimes(columns).shown_rows(span, len(texts))
    return [True] * len(texts) if mask is None else list(mask.tolist())
