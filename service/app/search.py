"""Finding: content or a vector becomes one search of the index under one embedding_version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from index_store.errors import PageExpired, SeqNotReached, VersionMismatch
from index_store.port import SeqSource, VectorIndex
from index_store.types import Id, SearchRequest, SearchResult, TextQuery, Vector
from service.app.encoders import Encoders
from service.app.exclude_ids import joined_ids
from service.app.recommend.likes import (
    RecommendMode,
    digest_of,
    direction_of,
    recommendation_of,
    vectors_of_items,
)
from service.app.search_queue import ResultHandler, SearchQueue
from service.app.seen.seen_items import SeenItems
from service.app.seen.unseen import UnseenSearch
from service.collections import Collection, SearchMode
from service.embedding.port import Encoding, ModelInfo
from service.embedding.serving.language_shift import is_latin, shifted
from service.errors import ModelUnavailable, Overloaded, Starting, UnknownItem
from service.observing.search_timer import SearchTimer
from service.words.interpreter import Interpreter

T = TypeVar("T")

_SEQ_POLL_S = 0.002
_SEQ_POLL_S_MAX = 0.05
_PIN_ATTEMPTS = 3

NO_VECTOR: Vector = np.empty(0, np.float32)
"""Of a request whose content is not embedded yet."""


class IndexReader(VectorIndex, SeqSource, Protocol):
    """What a searcher needs of an index."""


class ParsedSearch(SearchTimer, gc=False):
    """One search on its way: a request for the index, and the content that its vector is made of, if it came
    without one. A Struct, since there is one for every search.

    content: a normalised text, or a picture file. Of content and like_ids at most one; without either,
    `request` holds the vector.
    include: fields of the answer beside id and distance. shown: how many items the pages before held.
    warnings: for who asked. truncated: whether the text was longer than its model reads; None for other
    content. is_embedded: a model's vector and version are in `request`, and `pinned` is the version that the
    caller named. mode: as it was asked for; `request.text` says by which words. asked: the text as it was
    typed, where it was read as another one; was_read: whether it was, for the page before; None: to be found
    out. may_degrade: whether words alone may answer while the model is away; is_degraded: they do.
    words_suffice: whether they answer where the collection's model reads no text. recommend, like_weights:
    what like_ids are to the answer; no weights for equal ones. likes_digest: of the vectors of like_ids and
    unlike_ids, for the page before. seen_key: whose former answers are left out; has_shown_match: a good
    match among them. It is its own timer: an object more would take longer than what it times.
    """

    collection: Collection
    request: SearchRequest
    content: str | bytes | None = None
    like_ids: Sequence[Id] = ()
    unlike_ids: Sequence[Id] = ()
    min_seq: int | None = None
    include: frozenset[str] = frozenset()
    shown: int = 0
    warnings: Sequence[str] = ()
    truncated: bool | None = None
    is_embedded: bool = False
    pinned: str | None = None
    mode: SearchMode = "dense"
    asked: str = ""
    was_read: bool | None = None
    may_degrade: bool = False
    is_degraded: bool = False
    words_suffice: bool = False
    recommend: RecommendMode = "mean"
    like_weights: Sequence[float] = ()
    likes_digest: str = ""
    seen_key: str = ""
    is_seen_reset: bool = False
    has_shown_match: bool = False


class Searcher:
    """Answers searches. Event loop only; embedding and searching run on threads of their own."""

    def __init__(
        self,
        encoders: Encoders,
        queue: SearchQueue,
        index: IndexReader,
        readers: Executor,
        interpreter: Interpreter,
        seen: SeenItems | None = None,
        *,
        deadline_ms: int,
        min_seq_wait_ms: int,
    ) -> None:
        self._encoders = encoders
        self._search_queue = queue
        self._index = index
        self._readers = readers
        self._interpreter = interpreter
        self._unseen = UnseenSearch(seen, readers)
        self._deadline_s = deadline_ms / 1000
        self._min_seq_wait_s = min_seq_wait_ms / 1000

    def deadline(self) -> float:
        """Return when a search that begins now has to be answered, on `time.monotonic`."""
        return time.monotonic() + self._deadline_s

    def batch_cost(self) -> float:
        """Return how much work, as `cost_of` counts, one caller should have in line at a time."""
        return self._search_queue.cost_at_once()

    async def find(
        self, search: ParsedSearch, caller: str = "", deadline: float | None = None
    ) -> SearchResult:
        """caller: whose share of the models an embedding takes. deadline: where several searches share one.

        Raises Refused, TryLater, IndexStoreError. A model's vector never meets another version's: when
        the model is not of the serving version the answer is ModelUnavailable."""
        if deadline is None:
            deadline = self.deadline()
        if search.seen_key:
            find = partial(self._find_somehow, search, caller, deadline)
            ask = partial(self._search_queue.ask, search.collection.name, deadline=deadline)
            result, search.has_shown_match = await self._unseen.find_unseen(
                search.collection, search.seen_key, search.request, find, ask, is_reset=search.is_seen_reset
            )
            return result
        return await self._find_somehow(search, caller, deadline)

    async def _find_somehow(self, search: ParsedSearch, caller: str, deadline: float) -> SearchResult:
        """By words alone where the model is away and that may be."""
        try:
            return await self._find(search, caller, deadline)
        except ModelUnavailable:
            if not search.may_degrade or search.request.after is not None:
                raise
            search_words_alone(search)
            return await self._result(search, search.request, deadline)

    async def _find(self, search: ParsedSearch, caller: str, deadline: float) -> SearchResult:
        if search.like_ids:
            return await self._find_alike(search, deadline)
        if search.words_suffice:
            self._ask_who_reads_text(search)
        if self._may_be_read(search):
            await self._read_meaning(search)
        try:
            if (content := _to_embed(search)) is not None and not self._is_known(search, content):
                await self._embed(search, content, caller)
            return await self._result(search, search.request, deadline)
        except VersionMismatch as exc:
            if self.may_be_repeated(search, exc) and await self._has_followed(search, exc, deadline):
                return await self._find(search, caller, deadline)
            raise self.translate_error(search, exc) from exc

    def submit_search(self, search: ParsedSearch, handler: ResultHandler, caller: str) -> bool:
        """Put the search in line if nothing has to be awaited before it, and return whether that was done.
        `handler` gets the result, or an error for `translate_error`.

        Raises as `find`, also where its model would refuse it.
        """
        if search.words_suffice:
            self._ask_who_reads_text(search)
        if search.min_seq is not None or search.like_ids or search.seen_key or self._may_be_read(search):
            return False
        if (content := _to_embed(search)) is not None and not self._is_known(search, content):
            encoder = self._encoders.encoder(search.collection.name, content)
            is_joined = encoder.is_under_way(content)
            refusal = None if is_joined else encoder.refusal(len(content), caller)
            if refusal is not None:
                raise refusal
            return False
        deadline = time.monotonic() + self._deadline_s
        self._search_queue.put(search.collection.name, search.request, deadline, handler, search)
        return True

    async def request_of(self, search: ParsedSearch, caller: str) -> SearchRequest:
        """Return what the index is asked for this search, with the vector of its content or of the items that
        it names. Raises as `find`."""
        if search.like_ids:
            return await self._request_alike(search)
        try:
            if (content := _to_embed(search)) is not None and not self._is_known(search, content):
                await self._embed(search, content, caller)
        except VersionMismatch as exc:
            raise self.translate_error(search, exc) from exc
        return search.request

    def picture_refusal(self, collection: str, bytes_count: int, caller: str) -> Overloaded | None:
        """Return why a picture of so many bytes would not be embedded now, or None. Costs next to nothing."""
        image = self._encoders.slot(collection).image
        return None if image is None else image.refusal(bytes_count, caller)

    @staticmethod
    def translate_error(search: ParsedSearch, error: Exception) -> Exception:
        """Return what the index's `error` means to who asked: the caller named no version but the model's."""
        if Searcher.may_be_repeated(search, error) and _pinned(search) is None:
            return ModelUnavailable(f"embedding_version_mismatch: {error}")
        return error

    @staticmethod
    def may_be_repeated(search: ParsedSearch, error: Exception) -> bool:
        """Whether `find` may answer though the index refused: the version was that of the model that served
        a moment ago."""
        return isinstance(error, VersionMismatch) and search.content is not None

    async def _has_followed(self, search: ParsedSearch, mismatch: VersionMismatch, deadline: float) -> bool:
        """Whether another model serves the collection now, and may answer: a generation was promoted or
        rolled back. One that is being loaded is waited for."""
        name, served, pinned = search.collection.name, mismatch.expected, _pinned(search)
        if pinned not in (None, served):
            served = await self._on_reader(partial(self._current_version, name))
        search.request.embedding_version, search.is_embedded = pinned, False
        if pinned not in (None, served):
            self._encoders.follow(name, served)
            return False
        return await self._encoders.follow_in_time(name, served, deadline)

    def _ask_who_reads_text(self, search: ParsedSearch) -> None:
        """Let the names of items answer a text that no model of the collection reads."""
        if not self._encoders.slot(search.collection.name).reads_text:
            search_words_alone(search)
            search.is_degraded = False  # nothing is away

    def _may_be_read(self, search: ParsedSearch) -> bool:
        """Whether the text may mean something else than it says; not yet found out."""
        text = search.request.text
        if text is None or search.asked or search.was_read is False:
            return False
        return self._interpreter.may_mean_other(search.collection.name, text.text)

    async def _read_meaning(self, search: ParsedSearch) -> None:
        """Put what the text means in its place. Raises Unavailable."""
        text = search.request.text
        assert text is not None
        is_certain = search.was_read is True
        call = partial(self._interpreter.meaning, search.collection.name, text.text, is_certain=is_certain)
        meaning = await self._on_reader(call)
        search.was_read = meaning != text.text
        if search.was_read:
            search.asked = text.text
            search.request.text = replace(text, text=meaning)
            search.content = meaning if isinstance(search.content, str) else search.content

    def _is_known(self, search: ParsedSearch, content: str | bytes) -> bool:
        """Whether the content's vector is remembered; it is put into the request then."""
        known = self._encoders.encoder(search.collection.name, content).known_query(content)
        if known is not None:
            self._complete(search, self._model_of(search), known)
        return known is not None

    async def _embed(self, search: ParsedSearch, content: str | bytes, caller: str) -> None:
        """Put the content's vector into the request."""
        began_at = time.perf_counter()
        model = self._model_of(search)  # before anything is awaited: another may serve after it
        encoder = self._encoders.encoder(search.collection.name, content)
        self._complete(search, model, await encoder.embed_query(content, caller))
        search.embed_s = time.perf_counter() - began_at

    @staticmethod
    def _complete(search: ParsedSearch, model: ModelInfo, found: Encoding) -> None:
        if not search.is_embedded:  # else `request` has the version of a model already
            search.is_embedded, search.pinned = True, search.request.embedding_version
        search.request.embedding_version = model.embedding_version
        search.request.vector = query_vector(search, found.vector, model.language_shift)
        search.truncated = found.truncated if isinstance(search.content, str) else None

    def _model_of(self, search: ParsedSearch) -> ModelInfo:
        model = self._encoders.info(search.collection.name)
        wanted = _pinned(search)
        if wanted not in (None, model.embedding_version):
            raise VersionMismatch(search.collection.name, model.embedding_version, str(wanted))
        return model

    async def _find_alike(self, search: ParsedSearch, deadline: float) -> SearchResult:
        """Stored vectors are read first and searched by then; a promotion in between would mix two spaces,
        so the version is read before and pinned."""
        for _ in range(_PIN_ATTEMPTS):
            excluding = await self._request_alike(search)
            try:
                return await self._result(search, excluding, deadline)
            except VersionMismatch:
                continue
        raise Starting("The collection is changing its generation.")

    async def _request_alike(self, search: ParsedSearch) -> SearchRequest:
        """Return the request for items like the named ones, which it excludes."""
        name, request = search.collection.name, search.request
        inputs = [*search.like_ids, *search.unlike_ids]
        version = await self._on_reader(partial(self._current_version, name))
        if request.embedding_version not in (None, version):
            raise VersionMismatch(name, version, str(request.embedding_version))
        stored = await self._on_reader(partial(self._index.get, name, inputs))
        self._put_likes(search, vectors_of_items(inputs, stored))
        excluded = joined_ids(request.exclude_ids, inputs)
        return replace(request, exclude_ids=excluded, embedding_version=version)

    @staticmethod
    def _put_likes(search: ParsedSearch, vectors: Sequence[Vector]) -> None:
        """Put what is searched by into the request. Raises PageExpired where the page before was searched by
        other vectors, InvalidInput."""
        request, likes = search.request, len(search.like_ids)
        digest = digest_of(vectors)
        if request.after is not None and search.likes_digest not in ("", digest):
            raise PageExpired(
                "an item that like_ids or unlike_ids name was written since; search again", "cursor"
            )
        search.likes_digest = digest
        if search.recommend == "mean":
            request.vector = direction_of(likes, vectors, search.like_weights)
        else:
            request.vector = vectors[0]
            request.recommendation = recommendation_of(search.recommend, likes, vectors, search.like_weights)

    def _current_version(self, collection: str) -> str:
        current = self._index.status(collection).current
        if current is None:
            raise UnknownItem(f"The collection {collection!r} is empty.")
        return current.embedding_version

    async def _on_reader(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    def _result(
        self, search: ParsedSearch, request: SearchRequest, deadline: float
    ) -> Awaitable[SearchResult]:
        if search.min_seq is None:
            return self._search_queue.ask(search.collection.name, request, deadline, search)
        return self._search_from(search.min_seq, search, request, deadline)

    async def _search_from(
        self, min_seq: int, search: ParsedSearch, request: SearchRequest, deadline: float
    ) -> SearchResult:
        """Wait for the seq alone, and search once it is there. Here, since in the index a wait would hold up
        everyone's searches."""
        collection = search.collection.name
        give_up = min(time.monotonic() + self._min_seq_wait_s, deadline)
        pause = _SEQ_POLL_S
        while True:
            newest = self._index.newest_seq(collection)
            if newest is None or newest >= min_seq:
                result = await self._search_queue.ask(collection, request, deadline, search)
                if result.seq >= min_seq:
                    return result
                newest = result.seq
            if time.monotonic() >= give_up:
                raise SeqNotReached(f"The collection is at seq {newest}, not yet at {min_seq}.")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _SEQ_POLL_S_MAX)


def _to_embed(search: ParsedSearch) -> str | bytes | None:
    """What a model makes the vector of; None where there is one, or where words alone are searched."""
    text = search.request.text
    return None if text is not None and text.mode == "lexical" else search.content


def query_vector(search: ParsedSearch, vector: Vector, shift: Vector | None) -> Vector:
    """Return what is searched by: an English text that words are searched for beside is moved to where the
    model has Korean ones; answers by vectors alone stay what they were."""
    text = search.request.text
    if text is None or shift is None or text.mode != "hybrid" or not isinstance(search.content, str):
        return vector
    return shifted(vector, shift) if is_latin(search.content) else vector


def search_words_alone(search: ParsedSearch) -> None:
    """Let a search by a text do without its model: by its words alone, from the generation that serves."""
    request = search.request
    request.embedding_version = _pinned(search)
    text = request.text or TextQuery(str(search.content))
    request.text = replace(text, mode="lexical")
    search.is_degraded, search.is_embedded = True, False


def _pinned(search: ParsedSearch) -> str | None:
    """The version that the caller named."""
    return search.pinned if search.is_embedded else search.request.embedding_version
