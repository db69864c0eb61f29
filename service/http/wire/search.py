"""From the body of a search to a ParsedSearch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from index_store.types import SearchRequest, TextQuery, Vector
from item_rules.ids import INT64_MAX
from service.app.search import NO_VECTOR, ParsedSearch, search_words_alone
from service.collections import Catalogue, Collection, SearchMode
from service.errors import InvalidInput
from service.http.wire.body import Headers, check_depth, decode_json, media_type, require_json
from service.http.wire.confidence import asks_confidence, read_confidence
from service.http.wire.cursors import read_cursor
from service.http.wire.problems import HttpRefusal
from service.http.wire.ranking.fields import read_ranking
from service.http.wire.recommend.likes import check_likes
from service.http.wire.recommend.seen import check_seen
from service.http.wire.schemas import SearchIn
from service.http.wire.values import (
    checked_vector,
    find_collection,
    in_range,
    not_one_of,
    read_exclude_ids,
    read_ids,
    read_picture,
    read_text,
    read_vector,
)
from service.http.wire.vector_body import in_query_string, read_vector_body

_VECTOR_TYPE = b"application/octet-stream"
_JSON_TYPE = b"application/json"

OFFSET_MAX = 1_000_000
ALPHA_MAX = 100.0


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """answer_bytes_max: of what one request is answered, as expected before its searches begin."""

    top_k: int
    top_k_max: int
    query_chars_max: int
    answer_bytes_max: int


_NOTHING: frozenset[str] = frozenset()


class SearchReader:
    """Reads bodies of searches, JSON or the vector itself, and checks every field: what passes here the index
    takes as it is."""

    def __init__(
        self, catalogue: Catalogue, limits: SearchLimits, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: seconds since the epoch; what dates are compared with."""
        self._clock = clock
        self._catalogue = catalogue
        self._limits = limits
        self._decoder = msgspec.json.Decoder(SearchIn)

    def read_search(self, query_string: bytes, headers: Headers, body: bytes) -> ParsedSearch:
        """Return the search of one request. Raises as HANDLED says."""
        if headers.get(b"content-type") != _JSON_TYPE:  # almost every caller says just this
            if media_type(headers) == _VECTOR_TYPE:
                return self._read_vector(query_string, body)
            require_json(headers)
        return self.parse(decode_json(self._decoder, body))

    def _read_vector(self, query_string: bytes, body: bytes) -> ParsedSearch:
        try:
            return self.parse(*read_vector_body(query_string, body, self._catalogue))
        except InvalidInput as exc:
            if exc.loc[0] == "vector":
                raise
            raise in_query_string(exc.code, str(exc), exc.loc, exc.msg) from exc

    def parse(self, body: SearchIn, raw: Vector | None = None) -> ParsedSearch:
        """raw: a vector that did not come as JSON. Raises InvalidInput naming the field, HttpRefusal 404."""
        limits = self._limits
        _require_one_content(body)
        collection = _collection_of(body, self._catalogue)
        mode = _mode_of(body, collection)
        include = frozenset(body.include) if body.include else _NOTHING
        if "vector" in include:  # what the answer weighs is told by the dim of the generation that serves
            collection = replace(collection, dim=self._catalogue.dim(collection))
        top_k = limits.top_k if body.top_k is None else body.top_k
        offset = 0 if body.offset is None else in_range("offset", body.offset, 0, OFFSET_MAX)
        if body.cursor is not None and body.offset is not None:
            raise InvalidInput("cursor", "and offset exclude each other")
        if body.filter:
            check_depth(body.filter, "filter")
        if body.vector is None:
            vector = NO_VECTOR
        else:
            dims = self._catalogue.dims_of(collection, body.embedding_version)
            vector = read_vector(body.vector, dims) if raw is None else checked_vector(raw, dims)
        request = SearchRequest(
            vector=vector,
            k=in_range("top_k", top_k, 1, limits.top_k_max),
            exclude_ids=read_exclude_ids(body.exclude_ids, collection) if body.exclude_ids else (),
            filter=body.filter or None,
            offset=offset,
            max_distance=body.max_distance,
            exact=bool(body.exact),
            embedding_version=body.embedding_version,
            with_metadata="metadata" in include,
            with_matches="why" in include,
            with_vectors="vector" in include
            or ("score" in include and collection.metric != "cosine" and mode == "dense"),
            metadata_bytes_max=limits.answer_bytes_max,
            checked_for="" if body.vector is None and mode != "lexical" else collection.name,
            text=None if mode == "dense" else _text_of(body, mode, limits),
            ranking=read_ranking(body, self._clock),
        )
        content = None if body.vector is not None else _content_of(body, limits)
        if asks_confidence(body):
            request.confidence = read_confidence(body, collection, mode, str(content))
        search = ParsedSearch(
            collection,
            request,
            content=content,
            like_ids=read_ids(body.like_ids, collection, "like_ids") if body.like_ids else (),
            unlike_ids=read_ids(body.unlike_ids, collection, "unlike_ids") if body.unlike_ids else (),
            min_seq=None if body.min_seq is None else in_range("min_seq", body.min_seq, 0, INT64_MAX),
            include=include,
            shown=offset,
            warnings=_warnings(body),
            mode=mode,
            recommend=body.recommend or "mean",
            like_weights=body.like_weights or (),
            seen_key=body.seen_key or "",
            is_seen_reset=bool(body.seen_reset),
            may_degrade=body.degrade is not None,
            words_suffice=_words_suffice(body, collection),
        )
        if body.cursor is not None:
            _go_on(search, body.cursor)
        return search


