"""What a route takes the engine takes, and what it refuses it refuses item by item: over generated requests.

The seed is fixed; a failing request is printed whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from index_store.answers.validation import checked_batch
from index_store.types import ItemWrite, WriteBatch
from item_rules.ids import id_fault
from item_rules.metadata import METADATA_BYTES_MAX, metadata_fault
from item_rules.vectors import LENGTH_MAX, LENGTH_MIN, vector_fault, vector_faults
from service.collections import Catalogue, Collection
from service.http.wire.body import decode_json
from service.http.wire.schemas import UpsertIn
from service.http.wire.upsert import IntakeReader
from service.settings import Settings
from tests.http_app import HttpApp, running_app, with_collections

DIM = 4
NUMBERS = Collection(name="numbers", id_field="n_id", id_type="int64", modality="text", dim=DIM, metric="l2")
NAMES = Collection(name="names", id_field="s_id", id_type="string", modality="image", dim=DIM, metric="l2")
COLLECTIONS = """
[collections.numbers]
id_field = "n_id"
id_type = "int64"
modality = "text"
dim = 4
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.names]
id_field = "s_id"
id_type = "string"
modality = "image"
dim = 4
metric = "l2"
model = "builtin:placeholder"
"""

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
integers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30]),
)
ids = st.one_of(
    integers, any_text, st.sampled_from(["", "x" * 255, "x" * 256, "a\0b", "a\nb"]), st.booleans(), st.none()
)
numbers = st.one_of(
    st.floats(-2, 2),
    st.sampled_from([0.0, 1e-14, 1e-12, 3e-13, 1e-39, 1e12, 1e13, 3e38, 1e39, -1e308, 10**40]),
)
vectors = st.one_of(
    st.lists(numbers, min_size=DIM, max_size=DIM),
    st.lists(numbers, max_size=DIM + 1),
    st.sampled_from([0.0, 1e-14, 5e-13, 1e12, 1e13]).map(lambda each: [each] * DIM),
    st.binary(min_size=4 * DIM, max_size=4 * DIM).map(lambda data: base64.b64encode(data).decode()),
    st.sampled_from(["", "!", "AAAA", "AAAAAAA="]),
    st.just([1.0, "x", None, 2.0]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, st.floats(allow_nan=False, allow_infinity=False), any_text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(any_text, inner, max_size=3)),
    max_leaves=8,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


metadata = st.one_of(
    st.dictionaries(any_text, values, max_size=4),
    st.sampled_from([14, 15, 16, 17, 63, 64, 65]).map(lambda levels: {"deep": nested(levels)}),
    st.sampled_from([METADATA_BYTES_MAX - 8, METADATA_BYTES_MAX - 7]).map(lambda size: {"a": "b" * size}),
    values,
)
fields = {
    "id": ids,
    "n_id": ids,
    "s_id": ids,
    "vector": vectors,
    "text": st.one_of(any_text, st.none(), st.integers()),
    "image": st.sampled_from(["AAAA", "data:image/png;base64,AAAA", "data:,x", "!", 3]),
    "image_url": st.one_of(any_text, st.just("x" * 3000)),
    "active": st.one_of(st.booleans(), st.none(), st.integers()),
    "metadata": metadata,
    "source_version": st.one_of(integers, st.none(), st.floats(-2, 2)),
    "unknown": st.integers(),
}
likely = st.fixed_dictionaries(
    {"id": st.one_of(st.integers(1, 20), any_text), "vector": vectors}, optional={"metadata": metadata}
)
said = st.fixed_dictionaries(
    {"id": st.one_of(st.integers(1, 20), any_text)},
    optional={"active": st.booleans(), "metadata": metadata, "source_version": integers},
)
items = st.one_of(likely, said, st.fixed_dictionaries({}, optional=fields), values)
deletes = st.one_of(ids, st.fixed_dictionaries({"id": ids}, optional={"source_version": integers}), values)
requests = st.fixed_dictionaries(
    {"collection": st.sampled_from(["numbers", "names"]), "items": st.lists(items, max_size=5)},
    optional={"delete_ids": st.lists(deletes, max_size=3)},
)


def encoded(request: Any) -> bytes:
    """By the standard library, which writes integers of any size."""
    return json.dumps(request, allow_nan=False).encode()


@pytest.fixture(scope="module")
def reader() -> IntakeReader:
    return IntakeReader(Catalogue((NUMBERS, NAMES)), Settings())


@pytest.mark.long
@seed(20_261)
@settings(max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests)
def test_what_a_route_takes_the_engine_takes(reader: IntakeReader, request: Any) -> None:
    intake = reader.read(decode_json(msgspec.json.Decoder(UpsertIn), encoded(request)))
    spec = {"numbers": NUMBERS, "names": NAMES}[request["collection"]].spec
    writes = [
        ItemWrite(each.id, each.vector, each.active, each.metadata, each.source_version)
        for each in intake.items
    ]
    checked_batch(WriteBatch(writes, intake.deletes, "v1", intake.cursors), spec)
    places = {("items", each.place) for each in intake.items} | {each.loc[:2] for each in intake.rejects}
    wanted = {("items", place) for place in range(len(request["items"]))}
    assert {each for each in places if each[0] == "items"} == wanted
    assert len(intake.deletes) + sum(each.loc[0] == "delete_ids" for each in intake.rejects) == len(
        request.get("delete_ids") or ()
    )
    assert all(each.code and each.detail for each in intake.rejects)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder: Path = tmp_path_factory.mktemp("rules")
    with running_app(folder / "data", with_collections(folder, COLLECTIONS)) as running:
        yield running


@pytest.mark.long
@seed(20_262)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests)
def test_a_partial_write_is_never_refused_for_its_items(app: HttpApp, request: Any) -> None:
    body = encoded(request)
    headers = {"content-type": "application/json"}
    partly = app.post("/v1/upsert?partial=true", content=body, headers=headers)
    assert partly.status_code == 200, partly.text
    answer = partly.json()
    for each in answer["rejected"]:
        assert each["loc"][0] == "body" and each["loc"][1] in ("items", "delete_ids")
        assert isinstance(each["loc"][2], int) and each["code"] and each["detail"]
    places = {each["loc"][2] for each in answer["rejected"] if each["loc"][1] == "items"}
    taken = len(request["items"]) - len(places)
    assert answer["upserted"] + answer["stale_ignored"] + len(answer["unknown_ids"]) <= taken + len(
        request.get("delete_ids") or ()
    )
    whole = app.post("/v1/upsert", content=body, headers=headers)
    assert (whole.status_code == 422) == bool(answer["rejected"]), whole.text
    if answer["rejected"]:
        told = [each["loc"] for each in whole.json()["errors"]]
        assert told and all(loc in [each["loc"] for each in answer["rejected"]] for loc in told)


@given(value=ids)
def test_ids_are_judged_alike_one_by_one_and_by_the_array(value: Any) -> None:
    for kind in ("int64", "string"):
        fits = isinstance(value, int if kind == "int64" else str) and not isinstance(value, bool)
        if kind == "int64":
            fits = fits and -(2**63) <= value < 2**63
        else:
            fits = fits and 1 <= len(value) <= 255 and "\0" not in value
        assert (id_fault(value, kind) is None) == fits  # type: ignore[arg-type]


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.lists(st.floats(width=32), min_size=DIM, max_size=DIM), min_size=1, max_size=6))
def test_vectors_are_judged_alike_one_by_one_and_together(rows: list[list[float]]) -> None:
    stacked = np.array(rows, dtype=np.float32)
    together = vector_faults(stacked)
    for row, vector in enumerate(stacked):
        fault = vector_fault(vector)
        assert fault == together.get(row)
        with np.errstate(over="ignore", invalid="ignore"):
            length = float(np.linalg.norm(vector.astype(np.float64)))
        assert (fault is None) == (LENGTH_MIN <= length <= LENGTH_MAX)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, None),
        ({"a": nested(15)}, None),
        ({"a": nested(16)}, "levels"),
        ({"a": "b" * (METADATA_BYTES_MAX - 8)}, None),
        ({"a": "b" * (METADATA_BYTES_MAX - 7)}, "bytes"),
        ({"a": "가" * 22_000}, "bytes"),
        ({"a": 2**64 - 1, "b": -(2**63)}, None),
        ({"a": [2**64]}, "64 bits"),
        ({"a": {"b": -(2**63) - 1}}, "64 bits"),
        ({"a": "1" * 30}, None),
        ({"a": float("nan")}, "JSON"),
        ({"a": "\ud83d"}, "half a character"),
        ({1: "a"}, "object"),
        ([1], "object"),
        (None, "object"),
        ({"a": b"x"}, "JSON"),
        ({"a": nested(5000)}, "JSON"),
    ],
)
def test_metadata_is_bounded(value: Any, fault: str | None) -> None:
    told = metadata_fault(value)
    assert (told is None) if fault is None else (told is not None and fault in told)


def test_metadata_that_is_taken_can_be_given_back(app: HttpApp) -> None:
    full = {"a": 2**64 - 1, "b": -(2**63), "c": nested(14), "d": "가\u2028\x7f\x00", "e": 1e300, "": None}
    item = {"n_id": 7, "vector": [1.0, 0, 0, 0], "metadata": full}
    stored = app.post("/v1/upsert", {"collection": "numbers", "items": [item]})
    assert stored.status_code == 200, stored.text
    assert app.get("/v1/items/7?collection=numbers").json()["metadata"] == full
