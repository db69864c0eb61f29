"""From a search body to a Question, and from its Answer back to the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from index_store.types import Hit, Vector
from item_rules.ids import INT64_MAX
from service.app.search import Answer, Question
from service.collections import Catalogue, Collection
from service.errors import InvalidInput
from service.http.wire.body import check_depth
from service.http.wire.cursors import read_cursor, write_cursor
from service.http.wire.problems import HttpRefusal
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

OFFSET_MAX = 1_000_000
LIKE_IDS_MAX = 1000


@dataclass(frozen=True, slots=True)
class SearchLimits:
    top_k: int
    top_k_max: int
    query_chars_max: int


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A question and how its answer is to be written. include: fields beside id and distance."""

    collection: Collection
    question: Question
    include: frozenset[str]


_NOTHING: frozenset[str] = frozenset()


def read_question(
    body: SearchIn, catalogue: Catalogue, limits: SearchLimits, raw: Vector | None = None
) -> Asked:
    """raw: a vector that did not come as JSON. Raises InvalidInput naming the field, HttpRefusal 404."""
    _require_one_content(body)
    collection = _collection_of(body, catalogue)
    include = frozenset(body.include) if body.include else _NOTHING
    top_k = limits.top_k if body.top_k is None else body.top_k
    offset = 0 if body.offset is None else in_range("offset", body.offset, 0, OFFSET_MAX)
    if body.cursor is not None and body.offset is not None:
        raise InvalidInput("cursor", "and offset exclude each other")
    if body.filter:
        check_depth(body.filter, "filter")
    question = Question(
        collection=collection.name,
        k=in_range("top_k", top_k, 1, limits.top_k_max),
        text=None if body.query is None else read_text(body.query, limits.query_chars_max, "query"),
        picture=None if body.image is None else read_picture(body.image, "image"),
        vector=_vector_of(body, collection, raw),
        like_ids=read_ids(body.like_ids, collection, "like_ids") if body.like_ids else (),
        unlike_ids=read_ids(body.unlike_ids, collection, "unlike_ids") if body.unlike_ids else (),
        exclude_ids=read_exclude_ids(body.exclude_ids, collection) if body.exclude_ids else (),
        filter=body.filter or None,
        offset=offset,
        after=None if body.cursor is None else read_cursor(collection, body.cursor),
        max_distance=body.max_distance,
        exact=bool(body.exact),
        min_seq=None if body.min_seq is None else in_range("min_seq", body.min_seq, 0, INT64_MAX),
        embedding_version=body.embedding_version,
        with_metadata="metadata" in include,
        with_vectors="vector" in include or _needs_vectors(collection, include),
    )
    return Asked(collection, question, include)


def _require_one_content(body: SearchIn) -> None:
    given = (
        (body.query is not None)
        + (body.image is not None)
        + (body.vector is not None)
        + (body.like_ids is not None)
    )
    if given != 1:
        raise not_one_of(
            {"query": body.query, "image": body.image, "vector": body.vector, "like_ids": body.like_ids}
        )
    if body.like_ids is not None:
        in_range("like_ids", len(body.like_ids), 1, LIKE_IDS_MAX)
    if body.unlike_ids:
        if body.like_ids is None:
            raise InvalidInput("unlike_ids", "needs like_ids")
        in_range("unlike_ids", len(body.unlike_ids), 0, LIKE_IDS_MAX)


def _vector_of(body: SearchIn, collection: Collection, raw: Vector | None) -> Vector | None:
    if raw is not None:
        return checked_vector(raw, collection.dim)
    return None if body.vector is None else read_vector(body.vector, collection.dim)


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


def _needs_vectors(collection: Collection, include: frozenset[str]) -> bool:
    """A cosine distance tells the score by itself; the others only for vectors of length 1."""
    return "score" in include and collection.metric != "cosine"


def write_answer(asked: Asked, answer: Answer, took_ms: float) -> dict[str, Any]:
    """Return the JSON object of one search."""
    result = answer.result
    document: dict[str, Any] = {
        "results": _results(asked, answer),
        "embedding_version": result.embedding_version,
        "seq": result.seq,
        "exhausted": result.exhausted,
    }
    if result.next_page is not None:
        document["next_cursor"] = write_cursor(asked.collection, result.next_page)
    if answer.truncated is not None:
        document["truncated"] = bool(answer.truncated)
    document["took_ms"] = round(took_ms, 3)
    return document


def _results(asked: Asked, answer: Answer) -> list[dict[str, Any]]:
    id_field, hits, include = asked.collection.id_field, answer.result.hits, asked.include
    results: list[dict[str, Any]] = [{id_field: hit.id, "distance": hit.distance} for hit in hits]
    if not include:
        return results
    scores = hit_scores(asked.collection, answer.vector, hits) if "score" in include else ()
    for place, (result, hit) in enumerate(zip(results, hits, strict=True)):
        if "score" in include:
            result["score"] = scores[place]
        if "rank" in include:
            result["rank"] = asked.question.offset + place + 1
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
