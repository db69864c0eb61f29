"""What every `VectorIndex` does with generations that are filled apart, and how it follows commits."""

from __future__ import annotations

import pytest

from index_store.errors import GenerationConflict, UnknownCollection, VersionMismatch
from index_store.port import VectorIndex
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from tests.contract.vectors import AnyIndex, fill, find, put
from tests.waiting import until


@pytest.mark.long
def test_generations_that_others_fill_take_nothing_of_a_write(index: VectorIndex) -> None:
    data = fill(index, 4)
    index.advance("numbers", "begin", "v2")
    for version, other in (("v1", "v2"), ("v2", "v1")):
        items = [ItemWrite(n, data[n - len(other)], True) for n in (1, 2, 3)]
        index.write("numbers", WriteBatch(items, (), version, {"from": version}, except_versions=[other]))
    hides = [ItemWrite(1, active=False), ItemWrite(9, active=False)]
    ack = index.write("numbers", WriteBatch(hides, [ItemDelete(2)], "v2", except_versions=["v1"]))
    assert (ack.embedding_version, ack.deleted, list(ack.unknown_ids)) == ("v2", 1, [9])
    assert set(find(index, data[0], 9)) == {0, 1, 2, 3}
    hides = [ItemWrite(3, active=False)]
    index.write("numbers", WriteBatch(hides, [ItemDelete(0)], "v1", except_versions=["v2", "v1", "v9"]))
    assert set(find(index, data[0], 9)) == {1, 2}
    status = index.status("numbers")
    assert status.current is not None and [dict(s.cursors) for s in (status.current, *status.others)] == [
        {"from": "v1"}, {"from": "v2"},
    ]  # fmt: skip
    with pytest.raises(GenerationConflict):
        index.advance("numbers", "promote", "v2")  # 3 is hidden now
    index.advance("numbers", "promote", "v2", is_forced=True)
    assert find(index, data[0], 9) == [3]


def test_each_generation_has_its_proof(index: VectorIndex) -> None:
    data = fill(index, 3)
    index.advance("numbers", "begin", "v2")
    put(index, [ItemWrite(1, data[2])], version="v2")
    current, following = index.digest("numbers"), index.digest("numbers", embedding_version="v2")
    assert index.digest("numbers", embedding_version="v1").root == current.root != following.root
    vectored = {
        version: {row.id for row in index.digest_rows("numbers", [0], 1, version) if row.has_vector}
        for version in (None, "v1", "v2")
    }
    assert vectored == {None: {0, 1, 2}, "v1": {0, 1, 2}, "v2": {1}}
    with pytest.raises(VersionMismatch, match="v3"):
        index.digest("numbers", embedding_version="v3")
    with pytest.raises(VersionMismatch, match="v3"):
        index.digest_rows("numbers", [0], 1, "v3")


def test_a_search_leaves_the_index_caught_up(index: AnyIndex) -> None:
    data = fill(index, 2)

    def is_caught_up() -> bool:
        find(index, data[0], 1)
        return index.is_caught_up("numbers")

    until(is_caught_up)  # now and then a search has to look at files
    with pytest.raises(UnknownCollection):
        index.is_caught_up("nowhere")
