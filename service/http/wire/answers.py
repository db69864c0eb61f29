"""From the Answer to a question back to the wire: how large it will be, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from index_store.types import Hit, Vector
from service.app.search import Answer
from service.collections import Collection
from service.http.wire.cursors import write_cursor
from service.http.wire.search import Asked

_ENCODING = orjson.OPT_SERIALIZE_NUMPY

_SMALL_BYTES = 8 << 10
_HEAD_BYTES = 300
_NUMBER_ID_BYTES, _TEXT_ID_BYTES = 20, 40
_HIT_BYTES = 40
_SCORE_BYTES, _RANK_BYTES, _METADATA_BYTES = 28, 12, 64
_FLOAT_BYTES = 12
"""float32 as JSON, with its comma: 11.9 on average for unit vectors of 384."""

LARGE_BYTES = 256 << 10
"""Expected answers beyond this are encoded beside the event loop (256 KiB take it 1 ms)."""
_PIECE_BYTES = 256 << 10


def expected_bytes(asked: Asked) -> int:
    """Return about how large the answer is if it is full. What metadata weighs is not known before it is
    found; the index bounds it (`SearchRequest.metadata_bytes_max`)."""
    if not asked.include and asked.question.k <= 100:  # almost every search
        return _SMALL_BYTES
    return _HEAD_BYTES + asked.question.k * _hit_bytes(asked)


def _hit_bytes(asked: Asked) -> int:
    collection, include = asked.collection, asked.include
    size = _HIT_BYTES + len(collection.id_field)
    size += _NUMBER_ID_BYTES if collection.id_type == "int64" else _TEXT_ID_BYTES
    size += _SCORE_BYTES * ("score" in include) + _RANK_BYTES * ("rank" in include)
    size += _METADATA_BYTES * ("metadata" in include)
    return size + _FLOAT_BYTES * collection.dim * ("vector" in include)


def write_answer(asked: Asked, answer: Answer, took_ms: float) -> dict[str, Any]:
    """Return the JSON object of one search; arrays in it are numpy's."""
    return {"results": _results(asked, answer, 0, None)} | _about(asked, answer, took_ms)


def encoded_answer(asked: Asked, answer: Answer, took_ms: float) -> bytes:
    """Return the same as JSON text."""
    return orjson.dumps(write_answer(asked, answer, took_ms), option=_ENCODING)


def encoded_in_pieces(asked: Asked, answer: Answer, took_ms: float) -> bytes:
    """As `encoded_answer`, for a thread beside the event loop: the encoder does not let other threads run, so
    it is given a millisecond's work at a time."""
    count = len(answer.result.hits)
    step = max(1, _PIECE_BYTES // _hit_bytes(asked))
    starts = range(0, count, step)
    rows = b",".join(
        [
            orjson.dumps(_results(asked, answer, start, start + step), option=_ENCODING)[1:-1]
            for start in starts
        ]
    )
    about = orjson.dumps(_about(asked, answer, took_ms))
    return b'{"results":[%s],%s' % (rows, about[1:])


def _about(asked: Asked, answer: Answer, took_ms: float) -> dict[str, Any]:
    """All but the results."""
    result = answer.result
    document: dict[str, Any] = {
        "embedding_version": result.embedding_version,
        "seq": result.seq,
        "exhausted": result.exhausted,
    }
    if result.next_page is not None:
        shown = asked.shown + len(result.hits)
        document["next_cursor"] = write_cursor(asked.question, result.next_page, shown)
    if answer.truncated is not None:
        document["truncated"] = bool(answer.truncated)
    if asked.warnings or result.unknown_filter_keys:
        name = asked.collection.name
        unknown = [f"filter: no item of {name!r} has the key {key!r}" for key in result.unknown_filter_keys]
        document["warnings"] = [*asked.warnings, *unknown]
    document["took_ms"] = round(took_ms, 3)
    return document


def _results(asked: Asked, answer: Answer, start: int, stop: int | None) -> list[dict[str, Any]]:
    id_field, include = asked.collection.id_field, asked.include
    hits = answer.result.hits[start:stop]
    results: list[dict[str, Any]] = [{id_field: hit.id, "distance": hit.distance} for hit in hits]
    if not include:
        return results
    scores = hit_scores(asked.collection, answer.vector, hits) if "score" in include else ()
    first_rank = asked.shown + start + 1
    for place, (result, hit) in enumerate(zip(results, hits, strict=True)):
        if "score" in include:
            result["score"] = scores[place]
        if "rank" in include:
            result["rank"] = first_rank + place
        if "metadata" in include:
            result["metadata"] = hit.metadata
        if "vector" in include:
            result["vector"] = hit.vector
    return results


def hit_scores(collection: Collection, query: Vector, hits: Sequence[Hit]) -> Sequence[float]:
    """Return (1 + cos) / 2 of each hit, whatever the metric. Hits carry vectors unless it is cosine."""
    if not hits:
        return ()
    if collection.metric == "cosine":
        cosines = 1.0 - np.array([hit.distance for hit in hits])
    else:
        rows: npt.NDArray[np.float64] = np.stack([hit.vector for hit in hits]).astype(np.float64)  # type: ignore[misc]
        unit = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
        cosines = (rows @ unit) / np.linalg.norm(rows, axis=1)
    scores: list[float] = np.clip((1.0 + cosines) / 2.0, 0.0, 1.0).tolist()
    return scores
