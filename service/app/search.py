"""Finding: a question in content or vectors becomes one index search under one embedding_version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from index_store.errors import SeqNotReached, VersionMismatch
from index_store.port import SeqSource, VectorIndex
from index_store.types import Filter, Id, Ids, PageKey, SearchRequest, SearchResult, StoredItem, Vector
from service.app.encoders import Encoders
from service.app.search_queue import Asker, SearchLane
from service.errors import InvalidInput, ModelUnavailable, Overloaded, Starting, UnknownItem

T = TypeVar("T")

_SEQ_POLL_S = 0.002
_SEQ_POLL_S_MAX = 0.05
_PIN_ATTEMPTS = 3


class IndexReader(VectorIndex, SeqSource, Protocol):
    """What a searcher needs of an index."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What to search by (exactly one of text, picture, vector, like_ids) and under which conditions.

    A Struct, since there is one for every search: a frozen dataclass of so many fields takes four times as
    long to make.

    text: normalised. vector: (dim,) float32, finite, not zero. The rest as in SearchRequest.
    """

    collection: str
    k: int
    text: str | None = None
    picture: bytes | None = None
    vector: Vector | None = None
    like_ids: Sequence[Id] = ()
    unlike_ids: Sequence[Id] = ()
    exclude_ids: Ids | npt.NDArray[np.int64] = ()
    filter: Filter | None = None
    offset: int = 0
    after: PageKey | None = None
    max_distance: float | None = None
    exact: bool = False
    min_seq: int | None = None
    embedding_version: str | None = None
    with_metadata: bool = False
    with_vectors: bool = False
    metadata_bytes_max: int | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """truncated: None unless a text was embedded. vector: what was searched by."""

    result: SearchResult
    vector: Vector
    truncated: bool | None


class Searcher:
    """Answers questions. Event loop only; embedding and searching run on threads of their own."""

    def __init__(
        self,
        encoders: Encoders,
        lane: SearchLane,
        index: IndexReader,
        readers: Executor,
        *,
        deadline_ms: int,
        min_seq_wait_ms: int,
    ) -> None:
        self._encoders = encoders
        self._lane = lane
        self._index = index
        self._readers = readers
        self._deadline_s = deadline_ms / 1000
        self._min_seq_wait_s = min_seq_wait_ms / 1000

    def deadline(self) -> float:
        """Return when a search that begins now has to be answered, on `time.monotonic`."""
        return time.monotonic() + self._deadline_s

    def batch_cost(self) -> float:
        """Return how much work, as `cost_of` counts, one caller should have in line at a time."""
        return self._lane.cost_at_once()

    async def find(self, question: Question, caller: str = "", deadline: float | None = None) -> Answer:
        """caller: whose share of the models an embedding takes. deadline: where several searches share one.

        Raises Refused, TryLater, IndexStoreError. A model's vector never meets another version's: when
        the model is not of the serving version the answer is ModelUnavailable."""
        if deadline is None:
            deadline = self.deadline()
        if question.vector is not None:
            result = await self._search(question, question.vector, question.embedding_version, deadline)
            return Answer(result, question.vector, None)
        if question.like_ids:
            return await self._find_alike(question, deadline)
        version = self._version_of_model(question)
        vector, truncated = await self._embedded(question, caller)
        try:
            result = await self._search(question, vector, version, deadline)
        except VersionMismatch as exc:
            raise self.told(question, exc) from exc
        return Answer(result, vector, truncated)

    def find_for(self, question: Question, asker: Asker, caller: str) -> tuple[Vector, bool | None] | None:
        """Put the search in line if nothing has to be awaited before it; return what it searches by and
        whether its text was truncated, or None. `asker` gets the result, or an error for `told`.

        Raises as `find`.
        """
        if question.min_seq is not None:
            return None
        if question.vector is not None:
            vector, truncated, version = question.vector, None, question.embedding_version
        elif question.text is not None:
            encoder = self._encoders.text(question.collection)
            known = encoder.known_query(question.text)
            if known is None:
                refusal = encoder.refusal(question.text, caller)
                if refusal is not None:
                    raise refusal
                return None
            vector, truncated = known
            version = self._version_of_model(question)
        else:
            return None
        request = _request(question, vector, version)
        self._lane.put(question.collection, request, self.deadline(), asker)
        return vector, truncated

    def picture_refusal(self, collection: str, bytes_count: int, caller: str) -> Overloaded | None:
        """Return why a picture of so many bytes would not be embedded now, or None. Costs next to nothing."""
        image = self._encoders.slot(collection).image
        return None if image is None else image.refusal(bytes_count, caller)

    @staticmethod
    def told(question: Question, error: Exception) -> Exception:
        """Return what the index's `error` means to who asked: the caller named no version but the model's."""
        if isinstance(error, VersionMismatch) and question.vector is None and not question.like_ids:
            return ModelUnavailable(f"embedding_version_mismatch: {error}")
        return error

    def _version_of_model(self, question: Question) -> str:
        version = self._encoders.info(question.collection).embedding_version
        if question.embedding_version not in (None, version):
            raise VersionMismatch(question.collection, version, str(question.embedding_version))
        return version

    async def _embedded(self, question: Question, caller: str) -> tuple[Vector, bool | None]:
        if question.text is not None:
            return await self._encoders.text(question.collection).embed_query(question.text, caller)
        assert question.picture is not None
        image = self._encoders.image(question.collection)
        return await image.embed_query(question.picture, caller), None

    async def _find_alike(self, question: Question, deadline: float) -> Answer:
        """Stored vectors are read first and searched by then; a promotion in between would mix two spaces,
        so the version is read before and pinned."""
        inputs = [*question.like_ids, *question.unlike_ids]
        for _ in range(_PIN_ATTEMPTS):
            version = await self._on_reader(partial(self._current_version, question.collection))
            if question.embedding_version not in (None, version):
                raise VersionMismatch(question.collection, version, str(question.embedding_version))
            stored = await self._on_reader(partial(self._index.get, question.collection, inputs))
            vector = _direction(question, inputs, stored)
            excluding = msgspec.structs.replace(
                question, exclude_ids=[*_plain(question.exclude_ids), *inputs]
            )
            try:
                result = await self._search(excluding, vector, version, deadline)
            except VersionMismatch:
                continue
            return Answer(result, vector, None)
        raise Starting("The collection is changing its generation.")

    def _current_version(self, collection: str) -> str:
        current = self._index.status(collection).current
        if current is None:
            raise UnknownItem(f"The collection {collection!r} is empty.")
        return current.embedding_version

    async def _on_reader(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    def _search(
        self, question: Question, vector: Vector, version: str | None, deadline: float
    ) -> Awaitable[SearchResult]:
        request = _request(question, vector, version)
        if question.min_seq is None:
            return self._lane.ask(question.collection, request, deadline)
        return self._search_from(question.min_seq, question.collection, request, deadline)

    async def _search_from(
        self, min_seq: int, collection: str, request: SearchRequest, deadline: float
    ) -> SearchResult:
        """Wait for the seq alone, and search once it is there. Here, since in the index a wait would hold up
        everyone's searches."""
        give_up = min(time.monotonic() + self._min_seq_wait_s, deadline)
        pause = _SEQ_POLL_S
        while True:
            newest = self._index.newest_seq(collection)
            if newest is None or newest >= min_seq:
                result = await self._lane.ask(collection, request, deadline)
                if result.seq >= min_seq:
                    return result
                newest = result.seq
            if time.monotonic() >= give_up:
                raise SeqNotReached(f"The collection is at seq {newest}, not yet at {min_seq}.")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _SEQ_POLL_S_MAX)


