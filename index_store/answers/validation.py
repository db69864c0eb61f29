"""Checks at the door: what passes here can be stored and searched. Every refusal names its field.

The rules stand in `item_rules`; this says them in the errors of the index.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.errors import InvalidId, InvalidRequest, InvalidVector
from index_store.filter.compile import compile_filter
from index_store.record.digest import BUCKETS_MAX
from index_store.request.confidence import ConfidenceQuery
from index_store.request.recommendation import LIKES_WORK_MAX, Recommendation
from index_store.types import CollectionSpec, Id, Ids, ItemWrite, SearchRequest, TextQuery, Vector, WriteBatch
from item_rules.ids import id_fault, int64_fault
from item_rules.metadata import METADATA_BYTES_MAX, metadata_fault
from item_rules.vectors import WHY, dimension_fault, vector_fault, vector_faults

K_MAX = 100_000
OFFSET_MAX = 1_000_000
ALPHA_MAX = 100.0
LIKES_MAX = 100
"""Of a recommendation that searches by each of them."""
CONTENT_HASH_BYTES_MAX = 64
_NO_DIMS: Mapping[str, int] = MappingProxyType({})
_COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_spec(spec: CollectionSpec) -> None:
    """Names become directories. Raises ValueError: a mistake of configuration, not of a caller."""
    if not _COLLECTION_NAME.fullmatch(spec.name):
        raise ValueError(f"{spec.name!r} is no collection name: 1..64 letters, digits, - and _")
    if not 1 <= spec.dim <= 65_535:
        raise ValueError(f"collection {spec.name!r}: dim must be 1..65535, got {spec.dim}")


def check_id(item_id: object, spec: CollectionSpec, field: str) -> None:
    """Raises InvalidId."""
    fault = id_fault(item_id, spec.id_kind)
    if fault is not None:
        raise InvalidId(f"{field} {fault} (collection {spec.name!r})", field)


def check_vector(vector: object, field: str) -> Vector:
    """The vector as contiguous float32, of any dim. Raises InvalidVector."""
    out: Vector = np.ascontiguousarray(_shaped(vector, field), dtype=np.float32)
    fault = vector_fault(out)
    if fault is not None:
        raise InvalidVector(f"{field} {WHY[fault]}", field)
    return out


def check_dim(vector: npt.NDArray[Any], dim: int, field: str) -> None:
    """Raises InvalidVector."""
    if len(vector) != dim:
        raise InvalidVector(f"{field} {dimension_fault(len(vector), dim)}", field)


def _shaped(vector: object, field: str) -> npt.NDArray[Any]:
    if not isinstance(vector, np.ndarray) or vector.dtype.kind != "f" or vector.ndim != 1:
        raise InvalidVector(f"{field} must be an array of floats with one axis", field)
    return vector


def checked_request(request: SearchRequest, spec: CollectionSpec) -> SearchRequest:
    """The request, its vector contiguous; of which dim that is to be, the generation that answers knows.
    Raises InvalidRequest."""
    vector = request.vector if is_by_words_alone(request) else check_vector(request.vector, "vector")
    if isinstance(request.k, bool) or not 1 <= request.k <= K_MAX:
        raise InvalidRequest(f"k must be 1..{K_MAX}, got {request.k}", "k")
    if not 0 <= request.offset <= OFFSET_MAX:
        raise InvalidRequest(f"offset must be 0..{OFFSET_MAX}, got {request.offset}", "offset")
    if request.after is not None:
        if request.offset:
            raise InvalidRequest("offset and a cursor exclude each other", "offset")
        check_id(request.after.id, spec, "cursor")
        if not np.isfinite(request.after.distance):
            raise InvalidRequest("the cursor's distance must be finite", "cursor")
    if request.max_distance is not None and np.isnan(request.max_distance):
        raise InvalidRequest("max_distance must be a number", "max_distance")
    if request.text is not None:
        _check_text(request.text, request, spec)
    if request.recommendation is not None:
        _check_recommendation(request.recommendation, request, spec)
    if request.confidence is not None:
        _check_confidence(request.confidence, request)
    excluded = _excluded(request.exclude_ids, spec)
    if vector is request.vector and excluded is request.exclude_ids:
        return request
    return replace(request, vector=vector, exclude_ids=excluded)


def is_by_words_alone(request: SearchRequest) -> bool:
    """Whether the vector of a request counts for nothing."""
    return request.text is not None and request.text.mode == "lexical"


def _check_text(text: TextQuery, request: SearchRequest, spec: CollectionSpec) -> None:
    if not spec.lexical_fields:
        raise InvalidRequest(f"collection {spec.name!r} declares no lexical fields", "mode")
    if not (np.isfinite(text.alpha) and 0 <= text.alpha <= ALPHA_MAX):
        raise InvalidRequest(f"alpha must be 0..{ALPHA_MAX:.0f}", "hybrid.alpha")
    if text.mode == "lexical" and request.max_distance is not None:
        raise InvalidRequest("a search by words alone has no distances", "max_distance")


def _check_recommendation(asked: Recommendation, request: SearchRequest, spec: CollectionSpec) -> None:
    if request.text is not None or request.ranking is not None:
        raise InvalidRequest("liked items go with neither words nor a ranking", "like_ids")
    if not 1 <= len(asked.likes) <= LIKES_MAX:
        raise InvalidRequest(f"a recommendation needs 1..{LIKES_MAX} liked items", "like_ids")
    for field, vectors in (("like_ids", asked.likes), ("unlike_ids", asked.unlikes)):
        for vector in vectors:
            check_vector(vector, field)
            check_dim(vector, len(request.vector), field)
    wanted = request.offset + request.k
    if asked.distances_of_a_hit * wanted > LIKES_WORK_MAX:
        raise InvalidRequest(f"top_k: {wanted} are too many for {len(asked.likes)} liked items", "top_k")
    if len(asked.weights) != len(asked.likes) or not all(0 < each < math.inf for each in asked.weights):
        raise InvalidRequest("must be numbers above 0, one for each liked item", "like_weights")
    if request.after is not None and asked.mode == "each":
        page = request.after.likes
        if page is None or len(page.ends) != len(asked.likes) or not 0 <= page.last < len(asked.likes):
            raise InvalidRequest("the cursor is of another recommendation", "cursor")
        for end in page.ends:
            if end is not None:
                check_id(end[1], spec, "cursor")


def _check_confidence(asked: ConfidenceQuery, request: SearchRequest) -> None:
    if not 0 <= asked.minimum <= 1:
        raise InvalidRequest("a confidence is 0..1", "min_confidence")
    if is_by_words_alone(request) or request.recommendation is not None:
        raise InvalidRequest(
            "nobody knows the confidence of words alone, or of a recommendation", "min_confidence"
        )


def checked_batch(
    batch: WriteBatch,
    spec: CollectionSpec,
    metadata_bytes_max: int = METADATA_BYTES_MAX,
    dims: Mapping[str, int] = _NO_DIMS,
) -> WriteBatch:
    """The batch, its vectors contiguous float32. dims: of the vectors of each version that is there; what
    names another one is refused for that by who knows them all. Without any, `spec` says the dim. Raises
    InvalidRequest."""
    for position, item in enumerate(batch.items):
        _check_item(item, spec, f"items[{position}]", metadata_bytes_max)
    for position, delete in enumerate(batch.deletes):
        check_id(delete.id, spec, f"deletes[{position}].id")
        _check_source_version(delete.source_version, f"deletes[{position}].source_version")
    if batch.only_where is not None:
        compile_filter(batch.only_where)
    for source, value in batch.cursors.items():
        if not isinstance(source, str) or not isinstance(value, str):
            raise InvalidRequest("cursors are texts by source name", "cursors")
    if any(item.vector is not None for item in batch.items):
        if batch.embedding_version is None:
            raise InvalidRequest(
                "a batch with vectors must name their embedding_version", "embedding_version"
            )
        _check_other_vectors(batch, dims)
        dim = dims.get(batch.embedding_version) if dims else spec.dim
        return replace(batch, items=_with_sound_vectors(batch.items, dim))
    return batch


def _check_other_vectors(batch: WriteBatch, dims: Mapping[str, int]) -> None:
    """Vectors of other versions come from models of this service: one vector that is none fails the write."""
    for version, vectors in batch.other_vectors.items():
        if len(vectors) != len(batch.items):
            raise InvalidRequest(f"other_vectors of {version!r} must fit the items", "other_vectors")
        for place, vector in enumerate(vectors):
            if vector is not None:
                check_vector(vector, f"other_vectors[{place}]")
                check_dim(vector, dims.get(version, len(vector)), f"other_vectors[{place}]")


def _check_item(item: ItemWrite, spec: CollectionSpec, field: str, metadata_bytes_max: int) -> None:
    check_id(item.id, spec, f"{field}.id")
    _check_source_version(item.source_version, f"{field}.source_version")
    if item.active is not None and not isinstance(item.active, bool):
        raise InvalidRequest(f"{field}.active must be true or false", f"{field}.active")
    if item.content_hash is not None and len(item.content_hash) > CONTENT_HASH_BYTES_MAX:
        raise InvalidRequest(f"{field}.content_hash is too long", f"{field}.content_hash")
    if item.content is not None and not item.content_hash:
        raise InvalidRequest(f"{field}.content needs its content_hash", f"{field}.content")
    for name, metadata in (("metadata", item.metadata), ("merge", item.merge)):
        fault = None if metadata is None else metadata_fault(metadata, metadata_bytes_max)
        if fault is not None:
            raise InvalidRequest(f"{field}.{name} {fault}", f"{field}.{name}")
        if metadata is not None and spec.lifetime is not None:
            fault = spec.lifetime.fault(metadata)
            if fault is not None:
                raise InvalidRequest(f"{field}.{name}.{fault}", f"{field}.{name}")
    if item.metadata is not None and item.merge is not None:
        raise InvalidRequest(f"{field} must not have both metadata and merge", f"{field}.merge")


def _check_source_version(value: object, field: str) -> None:
    fault = None if value is None else int64_fault(value)
    if fault is not None:
        raise InvalidRequest(f"{field} {fault}", field)


def _with_sound_vectors(items: Sequence[ItemWrite], dim: int | None) -> list[ItemWrite]:
    """All vectors checked in one go: a call a row would cost more than storing them. dim: None takes that of
    the first one."""
    positions = [position for position, item in enumerate(items) if item.vector is not None]
    vectors = [_shaped(items[position].vector, f"items[{position}].vector") for position in positions]
    for position, vector in zip(positions, vectors, strict=True):
        check_dim(vector, dim or len(vectors[0]), f"items[{position}].vector")
    stacked: Vector = np.stack(vectors).astype(np.float32, copy=False)
    for row, fault in vector_faults(stacked).items():
        field = f"items[{positions[row]}].vector"
        raise InvalidVector(f"{field} {WHY[fault]}", field)
    out = list(items)
    for position, vector in zip(positions, stacked, strict=True):
        out[position] = replace(out[position], vector=vector)
    return out


def _excluded(ids: Ids | npt.NDArray[np.int64], spec: CollectionSpec) -> Ids | npt.NDArray[np.int64]:
    if isinstance(ids, np.ndarray):
        if spec.id_kind != "int64" or ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise InvalidId(f"exclude_ids: ids of {spec.name!r} are {spec.id_kind}", "exclude_ids")
        return ids.astype(np.int64, copy=False)
    if len(ids) == 0:
        return ids if isinstance(ids, tuple) else ()
    wanted = int if spec.id_kind == "int64" else str
    if set(map(type, ids)) != {wanted}:
        raise InvalidId(f"exclude_ids: ids of {spec.name!r} are {spec.id_kind}", "exclude_ids")
    if wanted is str:
        return ids
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        raise InvalidId(
            "exclude_ids: an id is outside the range of a 64-bit integer", "exclude_ids"
        ) from None


def check_ids(ids: Sequence[Id], spec: CollectionSpec) -> None:
    """Raises InvalidId."""
    for position, item_id in enumerate(ids):
        check_id(item_id, spec, f"ids[{position}]")


def check_version(embedding_version: str) -> None:
    """Raises InvalidRequest for an empty one, which names no generation."""
    if not embedding_version:
        raise InvalidRequest("embedding_version must not be empty", "embedding_version")


def check_parts(parts: int, numbers: Sequence[int]) -> None:
    """parts, numbers: as of `VectorIndex.digest_rows`. Raises InvalidRequest."""
    if not 1 <= parts <= BUCKETS_MAX or parts & (parts - 1):
        raise InvalidRequest(f"parts must be a power of two, {BUCKETS_MAX} at most, got {parts}", "parts")
    for number in numbers:
        if not 0 <= number < parts:
            raise InvalidRequest(f"bucket must be 0..{parts - 1}, got {number}", "bucket")
