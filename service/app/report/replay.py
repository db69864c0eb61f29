"""Puts queries to two generations, one after another and at low priority."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

from index_store.errors import InvalidRequest, InvalidVector
from index_store.port import ReplaySource
from index_store.types import Hit, Id, SearchRequest, SearchResult, Vector
from service.app.encoders import Slot
from service.app.exclude_ids import joined_ids
from service.app.rebuild.throttle import FillThrottle
from service.app.recommend.likes import direction_of, vectors_of_items
from service.app.report.queries import DEPTH, ReplayQuery
from service.app.search import ParsedSearch, query_vector
from service.errors import (
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    UnknownItem,
)

T = TypeVar("T")

CALLER = "report"
"""Whose share of the models this takes."""
_EMBED_TRIES = 60
_REST_S_MAX = 2.0
"""A report is to end. With .1 s one that embeds took the p99 of searches beside it from 32 to 205 ms."""

_REFUSED = {
    "vector_of_one_model_only": (
        "vector",
        "needs embedding_version, that of the named generation: each model has a space of its own",
    ),
    "model_reads_no_text": ("query", "can't be read by this generation's model"),
    "model_reads_no_pictures": ("image", "can't be read by this generation's model"),
    "picture_not_readable": ("image", "is no picture that this generation's model reads"),
    "likes_cancel_each_other_out": ("like_ids", "and unlike_ids cancel each other out"),
}
"""By reason, the field of a single search and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SearchChange:
    """What a rehearsal changes of every query, where it is not None. exact: compare with every item instead
    of walking the graph. ef: breadth of the walk. max_distance: of the results. query_template: what a text
    is put into, at `{query}`."""

    exact: bool | None = None
    ef: int | None = None
    max_distance: float | None = None
    query_template: str | None = None

    def changes(self) -> dict[str, bool | float | str]:
        """Return what is changed, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ReplaySide:
    """One of the two sides. slot: the generation's model; None where none makes its vectors here."""

    embedding_version: str
    slot: Slot | None
    change: SearchChange = SearchChange()


@dataclass(frozen=True, slots=True)
class ReplayedAnswer:
    """hits: nearest first, DEPTH at most, the query's own item left out. own_rank: of that item, from 1; None
    where it was not found. seconds: in the index alone."""

    hits: Sequence[Hit]
    seconds: float
    own_rank: int | None = None

    @property
    def ids(self) -> list[Id]:
        """The ranking."""
        return [hit.id for hit in self.hits]


@dataclass(frozen=True, slots=True)
class ReplayedQuery:
    """A query and what both generations answered."""

    query: ReplayQuery
    before: ReplayedAnswer
    after: ReplayedAnswer


@dataclass(frozen=True, slots=True)
class SkippedQuery:
    """A query that can't be put to both. reason: a word for programs."""

    query: ReplayQuery
    reason: str


