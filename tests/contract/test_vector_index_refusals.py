"""What every `VectorIndex` refuses, and how its filters read: one body over the engine and the reference."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import numpy as np
import pytest

from index_store.errors import (
    AnswerLimitExceeded,
    GenerationConflict,
    InvalidFilter,
    InvalidId,
    InvalidRequest,
    InvalidVector,
    PageExpired,
    SeqNotReached,
    UnknownCollection,
    VersionMismatch,
)
from index_store.port import VectorIndex
from index_store.types import (
    ItemDelete,
    ItemWrite,
    PageKey,
    SearchRequest,
    SearchResult,
    WriteBatch,
)
from tests.contract.vectors import DIM, AnyIndex, fill, find, put, vectors


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": 3}, [3]),
        ({"n": {"$gte": 7}, "even": True}, [8]),
        ({"n": {"$in": [1, 2, "3"]}}, [1, 2]),
        ({"n": {"$nin": list(range(9))}}, [9, 10, 11]),
        ({"tags": "red"}, [10]),
        ({"tags": {"$ne": "red"}, "n": {"$gt": 8}}, [9]),
        ({"tags": {"$exists": True}}, [10, 11]),
        ({"$or": [{"n": 1}, {"$and": [{"n": {"$lt": 6}}, {"n": {"$gt": 4}}]}]}, [1, 5]),
        ({"$not": {"n": {"$lt": 9}}}, [9, 10, 11]),
        ({"n": {"$not": {"$lt": 9}}}, [9, 10, 11]),
        ({"even": 1}, []),
        ({"n": "3"}, []),
        ({"none": None}, [11]),
        ({"unknown": {"$ne": 1}, "n": {"$lt": 1}}, [0]),
        ({}, list(range(12))),
    ],
)
def test_filters(index: VectorIndex, condition: dict[str, Any], expected: list[int]) -> None:
    data = fill(index, 10)
    put(index, [ItemWrite(10, data[0], metadata={"n": 10, "tags": ["red", "blue"]})])
    put(index, [ItemWrite(11, data[0], metadata={"n": 11, "tags": ["red"], "none": None})])
    if condition == {"tags": "red"}:
        expected = [10, 11]
    assert sorted(find(index, data[0], 99, filter=condition)) == expected


NFD = unicodedata.normalize("NFD", "농심")
TWELVE = {"n": 12, "nest": {"x": 5}, "a.b": 1, "a": {"b": 2}, "brand": "농심", "상표": 1}
THIRTEEN = {
    "n": 13,
    "nest": {"x": 6, "list": [{"y": 1}, {"y": [2, 3]}], "empty": []},
    "a": {"b": 2},
    "brand": NFD,
    unicodedata.normalize("NFD", "상표"): 1,
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"nest.x": 5}, [12]),
        ({"nest.x": {"$gt": 5}}, [13]),
        ({"nest.x": {"$exists": True}}, [12, 13]),
        ({"nest.x": {"$ne": 5}}, [11, 13]),
        ({"nest.list.y": 2}, [13]),
        ({"nest.list.y": {"$ne": 2}}, [11, 12]),
        ({"nest.empty": {"$exists": True}}, [13]),
        ({"nest.x.deeper": 5}, []),
        ({"a.b": 1}, [12]),
        ({"a.b": 2}, [13]),
        ({"brand": "농심"}, [12, 13]),
        ({"brand": NFD}, [12, 13]),
        ({"brand": {"$in": ["x", NFD]}}, [12, 13]),
        ({"brand": {"$gte": "농심", "$lte": NFD}}, [12, 13]),
        ({"brand": {"$ne": "농심"}}, [11]),
        ({"상표": 1}, [12, 13]),
        ({unicodedata.normalize("NFD", "상표"): 1}, [12, 13]),
    ],
)
def test_nested_keys_and_texts_of_either_encoding(
    index: VectorIndex, condition: dict[str, Any], expected: list[int]
) -> None:
    data = vectors(3)
    rows = [{"n": 11}, TWELVE, THIRTEEN]
    put(index, [ItemWrite(n, data[n - 11], metadata=row) for n, row in zip((11, 12, 13), rows, strict=True)])
    assert sorted(find(index, data[0], 99, filter=condition)) == expected


@pytest.mark.parametrize(
    ("condition", "unknown"),
    [
        ({"n": 1}, []),
        ({"catgory": 1}, ["catgory"]),
        ({"$or": [{"nest.x": 1}, {"nest.z": 1}, {"$not": {"prise": {"$lt": 3}}}]}, ["nest.z", "prise"]),
        ({unicodedata.normalize("NFD", "상표"): 9}, []),
        ({}, []),
    ],
)
def test_filter_keys_that_no_row_has_are_told(
    index: VectorIndex, condition: dict[str, Any], unknown: list[str]
) -> None:
    data = vectors(3)
    put(index, [ItemWrite(12, data[0], metadata=TWELVE), ItemWrite(13, data[0], metadata=THIRTEEN)])
    for _ in range(2):
        (result,) = index.search("numbers", [SearchRequest(data[0], 5, filter=condition)])
        assert list(result.unknown_filter_keys) == unknown
    put(index, [ItemWrite(14, data[0], metadata={"nest": {"z": 0}, "catgory": 0, "prise": 0})])
    (result,) = index.search("numbers", [SearchRequest(data[0], 5, filter=condition)])
    assert not result.unknown_filter_keys


def test_requests_of_one_call_are_refused_one_by_one(index: AnyIndex) -> None:
    data = fill(index, 3)
    outcomes = index.search_each(
        "numbers",
        [
            SearchRequest(data[0], 1),
            SearchRequest(data[0], 0),
            SearchRequest(data[0], 1, embedding_version="v2"),
            SearchRequest(data[0], 1, filter={"n": {"$near": 1}}),
            SearchRequest(data[0], 1, after=PageKey("g99", 1, 0.0, 1)),
            SearchRequest(data[0][:3], 1),
            SearchRequest(data[0], 1, min_seq=99),
            SearchRequest(data[1], 1),
        ],
    )
    refused = [InvalidRequest, VersionMismatch, InvalidFilter, PageExpired, InvalidVector, SeqNotReached]
    assert [type(each) for each in outcomes] == [SearchResult, *refused, SearchResult]
    assert [each.hits[0].id for each in outcomes if isinstance(each, SearchResult)] == [0, 1]
    with pytest.raises(UnknownCollection):
        index.search_each("nowhere", [SearchRequest(data[0], 1)])


def test_bounds_of_a_filter(index: VectorIndex) -> None:
    data = fill(index, 3)
    assert find(index, data[0], 9, filter={"n": {"$in": list(range(1, 100_001))}}) != []
    deepest: dict[str, Any] = {"n": {"$gte": 0}}
    for _ in range(16):
        deepest = {"$and": [deepest]}
    assert len(find(index, data[0], 9, filter=deepest)) == 3
    assert len(find(index, data[0], 9, filter={"$or": [{"n": 1}] * 498})) == 1
    for beyond in (
        {"n": {"$in": list(range(100_001))}},
        {"$and": [deepest]},
        {"$or": [{"n": 1}] * 500},
    ):
        with pytest.raises(InvalidFilter):
            find(index, data[0], 9, filter=beyond)


@pytest.mark.parametrize("text", ["x" * 1000, "국" * 334])
def test_metadata_beyond_its_bound_is_refused(index: VectorIndex, text: str) -> None:
    data = vectors(4)
    put(index, [ItemWrite(n, data[n], metadata={"text": text}) for n in range(4)])
    enough = SearchRequest(data[0], 4, with_metadata=True, metadata_bytes_max=5000)
    assert len(index.search("numbers", [enough])[0].hits) == 4
    without = SearchRequest(data[0], 4, metadata_bytes_max=10)
    assert len(index.search("numbers", [without])[0].hits) == 4
    with pytest.raises(AnswerLimitExceeded, match="top_k") as caught:
        index.search("numbers", [SearchRequest(data[0], 4, with_metadata=True, metadata_bytes_max=3999)])
    assert caught.value.field == "top_k"


@pytest.mark.parametrize(
    ("condition", "culprit"),
    [
        ({"n": {"$near": 1}}, "filter.n.$near"),
        ({"$xor": []}, "filter.$xor"),
        ({"n": {"$in": 3}}, "filter.n.$in"),
        ({"n": {"$gt": True}}, "filter.n.$gt"),
        ({"n": {"$gt": None}}, "filter.n.$gt"),
        ({"n": {"$exists": 1}}, "filter.n.$exists"),
        ({"n": {}}, "filter.n"),
        ({"n": [1]}, "filter.n"),
        ({"$and": []}, "filter.$and"),
        ({"$or": [{"n": 1}, 7]}, "filter.$or[1]"),
        ({"$not": 3}, "filter.$not"),
    ],
)
def test_a_wrong_filter_names_its_field(index: VectorIndex, condition: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        find(index, vectors(1)[0], 1, filter=condition)
    assert caught.value.field == culprit


def test_metadata_changes_move_items_between_filters(index: VectorIndex) -> None:
    data = fill(index, 4)
    assert find(index, data[1], 9, filter={"even": False}) == find(index, data[1], 9, exclude_ids=[0, 2])
    index.write("numbers", WriteBatch([ItemWrite(1, metadata={"even": True})]))
    assert find(index, data[1], 9, filter={"even": False}) == [3]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(DIM),
        np.full(DIM, np.nan),
        np.full(DIM, np.inf),
        np.ones(DIM + 1),
        np.ones((1, DIM)),
        np.full(DIM, 1e30),
    ],
)
def test_bad_vectors_are_refused_and_nothing_changes(index: VectorIndex, bad: Any) -> None:
    bad = bad.astype(np.float32)
    good = vectors(1)[0]
    with pytest.raises(InvalidVector) as caught:
        put(index, [ItemWrite(1, good), ItemWrite(2, bad)])
    assert caught.value.field == "items[1].vector"
    with pytest.raises(InvalidVector) as caught:
        find(index, bad)
    assert caught.value.field == "vector"
    assert index.get("numbers", [1, 2]) == [None, None]


@pytest.mark.parametrize(
    ("collection", "bad"),
    [
        ("numbers", "7"),
        ("numbers", True),
        ("numbers", 2**63),
        ("numbers", 1.0),
        ("numbers", None),
        ("names", 7),
        ("names", ""),
        ("names", "x" * 256),
        ("names", "a\0b"),
        ("names", "\ud800"),
    ],
)
def test_bad_ids_are_refused_with_their_field(index: VectorIndex, collection: str, bad: Any) -> None:
    with pytest.raises(InvalidId) as caught:
        put(index, [ItemWrite(bad, vectors(1)[0])], collection)
    assert caught.value.field == "items[0].id"
    with pytest.raises(InvalidId) as caught:
        index.write(collection, WriteBatch(deletes=[ItemDelete(bad)]))
    assert caught.value.field == "deletes[0].id"
    with pytest.raises(InvalidId):
        index.get(collection, [bad])


def test_ids_of_the_whole_range(index: VectorIndex) -> None:
    data = vectors(4)
    ids = [-(2**63), -1, 0, 2**63 - 1]
    put(index, [ItemWrite(i, v) for i, v in zip(ids, data, strict=True)])
    assert [find(index, v, 1)[0] for v in data] == ids
    put(index, [ItemWrite("007", data[0]), ItemWrite("7", data[1])], "names")
    assert find(index, data[0], 1, "names") == ["007"]


@pytest.mark.parametrize("more", [{"exclude_ids": ["7"]}, {"exclude_ids": [True]}, {"exclude_ids": [2**63]}])
def test_bad_excluded_ids_are_refused(index: VectorIndex, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidId) as caught:
        find(index, vectors(1)[0], 1, **more)
    assert caught.value.field == "exclude_ids"


@pytest.mark.parametrize(
    ("more", "culprit"),
    [
        ({"k": 0}, "k"),
        ({"k": -1}, "k"),
        ({"k": 10**18}, "k"),
        ({"offset": -1}, "offset"),
        ({"max_distance": float("nan")}, "max_distance"),
        ({"offset": 1, "after": PageKey("g", 0, 0.0, 1)}, "offset"),
    ],
)
def test_bad_numbers_are_refused(index: VectorIndex, more: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find(index, vectors(1)[0], **more)
    assert caught.value.field == culprit


@pytest.mark.parametrize(
    ("item", "culprit"),
    [
        (ItemWrite(1, metadata={"x": float("nan")}), "items[0].metadata"),
        (ItemWrite(1, metadata=[1]), "items[0].metadata"),  # type: ignore[arg-type]
        (ItemWrite(1, metadata={"x": "y" * 70_000}), "items[0].metadata"),
        (ItemWrite(1, metadata={"x": json.loads("[" * 100 + "]" * 100)}), "items[0].metadata"),
        (ItemWrite(1, source_version=2**63), "items[0].source_version"),
        (ItemWrite(1, active=1), "items[0].active"),
    ],  # type: ignore[arg-type]
)
def test_bad_fields_are_refused(index: VectorIndex, item: ItemWrite, culprit: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        index.write("numbers", WriteBatch([item]))
    assert caught.value.field == culprit


def test_unknown_collections(index: VectorIndex) -> None:
    calls = [
        lambda: index.search("nope", []),
        lambda: index.write("nope", WriteBatch()),
        lambda: index.get("nope", []),
        lambda: index.status("nope"),
        lambda: index.digest("nope"),
        lambda: list(index.digest_rows("nope", [0])),
        lambda: index.advance("nope", "begin", "v"),
    ]
    for call in calls:
        with pytest.raises(UnknownCollection):
            call()


@pytest.mark.parametrize("parts", [0, -4096, 3, 4095, 5000, 2**21])
def test_sums_come_in_powers_of_two(index: VectorIndex, parts: int) -> None:
    fill(index, 2)
    with pytest.raises(InvalidRequest):
        index.digest("numbers", parts)


@pytest.mark.parametrize(("number", "parts"), [(4096, 4096), (-1, 4096), (8192, 8192), (-1, 8192)])
def test_buckets_that_are_none(index: VectorIndex, number: int, parts: int) -> None:
    fill(index, 2)
    with pytest.raises(InvalidRequest):
        list(index.digest_rows("numbers", [number], parts))


def test_versions_never_meet(index: VectorIndex) -> None:
    data = fill(index, 2)
    with pytest.raises(VersionMismatch):
        find(index, data[0], 1, embedding_version="v2")
    with pytest.raises(VersionMismatch):
        put(index, [ItemWrite(1, data[0])], version="v2")
    with pytest.raises(InvalidRequest) as caught:
        index.write("numbers", WriteBatch([ItemWrite(1, data[0])]))
    assert caught.value.field == "embedding_version"
    assert find(index, data[0], 1, embedding_version="v1") == [0]


def test_steps_that_the_state_does_not_allow(index: VectorIndex) -> None:
    for step, version in (("begin", "v1"), ("promote", "v2"), ("rollback", "v1"), ("abort", "v2")):
        with pytest.raises(GenerationConflict):
            index.advance("numbers", step, version)  # type: ignore[arg-type]
    index.advance("numbers", "begin", "v2")
    with pytest.raises(GenerationConflict):
        index.advance("numbers", "begin", "v3")
    with pytest.raises(GenerationConflict):
        index.advance("numbers", "promote", "v3")


def test_a_request_checked_for_another_collection_is_checked_again(index: VectorIndex) -> None:
    fill(index, 3)
    short = np.ones(DIM - 1, np.float32)
    with pytest.raises(InvalidVector):
        index.search("numbers", [SearchRequest(short, 3, checked_for="names")])


def test_a_filter_is_checked_whoever_checked_the_rest(index: VectorIndex) -> None:
    data = fill(index, 3)
    with pytest.raises(InvalidFilter):
        index.search(
            "numbers", [SearchRequest(data[0], 3, filter={"n": {"$near": 1}}, checked_for="numbers")]
        )
