"""The rows of a generation that are held in memory: append-only, read without a lock.

A row is one state of one item while it was live: it is created at the seq that wrote it and deleted at
the seq that changed, deactivated or deleted it. It is never altered, so a mask that was made for a row once
stays right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann import float32_bounds
from index_store.ann.background import SAMPLE_ROWS, RowSample, sample_of
from index_store.ann.rerank import come_after, rescore, select
from index_store.delta.delta_columns import DeltaColumns
from index_store.delta.id_index import IdIndex, Keys, RowNumbers, keys_of
from index_store.delta.quantized import QuantizedRows, quantized_rows
from index_store.filter.cache import FilterMasks
from index_store.filter.columns import ColumnSource
from index_store.filter.compile import Mask
from index_store.filter.growable import GrowableColumn, GrowableVectors
from index_store.filter.lifetimes import GrowableLifetimes
from index_store.lexical.growable_postings import GrowablePostings
from index_store.lexical.postings import lexical_version
from index_store.record.rows import Row
from index_store.types import CollectionSpec, Id, Metric, Vector

NEVER = np.iinfo(np.int64).max
_GATHER_ROWS = 64
_RESCORED_ROWS = 128
_UNQUANTIZED_ROWS = 1024
"""So many rows are scanned as they are; at 2,500 rows of 384 they outgrow the processor's own cache."""


