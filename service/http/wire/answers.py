"""From the result of a search back to the wire: how large it will be, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from index_store.explanation import ExplainedHit
from index_store.types import Hit, SearchResult, Vector
from service.app.search import ParsedSearch
from service.app.seen.unseen import has_good_match
from service.collections import Collection
from service.http.wire.cursors import write_cursor

_ENCODING = orjson.OPT_SERIALIZE_NUMPY

SMALL_BYTES = 8 << 10
"""Of almost every answer: as much as a plain search for 100 items."""
_HEAD_BYTES = 300
_NUMBER_ID_BYTES, _TEXT_ID_BYTES = 20, 40
_HIT_BYTES = 40
_SCORE_BYTES, _RANK_BYTES, _METADATA_BYTES = 28, 12, 64
_WORDS_BYTES, _WHY_BYTES, _CONFIDENCE_BYTES, _BOOST_BYTES = 28, 90, 34, 22
_MATCH_BYTES = 50
"""Of a word of the query."""
_FLOAT_BYTES = 12
"""float32 as JSON, with its comma: 11.9 on average for unit vectors of 384."""

LARGE_BYTES = 256 << 10
"""Expected answers beyond this are encoded beside the event loop (256 KiB take it 1 ms)."""
_PIECE_BYTES = 256 << 10


def expected_bytes(search: ParsedSearch) -> int:
    """Return about how large the answer is if it is full. What metadata weighs is not known before it is
    found; the index bounds it (`SearchRequest.metadata_bytes_max`)."""
    if not search.include and search.request.k <= 100:  # almost every search
        return SMALL_BYTES
    return _HEAD_BYTES + search.request.k * _hit_bytes(search)


def _hit_bytes(search: ParsedSearch) -> int:
    collection, include = search.collection, search.include
    size = _HIT_BYTES + len(collection.id_field)
    size += _NUMBER_ID_BYTES if collection.id_type == "int64" else _TEXT_ID_BYTES
    size += _SCORE_BYTES * ("score" in include) + _RANK_BYTES * ("rank" in include)
    size += _CONFIDENCE_BYTES * ("confidence" in include)
    size += _METADATA_BYTES * ("metadata" in include)
    size += _WORDS_BYTES * (search.mode != "dense" or _is_boosted(search)) + _WHY_BYTES * ("why" in include)
    if search.request.ranking is not None and "why" in include:
        size += _BOOST_BYTES * len(search.request.ranking.boosts)
    if search.request.text is not None and "why" in include:
        size += _MATCH_BYTES * (1 + search.request.text.text.count(" "))
    return size + _FLOAT_BYTES * collection.dim * ("vector" in include)


def write_answer(search: ParsedSearch, result: SearchResult, took_ms: float) -> dict[str, Any]:
    """Return the JSON object of one search; arrays in it are numpy's."""
    return {"results": _results(search, result, 0, None)} | _about(search, result, took_ms)


def encoded_answer(search: ParsedSearch, result: SearchResult, took_ms: float) -> bytes:
    """Return the same as JSON text."""
    return orjson.dumps(write_answer(search, result, took_ms), option=_ENCODING)


