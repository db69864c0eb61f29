"""Searching and embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vector_client.protocol.call import Call, base64, finite, json_body, packed, without_none
from vector_client.types import Embedded, Found, Hit, Keys, Query, Role, SimilarProduct

BOUNDARY = "vector-client-7d1c9a4e2b"
HIT_FIELDS = frozenset({"distance", "score", "rank", "metadata", "vector", "why", "confidence"})
"""Fields of a result row other than its id, whose name is the collection's own."""
FOUND_FIELDS = frozenset(
    {"results", "embedding_version", "seq", "exhausted", "next_cursor", "truncated", "no_good_match"}
)


def search(query: Query, keys: Keys) -> Call[Found]:
    """Return the call of POST /v1/search. Raises NotSent."""
    return Call("POST", "/v1/search", _found, json_body(_search_body(query)), keys.search)


def search_batch(queries: Sequence[Query], keys: Keys) -> Call[list[Found]]:
    """Return the call of POST /v1/search-batch. Raises NotSent."""
    body = {"searches": [_search_body(query) for query in queries]}

    def read(answer: Any) -> list[Found]:
        found = [_found(each) for each in answer["responses"]]
        if len(found) != len(queries):
            raise ValueError(f"{len(found)} responses to {len(queries)} searches")
        return found

    return Call("POST", "/v1/search-batch", read, json_body(body), keys.search)


def search_similar(image: bytes, k: int, keys: Keys) -> Call[list[SimilarProduct]]:
    """The deployed upload: POST /search_similar, multipart."""
    boundary = BOUNDARY
    while boundary.encode() in image:
        boundary += "x"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return Call(
        "POST",
        f"/search_similar?top_k={k}",
        lambda rows: [
            SimilarProduct(row["product_id"], row["image_url"], row["score"], row["rank"]) for row in rows
        ],
        head.encode() + image + f"\r\n--{boundary}--\r\n".encode(),
        keys.search,
        content_type=f"multipart/form-data; boundary={boundary}",
    )


def embed_batch(
    texts: Sequence[str],
    collection: str | None,
    role: Role,
    keys: Keys,
    embedding_version: str | None = None,
) -> Call[Embedded]:
    """Return the call of POST /v1/embed-batch. Raises NotSent."""
    body = {
        "texts": list(texts),
        "normalize": True,
        "collection": collection,
        "role": role,
        "embedding_version": embedding_version,
    }
    return Call(
        "POST",
        "/v1/embed-batch",
        lambda answer: Embedded(answer["embeddings"], answer["dim"], answer["version"]),
        json_body(without_none(body)),
        keys.search,
    )


def embed(
    content: str | bytes,
    collection: str | None,
    role: Role,
    keys: Keys,
    embedding_version: str | None = None,
) -> Call[Embedded]:
    """content: a text, or the bytes of a picture file."""
    body: dict[str, Any] = {
        "normalize": True,
        "collection": collection,
        "embedding_version": embedding_version,
    }
    if isinstance(content, str):
        body |= {"text": content, "role": role}
    else:
        body["image"] = base64(content)
    return Call(
        "POST",
        "/v1/embed",
        lambda answer: Embedded([answer["embedding"]], answer["dim"], answer["version"]),
        json_body(without_none(body)),
        keys.search,
    )


def _search_body(query: Query) -> dict[str, Any]:
    include = [*query.include, *(["metadata"] if query.with_metadata else [])]
    body = {
        "query": query.text,
        "vector": None if query.vector is None else packed(query.vector),
        "image": None if query.image is None else base64(query.image),
        "like_ids": list(query.like_ids) or None,
        "unlike_ids": list(query.unlike_ids) or None,
        "recommend": query.recommend,
        "like_weights": finite(list(query.like_weights)) or None,
        "seen_key": query.seen_key,
        "seen_reset": query.seen_reset or None,
        "top_k": query.k,
        "collection": query.collection,
        "exclude_ids": list(query.exclude_ids) or None,
        "filter": finite(query.filter),
        "offset": query.offset or None,
        "cursor": query.cursor,
        "max_distance": finite(query.max_distance),
        "min_confidence": finite(query.min_confidence),
        "embedding_version": query.embedding_version,
        "min_seq": query.min_seq,
        "exact": query.exact or None,
        "include": include or None,
        "boost": finite(list(query.boost)) or None,
        "group_by": query.group_by,
        "collapse": finite(query.collapse),
        "diversity": finite(query.diversity),
        "pool": query.pool,
    }
    return {**without_none(body), **finite(query.more)}


def _found(answer: Any) -> Found:
    rows = answer["results"]
    if answer.get("mode") == "lexical":  # by words alone nothing has a distance
        rows = [{**row, "distance": math.nan} for row in rows]
    # Every row of one answer has the same fields: the id's name is found once, in the first.
    name = next((name for name in rows[0] if name not in HIT_FIELDS), "id") if rows else "id"
    hits = [
        Hit(row[name], row["distance"])
        if len(row) == 2
        else Hit(
            row[name], row["distance"], row.get("metadata"), row.get("score"), row.get("rank"),
            row.get("vector"), row.get("why"), row.get("confidence"),
        )
        for row in rows
    ]  # fmt: skip
    return Found(
        hits,
        answer["embedding_version"],
        answer["seq"],
        answer["exhausted"],
        answer.get("next_cursor"),
        answer.get("truncated", False),
        {field: value for field, value in answer.items() if field not in FOUND_FIELDS},
        answer.get("no_good_match", False),
    )
