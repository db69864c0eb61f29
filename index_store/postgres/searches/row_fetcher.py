"""The rows that one search needs, out of the table of a generation; fits `index_store.query.pool.RowFetcher`.

PostgreSQL compares in float32 and the answer is ordered in float64, ties by id. So some rows more than asked
for are fetched, and yet more where those that were not fetched might belong among the k nearest:
- of an exact search, those that are no farther than float32 can be off;
- of a graph, which finds what it finds, those at the very distance of the last: items with one vector.
A graph that gives fewer rows than there are is not believed: the exact search answers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from index_store.ann.background import RowSample
from index_store.ann.float32_bounds import sum_error
from index_store.ann.rerank import Distances, rescore
from index_store.errors import StoreUnavailable
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.hints import TRY_AGAIN
from index_store.lexical.scores import QueryGrams, QueryTerms, StreamStatistics
from index_store.postgres.conditions import (
    NOTHING,
    Condition,
    filter_condition,
    shown_condition,
    value_condition,
)
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import id_array, id_column, int_array, vector_value, vectors_of
from index_store.postgres.schema import GRAPH_DIM_MAX, LIVE, OPERATORS, rows_table
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.row_samples import RowSamples
from index_store.postgres.searches.selectivity import FilterShares, is_exact_faster
from index_store.postgres.searches.word_rows import WordRows
from index_store.postgres.words import read_statistics
from index_store.query.pool import LiveSeqs, PoolRows, ScoreRange
from index_store.types import CollectionSpec, Filter, Id, SearchRequest

GRAPH_FROM = 2000
"""Live items from which on a graph is searched: so few are compared with the query as fast one by one."""
EF = 100
"""Breadth of a graph that nobody has measured."""
EF_MAX = 1000
"""Of pgvector."""
_MORE = 6
_MORE_EXACT = 64
_MORE_AGAIN = 8
"""Times as many rows where the first were too few to tell."""
_ROWS_MAX = 50_000
"""Beyond the k nearest: so many of one distance are ordered as PostgreSQL does, by id among equal ones."""


class RowQuery(NamedTuple):
    """A statement that gives id, seq, vector and metadata of rows, and of which kind each is. limit: rows of
    a kind. ef: of the graph; 0: an exact search."""

    sql: str
    parameters: tuple[object, ...]
    limit: int
    ef: int


class QueryRows(NamedTuple):
    """What one statement gave. distances: in float64. newest: how many are of versions that hold on. bound:
    of those that were left out, none is nearer as far as PostgreSQL can tell; infinite where none was left
    out."""

    rows: PoolRows
    distances: Distances
    newest: int
    bound: float


class GenerationRows:
    """Fits `RowFetcher`. For one search, on its connection; generation: as of the search's seq."""

    def __init__(
        self,
        connection: BoundedConnection,
        spec: CollectionSpec,
        generation: GenerationRecord,
        keys: RowKeys,
        shares: FilterShares,
        *,
        with_texts: bool,
        graph_from: int,
        samples: RowSamples | None = None,
    ) -> None:
        """spec: with the dim of the generation. with_texts: whether metadata are read. graph_from: of how
        many live items on a graph is searched, unless a filter leaves few; 0: always."""
        self._connection = connection
        self._spec = spec
        self._generation = generation
        self._keys = keys
        self._shares = shares
        self._samples = samples or RowSamples()
        self._left_out = NOTHING
        self._with_texts = with_texts
        self._graph_from = graph_from
        self._words = WordRows(connection, generation.number, spec.id_kind)
        self._filter: tuple[Filter, CompiledFilter] | None = None
        self._first: tuple[SearchRequest, RowQuery, QueryRows] | None = None

    def first_query(self, request: SearchRequest, k: int) -> RowQuery:
        """Return the statement for the first rows of a search, to be run inside of one that reads the head
        `g` at the same moment."""
        is_exact = self._is_exact(request)
        limit = k + (_MORE_EXACT if is_exact else _MORE)
        newest = Condition(f"{LIVE} AND seq <= g.head")
        return self._query(request, [newest], limit, is_exact=is_exact)

    def take_first(self, request: SearchRequest, query: RowQuery, rows: Sequence[Any]) -> None:
        """Take what `first_query` gave."""
        self._first = (request, query, self._fetched(request, rows, query.limit))

    def take_head(self, generation: GenerationRecord) -> None:
        """Take what the generation is as of the moment that the search is of."""
        self._generation = generation

    def fetch_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> PoolRows:
        """See `RowFetcher`."""
        found = self.nearest(request, live, k).rows
        return found if request.text is None else self._with_grams(found)

    def nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> QueryRows:
        """Return the same with the distances."""
        is_exact = self._is_exact(request)
        limit = k + (_MORE_EXACT if is_exact else _MORE)
        first, self._first = self._first, None
        while True:
            if first is not None and first[0] is request and first[1].limit == limit:
                (_, query, found), first = first, None
            else:
                query = self._query(request, self._live(live), limit, is_exact=is_exact)
                found = self._fetched(request, self._run(query), limit)
            if request.steps is not None:
                request.steps.append(
                    ("graph", query.ef, found.newest) if query.ef else ("scan", 0, self._generation.live)
                )
            if self._is_enough(request, query, found, k):
                return found
            is_exact = is_exact or found.newest < limit or limit > _MORE_AGAIN * (k + _MORE)
            limit = k + _MORE_EXACT if is_exact and query.ef else _MORE_AGAIN * limit

    def _is_exact(self, request: SearchRequest) -> bool:
        generation = self._generation
        # A graph is gone through to its end where full groups hold all rows that it has.
        if request.exact or generation.dim > GRAPH_DIM_MAX or self._left_out != NOTHING:
            return True
        if request.ef is not None or not self._graph_from:
            return False
        return not generation.ef or generation.live < self._graph_from or self._leaves_few(request)

    def _leaves_few(self, request: SearchRequest) -> bool:
        """Whether the filter leaves so few rows that they are sooner compared one by one."""
        if request.filter is None:
            return False
        condition = self._compiled(request.filter)
        share = self._shares.estimate(self._connection, self._generation, condition)
        limit = request.offset + request.k + _MORE
        return is_exact_faster(share, self._generation.live, limit, condition)

    def _compiled(self, condition: Filter) -> CompiledFilter:
        """The filter of the search, compiled once: one with many operands takes long."""
        if self._filter is None or self._filter[0] is not condition:
            self._filter = condition, compiled_filter(condition)
        return self._filter[1]

    def _is_enough(self, request: SearchRequest, query: RowQuery, found: QueryRows, k: int) -> bool:
        """Whether the k nearest are certainly among the rows, as far as the way they were found can tell."""
        if query.ef and found.newest < min(query.limit, self._generation.live):
            return False
        if found.bound == math.inf:
            return True
        kth = float(np.partition(found.distances, k - 1)[k - 1])
        if query.ef:
            return kth < found.bound
        return kth + 2 * self._error(request, found.bound) < found.bound or query.limit > k + _ROWS_MAX

    def _error(self, request: SearchRequest, distance: float) -> float:
        """How far PostgreSQL's distance of a row at about this distance may be from the exact one."""
        lost = 2 * sum_error(self._spec.dim)
        if self._spec.metric == "l2":
            return lost * abs(distance) + 1e-17
        if self._spec.metric == "cosine":
            return 2 * lost
        return lost * float(np.linalg.norm(request.vector)) * self._generation.length_max

    def _live(self, live: LiveSeqs) -> list[Condition]:
        """The conditions of two kinds of rows: versions that hold on, and those that ended since."""
        ended = f"until > {live.seq} AND seq <= {live.seq} AND active AND vector IS NOT NULL"
        ended = f"{ended} AND {self._still_live(live).sql}"
        return [Condition(f"{LIVE} AND seq <= {live.seq}"), Condition(ended)]

    def _still_live(self, live: LiveSeqs) -> Condition:
        """The condition of rows, named r, whose items are live at `live.still`."""
        still = live.still
        return Condition(
            f"EXISTS(SELECT 1 FROM {self._table} n WHERE n.id = r.id AND n.seq <= {still} "
            f"AND (n.until IS NULL OR n.until > {still}) AND n.active AND n.vector IS NOT NULL)"
        )

    @property
    def _table(self) -> str:
        return rows_table(self._generation.number)

    def _query(
        self, request: SearchRequest, kinds: Sequence[Condition], limit: int, *, is_exact: bool
    ) -> RowQuery:
        """kinds: of rows, each of which gives `limit` rows."""
        vector = vector_value(request.vector)
        distance = f"vector {OPERATORS[self._spec.metric]} %s"
        allowed = self._allowed(request, distance)
        text = "metadata" if self._with_texts else "NULL::text AS metadata"
        order = f"({distance}) + 0.0, id" if is_exact else distance
        parts: list[str] = []
        parameters: list[object] = []
        for kind in kinds:
            # Only versions that hold on are in the graph.
            by = order if kind is kinds[0] else f"({distance}) + 0.0, id"
            where = " AND ".join(each.sql for each in (kind, *allowed))
            parts.append(
                f"(SELECT id, seq, vector, {text}, {len(parts)} AS kind FROM {self._table} r WHERE {where} "
                f"ORDER BY {by} LIMIT {limit})"
            )
            parameters += [value for each in (kind, *allowed) for value in each.parameters] + [vector]
        wanted = request.ef or max(self._generation.ef or EF, limit)
        ef = 0 if is_exact else min(max(wanted, 1), EF_MAX)
        return RowQuery(" UNION ALL ".join(parts), tuple(parameters), limit, ef)

    def _allowed(self, request: SearchRequest, distance: str) -> list[Condition]:
        """What else a row has to fulfil."""
        found = []
        if len(request.exclude_ids):
            found.append(Condition("r.id <> ALL(%s)", (id_array(request.exclude_ids, self._spec.id_kind),)))
        if request.filter is not None:
            found.append(filter_condition(self._compiled(request.filter).node))
        if request.shown is not None:
            found.append(shown_condition(request.shown))
        if self._left_out != NOTHING:
            found.append(Condition(f"NOT {self._left_out.sql}", self._left_out.parameters))
        if request.after is not None:
            key = request.after.distance
            least = key - 2 * self._error(request, key)
            found.append(Condition(f"{distance} >= %s", (vector_value(request.vector), least)))
        return found

    def _run(self, query: RowQuery) -> list[Any]:
        set_ef(self._connection, query.ef)
        return self._connection.execute(
            query.sql.encode(), query.parameters, binary=True, prepare=is_prepared(query)
        ).fetchall()

    def _fetched(self, request: SearchRequest, rows: Sequence[Any], limit: int) -> QueryRows:
        ids, seqs, vectors, texts, kinds = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        found = vectors_of(vectors, self._spec.dim)
        pool = PoolRows(
            id_column(ids, self._spec.id_kind), np.array(seqs, np.int64), found, list(texts), grams={}
        )
        distances = rescore(request.vector, found, self._spec.metric)
        newest = kinds.count(0)
        ends = [
            stop - 1
            for stop, count in ((newest, newest), (len(kinds), len(kinds) - newest))
            if count == limit
        ]
        bound = min((float(distances[end]) for end in ends), default=math.inf)
        return QueryRows(pool, distances, newest, bound)

    def fetch_by_words(
        self, request: SearchRequest, live: LiveSeqs, terms: QueryTerms, scores: ScoreRange, count: int
    ) -> PoolRows:
        """See `RowFetcher`."""
        allowed = self._allowed(replace(request, after=None), "")
        if live.still > live.seq:
            allowed.append(self._still_live(live))
        found = self._words.find_best(terms, live, allowed, scores, count)
        text = "r.metadata" if self._with_texts else "NULL::text"
        ids, seqs = ([], []) if not found.keys else zip(*found.keys, strict=True)
        rows = self._connection.execute(
            f"SELECT r.vector, {text} FROM unnest(%s, %s) WITH ORDINALITY AS wanted(id, seq, place) "
            f"JOIN {self._table} r ON r.id = wanted.id AND r.seq = wanted.seq ORDER BY place".encode(),
            (id_array(ids, self._spec.id_kind), int_array(seqs)),
            binary=True,
        ).fetchall()
        if len(rows) < len(ids):
            raise StoreUnavailable("versions were removed while they were searched", TRY_AGAIN)
        vectors, texts = ((), ()) if not rows else zip(*rows, strict=True)
        return PoolRows(
            id_column(ids, self._spec.id_kind),
            np.array(seqs, np.int64),
            vectors_of(vectors, self._spec.dim),
            list(texts),
            found.grams,
        )

    def word_statistics(self, query: QueryGrams, seq: int) -> Mapping[str, StreamStatistics]:
        """See `RowFetcher`. Raises WordsNotSealed."""
        return read_statistics(self._connection, self._generation.number, self._spec, query, seq)

    def _with_grams(self, rows: PoolRows) -> PoolRows:
        return rows._replace(grams=self._words.grams_of_rows(rows.ids.tolist(), rows.seqs))

    def leave_out(self, key: str, values: Collection[float | str]) -> None:
        """See `RowFetcher`."""
        self._left_out = value_condition(key, values)

    def live_ids(self, ids: Sequence[Id]) -> set[Id]:
        """See `RowFetcher`."""
        head = self._generation.head
        found = self._connection.execute(
            f"SELECT id FROM {self._table} WHERE id = ANY(%s) AND seq <= {head} "
            f"AND (until IS NULL OR until > {head}) AND active AND vector IS NOT NULL".encode(),
            (id_array(ids, self._spec.id_kind),),
            binary=True,
        )
        return {item_id for (item_id,) in found}

    def live_count(self) -> int:
        """See `RowFetcher`."""
        return self._generation.live

    def has_key(self, key: str) -> bool:
        """See `RowFetcher`. True where there are too many rows to look at all of them for one search."""
        return self._keys.is_held(self._connection, self._generation, key)

    def usual_similarities(self) -> RowSample:
        """See `RowFetcher`."""
        return self._samples.look_up(self._connection, self._spec, self._generation)


def set_ef(connection: BoundedConnection, ef: int) -> None:
    """Search graphs with that breadth from here on; 0: what comes searches none."""
    if ef and connection.ef != ef:
        connection.execute(f"SET hnsw.ef_search = {ef}".encode())
        connection.ef = ef


def is_prepared(query: RowQuery) -> bool | None:
    """Whether a statement is planned once for all. One with arrays is not: PostgreSQL looks up ids of a list
    that it knows when it plans in a table of hashes, others one by one."""
    return None if len(query.parameters) <= 2 else False
