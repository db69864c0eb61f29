"""Merged metadata and writes under a condition, in every `VectorIndex`."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from index_store.errors import InvalidFilter, InvalidRequest
from index_store.port import VectorIndex
from index_store.types import Ack, Id, ItemDelete, ItemWrite, WriteBatch
from item_rules.metadata import METADATA_BYTES_MAX
from tests.contract.vectors import find, put, vectors

V = vectors(12)


def metadata_of(index: VectorIndex, item_id: Id, collection: str = "numbers") -> Any:
    (item,) = index.get(collection, [item_id])
    assert item is not None
    return item.metadata


def merge(index: VectorIndex, item_id: Id, patch: dict[str, Any], **more: Any) -> Ack:
    return index.write("numbers", WriteBatch([ItemWrite(item_id, merge=patch)], **more))


def test_a_merge_puts_keys_over_what_is_stored_and_null_removes(index: VectorIndex) -> None:
    put(index, [ItemWrite(1, V[1], metadata={"a": 1, "b": {"x": 1, "y": 2}, "c": None}), ItemWrite(2, V[2])])
    assert merge(index, 1, {"a": None, "b": {"x": 9}, "d": [1], "no": None}).upserted == 1
    assert metadata_of(index, 1) == {"b": {"x": 9}, "c": None, "d": [1]}
    merge(index, 2, {"a": 1})
    assert metadata_of(index, 2) == {"a": 1}
    merge(index, 2, {"a": None})
    assert metadata_of(index, 2) == {}
    assert merge(index, 99, {"a": 1}).unknown_ids == (99,)
    assert find(index, V[1], 1, filter={"d": 1}) == [1], "what was merged is found"


def test_one_batch_may_merge_an_item_twice(index: VectorIndex) -> None:
    put(index, [ItemWrite(1, V[1], metadata={"a": 1})])
    index.write(
        "numbers", WriteBatch([ItemWrite(1, merge={"b": 2}), ItemWrite(1, merge={"a": None, "c": 3})])
    )
    assert metadata_of(index, 1) == {"b": 2, "c": 3}


def test_merges_of_many_writers_lose_nothing(index: VectorIndex) -> None:
    put(index, [ItemWrite(1, V[1], metadata={})])
    writers = [
        threading.Thread(target=lambda n=n: [merge(index, 1, {f"k{n}-{m}": m}) for m in range(8)])
        for n in range(6)  # type: ignore[misc]
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert metadata_of(index, 1) == {f"k{n}-{m}": m for n in range(6) for m in range(8)}


def test_a_merge_that_grows_too_large_changes_nothing_and_is_told(index: VectorIndex) -> None:
    half = "x" * (METADATA_BYTES_MAX // 2)
    put(index, [ItemWrite(1, V[1], metadata={"a": half}), ItemWrite(2, V[2])])
    ack = index.write("numbers", WriteBatch([ItemWrite(n, merge={"b": half}, active=False) for n in (1, 2)]))
    assert (ack.upserted, ack.too_large_ids) == (1, (1,))
    assert metadata_of(index, 1) == {"a": half} and metadata_of(index, 2) == {"b": half}
    (item,) = index.get("numbers", [1])
    assert item is not None and item.active


def test_a_condition_holds_at_the_moment_of_the_commit(index: VectorIndex) -> None:
    put(
        index,
        [ItemWrite(n, V[n], metadata={"shade": "red" if n % 2 else "blue", "n": n}) for n in range(1, 7)],
    )
    put(index, [ItemWrite(7, V[7])])
    red = {"only_where": {"shade": "red"}}
    ack = index.write("numbers", WriteBatch([ItemWrite(n, active=False) for n in (1, 2, 7, 99)], **red))
    assert (ack.upserted, ack.passed_over, ack.unknown_ids, ack.vanished) == (1, 3, (), 1)
    ack = index.write("numbers", WriteBatch((), [ItemDelete(n) for n in (3, 4, 99)], **red))
    assert (ack.deleted, ack.passed_over, ack.vanished) == (1, 2, 1)
    ack = merge(index, 5, {"shade": "blue"}, **red)
    assert (ack.upserted, merge(index, 5, {"n": 0}, **red).passed_over) == (1, 1)
    assert metadata_of(index, 5) == {"shade": "blue", "n": 5}
    assert sorted(find(index, V[0], 20)) == [2, 4, 5, 6, 7]
    missing = index.write(
        "numbers", WriteBatch([ItemWrite(7, active=False)], only_where={"shade": {"$exists": False}})
    )
    assert missing.upserted == 1


def test_a_condition_and_a_merge_hold_in_every_generation(index: VectorIndex) -> None:
    put(index, [ItemWrite(n, V[n], metadata={"shade": "red", "n": n}) for n in (1, 2)])
    index.advance("numbers", "begin", "v2")
    index.write("numbers", WriteBatch([ItemWrite(n, V[n]) for n in (1, 2)], embedding_version="v2"))
    merge(index, 1, {"n": None, "m": 3}, only_where={"n": 1})
    merge(index, 1, {"m": 4}, only_where={"n": 1})
    index.write("numbers", WriteBatch([ItemWrite(2, active=False)], only_where={"n": 2}))
    index.advance("numbers", "promote", "v2")
    assert metadata_of(index, 1) == {"shade": "red", "m": 3} and find(index, V[1], 5) == [1]


def test_what_is_wrong_with_a_merge_or_a_condition_is_named(index: VectorIndex) -> None:
    for item in (
        ItemWrite(1, merge={"a": 1}, metadata={}),
        ItemWrite(1, merge={"a": float("nan")}),
        ItemWrite(1, merge=[]),
    ):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as refused:
            index.write("numbers", WriteBatch([item]))
        assert refused.value.field == "items[0].merge"
    with pytest.raises(InvalidFilter):
        index.write("numbers", WriteBatch([ItemWrite(1, active=True)], only_where={"a": {"$near": 1}}))
