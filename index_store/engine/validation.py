"""Checks at the door: what passes here can be stored and searched. Every refusal names its field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.delta.float32_bounds import norms
from index_store.errors import InvalidId, InvalidRequest, InvalidVector
from index_store.filter.compile import compile_filter
from index_store.storage.rows import metadata_text
from index_store.types import CollectionSpec, Id, Ids, ItemWrite, SearchRequest, Vector, WriteBatch

K_MAX = 100_000
METADATA_BYTES_MAX = 65_536
METADATA_DEPTH_MAX = 64
"""What is stored must be readable: parsers of JSON give up near a thousand levels."""
CONTENT_HASH_BYTES_MAX = 64
ID_CHARACTERS_MAX = 255
LENGTH_MIN, LENGTH_MAX = 1e-12, 1e12  # beyond these, squares leave the range of float32
_SQUARE_MIN, _SQUARE_MAX = 1e-12, 1e12  # well inside, where a float32 sum decides it (1 us, else 7)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_spec(spec: CollectionSpec) -> None:
    """Names become directories. Raises ValueError: a mistake of configuration, not of a caller."""
    if not _COLLECTION_NAME.fullmatch(spec.name):
        raise ValueError(f"{spec.name!r} is no collection name: 1..64 letters, digits, - and _")
    if not 1 <= spec.dim <= 65_535:
        raise ValueError(f"collection {spec.name!r}: dim must be 1..65535, got {spec.dim}")


def check_id(item_id: object, spec: CollectionSpec, field: str) -> None:
    """Raises InvalidId."""
    if spec.id_kind == "int64":
        if isinstance(item_id, bool) or not isinstance(item_id, int):
            raise InvalidId(f"{field}: ids of {spec.name!r} are integers, got {_kind(item_id)}", field)
        if not _INT64_MIN <= item_id <= _INT64_MAX:
            raise InvalidId(f"{field}: the id is outside the range of a 64-bit integer", field)
        return
    if not isinstance(item_id, str):
        raise InvalidId(f"{field}: ids of {spec.name!r} are strings, got {_kind(item_id)}", field)
    if not 1 <= len(item_id) <= ID_CHARACTERS_MAX:
        raise InvalidId(f"{field}: an id has 1..{ID_CHARACTERS_MAX} characters, got {len(item_id)}", field)
    if "\0" in item_id or _has_surrogate(item_id):
        raise InvalidId(f"{field}: the id holds NUL or half a character", field)


def check_vector(vector: object, spec: CollectionSpec, field: str) -> Vector:
    """The vector as contiguous float32. Raises InvalidVector."""
    out: Vector = np.ascontiguousarray(_shaped(vector, spec, field), dtype=np.float32)
    square = float(np.vdot(out, out))  # dot would warn of overflow, and silencing it costs 4 us amid searches
    if _SQUARE_MIN <= square <= _SQUARE_MAX:
        return out
    length = float(norms(out[None, :])[0])
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise InvalidVector(f"{field} {_why(out)}", field)
    return out


def _shaped(vector: object, spec: CollectionSpec, field: str) -> npt.NDArray[Any]:
    if not isinstance(vector, np.ndarray) or vector.dtype.kind != "f":
        raise InvalidVector(f"{field} must be an array of floats", field)
    if vector.shape != (spec.dim,):
        shape = str(len(vector)) if vector.ndim == 1 else f"shape {vector.shape}"
        raise InvalidVector(f"{field} must have {spec.dim} dimensions, got {shape}", field)
    return vector


def checked_request(request: SearchRequest, spec: CollectionSpec) -> SearchRequest:
    """The request, its vector contiguous. Raises InvalidRequest."""
    vector = check_vector(request.vector, spec, "vector")
    if isinstance(request.k, bool) or not 1 <= request.k <= K_MAX:
        raise InvalidRequest(f"k must be 1..{K_MAX}, got {request.k}", "k")
    if not 0 <= request.offset <= K_MAX:
        raise InvalidRequest(f"offset must be 0..{K_MAX}, got {request.offset}", "offset")
    if request.after is not None:
        if request.offset:
            raise InvalidRequest("offset and a cursor exclude each other", "offset")
        check_id(request.after.id, spec, "cursor")
        if not np.isfinite(request.after.distance):
            raise InvalidRequest("the cursor's distance must be finite", "cursor")
    if request.max_distance is not None and np.isnan(request.max_distance):
        raise InvalidRequest("max_distance must be a number", "max_distance")
    if request.filter is not None:
        compile_filter(request.filter)
    excluded = _excluded(request.exclude_ids, spec)
    if vector is request.vector and excluded is request.exclude_ids:
        return request
    return replace(request, vector=vector, exclude_ids=excluded)


def checked_batch(batch: WriteBatch, spec: CollectionSpec) -> WriteBatch:
    """The batch, its vectors contiguous float32. Raises InvalidRequest."""
    for place, item in enumerate(batch.items):
        _check_item(item, spec, f"items[{place}]")
    for place, delete in enumerate(batch.deletes):
        check_id(delete.id, spec, f"deletes[{place}].id")
        _check_source_version(delete.source_version, f"deletes[{place}].source_version")
    for source, value in batch.cursors.items():
        if not isinstance(source, str) or not isinstance(value, str):
            raise InvalidRequest("cursors are texts by source name", "cursors")
    if any(item.vector is not None for item in batch.items):
        if batch.embedding_version is None:
            raise InvalidRequest(
                "a batch with vectors must name their embedding_version", "embedding_version"
            )
        return replace(batch, items=_with_sound_vectors(batch.items, spec))
    return batch


def _check_item(item: ItemWrite, spec: CollectionSpec, field: str) -> None:
    check_id(item.id, spec, f"{field}.id")
    _check_source_version(item.source_version, f"{field}.source_version")
    if item.active is not None and not isinstance(item.active, bool):
        raise InvalidRequest(f"{field}.active must be true or false", f"{field}.active")
    if item.content_hash is not None and len(item.content_hash) > CONTENT_HASH_BYTES_MAX:
        raise InvalidRequest(f"{field}.content_hash is too long", f"{field}.content_hash")
    if item.metadata is not None:
        _check_metadata(item.metadata, f"{field}.metadata")


def _check_source_version(value: object, field: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not _INT64_MIN <= value <= _INT64_MAX:
        raise InvalidRequest(f"{field} must be a 64-bit integer", field)


def _check_metadata(metadata: object, field: str) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise InvalidRequest(f"{field} must be an object", field)
    try:
        text = metadata_text(metadata)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(f"{field} is not JSON: {exc}", field) from exc
    if size > METADATA_BYTES_MAX:
        raise InvalidRequest(f"{field} has {size} bytes, {METADATA_BYTES_MAX} at most", field)
    # Counting is for almost all of them: only what has so many brackets can be so deep.
    if text.count("[") + text.count("{") > METADATA_DEPTH_MAX and _depth(metadata) > METADATA_DEPTH_MAX:
        raise InvalidRequest(f"{field} has more than {METADATA_DEPTH_MAX} levels", field)


def _depth(value: object) -> int:
    """How many levels of objects and arrays there are; of JSON values only."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (Mapping, list, tuple))]:
        depth += 1
        level = [child for each in level for child in (each.values() if isinstance(each, Mapping) else each)]
    return depth


