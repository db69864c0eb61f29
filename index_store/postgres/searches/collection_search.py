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
from index_store.query.pool import RowPool
from index_store.query.view import view_of_pool
from index_store.types import CollectionSpec, PageKey, SearchRequest, SearchResult

_TRIES = 5
_SEQ_POLL_S = 0.005
_HEAD = (
    "SELECT c.current, g.head, g.history_from, g.live, g.ef, g.length_max, r.* FROM collection c "
    "LEFT JOIN generation g ON g.number = c.current LEFT JOIN LATERAL ({rows}) r ON true WHERE c.name = %s"
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
        note: Callable[[CollectionRecord], None],
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
            if current is not None:
                try:
                    check_served(request, record.spec_of(current), current.name, current.embedding_version)
                    found = self._answer(connection, record, current, request, is_current=True)
                except errors.UndefinedTable:
                    found = None  # its generation was dropped
                except (VersionMismatch, InvalidRequest):
                    if is_fresh:
                        raise
                    found = None  # perhaps of a generation that is not known here yet
                if found is not None:
                    return found
            elif is_fresh:
                return no_hits(self._spec, request)
            record, is_fresh = read_collection(connection, self._spec), True
            self._note(record)
        raise Unavailable(
            f"the generations of {self._spec.name!r} change faster than they can be searched", TRY_AGAIN
        )

    def _answer(
        self,
        connection: BoundedConnection,
        record: CollectionRecord,
        generation: GenerationRecord,
        request: SearchRequest,
        *,
        is_current: bool,
    ) -> SearchResult | None:
        """Return None where another generation is current by now."""
        spec = record.spec_of(generation)
        request = with_span(request, spec.lifetime)
        fetcher = GenerationRows(
            connection, spec, generation, self._keys, self._shares,
            with_texts=request.with_metadata or request.ranking is not None,
            graph_from=self._graph_from,
            samples=self._samples,
        )  # fmt: skip
        is_plain = _is_plain(request)
        query = fetcher.first_query(request, request.offset + request.k + 1) if is_plain else _NO_ROWS
        give_up_at = time.monotonic() + self._wait_s
        while True:
            rows = self._head_and_rows(connection, query)
            if is_current and rows[0][0] != generation.number:
                return None
            now = _as_of(generation, rows[0])
            if now.head >= (request.min_seq or 0):
                break
            if time.monotonic() >= give_up_at:
                raise SeqNotReached(f"seq {request.min_seq} was not reached, the newest is {now.head}")
            threading.Event().wait(_SEQ_POLL_S)  # another server's commit may be on its way here
        self._note(_with_member(record, now))
        seq = _seq_of(request.after, now)
        fetcher.take_head(now)
        if is_plain:
            held = [row[_HEAD_FIELDS:] for row in rows if row[_HEAD_FIELDS] is not None]
            fetcher.take_first(request, query, held)
        pool = RowPool(Delta(spec), fetcher, reads_metadata=request.ranking is not None)
        view = view_of_pool(pool, now.head)
        return result_of(view, request, generation.name, generation.embedding_version, seq)

    def _head_and_rows(self, connection: BoundedConnection, query: RowQuery) -> list[Any]:
        set_ef(connection, query.ef)
        statement = _HEAD.replace("{rows}", query.sql)
        parameters = (*query.parameters, self._spec.name)
        return connection.execute(
            statement.encode(), parameters, binary=True, prepare=is_prepared(query)
        ).fetchall()


def _is_plain(request: SearchRequest) -> bool:
    """Whether the rows nearest to its vector are what the request asks for first."""
    others = (request.recommendation, request.text, request.ranking, request.after)
    return all(each is None for each in others)


def _as_of(generation: GenerationRecord, row: Any) -> GenerationRecord:
    _, head, history_from, live, ef, length_max = row[:_HEAD_FIELDS]
    return replace(generation, head=head, history_from=history_from, live=live, ef=ef, length_max=length_max)


def _with_member(record: CollectionRecord, generation: GenerationRecord) -> CollectionRecord:
    return replace(record, members={**record.members, generation.name: generation})


def _seq_of(after: PageKey | None, generation: GenerationRecord) -> int:
    """The seq that the answer is of. Raises PageExpired."""
    if after is None:
        return generation.head
    if not generation.history_from <= after.seq <= generation.head:
        raise PageExpired("this page is older than the history that is kept; search again", "cursor")
    return after.seq
