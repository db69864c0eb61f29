"""A page of an answer with a ranking: pool after pool, what is left of each in its order.

The order of an answer depends on the view at its seq, not on where its pages end: each page makes it again
from the pool where the page before ended; with groups or collapsing from the first pool on, to know what was
kept. Items deleted since keep their place in it and are not shown.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from index_store.ann.rerank import come_after
from index_store.errors import InvalidRequest
from index_store.filter.cache import CompiledFilter
from index_store.query.allowed import are_shown, view_at
from index_store.query.fusion import scores_by_part
from index_store.query.ranking.formula import BoostFormula, compiled_boosts
from index_store.query.ranking.pools import Edge, PoolSource, RankedRows
from index_store.query.ranking.walk import PoolWalk, WalkedPool
from index_store.query.view import View, has_key, live_ids
from index_store.request.confidence import Curve
from index_store.request.ranking import DIVERSE_POOL_MAX, POOL_MAX, RANKED_MAX, RankedPage, Ranking
from index_store.types import Id, PageKey, SearchRequest


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """rows: the page; None where it is empty. weight: of words. page: where it ended; None at the end of
    all."""

    rows: RankedRows | None
    weight: float
    page: RankedPage | None
    unknown_keys: Sequence[tuple[str, str]]


def ranked_answer(
    view: View,
    request: SearchRequest,
    ranking: Ranking,
    condition: CompiledFilter | None,
    curve: Curve | None = None,
) -> RankedAnswer:
    """view: knows the page's seq. curve: of confidence, where that is asked for. Raises InvalidRequest,
    InvalidFilter, WordsNotSealed."""
    formula = checked_ranking(ranking, request)
    after, span = request.after, request.shown
    if after is not None and span is not None:  # as the pages before: what is over since is taken out at last
        request = replace(request, shown=span._replace(now=span.begun_by))
    texts = None if request.text is None else scores_by_part(view, request, request.text)
    pinned = view if after is None else view_at(view, after.seq)
    weight = None if after is None else after.text_weight
    source = PoolSource(pinned, request, condition, formula, texts, weight, curve)
    page = _PageWriter(request.offset, request.k, after)
    walk = PoolWalk(source, ranking, page.needed)
    for pool in walk.pools(page.start):
        alive = None if after is None else live_ids(view, pool.rows.ids.tolist())
        if alive is not None and span is not None:
            shown = are_shown(view, pool.rows.numbers, pool.rows.rows, span)
            alive.intersection_update(pool.rows.ids[shown].tolist())
        page.add_pool(pool, alive)
        if page.is_full:
            break
    rows, ended = page.written()
    return RankedAnswer(rows, source.weight or 0.0, ended, _unknown(view, formula, ranking))


def checked_ranking(ranking: Ranking, request: SearchRequest) -> BoostFormula:
    """Return the boosts, compiled. Raises InvalidRequest, InvalidFilter, naming the field."""
    pool_max = DIVERSE_POOL_MAX if ranking.diversity else POOL_MAX
    for field, is_fine, what in (
        ("pool", 1 <= ranking.pool <= pool_max, f"must be 1 to {pool_max}"),
        ("diversity", 0 <= ranking.diversity <= 1, "must be 0 to 1"),
        ("group_by.max", ranking.group is None or ranking.group.most >= 1, "must be 1 or more"),
        ("collapse.distance", ranking.collapse is None or ranking.collapse >= 0, "must be 0 or more"),
    ):
        if not is_fine:
            raise InvalidRequest(f"{field} {what}", field)
    if ranking.group is not None or ranking.collapse is not None:
        page = None if request.after is None else request.after.ranked
        if (page.rank if page else request.offset) + request.k > RANKED_MAX:
            field = "top_k" if page is None else "cursor"
            raise InvalidRequest(f"{field}: group_by and collapse go on for {RANKED_MAX} hits", field)
    return compiled_boosts(ranking)


def _unknown(view: View, formula: BoostFormula, ranking: Ranking) -> list[tuple[str, str]]:
    """Keys that no row has."""
    keys = [*formula.keys, *([("group_by", ranking.group.key)] if ranking.group else [])]
    return [(field, key) for field, key in keys if not has_key(view, key)]


class _PageWriter:
    """Takes hits out of pools until a page is full. needed: how many there must be, one that follows it among
    them; the first `offset` are skipped."""

    def __init__(self, offset: int, k: int, after: PageKey | None) -> None:
        self._offset, self._end = offset, offset + k
        self.needed = self._end + 1
        self._after = after
        self._former = None if after is None else after.ranked
        self._pools: list[WalkedPool] = []
        self._hits: list[tuple[int, int]] = []
        self._passed: list[tuple[int, int]] = []
        """Hits, and items deleted since: one that is written again meanwhile does not come back later."""
        self._passed_by: list[int] = []
        """How many of those came up to each hit."""

    @property
    def start(self) -> Edge | None:
        """What comes before the pool that the page before ended in."""
        return None if self._former is None else self._former.start

    @property
    def is_full(self) -> bool:
        """Whether no more pools are needed."""
        return len(self._hits) >= self.needed

    def add_pool(self, pool: WalkedPool, alive: set[Id] | None) -> None:
        """Take the hits of a pool, as many as are needed. alive: ids that may be shown; None for all."""
        number, ids = len(self._pools), pool.rows.ids.tolist()
        self._pools.append(pool)
        fresh = self._fresh(pool, ids)
        for place in pool.order:
            if fresh is not None and not fresh[place]:
                continue
            self._passed.append((number, place))
            if alive is None or ids[place] in alive:
                self._hits.append((number, place))
                self._passed_by.append(len(self._passed))
                if self.is_full:
                    return

    def _fresh(self, pool: WalkedPool, ids: Sequence[Id]) -> Sequence[bool] | None:
        """Which rows of a pool no page has shown; None for all."""
        if not self._is_former(pool) or self._after is None or self._former is None:
            return None
        if not pool.is_diverse:
            kept = come_after(pool.rows.keys, pool.rows.ids.take, (self._after.distance, self._after.id))
            return list(kept.tolist())
        shown = set(np.frombuffer(self._former.shown, "<u4").tolist())
        return [_hash(item_id) not in shown for item_id in ids]

    def _is_former(self, pool: WalkedPool) -> bool:
        return self._former is not None and pool.start == self._former.start

    def written(self) -> tuple[RankedRows | None, RankedPage | None]:
        """Return the page, None for an empty one; and where it ended if anything comes after it."""
        hits = self._hits[self._offset : self._end]
        if not hits:
            return None, None
        parts = [
            self._pools[number].rows.picked([place for other, place in hits if other == number])
            for number in sorted({number for number, _ in hits})
        ]
        rows = parts[0]
        if len(parts) > 1:
            rows = RankedRows(*map(np.concatenate, zip(*parts, strict=True)))
        if len(self._hits) <= self._end:
            return rows, None
        number = hits[-1][0]
        pool = self._pools[number]
        shown = b""
        if pool.is_diverse:
            shown = self._former.shown if self._former is not None and self._is_former(pool) else b""
            passed = self._passed[: self._passed_by[self._end - 1]]
            ids = [pool.rows.ids[place] for other, place in passed if other == number]
            shown += np.array([_hash(item_id) for item_id in ids], "<u4").tobytes()
        rank = (self._offset if self._former is None else self._former.rank) + len(hits)
        return rows, RankedPage(pool.start, shown, rank)


def _hash(item_id: Id) -> int:
    return zlib.crc32(str(item_id).encode())