def _request(question: Question, vector: Vector, version: str | None) -> SearchRequest:
    return SearchRequest(
        vector=vector,
        k=question.k,
        exclude_ids=question.exclude_ids,
        filter=question.filter,
        offset=question.offset,
        after=question.after,
        max_distance=question.max_distance,
        exact=question.exact,
        embedding_version=version,
        with_metadata=question.with_metadata,
        with_vectors=question.with_vectors,
        metadata_bytes_max=question.metadata_bytes_max,
    )


def _direction(question: Question, inputs: Sequence[Id], stored: Sequence[StoredItem | None]) -> Vector:
    """2 x mean(like) - mean(unlike) over unit vectors, as a unit vector; mean(like) without unlike."""
    units = [_unit(id, item) for id, item in zip(inputs, stored, strict=True)]
    likes = len(question.like_ids)
    direction = np.mean(units[:likes], axis=0)
    if question.unlike_ids:
        direction = 2 * direction - np.mean(units[likes:], axis=0)
    length = float(np.linalg.norm(direction))
    if length < 1e-6:
        raise InvalidInput("like_ids", "and unlike_ids cancel each other out")
    return np.asarray(direction / length, dtype=np.float32)


def _unit(id: Id, item: StoredItem | None) -> npt.NDArray[np.float64]:
    if item is None or item.vector is None:
        raise UnknownItem(f"The item {id!r} is not stored or has no vector.")
    vector = item.vector.astype(np.float64)
    return vector / float(np.linalg.norm(vector))


def _plain(ids: Ids | npt.NDArray[np.int64]) -> Sequence[Id]:
    return ids.tolist() if isinstance(ids, np.ndarray) else ids
