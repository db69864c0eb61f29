"""From the rows of an answer to its hits, and where its page ended."""

from __future__ import annotations

import json
from collections.abc import Sequence

from index_store.query.execute import Answer, texts_of, vectors_of
from index_store.query.view import View
from index_store.types import Hit, PageKey, SearchRequest, Vector


def hits_of(view: View, request: SearchRequest, found: Answer, dim: int) -> list[Hit]:
    """Return the hits with what the request asks of each. Raises AnswerLimitExceeded."""
    distances = found.distances.tolist()
    is_plain = found.scored is None and found.recommended is None and found.confidence is None
    if is_plain and not request.with_metadata and not request.with_vectors:
        return list(map(Hit, found.ids, distances))
    nothing: Sequence[None] = [None] * len(found.ids)
    texts = texts_of(view, found, request.metadata_bytes_max) if request.with_metadata else nothing
    vectors: Sequence[Vector | None] = nothing
    if request.with_vectors:
        vectors = list(vectors_of(view, found, dim))
    scores = nothing if found.scored is None else found.scored.scores
    text_scores = nothing if found.scored is None else found.scored.texts
    likes = nothing if found.recommended is None else found.recommended.likes
    confidences = nothing if found.confidence is None else found.confidence.values
    columns = (found.ids, distances, texts, vectors, scores, text_scores, likes, confidences)
    return [
        Hit(item_id, distance, None if text is None else json.loads(text), *others)
        for item_id, distance, text, *others in zip(*columns, strict=True)
    ]


def page_key(generation: str, seq: int, last: Hit, found: Answer) -> PageKey:
    """Return where a page ends. last: its last hit."""
    if found.recommended is not None:
        return PageKey(generation, seq, found.recommended.key, last.id, likes=found.recommended.page)
    curve = None if found.confidence is None else found.confidence.curve
    if found.scored is None or last.score is None:
        return PageKey(generation, seq, last.distance, last.id, curve=curve)
    return PageKey(generation, seq, -last.score, last.id, found.scored.text_weight, curve=curve)