class Replayer:
    """Event loop only; the index is searched on threads of `readers`."""

    def __init__(
        self,
        source: ReplaySource,
        readers: Executor,
        pace: FillThrottle,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """clock: seconds that only go forward."""
        self._source = source
        self._readers = readers
        self._pace = pace
        self._clock = clock

    async def replay(
        self, query: ReplayQuery, before: ReplaySide, after: ReplaySide
    ) -> ReplayedQuery | SkippedQuery:
        """Put one query to both, then rest as long as searches ask for. Raises TryLater, IndexStoreError."""
        began_at = self._clock()
        try:
            first = await self._vector(query, before, query.search.request.vector)
            is_one_space = before.embedding_version == after.embedding_version
            given = query.search.request.vector if is_one_space else query.next_vector
            second = await self._vector(query, after, given)
        except _NotComparable as exc:
            return SkippedQuery(query, str(exc))
        if first is None:
            return SkippedQuery(query, "unknown_item")
        nothing = ReplayedAnswer((), 0.0)
        try:
            answer = await self._answer(query, before, first)
            other = nothing if second is None else await self._answer(query, after, second)
        except InvalidVector:
            return SkippedQuery(query, "vector_of_another_dim")
        except InvalidRequest:
            return SkippedQuery(query, "refused_by_the_index")  # an unknown operator of a filter
        # An item that has another content by now may stand anywhere, far down as well as nowhere.
        if second is None or query.own_id is not None:
            reason = await self._run(partial(self._why_not_comparable, query, before, after))
            if reason:
                return SkippedQuery(query, reason)
        await self._pace.rest(self._clock() - began_at, _REST_S_MAX)
        return ReplayedQuery(query, answer, other)

    async def search_side(self, search: ParsedSearch, side: ReplaySide) -> SearchResult:
        """Put one search to one side as it came, at once; its request has the vector then.

        Raises InvalidInput where it can't be put to this side, UnknownItem, TryLater (ModelUnavailable among
        them), IndexStoreError."""
        request = search.request
        is_of_it = request.embedding_version == side.embedding_version
        try:
            vector = await self._vector(
                ReplayQuery("", "given", search), side, request.vector if is_of_it else None, tries=0
            )
        except _NotComparable as exc:
            if str(exc) not in _REFUSED:
                raise ModelUnavailable("No model of this service makes this generation's vectors.") from exc
            raise InvalidInput(*_REFUSED[str(exc)]) from exc
        if vector is None:
            raise UnknownItem("An item of like_ids or unlike_ids is not in this generation or has no vector.")
        info = None if side.slot is None else side.slot.info
        request.vector = query_vector(search, vector, None if info is None else info.language_shift)
        asked = replace(
            request,
            exclude_ids=joined_ids(request.exclude_ids, [*search.like_ids, *search.unlike_ids]),
            embedding_version=side.embedding_version,
            checked_for="",
        )
        find = partial(self._source.search_version, search.collection.name, side.embedding_version, [asked])
        (result,) = await self._run(find)
        return result

    async def _answer(self, query: ReplayQuery, side: ReplaySide, vector: Vector) -> ReplayedAnswer:
        """The own item is asked for beside DEPTH others."""
        search = query.search
        request = replace(
            search.request,
            vector=vector,
            k=DEPTH + (query.own_id is not None),
            exclude_ids=joined_ids(search.request.exclude_ids, [*search.like_ids, *search.unlike_ids]),
            embedding_version=None,
            checked_for="",
        )
        if side.change.exact is not None:
            request.exact = side.change.exact
        request.ef = side.change.ef
        if side.change.max_distance is not None:
            request.max_distance = side.change.max_distance
        hits, seconds = await self._run(partial(self._timed, search.collection.name, side, request))
        others = [hit for hit in hits if hit.id != query.own_id]
        own_rank = next((rank for rank, hit in enumerate(hits, start=1) if hit.id == query.own_id), None)
        return ReplayedAnswer(others[:DEPTH], seconds, own_rank)

    def _timed(
        self, collection: str, side: ReplaySide, request: SearchRequest
    ) -> tuple[Sequence[Hit], float]:
        began_at = self._clock()
        (result,) = self._source.search_version(collection, side.embedding_version, [request])
        return result.hits, self._clock() - began_at

    async def _vector(
        self, query: ReplayQuery, side: ReplaySide, given: Vector | None, *, tries: int = _EMBED_TRIES
    ) -> Vector | None:
        """The query's vector in the space of `side`; None where an item it starts from has none there. tries:
        how often a busy model is waited for."""
        search = query.search
        if search.like_ids:
            return await self._run(partial(self._direction, query, side))
        if search.content is None:
            if given is None:
                raise _NotComparable("vector_of_one_model_only")
            return given
        if side.slot is None:
            raise _NotComparable("no_model_here")
        for _ in range(tries):
            try:
                return await _embedded(_changed(search.content, side.change), side.slot)
            except (Overloaded, DeadlineExceeded) as exc:
                await asyncio.sleep(exc.retry_after_s)
        return await _embedded(_changed(search.content, side.change), side.slot)

    def _direction(self, query: ReplayQuery, side: ReplaySide) -> Vector | None:
        search = query.search
        inputs = [*search.like_ids, *search.unlike_ids]
        stored = self._source.get_version(search.collection.name, side.embedding_version, inputs)
        try:
            return direction_of(len(search.like_ids), vectors_of_items(inputs, stored), search.like_weights)
        except UnknownItem:
            return None
        except InvalidInput as exc:
            raise _NotComparable("likes_cancel_each_other_out") from exc

    def _why_not_comparable(self, query: ReplayQuery, before: ReplaySide, after: ReplaySide) -> str:
        """Why it says nothing where an item is found that the query was made of: it was written since, or it
        has content and waits for its vector in `after`, of which a promotion counts all. Empty for none."""
        search = query.search
        ids = [*search.like_ids, *search.unlike_ids] if query.own_id is None else [query.own_id]
        sides = [
            self._source.get_version(search.collection.name, side.embedding_version, ids)
            for side in (before, after)
        ]
        if any(item is None or not item.is_live for item in sides[0]) or None in sides[1]:
            return "changed_meanwhile"
        if query.own_id is None or search.content is None:
            return ""
        content = search.content.encode() if isinstance(search.content, str) else search.content
        known = (None, hashlib.sha256(content).digest())  # a vector that came without content has no hash
        items = [item for side in sides for item in side if item is not None]
        if any(item.content_hash not in known for item in items):
            return "changed_meanwhile"
        return "awaits_vector" if any(item.vector is None for item in items) else ""

    def _run(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._readers, call)


class _NotComparable(Exception):
    """The reason, as SkippedQuery has it."""


def _changed(content: str | bytes, change: SearchChange) -> str | bytes:
    if change.query_template is None or not isinstance(content, str):
        return content
    return change.query_template.replace("{query}", content)


async def _embedded(content: str | bytes, slot: Slot) -> Vector:
    if isinstance(content, str):
        if slot.text is None:
            raise _NotComparable("model_reads_no_text")
        return (await slot.text.embed_query(content, CALLER)).vector
    if slot.image is None:
        raise _NotComparable("model_reads_no_pictures")
    try:
        return (await slot.image.embed_query(content, CALLER)).vector
    except InvalidImage as exc:
        raise _NotComparable("picture_not_readable") from exc
