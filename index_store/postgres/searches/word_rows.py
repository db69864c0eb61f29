"""The rows of one search by words: found by the grams that they share with it, and scored here.

A row takes the server 10 us to score; to bring its grams over and score it with all others takes 3. What is
brought over first is what may score much: only rows that hold one of the query's rarest grams can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.lexical.row_postings import RowGrams, RowPostings
from index_store.lexical.scores import QueryTerms, TextScores, scores_by_terms
from index_store.postgres.conditions import Condition
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.parameters import id_array, int_array
from index_store.postgres.schema import rows_table, words_table
from index_store.postgres.words import GRAM_COLUMNS, grams_from, sharing
from index_store.query.pool import LiveSeqs, ScoreRange
from index_store.types import Id
from item_rules.ids import IdKind


class FoundWords(NamedTuple):
    """Some rows by their words: id, seq and grams of each."""

    keys: Sequence[tuple[Id, int]]
    grams: Mapping[str, RowGrams]


class _Scored(NamedTuple):
    """All allowed rows that score `least` or more, and others."""

    least: float
    found: FoundWords
    scores: TextScores


class WordRows:
    """Rows of a generation, by words. For one search, on its connection."""

    def __init__(self, connection: BoundedConnection, number: int, id_kind: IdKind) -> None:
        self._connection = connection
        self._number = number
        self._id_kind = id_kind
        self._scored: _Scored | None = None

    def find_best(
        self, terms: QueryTerms, live: LiveSeqs, allowed: Sequence[Condition], scores: ScoreRange, count: int
    ) -> FoundWords:
        """Return the `count` rows that score most within `scores`, or all; of those that were seen at
        `live.seq` and are allowed. allowed: conditions on rows_N, named r; the same for the whole search."""
        if self._scored is None or self._scored.least > scores.least:
            self._scored = self._score(terms, live, allowed, scores.least)
        found, known = self._scored.found, self._scored.scores
        best = np.flatnonzero((known >= scores.least) & (known <= scores.most))
        if len(best) > count:
            best = np.sort(best[np.argpartition(-known[best], count - 1)[:count]])
        grams = {stream: each.of_rows(best) for stream, each in found.grams.items()}
        return FoundWords([found.keys[place] for place in best.tolist()], grams)

    def _score(
        self, terms: QueryTerms, live: LiveSeqs, allowed: Sequence[Condition], least: float
    ) -> _Scored:
        shared = sharing(terms, least)
        where = f"({shared.sql}) AND w.seq <= {live.seq} AND (w.until IS NULL OR w.until > {live.seq})"
        parameters = list(shared.parameters)
        if allowed:
            met = " AND ".join(f"({each.sql})" for each in allowed)
            where += (
                f" AND EXISTS(SELECT 1 FROM {rows_table(self._number)} r "
                f"WHERE r.id = w.id AND r.seq = w.seq AND {met})"
            )
            parameters += [value for each in allowed for value in each.parameters]
        rows = self._connection.execute(
            f"SELECT id, seq, {GRAM_COLUMNS} FROM {words_table(self._number)} w WHERE {where}".encode(),
            parameters,
            binary=True,
            prepare=False,
        ).fetchall()
        grams = grams_from([row[2:] for row in rows])
        found = FoundWords([(row[0], row[1]) for row in rows], grams)
        return _Scored(least, found, scores_by_terms(terms, RowPostings(grams), len(rows)))

    def grams_of_rows(self, ids: Sequence[Id], seqs: npt.NDArray[np.int64]) -> dict[str, RowGrams]:
        """Return the grams of these rows, in order."""
        rows = self._connection.execute(
            f"SELECT {GRAM_COLUMNS} FROM unnest(%s, %s) WITH ORDINALITY AS wanted(id, seq, place) "
            f"LEFT JOIN {words_table(self._number)} w ON w.id = wanted.id AND w.seq = wanted.seq "
            "ORDER BY place".encode(),
            (id_array(ids, self._id_kind), int_array(seqs)),
            binary=True,
        ).fetchall()
        return grams_from(rows)
