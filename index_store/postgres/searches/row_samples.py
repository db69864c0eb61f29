"""What similarities are usual in a generation, as a process has found it out."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

from index_store.ann.background import SAMPLE_ROWS, RowSample, sample_of
from index_store.lru import LruCache
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import int_array, vectors_of
from index_store.postgres.schema import LIVE, rows_table
from index_store.types import CollectionSpec

_DRAWN_SEQS = 2048


class RowSamples:
    """Safe from any thread. A sample is kept until there are twice as many items: it takes 10 ms, and a
    weight that changed with each write would change each answer."""

    def __init__(self, samples_max: int = 256) -> None:
        self._known: LruCache[int, tuple[int, RowSample]] = LruCache(samples_max)
        """By number of the generation, with how many items were live then."""

    def look_up(
        self, connection: psycopg.Connection[Any], spec: CollectionSpec, generation: GenerationRecord
    ) -> RowSample:
        """Return the sample of a generation. spec: with its dim. Raises psycopg.Error."""
        live, sample = self._known.find(generation.number) or (0, None)
        if sample is None or generation.live >= 2 * live:
            sample = _drawn(connection, spec, generation)
            self._known.keep(generation.number, (generation.live, sample))
        return sample


def _drawn(
    connection: psycopg.Connection[Any], spec: CollectionSpec, generation: GenerationRecord
) -> RowSample:
    """Of rows of evenly drawn seqs those with the smallest shares; of all rows where most of the drawn ones
    were written again."""
    head = max(1, generation.head)
    seqs = np.unique(np.linspace(1, head, min(head, _DRAWN_SEQS)).astype(np.int64))
    table = rows_table(generation.number)
    drawn = f"SELECT vector FROM {table} WHERE {LIVE} AND seq = ANY(%s) ORDER BY share LIMIT {SAMPLE_ROWS}"
    found = connection.execute(drawn.encode(), (int_array(seqs),), binary=True).fetchall()
    if len(found) < min(SAMPLE_ROWS, generation.live):
        every = f"SELECT vector FROM {table} WHERE {LIVE} ORDER BY share LIMIT {SAMPLE_ROWS}"
        found = connection.execute(every.encode(), binary=True).fetchall()
    return sample_of(vectors_of([vector for (vector,) in found], spec.dim), spec.metric)