def _go_on(search: ParsedSearch, text: str) -> None:
    """Begin where the page before ended."""
    cursor = read_cursor(search, text)
    if search.min_seq is not None and search.min_seq > cursor.page.seq:
        raise InvalidInput("min_seq", "is newer than the pages of this cursor: search again without it")
    search.request.after, search.shown = cursor.page, cursor.rank
    if search.request.ranking is not None:  # dates are as old as they were on the first page
        search.request.ranking = replace(search.request.ranking, now=cursor.now)
    search.was_read, search.likes_digest = cursor.was_read, cursor.likes_digest
    if cursor.is_by_words_alone and search.mode != "lexical":
        search_words_alone(search)  # as the page before was answered


def _warnings(body: SearchIn) -> Sequence[str]:
    """Names that other search engines have for our fields: ignored, as all unknown ones are, but told."""
    if (
        body.limit is None
        and body.k is None
        and body.size is None
        and body.n_results is None
        and body.min_score is None
    ):  # almost every search
        return ()
    found = [name for name in ("limit", "k", "size", "n_results") if getattr(body, name) is not None]
    warnings = [f"{name} is not a field of a search and was ignored: top_k is" for name in found]
    if body.min_score is not None:
        warnings.append("min_score is not a field of a search and was ignored: max_distance is")
    return warnings


def _require_one_content(body: SearchIn) -> None:
    given = (
        (body.query is not None)
        + (body.image is not None)
        + (body.vector is not None)
        + (body.like_ids is not None)
    )
    is_weighed = (
        body.mode == "hybrid"
        and body.query is not None
        and (body.vector is not None or body.image is not None)
    )
    if given != 1 + is_weighed:
        raise not_one_of(
            {"query": body.query, "image": body.image, "vector": body.vector, "like_ids": body.like_ids}
        )
    check_likes(body)
    check_seen(body)


def _mode_of(body: SearchIn, collection: Collection) -> SearchMode:
    """How to search, as asked or as the collection searches texts. Raises InvalidInput."""
    mode = body.mode or (collection.mode if _is_text(body) else "dense")
    for field, asks in (("mode", mode != "dense"), ("degrade", body.degrade is not None)):
        if asks and not collection.lexical:
            raise InvalidInput(
                field, f"can't be that: the collection {collection.name!r} declares no lexical fields"
            )
        if asks and body.query is None:
            raise InvalidInput(field, "needs query: the words to search")
        if asks and body.max_distance is not None and (mode == "lexical" or field == "degrade"):
            raise InvalidInput("max_distance", "needs vectors: words alone have no distance")
    if body.hybrid is not None and mode != "hybrid":
        raise InvalidInput("hybrid", "needs mode hybrid")
    return mode


def _is_text(body: SearchIn) -> bool:
    return body.query is not None and body.vector is None and body.image is None


def _words_suffice(body: SearchIn, collection: Collection) -> bool:
    """Whether the text may be answered by words where the collection's model reads none."""
    is_by_words = (
        bool(collection.lexical)
        and body.mode != "dense"
        and body.max_distance is None
        and not asks_confidence(body)
    )
    return is_by_words and _is_text(body)


def _text_of(body: SearchIn, mode: Literal["lexical", "hybrid"], limits: SearchLimits) -> TextQuery:
    text = read_text(str(body.query), limits.query_chars_max, "query")
    alpha = 1.0 if body.hybrid is None or body.hybrid.alpha is None else body.hybrid.alpha
    if not 0 <= alpha <= ALPHA_MAX:
        raise InvalidInput(("hybrid", "alpha"), f"must be 0 to {ALPHA_MAX:.0f}")
    return TextQuery(text, mode, alpha)


def _content_of(body: SearchIn, limits: SearchLimits) -> str | bytes | None:
    """What a vector is made of: of a text and a picture, the picture."""
    if body.image is not None:
        return read_picture(body.image, "image")
    return None if body.query is None else read_text(body.query, limits.query_chars_max, "query")


def _collection_of(body: SearchIn, catalogue: Catalogue) -> Collection:
    if body.collection is not None:
        return find_collection(catalogue, body.collection)
    modality = "image" if body.image is not None else "text" if body.query is not None else None
    if modality is None:
        return catalogue.default
    collection = catalogue.default_of(modality)
    if collection is None:
        raise HttpRefusal(404, "unknown_collection", f"No {modality} collection is configured.")
    return collection
