"""Lists of stored items beside sealed rows, and rows that have rotted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from index_store.engine.index import EmbeddedIndex
from index_store.listings import ItemsRequest
from index_store.types import Id, ItemWrite, WriteBatch
from tests.sealing import batch, opened, sealed, vectors


def listed(index: EmbeddedIndex, collection: str, request: ItemsRequest) -> list[Id]:
    return [item.id for item in index.item_source().list_items(collection, request).items]


def filled(tmp_path: Path, rows: int = 50) -> EmbeddedIndex:
    index = opened(tmp_path)
    for collection in ("numbers", "names"):
        index.advance(collection, "begin", "v1")
        index.write(collection, batch(collection, range(rows), vectors(rows)))
    return index


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
