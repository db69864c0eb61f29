"""From wire values to the index's: ids, vectors, texts, pictures. Every refusal names its field."""

from __future__ import annotations

import binascii
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from index_store.types import Id, Ids, Vector
from item_rules.ids import INT64_MAX, INT64_MIN, id_fault, id_faults, int64_fault
from item_rules.vectors import WHY, dimension_fault, vector_fault
from service.collections import Catalogue, Collection
from service.embedding.text import normalise_text
from service.errors import InvalidInput, Loc
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import VectorIn

_DATA_URI = "data:"
_COMPOSED_MAX = 4
"""Characters that NFC makes one of, at most."""
_IDS_AT_ONCE = 200_000
"""Milliseconds of work: other threads get their turn between two."""


def find_collection(catalogue: Catalogue, name: str) -> Collection:
    """Return the named collection. Raises HttpRefusal 404."""
    collection = catalogue.get(name)
    if collection is None:
        raise HttpRefusal(404, "unknown_collection", f"There is no collection {name[:64]!r}.")
    return collection


def not_one_of(contents: Mapping[str, object]) -> InvalidInput:
    """Return the error for a request without exactly one of `contents` (None: absent)."""
    names = ", ".join(contents)
    given = [name for name, value in contents.items() if value is not None]
    if not given:
        return InvalidInput(next(iter(contents)), f"is missing: give one of {names}")
    return InvalidInput(given[0], f"can't be combined with {given[1]}: give only one of {names}")


def in_range(field: str, value: int, low: int, high: int) -> int:
    """Return `value` if it is `low` to `high`. Raises InvalidInput."""
    if not low <= value <= high:
        raise InvalidInput(field, f"must be {low} to {high}")
    return value


def read_vector(value: VectorIn, dims: Sequence[int], field: str = "vector") -> Vector:
    """Return (dim,) float32, finite and not zero, from numbers or base64 of little-endian float32. dims: as
    `checked_vector` takes them."""
    if isinstance(value, str):
        data = read_base64(value, field)
        if len(data) % 4:
            raise InvalidInput(field, "must be base64 of whole float32 values", "invalid_vector")
        return checked_vector(np.frombuffer(data, dtype="<f4"), dims, field)
    with np.errstate(over="ignore"):
        return checked_vector(np.array(value, dtype=np.float32), dims, field)


def checked_vector(vector: npt.NDArray[np.float32], dims: Sequence[int], field: str = "vector") -> Vector:
    """Return `vector` if it has finite values and a direction, and one of `dims` if there are any. Raises
    InvalidInput."""
    if dims and vector.shape[0] not in dims:
        raise InvalidInput(field, dimension_fault(vector.shape[0], dims[0]), "invalid_dimension")
    why = vector_fault(vector)
    if why is not None:
        raise InvalidInput(field, WHY[why], "invalid_vector")
    return vector


def read_base64(value: str, field: str) -> bytes:
    """Return the bytes of a base64 text. Raises InvalidInput."""
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput(field, "must be base64") from exc


def check_lifetime(metadata: Mapping[str, Any], collection: Collection, field: str) -> None:
    """Raises InvalidInput where metadata does not say in a form that can be read when the item is shown."""
    lifetime = collection.lifetime
    fault = None if lifetime is None else lifetime.fault(metadata)
    if fault is not None:
        raise InvalidInput(field, f"{fault} (collection {collection.name!r})")


def read_picture(value: str, field: str) -> bytes:
    """Return the bytes of a picture file, out of base64 or a `data:` URI of it, as browsers make them."""
    if value[:5].lower() != _DATA_URI:
        return read_base64(value, field)
    head, comma, data = value.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidInput(field, "must be base64, or a data: URI that holds base64")
    return read_base64(unquote(data) if "%" in data else data, field)


def read_text(value: str, chars_max: int, field: Loc | str) -> str:
    """Return `value` trimmed and in NFC."""
    if "\x00" in value:
        raise InvalidInput(field, "must not hold NUL")
    too_long = len(value) > _COMPOSED_MAX * chars_max and len(value.strip()) > _COMPOSED_MAX * chars_max
    text = "" if too_long else normalise_text(value)  # no other thread runs while megabytes are composed
    if not 1 <= len(text) <= chars_max:
        raise InvalidInput(field, f"must have 1 to {chars_max} characters after trimming")
    return text


def read_id(value: Id, collection: Collection, field: str) -> Id:
    """Return `value` if it is an id of the collection's kind: "7" is no int64 id. Raises InvalidInput."""
    fault = id_fault(value, collection.id_type)
    if fault is not None:
        raise InvalidInput(field, fault, "invalid_id")
    return value


def id_of_text(text: str, collection: Collection) -> Id:
    """Return the id that a path or a parameter means, which have no types: digits name an int64 id where the
    collection has those. `read_id` refuses what is left."""
    if collection.id_type == "string":
        return text
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 19 and INT64_MIN <= int(text) <= INT64_MAX:
        return int(text)
    return text


def read_ids(values: Sequence[Id], collection: Collection, field: str) -> list[Id]:
    """Return `values` as ids of the collection's kind. Raises InvalidInput for the first that is none."""
    for place, fault in id_faults(values, collection.id_type).items():
        raise InvalidInput((field, place), fault, "invalid_id")
    return list(values)


def read_source_version(value: int | None, field: str = "source_version") -> int | None:
    """Return a version that fits 64 bits, or None. Raises InvalidInput."""
    fault = None if value is None else int64_fault(value)
    if fault is not None:
        raise InvalidInput(field, fault)
    return value


def read_exclude_ids(values: Sequence[Id], collection: Collection) -> Ids | npt.NDArray[np.int64]:
    """Return any number of ids, checked as one array. Raises InvalidInput."""
    if collection.id_type == "string":
        for start in range(0, len(values), _IDS_AT_ONCE):
            if set(map(type, values[start : start + _IDS_AT_ONCE])) != {str}:
                raise InvalidInput("exclude_ids", "must hold strings only", "invalid_id")
        return values
    try:
        # An array takes integers and nothing else, at a third of the time that a look at each type takes.
        if len(values) <= _IDS_AT_ONCE:
            return np.frombuffer(array("q", cast("Sequence[int]", values)), dtype=np.int64)
        starts = range(0, len(values), _IDS_AT_ONCE)
        return np.concatenate([read_exclude_ids(values[n : n + _IDS_AT_ONCE], collection) for n in starts])
    except TypeError as exc:
        raise InvalidInput("exclude_ids", "must hold integers only", "invalid_id") from exc
    except OverflowError as exc:
        raise InvalidInput("exclude_ids", "must fit in 64 bits", "invalid_id") from exc
