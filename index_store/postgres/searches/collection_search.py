"""One search of a collection: from a checked request to its answer, by one statement where it asks for no
more than the nearest rows.

The statement reads which generation is current, its head, and the rows as of it, all at one moment. Whoever
has heard of another generation meanwhile asks again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from psycopg import errors

from index_store.ann.rerank import select
from index_store.answers.hits import no_hits, result_of, with_span
from index_store.answers.requests import check_served
from index_store.delta.delta import Delta
from index_store.errors import InvalidRequest, PageExpired, SeqNotReached, Unavailable, VersionMismatch
from index_store.hints import TRY_AGAIN
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import (
    READ_COLLECTION,
    CollectionRecord,
    GenerationRecord,
    collection_record,
)
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.row_fetcher import (
    GenerationRows,
    RowQuery,
    is_prepared,
    set_ef,
)
from index_store.postgres.searches.row_samples import RowSamples
from index_store.postgres.searches.selectivity import FilterShares
from index_store.query.execute import page_end
from index_store.query.pool import LiveSeqs, RowPool
from index_store.query.view import view_of_pool
from index_store.types import CollectionSpec, Hit, PageKey, SearchRequest, SearchResult

_TRIES = 5
_SEQ_POLL_S = 0.005
_HEAD = (
    "SELECT c.current, g.head, g.history_from, g.live, g.ef, g.length_max, r.* FROM collection c "
    "LEFT JOIN generation g ON g.number = {number} LEFT JOIN LATERAL ({rows}) r ON true WHERE c.name = %s"
)
_NO_ROWS = RowQuery("SELECT NULL::int WHERE false", (), 0, 0)
_HEAD_FIELDS = 6


def read_collection(connection: BoundedConnection, spec: CollectionSpec) -> CollectionRecord:
    """Return what the database says of a collection. Raises UnknownCollection; psycopg.Error."""
    found = connection.execute(READ_COLLECTION.encode(), (spec.name,), binary=True)
    return collection_record(spec, found.fetchall())


class CollectionSearch:
    """Searches of one collection. record: what was last heard of it; `note` hears. Safe from any thread."""

    def __init__(
        self,
        spec: CollectionSpec,
        note: Callable[[CollectionRecord | GenerationRecord], None],
        keys: RowKeys,
        shares: FilterShares,
        *,
        graph_from: int,
        wait_s: float,
    ) -> None:
        """graph_from: as of `GenerationRows`. wait_s: for a min_seq."""
        self._spec = spec
        self._note = note
        self._keys = keys
        self._shares = shares
        self._graph_from = graph_from
        self._wait_s = wait_s
        self._samples = RowSamples()

    def answer_from(
        self, connection: BoundedConnection, record: CollectionRecord, request: SearchRequest
    ) -> SearchResult:
        """Answer a checked request from the current generation. record: what was last heard of the
        collection. Raises as `VectorIndex.search`; psycopg.Error."""
        is_fresh = False
        for _ in range(_TRIES):
            current = record.current
            if current is None and is_fresh:
                return no_hits(self._spec, request)
            if current is not None and (is_fresh or _is_served(record, current, request)):
                if is_fresh:
                    check_served(request, record.spec_of(current), current.name, current.embedding_version)
                found = self.answer_of(connection, record, current, request, is_current=True)
                if found is not None:
                    return found
            record, is_fresh = read_collection(connection, self._spec), True
            self._note(record)
        raise Unavailable(
            f"the generations of {self._spec.name!r} change faster than they can be searched", TRY_AGAIN
        )

    def answer_of(
        self,
        connection: BoundedConnection,
        record: CollectionRecord,
        generation: GenerationRecord,
        request: SearchRequest,
        *,
        is_current: bool,
    ) -> SearchResult | None:
        """Answer a request that fits the generation. Return None where it is gone, or, if it has to be the
        current one, another one is that by now. Raises as `answer_from`."""
        spec = record.spec_of(generation)
        request = with_span(request, spec.lifetime)
        fetcher = GenerationRows(
            connection, spec, generation, self._keys, self._shares,
            with_texts=request.with_metadata or request.ranking is not None,
            graph_from=self._graph_from,
            samples=self._samples,
        )  # fmt: skip
        wanted = request.offset + request.k + 1
        is_plain = _is_plain(request)
        query = fetcher.first_query(request, wanted) if is_plain else _NO_ROWS
        rows = self._rows_at_seq(connection, generation, query, request.min_seq or 0)
        if rows is None or (is_current and rows[0][0] != generation.number):
            return None
        now = _as_of(generation, rows[0])
        if now is not generation:
            self._note(now)
        fetcher.take_head(now)
        if is_plain:
            held = [row[_HEAD_FIELDS:] for row in rows if row[_HEAD_FIELDS] is not None]
            fetcher.take_first(request, query, held)
            if _is_bare(request):
                return _bare_result(fetcher, request, now, wanted)
        seq = _seq_of(request.after, now)
        pool = RowPool(Delta(spec), fetcher, reads_metadata=request.ranking is not None)
        view = view_of_pool(pool, now.head)
        return result_of(view, request, generation.name, generation.embedding_version, seq)

    def _rows_at_seq(
        self, connection: BoundedConnection, generation: GenerationRecord, query: RowQuery, min_seq: int
    ) -> list[Any] | None:
        """The head and the rows as of it, once it has come to `min_seq`; None where the generation is gone.
        Raises SeqNotReached."""
        give_up_at = time.monotonic() + self._wait_s
        while True:
            try:
                rows = self._head_and_rows(connection, generation, query)
            except errors.UndefinedTable:
                return None
            head = rows[0][1] if rows else None
            if head is None or head >= min_seq:
                return None if head is None else rows
            if time.monotonic() >= give_up_at:
                raise SeqNotReached(f"seq {min_seq} was not reached, the newest is {head}")
            threading.Event().wait(_SEQ_POLL_S)  # another server's commit may be on its way here

    def _head_and_rows(
        self, connection: BoundedConnection, generation: GenerationRecord, query: RowQuery
    ) -> list[Any]:
        set_ef(connection, query.ef)
        statement = _HEAD.replace("{number}", str(generation.number)).replace("{rows}", query.sql)
        parameters = (*query.parameters, self._spec.name)
        return connection.execute(
            statement.encode(), parameters, binary=True, prepare=is_prepared(query)
        ).fetchall()


def _is_plain(request: SearchRequest) -> bool:
    """Whether the rows nearest to its vector are what the request asks for first."""
    others = (request.recommendation, request.text, request.ranking, request.after)
    return all(each is None for each in others)


def _is_served(record: CollectionRecord, generation: GenerationRecord, request: SearchRequest) -> bool:
    """Whether the request fits the generation. What does not may fit one that is not known here yet."""
    try:
        check_served(request, record.spec_of(generation), generation.name, generation.embedding_version)
    except (VersionMismatch, InvalidRequest):
        return False
    return True


def _is_bare(request: SearchRequest) -> bool:
    """Whether a plain search asks for nothing but ids and distances."""
    others = (request.filter, request.confidence, request.metadata_bytes_max)
    return not request.with_metadata and not request.with_vectors and all(each is None for each in others)


def _bare_result(
    fetcher: GenerationRows, request: SearchRequest, generation: GenerationRecord, wanted: int
) -> SearchResult:
    """What `result_of` answers (.1 ms less)."""
    found = fetcher.nearest(request, LiveSeqs(generation.head, generation.head), wanted)
    order = select(found.distances, found.rows.ids, wanted)
    distances = found.distances[order]
    stop, exhausted = page_end(request, distances)
    page = slice(request.offset, stop)
    hits = list(map(Hit, found.rows.ids[order[page]].tolist(), distances[page].tolist()))
    following = None
    if hits and not exhausted:
        begun_by = None if request.shown is None else request.shown.begun_by
        following = PageKey(generation.name, generation.head, hits[-1].distance, hits[-1].id, now=begun_by)
    return SearchResult(
        hits, generation.name, generation.embedding_version, generation.head, exhausted, following
    )


def _as_of(generation: GenerationRecord, row: Any) -> GenerationRecord:
    _, head, history_from, live, ef, length_max = row[:_HEAD_FIELDS]
    if (head, history_from, ef) == (generation.head, generation.history_from, generation.ef):
        return generation
    return replace(generation, head=head, history_from=history_from, live=live, ef=ef, length_max=length_max)


def _seq_of(after: PageKey | None, generation: GenerationRecord) -> int:
    """The seq that the answer is of. Raises PageExpired."""
    if after is None:
        return generation.head
    if not generation.history_from <= after.seq <= generation.head:
        raise PageExpired("this page is older than the history that is kept; search again", "cursor")
    return after.seq
