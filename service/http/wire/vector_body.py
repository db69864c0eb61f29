"""A search whose body is the vector itself, little-endian float32: every other field stands in the query
string, under the name that it has in JSON."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs

import msgspec
import numpy as np

from index_store.types import Vector
from service.collections import Catalogue, Collection
from service.errors import FieldError, InvalidInput
from service.http.wire.body import field_error_of
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import IdIn, SearchIn, VectorParametersIn
from service.http.wire.values import find_collection

_PARAMETERS_MAX = 10_000
_LISTS = ("exclude_ids", "include")


def read_vector_body(query_string: bytes, body: bytes, catalogue: Catalogue) -> tuple[SearchIn, Vector]:
    """Return what the query string asks for, its values not yet checked, and the vector: (n,) float32.

    Raises InvalidInput for what can't be read, HttpRefusal for another shape of the query string."""
    if not body or len(body) % 4:
        raise InvalidInput("vector", "must be whole float32 values", "invalid_vector")
    parameters = _parameters(query_string)
    collection = catalogue.default
    if parameters.collection is not None:
        collection = find_collection(catalogue, parameters.collection)
    search = SearchIn(
        vector=[],
        collection=collection.name,
        top_k=parameters.top_k,
        exclude_ids=ids_of_parameters("exclude_ids", parameters.exclude_ids, collection),
        filter=read_filter_text(parameters.filter),
        offset=parameters.offset,
        cursor=parameters.cursor,
        max_distance=_finite(parameters.max_distance),
        exact=parameters.exact,
        min_seq=parameters.min_seq,
        embedding_version=parameters.embedding_version,
        include=parameters.include,
    )
    return search, np.frombuffer(body, dtype="<f4")


def _parameters(query_string: bytes) -> VectorParametersIn:
    try:
        given = parse_qs(query_string.decode("latin-1"), max_num_fields=_PARAMETERS_MAX)
    except ValueError as exc:
        raise HttpRefusal(422, "invalid_request", f"More than {_PARAMETERS_MAX} query parameters.") from exc
    fields: dict[str, Any] = {name: values[-1] for name, values in given.items()}
    for name in _LISTS:
        if name in given:
            fields[name] = given[name]
    if "include" in given:
        fields["include"] = [each for value in given["include"] for each in value.split(",")]
    try:
        return msgspec.convert(fields, VectorParametersIn, strict=False)
    except msgspec.ValidationError as exc:
        what, (_, *loc) = field_error_of(exc)
        name = str(loc[0]) if loc else ""
        raise in_query_string("invalid_request", f"{name}: {what}.", tuple(loc), what) from exc


def in_query_string(code: str, detail: str, loc: tuple[str | int, ...], what: str) -> HttpRefusal:
    """Return the refusal of a field that stands in the query string."""
    return HttpRefusal(422, code, detail, errors=[FieldError(("query", *loc), what)])


def ids_of_parameters(field: str, given: list[str] | None, collection: Collection) -> list[IdIn] | None:
    """Return ids given one a parameter, or integers with commas between them: a string id may hold a comma
    itself. Raises InvalidInput."""
    if given is None or collection.id_type == "string":
        return list(given) if given is not None else None
    try:
        return [int(each) for value in given for each in value.split(",")]
    except ValueError as exc:
        raise InvalidInput(field, "must hold integers only", "invalid_id") from exc


def read_filter_text(text: str | None) -> dict[str, Any] | None:
    """Return the filter of a query string. Raises InvalidInput."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidInput("filter", "must be a JSON object", "invalid_filter") from exc


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise InvalidInput("max_distance", "must be a finite number")
    return value
