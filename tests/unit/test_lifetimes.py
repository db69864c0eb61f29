"""Items are shown from one moment until another: by the clock alone, in every way to ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidRequest
from index_store.filter.columns import MetadataColumns
from index_store.filter.lifetimes import SealedLifetimes
from index_store.listings import FacetsRequest, ItemsRequest
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.request.ranking import Boost, GroupBy, Ranking
from index_store.request.recommendation import Recommendation
from index_store.types import CollectionSpec, Id, ItemWrite, SearchRequest, TextQuery, WriteBatch
from item_rules.lifetime import Lifetime, ShownSpan, utc_offset_of
from tests.clock import Clock

DIM = 4
LIMITS = MaintenanceLimits(seal_rows=1, segments_max=9, disk_reserve_bytes=0)
VECTOR = np.array([1, 2, 3, 4], np.float32)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T09:00:10+09:00", 10.0),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01 09:00:10", 10.0),
        ("1970-01-01T09:00:10.250000", 10.25),
        ("1970-01-02", 54_000.0),
        (10, 10.0),
        (10.5, 10.5),
        (1_764_000_000, 1_764_000_000.0),
        (1_764_000_000_250, 1_764_000_000.25),
        ("9999-12-31T23:59:59+09:00", 253_402_268_399.0),
        (None, None),
        ("soon", None),
        ("2026-13-01", None),
        (True, None),
        ([1], None),
        ("0001-01-01T00:00:00+09:00", -62_135_629_200.0),
    ],
)
def test_a_moment_is_read_or_it_is_none(value: object, seconds: float | None) -> None:
    seoul = Lifetime("begin", "end", 9 * 3600)
    assert seoul.instant(value) == seconds
    assert (seoul.fault({"end": value}) is None) == (seconds is not None or value is None)


def test_offsets() -> None:
    assert [utc_offset_of(each) for each in ("Z", "+09:00", "-03:30", "9", "+9:00", "+24:00", "")] == [
        *(0.0, 32_400.0, -12_600.0),
        *(None, None, None, None),
    ]


class Shop:
    """Things of one kind, and a dict of when each is shown."""

    def __init__(self, data_dir: Path) -> None:
        self.clock = Clock(100.0)
        self.data_dir = data_dir
        lifetime = Lifetime("begin", "end", clock=self.clock)
        self.spec = CollectionSpec("things", "int64", DIM, "l2", ("title",), lifetime)
        self.index = EmbeddedIndex(data_dir, [self.spec])
        self.index.open()
        self.index.advance("things", "begin", "v1")
        self.stored: dict[int, dict[str, Any]] = {}
        self.random = np.random.default_rng(4)

    def write(self, ids: range) -> None:
        for number in ids:
            metadata: dict[str, Any] = {"title": "김치 찌개", "odd": number % 2}
            if self.random.random() < 0.5:
                metadata["begin"] = int(self.random.integers(90, 130))
            if self.random.random() < 0.5:
                metadata["end"] = (
                    f"1970-01-01T00:0{self.random.integers(1, 4)}:{self.random.integers(10, 60)}Z"
                )
            self.stored[number] = metadata
        items = [ItemWrite(each, VECTOR * (1 + each % 7), metadata=self.stored[each]) for each in ids]
        self.index.write("things", WriteBatch(items, embedding_version="v1"))

    def seal(self) -> None:
        assert Maintenance(self.data_dir, limits=LIMITS).run_once()
        self.reopen()

    def reopen(self) -> None:
        self.index.close()
        self.index.open()

    def shown(self, begun_by: float | None = None) -> set[Id]:
        lifetime, now = self.spec.lifetime, self.clock.now
        assert lifetime is not None
        return {
            each
            for each, metadata in self.stored.items()
            if (lifetime.instant(metadata.get("begin")) or 0) <= (now if begun_by is None else begun_by)
            and now < (lifetime.instant(metadata.get("end")) or 1e9)
        }

    def search(self, **more: Any) -> Any:
        (found,) = self.index.search("things", [SearchRequest(VECTOR, 500, **more)])
        return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    found = Shop(tmp_path_factory.mktemp("life"))
    found.write(range(60))
    found.seal()
    found.write(range(50, 90))
    found.seal()
    found.write(range(80, 120))
    yield found
    found.index.close()
    assert check(found.data_dir) == []


def ids(found: Any) -> set[Id]:
    return {hit.id for hit in found.hits}


def test_every_way_to_ask_shows_what_is_shown_now(shop: Shop) -> None:
    likes = Recommendation("each", np.stack([VECTOR, 3 * VECTOR]), (1.0, 1.0), np.empty((0, DIM), np.float32))
    seen: set[int] = set()
    stored = shop.index.item_source()
    for now in (60.0, 95.0, 100.0, 100.5, 119.0, 130.0, 175.0, 60.0, 500.0):
        shop.clock.now = now
        wanted = shop.shown()
        seen.add(len(wanted))
        ways: list[dict[str, Any]] = [
            {},
            {"exact": True},
            {"text": TextQuery("김치찌개", "lexical")},
            {"text": TextQuery("김치찌개", "hybrid")},
            {"recommendation": likes},
            {"ranking": Ranking(group=GroupBy("odd", 500), boosts=[Boost(1.0, {"odd": 1})])},
            {"ranking": Ranking(diversity=0.5)},
        ]
        for way in ways:
            assert ids(shop.search(**way)) == wanted, (now, way)
        odd = {each for each in wanted if int(each) % 2}
        assert ids(shop.search(filter={"odd": 1})) == odd
        assert stored.count_items("things", None).live == len(wanted)
        assert stored.count_items("things", {"odd": 1}).live == len(odd)
        facets = stored.count_values("things", FacetsRequest(None, keys=("title",)))
        assert facets.facets[0].items == len(wanted)
        for is_live, expected in (
            (True, wanted),
            (False, set(shop.stored) - wanted),
            (None, set(shop.stored)),
        ):
            request = ItemsRequest(is_live=is_live, items_max=500)
            assert {each.id for each in stored.list_items("things", request).items} == expected
            assert set(stored.list_ids("things", request).ids) == expected
        for each in (3, 55, 100):
            state = shop.index.replay_source().explain("things", SearchRequest(VECTOR, 5), each).state
            begin = shop.stored[each].get("begin", 0)
            assert state == ("live" if each in wanted else "not_yet_active" if now < begin else "ended")
    assert len(seen) > 5, "the answers differ over time"


def test_an_item_is_shown_from_the_first_moment_and_not_at_the_last(shop: Shop) -> None:
    shop.stored[500] = {"begin": 1000, "end": 2000.5}
    item = ItemWrite(500, VECTOR, metadata=shop.stored[500])
    shop.index.write("things", WriteBatch([item], embedding_version="v1"))
    for _ in range(2):
        for now, is_shown in ((999.999, False), (1000.0, True), (2000.499, True), (2000.5, False)):
            shop.clock.now = now
            assert (500 in ids(shop.search())) == is_shown
        shop.seal()


def test_pages_show_what_was_shown_at_first_and_is_not_over(shop: Shop) -> None:
    for way in ({}, {"text": TextQuery("김치", "lexical")}):
        shop.clock.now = began = 100.0
        first = shop.index.search("things", [SearchRequest(VECTOR, 20, **way)])[0]  # type: ignore[arg-type]
        assert first.next_page is not None and first.next_page.now == began
        shop.clock.now = 125.0
        rest = shop.search(after=first.next_page, **way)
        assert ids(rest) == shop.shown(begun_by=began) - ids(first)
        shop.clock.now = 90.0
        assert ids(shop.search(after=first.next_page, **way)) <= shop.shown(), "a clock that was set back"


def test_pages_by_rank_leave_out_what_is_over_and_keep_their_groups(shop: Shop) -> None:
    ranking = Ranking(group=GroupBy("odd", 30), pool=10)
    shop.clock.now = 100.0
    first = shop.index.search("things", [SearchRequest(VECTOR, 10, ranking=ranking)])[0]
    whole = shop.search(ranking=ranking).hits
    shop.clock.now = 125.0
    rest = shop.search(ranking=ranking, after=first.next_page)
    over = {hit.id for hit in whole} - shop.shown(begun_by=100.0)
    assert over & ids(first) and over - ids(first), "of both pages some are over"
    assert [hit.id for hit in rest.hits] == [hit.id for hit in whole[10:] if hit.id not in over]


def test_what_cannot_be_read_is_refused_and_was_no_bound(shop: Shop) -> None:
    for bad in (ItemWrite(1, metadata={"end": "soon"}), ItemWrite(1, merge={"begin": [1]})):
        with pytest.raises(InvalidRequest, match=r"items\[0\]\.me\w+\.(end|begin) must be"):
            shop.index.write("things", WriteBatch([bad]))
    columns = MetadataColumns()
    columns.add_texts(0, ['{"end":"soon"}', '{"end":50}', None], {"end"})
    assert shop.spec.lifetime is not None
    bits = SealedLifetimes(columns, 3).shown_bits(ShownSpan(shop.spec.lifetime, 60.0, 60.0))
    assert bits is not None and np.unpackbits(bits, count=3, bitorder="little").tolist() == [1, 0, 1]


def test_another_generation_shows_the_same(shop: Shop) -> None:
    index = shop.index
    index.advance("things", "begin", "v2")
    again = [ItemWrite(each, 2 * VECTOR) for each in shop.stored]
    index.write("things", WriteBatch(again, embedding_version="v2"))
    for step in ("promote", "rollback"):
        index.advance("things", step, "v2" if step == "promote" else "v1")  # type: ignore[arg-type]
        for now in (95.0, 130.0, 175.0):
            shop.clock.now = now
            assert ids(shop.search()) == shop.shown()


def test_a_collection_without_bounds_pays_nothing_and_digests_do_not_change(shop: Shop) -> None:
    columns = MetadataColumns()
    columns.add_texts(0, ['{"title":"a"}', None], {"title"})
    assert shop.spec.lifetime is not None
    assert SealedLifetimes(columns, 2).shown_bits(ShownSpan(shop.spec.lifetime, 60.0, 60.0)) is None
    roots = []
    for now in (60.0, 500.0):
        shop.clock.now = now
        roots.append((shop.index.digest("things").root, shop.index.status("things").current.live))  # type: ignore[union-attr]
    plain = EmbeddedIndex(shop.data_dir, [replace(shop.spec, lifetime=None)])
    plain.open()
    assert plain.digest("things").root == roots[0][0] and roots[0] == roots[1]
    (all_of_them,) = plain.search("things", [SearchRequest(VECTOR, 500)])
    assert ids(all_of_them) == set(shop.stored), "no format knows of it"
    plain.close()