def encoded_in_pieces(search: ParsedSearch, result: SearchResult, took_ms: float) -> bytes:
    """As `encoded_answer`, for a thread beside the event loop: the encoder does not let other threads run, so
    it is given a millisecond's work at a time."""
    count = len(result.hits)
    step = max(1, _PIECE_BYTES // _hit_bytes(search))
    starts = range(0, count, step)
    rows = b",".join(
        [
            orjson.dumps(_results(search, result, start, start + step), option=_ENCODING)[1:-1]
            for start in starts
        ]
    )
    about = orjson.dumps(_about(search, result, took_ms))
    return b'{"results":[%s],%s' % (rows, about[1:])


def _about(search: ParsedSearch, result: SearchResult, took_ms: float) -> dict[str, Any]:
    """All but the results."""
    document: dict[str, Any] = {
        "embedding_version": result.embedding_version,
        "seq": result.seq,
        "exhausted": result.exhausted,
    }
    if result.next_page is not None:
        shown = search.shown + len(result.hits)
        document["next_cursor"] = write_cursor(search, result.next_page, shown)
    if search.request.text is not None:
        document["mode"] = search.request.text.mode
    if search.asked and search.request.text is not None:
        document["interpreted_as"] = search.request.text.text
    if search.is_degraded:
        document["degraded"] = True
    if search.request.confidence is not None and not (
        search.shown or search.has_shown_match or has_good_match(search.collection, result)
    ):
        document["no_good_match"] = True
    if search.truncated is not None:
        document["truncated"] = bool(search.truncated)
    if search.warnings or result.unknown_filter_keys or result.unknown_ranking_keys:
        name = search.collection.name
        unknown = unknown_key_warnings(name, result.unknown_filter_keys)
        ranking = [
            f"{field}: no item of {name!r} has the key {key!r}" for field, key in result.unknown_ranking_keys
        ]
        document["warnings"] = [*search.warnings, *unknown, *ranking]
    document["took_ms"] = round(took_ms, 3)
    return document


def unknown_key_warnings(collection: str, keys: Sequence[str]) -> list[str]:
    """Return what to tell of filter keys that no item has."""
    return [f"filter: no item of {collection!r} has the key {key!r}" for key in keys]


def _results(
    search: ParsedSearch, result: SearchResult, start: int, stop: int | None
) -> list[dict[str, Any]]:
    id_field, include = search.collection.id_field, search.include
    hits = result.hits[start:stop]
    rows: list[dict[str, Any]]
    is_scored = search.request.text is not None or _is_boosted(search)
    if not is_scored:
        rows = [{id_field: hit.id, "distance": hit.distance} for hit in hits]
    elif search.request.text is not None and search.request.text.mode == "lexical":
        rows = [{id_field: hit.id, "score": hit.score} for hit in hits]
    else:
        rows = [{id_field: hit.id, "distance": hit.distance, "score": hit.score} for hit in hits]
    if not include:
        return rows
    needs_scores = "score" in include and not is_scored
    scores = hit_scores(search.collection, _scored_by(search, hits), hits) if needs_scores else ()
    first_rank = search.shown + start + 1
    for place, (row, hit) in enumerate(zip(rows, hits, strict=True)):
        if "why" in include:
            row["why"] = _why(search, result, hit)
        if "confidence" in include:
            row["confidence"] = hit.confidence
        if needs_scores:
            row["score"] = scores[place]
        if "rank" in include:
            row["rank"] = first_rank + place
        if "metadata" in include:
            row["metadata"] = hit.metadata
        if "vector" in include:
            row["vector"] = hit.vector
    return rows


def _is_boosted(search: ParsedSearch) -> bool:
    return search.request.ranking is not None and bool(search.request.ranking.boosts)


def _why(search: ParsedSearch, result: SearchResult, hit: Hit) -> dict[str, Any] | None:
    """Of what a score is made: dense + weight x lexical, or either alone, and each boost; for which item
    it was found; None where it is of one part; with the words that the item holds."""
    if hit.like is not None:
        return {"like_id": search.like_ids[hit.like]}
    if hit.score is None:
        return None
    boosts, matched = (hit.boosts, hit.matched) if isinstance(hit, ExplainedHit) else (None, None)
    own = hit.score - sum(boosts or ())
    if hit.text_score is None:
        found: dict[str, Any] = {"dense": own}
    elif math.isnan(hit.distance):
        found = {"lexical": hit.text_score}
    else:
        words = result.text_weight * hit.text_score
        found = {"dense": own - words, "lexical": hit.text_score, "weight": result.text_weight}
    if matched is not None:
        found["matched"] = [{"word": word, "by": by, "share": round(share, 3)} for word, by, share in matched]
    return found if boosts is None else found | {"boost": boosts}


def _scored_by(search: ParsedSearch, hits: Sequence[Hit]) -> Vector:
    """The vector that hits were found by: of each its own where each has one."""
    asked = search.request.recommendation
    if asked is None:
        return search.request.vector
    likes: Vector = asked.likes[[hit.like or 0 for hit in hits]]
    return likes


def hit_scores(collection: Collection, query: Vector, hits: Sequence[Hit]) -> Sequence[float]:
    """Return (1 + cos) / 2 of each hit, whatever the metric. query: (dim,), or (hits, dim) for one each. Hits
    carry vectors unless it is cosine."""
    if not hits:
        return ()
    if collection.metric == "cosine":
        cosines = 1.0 - np.array([hit.distance for hit in hits])
    else:
        rows: npt.NDArray[np.float64] = np.stack([hit.vector for hit in hits]).astype(np.float64)  # type: ignore[misc]
        exact = query.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(exact, axis=-1)
        cosines = np.vecdot(rows, exact) / lengths
    scores: list[float] = np.clip((1.0 + cosines) / 2.0, 0.0, 1.0).tolist()
    return scores
