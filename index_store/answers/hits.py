"""From the rows of an answer to its hits, and where its page ended; the answer where there are no rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from index_store.answers.validation import check_dim, is_by_words_alone
from index_store.errors import PageExpired, VersionMismatch
from index_store.explanation import ExplainedHit
from index_store.filter.compile import compile_filter
from index_store.query.execute import Answer, answer, texts_of, vectors_of, word_matches
from index_store.query.ranking.ranked import checked_ranking
from index_store.query.view import View
from index_store.types import (
    CollectionSpec,
    Hit,
    PageKey,
    SearchRequest,
    SearchResult,
    Vector,
)
from item_rules.lifetime import Lifetime, ShownSpan, span_of


def with_span(request: SearchRequest, lifetime: Lifetime | None) -> SearchRequest:
    """Return the request with what is shown now, once for all that a search reads."""
    if lifetime is None:
        return request
    return replace(request, shown=span_of(lifetime, None if request.after is None else request.after.now))


def result_of(
    view: View, request: SearchRequest, generation: str, embedding_version: str, seq: int
) -> SearchResult:
    """Answer a checked request, with its span, out of a view that knows the seq of its page. seq: of the
    page, or else of the view. Raises PageExpired, InvalidFilter, WordsNotSealed, AnswerLimitExceeded,
    StoreDamaged."""
    found = answer(view, request)
    hits = hits_of(view, request, found)
    last = hits[-1] if hits and not found.exhausted else None
    return SearchResult(
        hits=hits,
        generation=generation,
        embedding_version=embedding_version,
        seq=seq,
        exhausted=found.exhausted,
        next_page=None if last is None else page_key(generation, seq, last, found, request.shown),
        unknown_filter_keys=found.unknown_keys,
        text_weight=0.0 if found.scored is None else found.scored.text_weight,
        unknown_ranking_keys=() if found.ranked is None else found.ranked.unknown_keys,
    )


def hits_of(view: View, request: SearchRequest, found: Answer) -> list[Hit]:
    """Return the hits with what the request asks of each. Raises AnswerLimitExceeded."""
    distances = found.distances.tolist()
    is_plain = found.scored is None and found.recommended is None and found.confidence is None
    if is_plain and not request.with_metadata and not request.with_vectors:
        return list(map(Hit, found.ids, distances))
    nothing: Sequence[None] = [None] * len(found.ids)
    texts = texts_of(view, found, request.metadata_bytes_max) if request.with_metadata else nothing
    vectors: Sequence[Vector | None] = nothing
    if request.with_vectors:
        vectors = list(vectors_of(view, found))
    scores = nothing if found.scored is None else found.scored.scores
    text_scores = nothing if found.scored is None else found.scored.texts
    likes = nothing if found.recommended is None else found.recommended.likes
    confidences = nothing if found.confidence is None else found.confidence.values
    columns = (found.ids, distances, texts, vectors, scores, text_scores, likes, confidences)
    ranked = None if found.ranked is None else found.ranked.rows
    boosts = ranked.added.tolist() if ranked is not None and ranked.added.shape[1] else None
    matched = word_matches(view, request, found) if request.with_matches and request.text else None
    if boosts is not None or matched is not None:
        explained = (*columns, matched or nothing, boosts or nothing)
        return [
            ExplainedHit(item_id, distance, None if text is None else json.loads(text), *others)
            for item_id, distance, text, *others in zip(*explained, strict=True)
        ]
    return [
        Hit(item_id, distance, None if text is None else json.loads(text), *others)
        for item_id, distance, text, *others in zip(*columns, strict=True)
    ]


def page_key(generation: str, seq: int, last: Hit, found: Answer, span: ShownSpan | None = None) -> PageKey:
    """Return where a page ends. last: its last hit. span: what was shown."""
    key, weight, scoring = last.distance, 0.0, 0
    if found.recommended is not None:
        key = found.recommended.key
    elif found.scored is not None and last.score is not None:
        key, weight, scoring = -last.score, found.scored.text_weight, found.scored.scoring
    return PageKey(
        generation,
        seq,
        key,
        last.id,
        weight,
        likes=None if found.recommended is None else found.recommended.page,
        curve=None if found.confidence is None else found.confidence.curve,
        ranked=None if found.ranked is None else found.ranked.page,
        now=None if span is None else span.begun_by,
        scoring=scoring,
    )


_NOTHING = SearchResult(hits=(), generation="", embedding_version="", seq=0, exhausted=True, next_page=None)


def no_hits(spec: CollectionSpec, request: SearchRequest) -> SearchResult:
    """Return the answer of a collection without a generation. Raises VersionMismatch, InvalidRequest."""
    if request.embedding_version is not None:
        raise VersionMismatch(spec.name, "", request.embedding_version)
    if request.after is not None:
        raise PageExpired("the generation of this page serves no more; search again", "cursor")
    if not is_by_words_alone(request):
        check_dim(request.vector, spec.dim, "vector")
    if request.filter is not None:
        compile_filter(request.filter)
    if request.ranking is not None:
        checked_ranking(request.ranking, request)
    return _NOTHING
