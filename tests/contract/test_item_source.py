"""`ItemSource`: stored items in order, page by page, counted, and by what values they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidFilter, InvalidId, InvalidRequest, UnknownCollection
from index_store.listings import FacetsRequest, ItemsRequest
from index_store.port import ItemIndex
from index_store.postgres.index import GRAPH_FROM
from index_store.types import Id, ItemDelete, ItemWrite, StoredItem, WriteBatch
from tests.contract.conftest import POSTGRES, postgres_index
from tests.contract.vectors import SPECS, begin_all, fill, put, vectors
from tests.reference_filter import held, matches


@pytest.fixture(params=["embedded", POSTGRES[0]])
def listed_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ItemIndex]:
    if request.param == "postgres":
        with postgres_index(request.getfixturevalue("postgres_database"), GRAPH_FROM) as opened:
            begin_all(opened)
            yield opened
        return
    engine = EmbeddedIndex(tmp_path, SPECS)
    engine.open()
    begin_all(engine)
    yield engine
    engine.close()


def pages(index: ItemIndex, collection: str, request: ItemsRequest) -> Iterator[list[StoredItem]]:
    while True:
        found = index.item_source().list_items(collection, request)
        yield list(found.items)
        if found.next_after is None:
            return
        request = replace(request, after=found.next_after)


def listed(index: ItemIndex, collection: str = "numbers", **asked: Any) -> list[Id]:
    return [item.id for page in pages(index, collection, ItemsRequest(**asked)) for item in page]


def test_ids_come_in_order_of_their_kind(listed_index: ItemIndex) -> None:
    for name, ids in (
        ("numbers", [5, -3, 2**63 - 1, -(2**63), 0]),
        ("names", ["b", "가", "a", "B", "😀", "10", "9", "\ue000", "a b"]),
    ):
        put(listed_index, [ItemWrite(each, vectors(1)[0]) for each in ids], name)  # type: ignore[attr-defined]
        assert listed(listed_index, name, items_max=2) == sorted(ids)  # type: ignore[type-var]
        source = listed_index.item_source()
        assert list(source.list_ids(name, ItemsRequest()).ids) == sorted(ids)  # type: ignore[type-var]


def test_a_page_ends_after_so_many_rows_and_says_where_to_go_on(listed_index: ItemIndex) -> None:
    fill(listed_index, 50)
    listed_index.write("numbers", WriteBatch(deletes=[ItemDelete(n) for n in range(5, 15)]))
    source = listed_index.item_source()
    first = source.list_items("numbers", ItemsRequest(rows_max=10))
    assert ([item.id for item in first.items], first.next_after, first.rows) == ([0, 1, 2, 3, 4], 9, 10)
    second = source.list_items("numbers", ItemsRequest(first.next_after, rows_max=5))
    assert (list(second.items), second.next_after) == ([], 14)
    rare = source.list_items("numbers", ItemsRequest(filter={"n": 49}, rows_max=50))
    assert ([item.id for item in rare.items], rare.next_after) == ([49], 49)
    assert source.list_items("numbers", ItemsRequest(49)).next_after is None
    ids = source.list_ids("numbers", ItemsRequest(filter={"even": True}, rows_max=20))
    assert (list(ids.ids), ids.next_after) == ([0, 2, 4, 16, 18], 19)
    assert source.list_ids("numbers", ItemsRequest(19)).next_after is None


def test_a_page_ends_after_so_much_metadata(listed_index: ItemIndex) -> None:
    rows = [ItemWrite(n, vectors(1)[0], metadata={"name": "가" * 100}) for n in range(6)]
    put(listed_index, rows)
    found = listed_index.item_source().list_items("numbers", ItemsRequest(metadata_bytes_max=600))
    assert ([item.id for item in found.items], found.next_after) == ([0, 1], 1)
    assert listed(listed_index, metadata_bytes_max=1) == list(range(6))


def test_items_come_as_they_are_stored(listed_index: ItemIndex) -> None:
    data = fill(listed_index, 3)
    put(listed_index, [ItemWrite(2, data[0], metadata={"a": [1.5, "\0", None]}, source_version=7)])
    listed_index.write("numbers", WriteBatch([ItemWrite(1, active=False)]))
    found = listed_index.item_source().list_items("numbers", ItemsRequest())
    stored = listed_index.get("numbers", [0, 1, 2])
    status = listed_index.status("numbers").current
    assert status is not None and (found.embedding_version, found.seq) == ("v1", status.seq)
    for one, other in zip(found.items, stored, strict=True):
        assert other is not None and one.vector is not None and other.vector is not None
        assert one.vector.tolist() == other.vector.tolist()
        assert replace(one, vector=None) == replace(other, vector=None)


def test_items_are_listed_by_their_state(listed_index: ItemIndex) -> None:
    fill(listed_index, 6)
    listed_index.write("numbers", WriteBatch([ItemWrite(1, active=False)], [ItemDelete(2)]))
    put(listed_index, [ItemWrite(3, content_hash=b"new", drops_vector=True)])
    everything = {"is_live": None, "is_active": None}
    for asked, ids in (
        ({}, [0, 1, 3, 4, 5]),
        ({"is_live": True}, [0, 4, 5]),
        ({"is_live": False}, [1, 3]),
        ({"is_active": True}, [0, 3, 4, 5]),
        ({"is_active": False}, [1]),
        ({"is_live": False, "is_active": True}, [3]),
        ({"is_live": True, "is_active": False}, []),
        ({"filter": {"even": True}, "is_live": True}, [0, 4]),
        ({"filter": {"n": {"$exists": False}}}, []),
    ):
        assert listed(listed_index, items_max=2, **{**everything, **asked}) == ids, asked


def test_a_list_gives_what_is_there_all_the_while_once(listed_index: ItemIndex) -> None:
    data = fill(listed_index, 20)
    found: list[Id] = []
    for number, page in enumerate(pages(listed_index, "numbers", ItemsRequest(items_max=4))):
        found += [item.id for item in page]
        put(listed_index, [ItemWrite(each, data[number]) for each in (3, 12, 100 + number)])
        listed_index.write("numbers", WriteBatch(deletes=[ItemDelete(19 - number)]))
    assert found == sorted(set(found)) and set(found) >= {*range(14), 100}


def test_an_empty_generation_has_no_items(listed_index: ItemIndex) -> None:
    source = listed_index.item_source()
    assert source.list_items("names", ItemsRequest()).next_after is None
    assert source.list_ids("names", ItemsRequest()).ids == []
    found = source.count_values("names", FacetsRequest())
    assert (found.counted.live, list(found.facets), found.counted.embedding_version) == (0, [], "v1")


def test_what_is_wrong_is_refused(listed_index: ItemIndex) -> None:
    source = listed_index.item_source()
    with pytest.raises(UnknownCollection):
        source.list_items("nothing", ItemsRequest())
    with pytest.raises(UnknownCollection):
        source.count_items("nothing", None)
    with pytest.raises(InvalidId):
        source.list_items("numbers", ItemsRequest("5"))
    with pytest.raises(InvalidId):
        source.list_ids("names", ItemsRequest(5))
    with pytest.raises(InvalidRequest):
        source.list_items("numbers", ItemsRequest(rows_max=0))
    for wrong in ({"a": {"$near": 1}}, {"$or": []}):
        with pytest.raises(InvalidFilter):
            source.list_items("numbers", ItemsRequest(filter=wrong))
        with pytest.raises(InvalidFilter):
            source.count_items("numbers", wrong)


def described(number: int) -> dict[str, Any] | None:
    """Values of every kind, lists, nested ones, and keys that some items lack."""
    if number % 11 == 0:
        return None
    found: dict[str, Any] = {"price": number * 10, "shade": "red" if number % 3 else "파랑"}
    found |= {"nest": {"x": number % 4}, "tags": [["a", "b"], ["a"], [], "b", ["a", "a"]][number % 5]}
    if number % 2:
        found["mixed"] = [1, "1", True, None, 1.5, 1.0][number // 2 % 6]
    if number % 7 == 0:
        found["nest.x"] = "own"
    return found


def kind(value: Any) -> Any:
    return (type(value) if not isinstance(value, int | float) or isinstance(value, bool) else float, value)


def scalars(values: list[Any]) -> set[Any]:
    elements = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return {kind(one) for one in elements if not isinstance(one, dict)}


def fill_described(index: ItemIndex) -> dict[int, dict[str, Any] | None]:
    """120 items, a hidden and a deleted one among them; return the metadata of those that are live."""
    live = {number: described(number) for number in range(120)}
    data = vectors(len(live))
    put(index, [ItemWrite(number, data[number], metadata=live[number]) for number in live])
    index.write("numbers", WriteBatch([ItemWrite(3, active=False)], [ItemDelete(4)]))
    put(index, [ItemWrite(5, data[0], metadata={"shade": "red"})])
    live[5] = {"shade": "red"}
    return {number: metadata for number, metadata in live.items() if number not in (3, 4)}


def test_counts_and_facets_equal_a_loop(listed_index: ItemIndex) -> None:
    live = fill_described(listed_index)
    source = listed_index.item_source()
    keys = ["shade", "tags", "mixed", "nest.x", "nest", "price", "absent"]
    for condition in (None, {"shade": "red"}, {"price": {"$lt": 900}}, {"nest.x": 2}, {"nothing": 1}):
        passing = [m or {} for m in live.values() if condition is None or matches(condition, m or {})]
        counted = source.count_items("numbers", condition)
        assert counted.live == len(passing)
        assert list(counted.unknown_filter_keys) == [key for key in (condition or {}) if key == "nothing"]
        found = source.count_values("numbers", FacetsRequest(condition, keys, values_max=1000))
        assert found.counted == counted and [each.key for each in found.facets] == keys
        for facet in found.facets:
            values = [held(facet.key, metadata) for metadata in passing]
            counts = Counter(one for some in values for one in scalars(some))
            assert (facet.items, facet.distinct) == (sum(map(bool, values)), len(counts)), facet.key
            assert {kind(value): items for value, items in facet.values} == counts, facet.key
            assert [items for _, items in facet.values] == sorted(counts.values(), reverse=True)


def test_without_keys_the_most_common_ones_are_told(listed_index: ItemIndex) -> None:
    live = fill_described(listed_index)
    source = listed_index.item_source()
    found = source.count_values("numbers", FacetsRequest(keys_max=3, values_max=2)).facets
    having = Counter(key for metadata in live.values() for key in metadata or {})
    wanted = sorted(having.items(), key=lambda each: (-each[1], each[0]))[:3]
    assert [(each.key, each.items) for each in found] == wanted
    common = source.count_values("numbers", FacetsRequest(distinct_max=50)).facets
    price = next(each for each in common if each.key == "price")
    assert (price.items, price.distinct, list(price.values)) == (having["price"], None, [])


def test_ranges_of_numbers_count_what_a_filter_finds(listed_index: ItemIndex) -> None:
    fill_described(listed_index)
    source = listed_index.item_source()
    for distinct_max in (50, 50_000):
        request = FacetsRequest(keys=["price"], distinct_max=distinct_max)
        (price,) = source.count_values("numbers", request).facets
        assert sum(each.items for each in price.ranges) == price.items and len(price.ranges) > 5
        for each in price.ranges:
            within = {"price": {"$gte": each.low, "$lt": each.high}}
            assert source.count_items("numbers", within).live == each.items, each


def test_a_key_is_known_once_a_row_has_it(listed_index: ItemIndex) -> None:
    data = fill(listed_index, 3)
    source = listed_index.item_source()
    for _ in range(2):
        counted = source.count_items("numbers", {"late": 1, "nest.x": 1, "n": 1})
        assert sorted(counted.unknown_filter_keys) == ["late", "nest.x"]
    put(listed_index, [ItemWrite(9, data[0], metadata={"late": 2, "nest": [{"x": None}]})])
    assert source.count_items("numbers", {"late": 1, "nest.x": 1, "n": 1}).unknown_filter_keys == []
