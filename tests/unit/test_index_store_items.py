"""Lists of stored items: the order, the bounds of a page, and rows that have rotted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidFilter, InvalidId, UnknownCollection
from index_store.listings import ItemsRequest
from index_store.types import Id, ItemDelete, ItemWrite, WriteBatch
from tests.sealing import batch, opened, sealed, vectors


def listed(index: EmbeddedIndex, collection: str, request: ItemsRequest) -> list[Id]:
    return [item.id for item in index.item_source().list_items(collection, request).items]


def filled(tmp_path: Path, rows: int = 50) -> EmbeddedIndex:
    index = opened(tmp_path)
    for collection in ("numbers", "names"):
        index.advance(collection, "begin", "v1")
        index.write(collection, batch(collection, range(rows), vectors(rows)))
    return index


def test_ids_come_in_order_of_their_kind(tmp_path: Path) -> None:
    index = opened(tmp_path)
    for name, ids in (
        ("numbers", [5, -3, 2**63 - 1, -(2**63), 0]),
        ("names", ["b", "가", "a", "B", "😀", "10", "9"]),
    ):
        index.advance(name, "begin", "v1")
        index.write(name, WriteBatch([ItemWrite(i, vectors(1)[0]) for i in ids], (), "v1"))  # type: ignore[attr-defined]
        found: list[Id] = []
        after: Id | None = None
        while True:
            result = index.item_source().list_items(name, ItemsRequest(after, items_max=2))
            found += [item.id for item in result.items]
            after = result.next_after
            if after is None:
                break
        assert found == sorted(ids)  # type: ignore[type-var]
    index.close()


def test_a_page_ends_after_so_many_rows_and_says_where_to_go_on(tmp_path: Path) -> None:
    index = filled(tmp_path)
    index.write("numbers", WriteBatch(deletes=[ItemDelete(n) for n in range(5, 15)]))
    source = index.item_source()
    first = source.list_items("numbers", ItemsRequest(rows_max=10))
    assert ([item.id for item in first.items], first.next_after) == ([0, 1, 2, 3, 4], 9)
    second = source.list_items("numbers", ItemsRequest(first.next_after, rows_max=5))
    assert (list(second.items), second.next_after) == ([], 14)
    rare = source.list_items("numbers", ItemsRequest(filter={"name": "n49"}, rows_max=50))
    assert ([item.id for item in rare.items], rare.next_after) == ([49], 49)
    assert source.list_items("numbers", ItemsRequest(49)).next_after is None
    index.close()


def test_lists_do_not_change_when_rows_are_sealed(tmp_path: Path) -> None:
    index = filled(tmp_path)
    request = ItemsRequest(filter={"shade": {"$in": [1, 2]}})
    before = {name: listed(index, name, request) for name in ("numbers", "names")}
    index.write("numbers", WriteBatch([ItemWrite(8, active=False)]))
    sealed(tmp_path)
    sealed_index = opened(tmp_path)
    for one in (index, sealed_index):
        assert {name: listed(one, name, request) for name in before} == before
        assert listed(one, "numbers", ItemsRequest(is_live=False)) == [8]
        one.close()


def test_rotten_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    index = filled(tmp_path)
    index.close()
    store = next(tmp_path.glob("collections/numbers/*/store.sqlite"))
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE item SET metadata='{\"shade\": 1' WHERE id=8")
        connection.execute("UPDATE item SET metadata='{\"shade\": 1}' WHERE id=9")
        connection.execute("UPDATE item SET metadata=x'ff' WHERE id=22")
    connection.close()
    index = opened(tmp_path)
    assert listed(index, "numbers", ItemsRequest(filter={"shade": 1})) == [1, 29, 36, 43]
    assert index.status("numbers").troubles
    index.close()


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    index = filled(tmp_path, 1)
    source = index.item_source()
    with pytest.raises(UnknownCollection):
        source.list_items("nothing", ItemsRequest())
    with pytest.raises(InvalidId):
        source.list_items("numbers", ItemsRequest("5"))
    with pytest.raises(InvalidFilter):
        source.list_items("numbers", ItemsRequest(filter={"a": {"$near": 1}}))
    index.close()
