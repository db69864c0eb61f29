"""Reads of PostgreSQL beside searches: of any generation of a collection, why an item is in an answer or not,
and which words occur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from index_store.answers.hits import result_of, with_span
from index_store.answers.requests import check_served
from index_store.answers.validation import check_ids, checked_request
from index_store.delta.delta import Delta
from index_store.explanation import Explanation
from index_store.postgres.connections import BoundedConnection, Connections
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.row_fetcher import GenerationRows
from index_store.postgres.searches.selectivity import FilterShares
from index_store.postgres.sources.generation_reading import (
    draw_contents,
    draw_ids,
    read_row,
    read_stored,
)
from index_store.query.explain import explain
from index_store.query.fusion import word_shares
from index_store.query.pool import RowPool
from index_store.query.view import View, view_of_pool
from index_store.types import CollectionSpec, Content, Id, SearchRequest, SearchResult, StoredItem


class GenerationSource:
    """Fits `index_store.port.ReplaySource`, `ExplainSource` and `WordSource`. Safe from any thread."""

    def __init__(
        self,
        connections: Connections,
        spec_of: Callable[[str], CollectionSpec],
        keys: RowKeys,
        shares: FilterShares,
        *,
        graph_from: int,
    ) -> None:
        """spec_of: raises UnknownCollection. graph_from: of how many live items on a graph is searched."""
        self._connections = connections
        self._spec_of = spec_of
        self._graph_from = graph_from
        self._keys = keys
        self._shares = shares

    def search_version(
        self, collection: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        """See `ReplaySource`."""
        spec = self._spec_of(collection)
        checked = [checked_request(request, spec) for request in requests]
        with self._connections.using(self._connections.limits.pass_s) as connection:
            generation = read_collection(connection, spec).require(embedding_version)
            return [self._answer(connection, spec, generation, request) for request in checked]

    def _answer(
        self,
        connection: BoundedConnection,
        spec: CollectionSpec,
        generation: GenerationRecord,
        request: SearchRequest,
    ) -> SearchResult:
        check_served(
            request, replace(spec, dim=generation.dim), generation.name, generation.embedding_version
        )
        view = self._view(connection, spec, generation)
        version, seq = generation.embedding_version, generation.head
        return result_of(view, with_span(request, spec.lifetime), generation.name, version, seq)

    def get_version(
        self, collection: str, embedding_version: str, ids: Sequence[Id]
    ) -> list[StoredItem | None]:
        """See `ReplaySource`."""
        spec = self._spec_of(collection)
        check_ids(ids, spec)
        with self._connections.using(self._connections.limits.read_s) as connection:
            generation = read_collection(connection, spec).require(embedding_version)
            found = read_stored(connection, spec.id_kind, generation, list(dict.fromkeys(ids)))
        return [found.get(item_id) for item_id in ids]

    def draw_ids(self, collection: str, seed: str, limit: int) -> list[Id]:
        """See `ReplaySource`."""
        with self._connections.using(self._connections.limits.pass_s) as connection:
            current = read_collection(connection, self._spec_of(collection)).current
            return [] if current is None else draw_ids(connection, current, seed, limit)

    def draw_contents(
        self, collection: str, seed: str, limit: int, bytes_max: int
    ) -> list[tuple[Id, Content]]:
        """See `ReplaySource`."""
        with self._connections.using(self._connections.limits.pass_s) as connection:
            current = read_collection(connection, self._spec_of(collection)).current
            return [] if current is None else draw_contents(connection, current, seed, limit, bytes_max)

    def explain(self, collection: str, request: SearchRequest, item_id: Id) -> Explanation:
        """See `ExplainSource`."""
        spec = self._spec_of(collection)
        check_ids([item_id], spec)
        checked = checked_request(request, spec)
        with self._connections.using(self._connections.limits.pass_s) as connection:
            current = read_collection(connection, spec).current
            if current is None:
                return Explanation("unknown")
            check_served(checked, replace(spec, dim=current.dim), current.name, current.embedding_version)
            row = read_row(connection, current, item_id)
            view = self._view(connection, spec, current)
            found = explain(view, with_span(checked, spec.lifetime), item_id, row, spec)
        return replace(found, generation=current.name, embedding_version=current.embedding_version)

    def word_shares(self, collection: str, texts: Sequence[str]) -> list[float]:
        """See `WordSource`."""
        spec = self._spec_of(collection)
        with self._connections.using(self._connections.limits.read_s) as connection:
            current = read_collection(connection, spec).current
            if current is None:
                return [0.0] * len(texts)
            return word_shares(self._view(connection, spec, current), texts)

    def _view(
        self, connection: BoundedConnection, spec: CollectionSpec, generation: GenerationRecord
    ) -> View:
        spec = replace(spec, dim=generation.dim)
        fetcher = GenerationRows(
            connection,
            spec,
            generation,
            self._keys,
            self._shares,
            with_texts=True,
            graph_from=self._graph_from,
        )
        return view_of_pool(RowPool(Delta(spec), fetcher, reads_metadata=True), generation.head)
