"""The rows of a generation that are held in memory: append-only, read without a lock.

A row is one state of one item while it was live: it is born at the seq that made it and dies at the seq
that changed, deactivated or deleted it. It is never altered, so a mask once made for a row stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.ann.topk import rescore
from index_store.embedded import distances
from index_store.embedded.arrays import Column, Vectors
from index_store.embedded.columns import MetadataColumns
from index_store.embedded.filters import Mask
from index_store.embedded.keys import KeyIndex, Keys, RowNumbers, keys_of
from index_store.embedded.masks import FilterMasks
from index_store.storage.rows import Row
from index_store.types import CollectionSpec, Id, Metric, Vector

NEVER = np.iinfo(np.int64).max
_GATHER_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer goes on: after this distance and id."""

    distance: float
    id: Id


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows with exact distances, nearest first, ties by id."""

    rows: RowNumbers
    distances: npt.NDArray[np.float64]


class Delta:
    """Rows 0..rows-1. `append` and `bury` belong to one thread at a time; all else to any thread, for
    rows that were published to it (`generation.View`)."""

    def __init__(self, spec: CollectionSpec) -> None:
        self._spec = spec
        self._vectors = Vectors(spec.dim)
        self._lengths = Column(np.float32(0))
        self._length_max = 0.0
        self.keys = Column(np.int64(0))
        self.born = Column(np.int64(0))
        self.dead = Column(np.int64(NEVER))
        self._names: list[str] = []
        self._texts: list[str | None] = []
        self._columns = MetadataColumns()
        self.masks = FilterMasks(self._columns)

    @property
    def rows(self) -> int:
        return self._vectors.rows

    def append(self, rows: Sequence[Row]) -> None:
        """Take live rows in."""
        start = self.rows
        vectors = np.frombuffer(b"".join(row.vector or b"" for row in rows), dtype="<f4")
        vectors = vectors.reshape(len(rows), self._spec.dim)
        lengths = distances.norms(vectors)
        self.keys.put(start, keys_of([row.id for row in rows], self._spec.id_kind))
        self.born.put(start, np.array([row.seq for row in rows], dtype=np.int64))
        self.dead.put(start, np.full(len(rows), NEVER, dtype=np.int64))
        self._lengths.put(start, lengths.astype(np.float32))
        self._length_max = max(self._length_max, float(lengths.max(initial=0.0)))
        if self._spec.id_kind == "string":
            self._names.extend(str(row.id) for row in rows)
        texts = [row.metadata for row in rows]
        self._texts.extend(texts)
        self._columns.append(start, texts)
        self._vectors.append(vectors)

    def bury(self, rows: RowNumbers, seq: npt.NDArray[np.int64]) -> None:
        """These rows end at these seqs."""
        self.dead.data[rows] = seq

    def compacted(self, live: Mask) -> Delta:
        """A delta of the live rows only."""
        fresh = Delta(self._spec)
        rows = np.flatnonzero(live)
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            vectors = self._vectors.take(some)
            fresh.append(
                [
                    Row(
                        id=item_id,
                        seq=int(seq),
                        deleted=False,
                        active=True,
                        source_version=None,
                        content_hash=None,
                        metadata=self._texts[row],
                        share=0,
                        vector=vector.tobytes(),
                    )
                    for item_id, seq, row, vector in zip(
                        self.ids(some), self.born.data[some], some.tolist(), vectors, strict=True
                    )
                ]
            )
        return fresh

    def ids(self, rows: RowNumbers) -> list[Id]:
        if self._spec.id_kind == "int64":
            return list(self.keys.data[rows].tolist())
        return [self._names[row] for row in rows.tolist()]

    def vectors(self, rows: RowNumbers) -> Vector:
        return self._vectors.take(rows)

    def metadata_texts(self, rows: RowNumbers) -> list[str | None]:
        return [self._texts[row] for row in rows.tolist()]

    def rows_of(self, ids: Sequence[Id] | Keys, index: KeyIndex, count: int) -> RowNumbers:
        """Every row, live or dead, of these ids among the first `count` rows."""
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        rows = index.rows(keys_of(ids, self._spec.id_kind), self.keys.data[:count])
        if self._spec.id_kind == "int64" or len(rows) == 0:
            return rows
        wanted = set(ids)  # two strings may share a hash
        return rows[[self._names[row] in wanted for row in rows.tolist()]]

    def candidates(self, query: Vector, k: int, allowed: Mask, after: Place | None) -> Candidates:
        """The k nearest allowed rows that come after `after`, exact, all ties at the end weighed by id.

        query: (dim,) float32. allowed: (count,) bool over the rows that the caller sees.
        """
        rows = np.flatnonzero(allowed)
        if len(rows) > max(_GATHER_ROWS, k):
            rows = self._prune(query, k, allowed, rows, after)
        return self._rescore(query, rows, after).first(k)

    def _prune(
        self, query: Vector, k: int, allowed: Mask, rows: RowNumbers, after: Place | None
    ) -> RowNumbers:
        """Drop the rows that are surely not among the k nearest, by float32 values of bounded error."""
        metric: Metric = self._spec.metric
        values = np.empty(len(allowed), dtype=np.float32)
        lengths = self._lengths.data
        for start, block in self._vectors.blocks(len(allowed)):
            stop = start + len(block)
            values[start:stop] = distances.rough(metric, query, block, lengths[start:stop])
        query_length = float(distances.norms(query[None, :])[0])
        error = distances.rough_error(metric, self._spec.dim, query_length, self._length_max)
        values = values[rows]
        if after is not None:
            edge = distances.rough_of(metric, after.distance, query_length)
            beyond = values.astype(np.float64) >= edge - 2 * error
            rows, values = rows[beyond], values[beyond]
            # Rows this near to the edge may turn out to stand before it: they must not count for k.
            k += int(np.count_nonzero(values <= edge + 2 * error))
        if len(rows) <= k:
            return rows
        kth = float(np.partition(values, k - 1)[k - 1])
        near = values <= np.nextafter(np.float32(kth + 2 * error), np.float32(np.inf))
        kept: RowNumbers = rows[near]
        return kept

    def _rescore(self, query: Vector, rows: RowNumbers, after: Place | None) -> _Scored:
        found = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            found[start : start + len(some)] = rescore(query, self._vectors.take(some), self._spec.metric)
        if after is None:
            return _Scored(self, rows, found)
        keep = found > after.distance
        ties = np.flatnonzero(found == after.distance)
        for place, item_id in zip(ties.tolist(), self.ids(rows[ties]), strict=True):
            keep[place] = item_id > after.id  # type: ignore[operator]  # one kind of id a collection
        return _Scored(self, rows[keep], found[keep])


@dataclass(frozen=True, slots=True)
class _Scored:
    delta: Delta
    rows: RowNumbers
    distances: npt.NDArray[np.float64]

    def first(self, k: int) -> Candidates:
        """Sort by (distance, id); ids are looked at only where they decide."""
        if len(self.rows) > k:
            kth = np.partition(self.distances, k - 1)[k - 1]
            within = self.distances <= kth
            rows, found = self.rows[within], self.distances[within]
        else:
            rows, found = self.rows, self.distances
        ranked = sorted(zip(found.tolist(), self.delta.ids(rows), range(len(rows)), strict=True))
        order = np.array([place for _, _, place in ranked[:k]], dtype=np.int64)
        return Candidates(rows[order], found[order])
