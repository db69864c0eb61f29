"""Reads beside searches: of any generation of a collection, for what compares two of them, and why an item is
in an answer or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import faiss

from index_store.answers.validation import check_ids, checked_request
from index_store.contents.sample import draw_contents, draw_ids
from index_store.engine.collection import Collection
from index_store.engine.generation import Generation
from index_store.engine.open_generations import OpenGenerations
from index_store.errors import GenerationConflict, VersionMismatch, without_errors
from index_store.explanation import Explanation
from index_store.types import CollectionSpec, Content, Id, SearchRequest, SearchResult, StoredItem


class GenerationReader:
    """Fits `index_store.port.ReplaySource` and `ExplainSource`. Safe from any thread."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        """collections: raises UnknownCollection for a name that it does not have."""
        self._collections = collections

    def search_version(
        self, collection: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        """See `ReplaySource`."""
        faiss.omp_set_num_threads(1)  # of this thread alone, as in every search
        found = self._collections[collection]
        with found.members() as members:
            generation = generation_of(found.spec, members, embedding_version)
            return without_errors(generation.answers(requests, 0.0))

    def get_version(
        self, collection: str, embedding_version: str, ids: Sequence[Id]
    ) -> list[StoredItem | None]:
        """See `ReplaySource`."""
        found = self._collections[collection]
        check_ids(ids, found.spec)
        with found.members() as members:
            generation = generation_of(found.spec, members, embedding_version)
            rows = generation.store.read(list(dict.fromkeys(ids)))
        return [rows[item_id].as_item() if item_id in rows else None for item_id in ids]

    def explain(self, collection: str, request: SearchRequest, item_id: Id) -> Explanation:
        """See `ExplainSource`."""
        faiss.omp_set_num_threads(1)  # of this thread alone, as in every search
        found = self._collections[collection]
        check_ids([item_id], found.spec)
        checked = checked_request(request, found.spec)
        with found.members() as members:
            if members.current is None:
                return Explanation("unknown")
            return members.current.explain_item(checked, item_id)

    def draw_ids(self, collection: str, seed: str, limit: int) -> list[Id]:
        """See `ReplaySource`."""
        with self._collections[collection].members() as members:
            if members.current is None:
                return []
            with members.current.store.reading() as connection:
                return draw_ids(connection, seed, limit)

    def draw_contents(
        self, collection: str, seed: str, limit: int, bytes_max: int
    ) -> list[tuple[Id, Content]]:
        """See `ReplaySource`."""
        with self._collections[collection].members() as members:
            if members.current is None:
                return []
            with members.current.store.reading() as connection:
                return draw_contents(connection, seed, limit, bytes_max)


def generation_of(spec: CollectionSpec, members: OpenGenerations, version: str | None) -> Generation:
    """Return the generation of that version; None: the current one. Raises VersionMismatch,
    GenerationConflict, StoreUnavailable."""
    if version is None:
        return current_generation(members)
    generation = members.opened_version(version)
    if generation is not None:
        return generation
    current = members.current
    raise VersionMismatch(spec.name, current.embedding_version if current else "", version)


def current_generation(members: OpenGenerations) -> Generation:
    """Raises GenerationConflict."""
    if members.current is None:
        raise GenerationConflict("the collection has no generation yet: begin one")
    return members.current