def _with_sound_vectors(items: Sequence[ItemWrite], spec: CollectionSpec) -> list[ItemWrite]:
    """All vectors checked in one go: a call a row would cost more than storing them."""
    places = [place for place, item in enumerate(items) if item.vector is not None]
    vectors = [_shaped(items[place].vector, spec, f"items[{place}].vector") for place in places]
    stacked: Vector = np.stack(vectors).astype(np.float32, copy=False)
    lengths = norms(stacked)
    wrong = np.flatnonzero(~((lengths >= LENGTH_MIN) & (lengths <= LENGTH_MAX)))
    if len(wrong):
        place = places[int(wrong[0])]
        raise InvalidVector(f"items[{place}].vector {_why(stacked[wrong[0]])}", f"items[{place}].vector")
    out = list(items)
    for place, vector in zip(places, stacked, strict=True):
        out[place] = replace(out[place], vector=vector)
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


def _why(vector: Vector) -> str:
    if not np.isfinite(vector).all():
        return "holds NaN or infinity"
    if not vector.any():
        return "is zero: it has no direction"
    return f"has a length outside {LENGTH_MIN:g}..{LENGTH_MAX:g}"


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _kind(value: object) -> str:
    return {bool: "true or false", int: "an integer", str: "a string"}.get(type(value), type(value).__name__)


def check_ids(ids: Sequence[Id], spec: CollectionSpec) -> None:
    """Raises InvalidId."""
    for place, item_id in enumerate(ids):
        check_id(item_id, spec, f"ids[{place}]")