class ResumePoint(NamedTuple):
    """Where a page starts: after this distance and id."""

    distance: float
    id: Id


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows with exact distances and ids (int64, or object holding str), nearest first, ties by id."""

    rows: RowNumbers
    distances: npt.NDArray[np.float64]
    ids: npt.NDArray[Any]


class Delta:
    """Rows 0..rows-1. `add_rows` and `mark_deleted` belong to one thread at a time, all else to any
    thread, for the first rows that its view counts (`query.view.View`)."""

    def __init__(self, spec: CollectionSpec) -> None:
        self._spec = spec
        self._vectors = GrowableVectors(spec.dim)
        self._lengths = GrowableColumn(np.float32(0))
        self._length_max = 0.0
        self.keys = GrowableColumn(np.int64(0))
        self.created_seq = GrowableColumn(np.int64(0))
        self.deleted_seq = GrowableColumn(np.int64(NEVER))
        self._string_ids: list[str] = []
        self._texts: list[str | None] = []
        self._quantized: tuple[QuantizedRows, ...] = ()
        self.metric: Metric = spec.metric
        self.lexical_version = lexical_version(spec.lexical_fields)
        texts = self._texts  # a method of ours would be a cycle, and old rows wait long for the collector
        self.postings = GrowablePostings(spec.lexical_fields, lambda start, stop: texts[start:stop])
        self._columns = DeltaColumns(lambda start, stop: texts[start:stop])
        self.masks = FilterMasks(self._columns)
        self.lifetimes = GrowableLifetimes(self._columns)
        self._sample: tuple[int, RowSample | None] = (0, None)

    @property
    def columns(self) -> ColumnSource:
        """The metadata of all rows, by key."""
        return self._columns

    @property
    def dim(self) -> int:
        """How many numbers a vector has."""
        return self._spec.dim

    @property
    def rows(self) -> int:
        """How many rows there are, live or not."""
        return self._vectors.rows

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Take live rows in."""
        vectors = np.frombuffer(b"".join(row.vector or b"" for row in rows), dtype="<f4")
        self._put(
            vectors.reshape(len(rows), self._spec.dim),
            [row.id for row in rows],
            np.array([row.seq for row in rows], dtype=np.int64),
            [row.metadata for row in rows],
        )

    def _put(
        self,
        vectors: Vector,
        ids: Sequence[Id],
        created_seq: npt.NDArray[np.int64],
        texts: Sequence[str | None],
    ) -> None:
        self._put_fields(vectors, ids, created_seq, texts)
        self._columns.append_texts(texts)
        self._vectors.append(vectors)
        self._quantize_waiting()

    def append_fetched(
        self,
        vectors: Vector,
        ids: Sequence[Id],
        created_seq: npt.NDArray[np.int64],
        texts: Sequence[str | None],
    ) -> None:
        """Take in rows that one search has fetched. vectors: (rows, dim) float32. texts: their metadata, as
        JSON, not parsed (8 us a row) before `read_columns`."""
        self._put_fields(vectors, ids, created_seq, texts)
        self._vectors.append(vectors)

    def read_columns(self) -> None:
        """Parse the metadata of rows that `append_fetched` took in, for a search that looks at their keys."""
        self._columns.append_texts(self._texts[self._columns.rows :])

    def _put_fields(
        self,
        vectors: Vector,
        ids: Sequence[Id],
        created_seq: npt.NDArray[np.int64],
        texts: Sequence[str | None],
    ) -> None:
        start = self.rows
        lengths = float32_bounds.norms(vectors)
        self.keys.put(start, keys_of(ids, self._spec.id_kind))
        self.created_seq.put(start, created_seq)
        self.deleted_seq.put(start, np.full(len(ids), NEVER, dtype=np.int64))
        self._lengths.put(start, lengths.astype(np.float32))
        self._length_max = max(self._length_max, float(lengths.max(initial=0.0)))
        if self._spec.id_kind == "string":
            self._string_ids.extend(map(str, ids))
        self._texts.extend(texts)

    def _quantize_waiting(self) -> None:
        """Code the rows that wait, once they are enough; none is ever coded again."""
        done = self._quantized[-1].stop if self._quantized else 0
        if self.rows - done <= _UNQUANTIZED_ROWS:
            return
        coded = list(self._quantized)
        for start, block in self._vectors.blocks(self.rows):
            first = max(start, done)
            fresh = block[first - start :]
            if len(fresh) and first > start and (grown := coded[-1].extended_with(fresh)) is not None:
                coded[-1] = grown
            elif len(fresh):
                coded.append(quantized_rows(first, fresh, self._spec.metric))
        self._quantized = tuple(coded)

    def mark_deleted(self, rows: RowNumbers, seq: npt.NDArray[np.int64]) -> None:
        """These rows end at these seqs."""
        self.deleted_seq.data[rows] = seq

    def compacted(self, live: Mask) -> Delta:
        """A delta of the live rows only."""
        fresh = Delta(self._spec)
        rows = np.flatnonzero(live)
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            fresh._put(
                self._vectors.take(some),
                self.ids(some),
                self.created_seq.data[some],
                self.metadata_texts(some),
            )
        return fresh

    def ids(self, rows: RowNumbers) -> list[Id]:
        """Return the ids of these rows, in order."""
        if self._spec.id_kind == "int64":
            return list(self.keys.data[rows].tolist())
        return [self._string_ids[row] for row in rows.tolist()]

    def id_array(self, rows: RowNumbers) -> npt.NDArray[Any]:
        """Return the same as an array: int64, or object holding str."""
        if self._spec.id_kind == "int64":
            return self.keys.data[rows]
        return np.array([self._string_ids[row] for row in rows.tolist()], dtype=object)

    def vectors(self, rows: RowNumbers) -> Vector:
        """Return a copy of these rows' vectors: (rows, dim) float32."""
        return self._vectors.take(rows)

    def metadata_texts(self, rows: RowNumbers) -> list[str | None]:
        """Return the JSON text of each row's metadata, None where it has none."""
        return [self._texts[row] for row in rows.tolist()]

    def sample(self) -> RowSample:
        """Return some of the first rows, with what similarities are usual among them; looked at again when
        there are twice as many (5 ms)."""
        rows, sample = self._sample
        if sample is None or self.rows >= 2 * rows:
            rows = min(self.rows, SAMPLE_ROWS)
            sample = sample_of(self._vectors.take(np.arange(rows)), self.metric)
            self._sample = (rows if rows < SAMPLE_ROWS else NEVER, sample)
        return sample

    def find_rows(self, ids: Sequence[Id] | Keys, index: IdIndex, count: int) -> RowNumbers:
        """Every row, live or dead, of these ids among the first `count` rows."""
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        rows = index.rows(keys_of(ids, self._spec.id_kind), self.keys.data[:count])
        if self._spec.id_kind == "int64" or len(rows) == 0:
            return rows
        wanted = set(ids)  # two strings may share a hash
        return rows[[self._string_ids[row] in wanted for row in rows.tolist()]]

    def nearest_rows(
        self, query: Vector, k: int, allowed: Mask, after: ResumePoint | None, limit: float = math.inf
    ) -> Candidates:
        """The k nearest allowed rows that come after `after`, exact, all ties at the end weighed by id.

        query: (dim,) float32. allowed: (count,) bool over the rows that the caller sees. limit: rows farther
        than this may be left out: the caller has k that are as near.
        """
        coded = self._quantized if after is None else ()
        done = min(coded[-1].stop, len(allowed)) if coded else 0
        rows = self._pruned(query, k, allowed, done, after, limit)
        if done:
            parts = [one.near(query, k, allowed, limit) for one in coded if one.start < len(allowed)]
            rows = np.concatenate([self._near(query, k, np.concatenate(parts), limit), rows])
        rows, distances = self._rescored(query, rows, after)
        ids = self.id_array(rows)
        order = select(distances, ids, k)
        return Candidates(rows[order], distances[order], ids[order])

    def _near(self, query: Vector, k: int, rows: RowNumbers, limit: float) -> RowNumbers:
        """Those of a few rows that may be among the k nearest."""
        if len(rows) <= max(_RESCORED_ROWS, k):
            return rows
        lengths = self._lengths.data[rows]
        values = float32_bounds.rough(self._spec.metric, query, self._vectors.take(rows), lengths)
        return self._within(query, k, rows, values, None, limit)

    def _pruned(
        self, query: Vector, k: int, allowed: Mask, start: int, after: ResumePoint | None, limit: float
    ) -> RowNumbers:
        """Those of the allowed rows from `start` on that may be among the k nearest."""
        rows = allowed[start:].nonzero()[0]
        rows += start
        if len(rows) <= max(_GATHER_ROWS, k):
            return rows
        values = self._rough(query, start, len(allowed))
        if len(rows) < len(values):
            values = values[rows - start]
        return self._within(query, k, rows, values, after, limit)

    def _rough(self, query: Vector, start: int, stop: int) -> Vector:
        values = []
        for first, block in self._vectors.blocks(stop):
            skipped = max(0, start - first)
            if skipped < len(block):
                lengths = self._lengths.data[first + skipped : first + len(block)]
                values.append(float32_bounds.rough(self._spec.metric, query, block[skipped:], lengths))
        return values[0] if len(values) == 1 else np.concatenate(values)

    def _within(
        self, query: Vector, k: int, rows: RowNumbers, values: Vector, after: ResumePoint | None, limit: float
    ) -> RowNumbers:
        """Drop the rows that are surely not among the k nearest, by float32 values of bounded error."""
        metric: Metric = self._spec.metric
        query_length = float(float32_bounds.norms(query[None, :])[0])
        error = float32_bounds.rough_error(metric, self._spec.dim, query_length, self._length_max)
        if limit < math.inf:
            edge = float32_bounds.rough_of(metric, limit, query_length) + 2 * error
            near = (values <= float32_bounds.not_below(edge)).nonzero()[0]
            rows, values = rows[near], values[near]
        if after is not None:
            edge = float32_bounds.rough_of(metric, after.distance, query_length)
            beyond = values.astype(np.float64) >= edge - 2 * error
            rows, values = rows[beyond], values[beyond]
            # Rows this near to the edge may turn out to stand before it: they must not count for k.
            k += int(np.count_nonzero(values <= edge + 2 * error))
        if len(rows) <= k:
            return rows
        kth = float(np.partition(values, k - 1)[k - 1])
        kept: RowNumbers = rows[values <= float32_bounds.not_below(kth + 2 * error)]
        return kept

    def _rescored(
        self, query: Vector, rows: RowNumbers, after: ResumePoint | None
    ) -> tuple[RowNumbers, npt.NDArray[np.float64]]:
        """Those of the rows that come after `after`, with their distances."""
        found = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            found[start : start + len(some)] = rescore(query, self._vectors.take(some), self._spec.metric)
        if after is None:
            return rows, found
        keep = come_after(found, lambda ties: self.id_array(rows[ties]), after)
        return rows[keep], found[keep]
