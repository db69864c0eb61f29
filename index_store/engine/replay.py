"""Reads of any generation of a collection, not only of the current one: what compares two of them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss

from index_store.contents.sample import draw_contents, draw_ids
from index_store.engine.collection import Collection, OpenGenerations
from index_store.engine.generation import Generation
from index_store.engine.validation import check_ids, checked_request
from index_store.errors import VersionMismatch
from index_store.types import Content, Id, SearchRequest, SearchResult, StoredItem


class GenerationReader:
    """Fits `index_store.port.ReplaySource`. Safe from any thread."""

    def __init__(self, collection_of: Callable[[str], Collection]) -> None:
        """collection_of: raises UnknownCollection."""
        self._collection_of = collection_of

    def search_version(
        self, collection: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        """See `ReplaySource`."""
        faiss.omp_set_num_threads(1)  # of this thread alone, as in every search
        found = self._collection_of(collection)
        checked = [checked_request(request, found.spec) for request in requests]
        with found.members() as members:
            generation = _of_version(collection, members, embedding_version)
            view = generation.refresh()
            return [generation.nearest(view, request) for request in checked]

    def get_version(
        self, collection: str, embedding_version: str, ids: Sequence[Id]
    ) -> list[StoredItem | None]:
        """See `ReplaySource`."""
        found = self._collection_of(collection)
        check_ids(ids, found.spec)
        with found.members() as members:
            rows = _of_version(collection, members, embedding_version).store.read(list(dict.fromkeys(ids)))
        return [rows[item_id].as_item() if item_id in rows else None for item_id in ids]

    def draw_ids(self, collection: str, seed: str, limit: int) -> list[Id]:
        """See `ReplaySource`."""
        with self._collection_of(collection).members() as members:
            if members.current is None:
                return []
            with members.current.store.reading() as connection:
                return draw_ids(connection, seed, limit)

    def draw_contents(self, collection: str, seed: str, limit: int) -> list[tuple[Id, Content]]:
        """See `ReplaySource`."""
        with self._collection_of(collection).members() as members:
            if members.current is None:
                return []
            with members.current.store.reading() as connection:
                return draw_contents(connection, seed, limit)


def _of_version(collection: str, members: OpenGenerations, embedding_version: str) -> Generation:
    for generation in members.in_order():
        if generation.embedding_version == embedding_version:
            return generation
    raise VersionMismatch(
        collection, members.current.embedding_version if members.current else "", embedding_version
    )
