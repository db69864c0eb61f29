"""Pools: the rows that a search finds, so many at a time, each with its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, come_after, select, similarities
from index_store.delta.id_index import RowNumbers
from index_store.filter.cache import CompiledFilter
from index_store.lexical.scores import TextScores
from index_store.query.allowed import allowed_rows
from index_store.query.candidates import nearest
from index_store.query.confidence import confidences
from index_store.query.fusion import ScoredRows, fused_rows
from index_store.query.ranking.formula import BoostFormula
from index_store.query.ranking.grouping import columns_of
from index_store.query.view import View, by_part
from index_store.request.confidence import Curve
from index_store.types import PageKey, SearchRequest

_WIDER = 4

Edge: TypeAlias = tuple[float, Any]
"""Key and id of a row: what comes after it by them."""


class RankedRows(NamedTuple):
    """Rows with what they are ordered by. firsts: their keys in the order of the search; keys: in that of the
    answer: distances, or minus the scores. added: (rows, boosts). numbers: of segments, -1 for the
    delta. groups: the name of each row's group, None without one."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    firsts: Distances
    keys: Distances
    scores: Distances
    distances: Distances
    texts: Distances
    added: Distances
    ids: npt.NDArray[Any]
    groups: npt.NDArray[Any]

    def picked(self, positions: npt.NDArray[Any] | Sequence[int] | slice) -> RankedRows:
        """Return some of them, in this order."""
        columns: tuple[npt.NDArray[Any], ...] = self
        return RankedRows(*(column[positions] for column in columns))

    def ordered(self) -> RankedRows:
        """Return all by (key, id)."""
        return self.picked(select(self.keys, self.ids, len(self.ids)))


@dataclass(slots=True)
class PoolSource:
    """Finds rows in the order of the search. view: of the seq that all pages are of. texts: what words score,
    by part. weight: of words; None until the first rows are found. curve: of confidence, whose minimum rows
    have to reach before boosts are added; None: not asked for."""

    view: View
    request: SearchRequest
    condition: CompiledFilter | None
    formula: BoostFormula
    texts: Sequence[TextScores] | None
    weight: float | None
    curve: Curve | None = None
    _ahead: RankedRows | None = None
    _ahead_view: View | None = None
    _is_all_ahead: bool = False
    _growth: int = 1

    @property
    def reorders(self) -> bool:
        """Whether the answer has another order than what is found."""
        return bool(self.formula.terms) and not self.request.exact

    def rows_after(self, view: View, edge: Edge | None, count: int) -> RankedRows:
        """Return the next `count` rows behind `edge`; fewer where none comes after them. view: this one, or
        one with some of its rows. Each time more are found ahead: where pool after pool is left out, to begin
        again behind thousands of rows for each would take seconds."""
        if self._ahead is not None and view is self._ahead_view:
            start = self._place_after(self._ahead, edge)
            if len(self._ahead.rows) >= start + count or self._is_all_ahead:
                return self._ahead.picked(slice(start, start + count))
        fetch = count * self._growth
        found = self._found_after(view, edge, fetch)
        self._ahead, self._ahead_view, self._is_all_ahead = found, view, len(found.rows) < fetch
        self._growth *= _WIDER
        return found if fetch == count else found.picked(slice(0, count))

    @staticmethod
    def _place_after(rows: RankedRows, edge: Edge | None) -> int:
        """Where the rows behind `edge` begin; they are in order."""
        if edge is None:
            return 0
        start, stop = (
            np.searchsorted(rows.firsts, edge[0], "left"),
            np.searchsorted(rows.firsts, edge[0], "right"),
        )
        return int(start) + int(np.count_nonzero(rows.ids[start:stop] <= edge[1]))

    def _found_after(self, view: View, edge: Edge | None, count: int) -> RankedRows:
        if not (self.request.exact and self.formula.terms):
            return self._scored(self._found(view, edge, count))
        fetch = 4 * count
        while True:
            found = self._found(view, None, fetch)
            scored = self._scored(found)
            scored = scored._replace(firsts=scored.keys)
            kept = come_after(scored.keys, scored.ids.take, edge)
            if is_certain := len(found.rows) == fetch:
                # What was not found is at most as good as the last row that was, and the most that is added.
                kept &= scored.scores > self._bases(found)[-1] + self.formula.most
            some = scored.picked(np.flatnonzero(kept))
            if not is_certain or len(some.rows) >= count:
                return some.picked(select(some.keys, some.ids, count))
            fetch *= _WIDER

    def _found(self, view: View, edge: Edge | None, count: int) -> ScoredRows:
        """The next rows in the order of the search, as far as they are likely enough."""
        found = self._next_found(view, edge, count)
        asked = self.request.confidence
        if self.curve is None or asked is None or asked.minimum <= 0:
            return found
        return found.at(np.flatnonzero(confidences(self.curve, self._bases(found)) >= asked.minimum))

    def _next_found(self, view: View, edge: Edge | None, count: int) -> ScoredRows:
        text = self.request.text
        if text is None:
            request = self.request
            if edge is not None or request.after is not None:
                request = replace(request, after=None if edge is None else self._page(edge))
            found = nearest(view, request, allowed_rows(view, request, self.condition), count)
            nothing = np.full(len(found.rows), math.nan)
            out = ScoredRows(found.numbers, found.rows, found.distances, found.distances, nothing, found.ids)
            limit = request.max_distance
            return out if limit is None else out.at(np.flatnonzero(out.distances <= limit))
        after = None if edge is None and self.weight is None else self._page(edge or (-math.inf, None))
        request = replace(self.request, after=after)
        scored, self.weight = fused_rows(view, request, text, self.condition, count, self.texts)
        return scored

    def _page(self, edge: Edge) -> PageKey:
        return PageKey("", self.view.seq, edge[0], edge[1], self.weight or 0.0)

    def _bases(self, found: ScoredRows) -> Distances:
        """Scores without boosts."""
        if self.request.text is None:
            return similarities(found.distances, self.view.delta.metric)
        return -found.keys

    def _scored(self, found: ScoredRows) -> RankedRows:
        scores = self._bases(found)
        added = np.zeros((len(found.rows), len(self.formula.terms)))
        keys = found.keys
        if self.formula.terms:
            for number, positions, rows in by_part(found.numbers, found.rows):
                added[positions] = self.formula.added(columns_of(self.view, number), rows)
            for one in added.T:  # one after another: the sum of a row depends on that row alone
                scores = scores + one
            keys = -scores
        return RankedRows(
            found.numbers,
            found.rows,
            found.keys,
            keys,
            scores,
            found.distances,
            found.texts,
            added,
            found.ids,
            np.full(len(found.rows), None),
        )
