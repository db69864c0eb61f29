"""The proof, the brake and the mending, against the real store and a source in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder.changes import Directory, ItemRow, Key, Survey, TextDirectory, VectorPage
from feeder.compare.reconciler import Reconciler
from feeder.compare.report import Report
from feeder.compare.source_side import SourceRow, SourceSide
from feeder.compare.writes import changes_of
from feeder.digest import BUCKETS, Shares, bucket_of, root_of
from feeder.errors import BrakeOn
from feeder.read.vector_reader import VectorReader
from feeder.sink.brake import Brake
from feeder.sources.port import Throttling, VectorShape
from feeder.state.key_map import IN_MEMORY, KeyMap
from index_store.engine.index import EmbeddedIndex
from index_store.record import digest as theirs
from index_store.types import CollectionSpec
from tests.index_side import IndexStore
from vector_client.types import Id

VERSION, NAME, DIM = "space-1", "products", 4


class ListVectors:
    """A vector table in a dict: key -> (id, vector). Fits VectorSource."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, np.ndarray]] = {}
        self.pages = 0

    def open(self) -> VectorShape:
        return VectorShape("list", "vector", True)

    def survey(self) -> Survey:
        raise NotImplementedError

    def page(self, after: Key | None, rows: int) -> VectorPage:
        self.pages += 1
        keys = [key for key in sorted(self.rows) if after is None or key > int(after)]
        return self.rows_at(keys[:rows])

    def rows_at(self, keys: Sequence[Key]) -> VectorPage:
        found = [int(key) for key in sorted(keys, key=int) if int(key) in self.rows]
        vectors = np.array([self.rows[key][1] for key in found], dtype=np.float32).reshape(-1, DIM)
        return VectorPage(found, [self.rows[key][0] for key in found], vectors)

    def close(self) -> None: ...


class ListItems:
    """An items table in a dict: id -> active. Fits ItemSource."""

    def __init__(self) -> None:
        self.active: dict[str, bool] = {}
        self.directories = 0

    def open(self) -> None: ...

    def directory(self, throttle: Throttling | None = None) -> Directory:  # noqa: ARG002
        self.directories += 1
        return TextDirectory(dict(self.active))

    def fetch(self, ids: Sequence[Id]) -> Mapping[Id, Sequence[ItemRow]]:
        return {i: [ItemRow({}, {}, self.active[str(i)])] for i in ids if str(i) in self.active}

    def close(self) -> None: ...


class Bench:
    """Everything a comparison needs."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self.vectors, self.items, self.store = ListVectors(), ListItems(), IndexStore(index, NAME)
        self.reader = VectorReader(self.vectors, self.items, KeyMap(IN_MEMORY), id_kind="string", page_rows=7)
        self.reader.open()
        self.clock, self.batch_items = 1_000_000, 10

    def put(self, count: int, first: int = 0) -> None:
        for number in range(first, first + count):
            vector = np.array([1, number, number % 5, 1], dtype=np.float32)
            self.vectors.rows[number] = (f"상품-{number}", vector / np.linalg.norm(vector))
            self.items.active[f"상품-{number}"] = number % 3 != 0

    def reconciler(self, brake: Brake | None = None) -> Reconciler:
        return Reconciler(
            NAME, self.store, self.reader, brake or Brake(5.0),
            batch_items=self.batch_items, clock=lambda: 0.0, pause=lambda _: None,
        )  # fmt: skip

    def version(self) -> int:
        self.clock += 1
        return self.clock

    def repair(self, brake: Brake | None = None) -> Report:
        return self.reconciler(brake).repair(VERSION, self.version)

    def compare(self) -> Report:
        return self.reconciler().compare(VERSION)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    index = EmbeddedIndex(tmp_path, [CollectionSpec(NAME, "string", DIM, "l2")])
    index.open()
    index.advance(NAME, "begin", VERSION)
    built = Bench(index)
    yield built
    built.reader.close()
    index.close()


@given(
    st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.booleans(),
    st.binary(min_size=4, max_size=40),
)
def test_both_halves_of_the_proof_say_the_same(item_id: Id, active: bool, data: bytes) -> None:
    hasher = theirs.ShareHasher(VERSION)
    assert bucket_of(item_id) == theirs.bucket_of(item_id)
    assert Shares(VERSION).of_vector(item_id, active, data) == hasher.share(item_id, active, data, None)
    assert Shares(VERSION).of_content(item_id, active, data) == hasher.share(item_id, active, b"v", data)


def test_the_format_page_s_empty_root() -> None:
    assert (
        root_of(SourceSide(Shares(VERSION)).sums)
        == "c35020473aed1b4642cd726cad727b63fff2824ad68cedd7ffb73c7cbd890479"
    )
    assert len(SourceSide(Shares(VERSION)).sums) == BUCKETS


def test_sums_wrap_at_64_bits() -> None:
    same = [item_id for item_id in range(100_000) if bucket_of(item_id) == 7][:2]
    side = SourceSide(Shares(VERSION))
    for item_id in same:
        side.set_row(item_id, SourceRow(2**63, active=True))
    assert int(side.sums[7]) == 0 and side.count == 2


def test_an_empty_index_is_filled_and_proved(bench: Bench) -> None:
    bench.put(50)
    report = bench.repair()
    assert report.is_equal and report.rows == 50 and len(report.found.missing) == 50
    assert bench.store.digest().root == report.root
    assert bench.compare().is_equal


@pytest.mark.parametrize("what", ["changed", "missing", "extra", "deactivated"])
def test_a_single_difference_is_named_and_mended(bench: Bench, what: str) -> None:
    bench.put(200)
    bench.repair()
    if what == "changed":
        bench.vectors.rows[31] = ("상품-31", np.array([0, 0, 0, 1], dtype=np.float32))
    elif what == "missing":
        bench.put(1, first=1000)
    elif what == "extra":
        del bench.vectors.rows[31]
    else:
        bench.items.active["상품-31"] = False
    named = "상품-1000" if what == "missing" else "상품-31"
    seen = bench.compare()
    assert not seen.is_equal and seen.left.all_ids == [named]
    assert {"missing": seen.left.missing, "extra": seen.left.extra}.get(what, seen.left.changed) == [named]
    before = bench.store.writes
    assert bench.repair().is_equal
    assert bench.store.writes == before + 1, "only the row that differs is written"
    assert bench.compare().is_equal


def test_the_smallest_bit_of_a_vector_counts(bench: Bench) -> None:
    bench.put(20)
    bench.repair()
    vector = bench.vectors.rows[5][1].copy()
    vector.view(np.uint32)[1] ^= 1
    bench.vectors.rows[5] = ("상품-5", vector)
    assert bench.compare().left.all_ids == ["상품-5"]


def test_the_last_row_of_an_id_wins_and_its_end_brings_the_other_back(bench: Bench) -> None:
    bench.put(3)
    old, new = bench.vectors.rows[1][1], np.array([0, 1, 0, 0], dtype=np.float32)
    bench.vectors.rows[99] = ("상품-1", new)
    assert bench.repair().is_equal
    (stored,) = bench.store.index.get(NAME, ["상품-1"])
    assert stored is not None and np.array_equal(stored.vector, new)
    del bench.vectors.rows[99]
    assert bench.repair().is_equal
    (stored,) = bench.store.index.get(NAME, ["상품-1"])
    assert stored is not None and np.array_equal(stored.vector, old)


def test_zero_and_nan_vectors_are_set_aside(bench: Bench) -> None:
    bench.put(5)
    bench.vectors.rows[2] = ("상품-2", np.zeros(DIM, dtype=np.float32))
    bench.vectors.rows[3] = ("상품-3", np.full(DIM, np.nan, dtype=np.float32))
    report = bench.repair()
    assert report.is_equal and report.rows == 3
    assert report.skipped == {"zero_vector": 1, "not_finite": 1}


class TestBrake:
    def test_an_empty_source_empties_nothing_even_forced(self, bench: Bench) -> None:
        bench.put(40)
        bench.repair()
        bench.vectors.rows.clear()
        for brake in (Brake(5.0), Brake(5.0, is_forced=True), Brake(100.0)):
            with pytest.raises(BrakeOn, match="no item at all"):
                bench.repair(brake)
        assert bench.store.digest().items == 40

    def test_a_comparison_that_was_stopped_is_owed(self, bench: Bench) -> None:
        """Its list of rows is newer than what the index holds: following on with it would lose ids."""
        bench.put(40)
        assert not bench.reader.is_ready
        bench.repair()
        assert bench.reader.is_ready
        bench.vectors.rows.clear()
        with pytest.raises(BrakeOn):
            bench.repair()
        assert not bench.reader.is_ready

    def test_an_empty_items_table_is_told_before_any_vector_is_read(self, bench: Bench) -> None:
        bench.put(40)
        bench.repair()
        active, bench.items.active = bench.items.active, {}
        bench.vectors.pages = 0
        for _ in range(3):
            with pytest.raises(BrakeOn, match="no item at all"):
                bench.repair()
        assert not bench.vectors.pages and not bench.reader.is_ready, "the comparison is owed"
        seen = bench.compare()
        assert len(seen.left.extra) == 40 and seen.skipped == {"orphan": 40}
        bench.items.active = active
        assert bench.repair().is_equal and bench.reader.is_ready

    def test_without_items_an_empty_index_still_learns_its_rows(self, bench: Bench) -> None:
        bench.put(40)
        active, bench.items.active = bench.items.active, {}
        assert bench.repair().is_equal and bench.reader.is_ready
        bench.items.active = active
        known = bench.reader.current_state(ids=["상품-7"])
        assert [item.id for item in known.items] == ["상품-7"]

    @pytest.mark.parametrize("way", ["delete", "deactivate"])
    def test_too_much_at_once_stops_before_anything_is_written(self, bench: Bench, way: str) -> None:
        bench.put(400)
        bench.repair()
        before, writes = bench.store.digest().root, bench.store.writes
        for number in range(1, 60):
            if way == "delete":
                bench.items.active.pop(f"상품-{number}")
            else:
                bench.items.active[f"상품-{number}"] = False
        with pytest.raises(BrakeOn, match="would vanish"):
            bench.repair()
        assert (bench.store.digest().root, bench.store.writes) == (before, writes)
        assert bench.repair(Brake(5.0, is_forced=True)).is_equal

    def test_a_few_always_go(self, bench: Bench) -> None:
        bench.put(20)
        bench.repair()
        for number in range(8):
            bench.items.active.pop(f"상품-{number}")
        assert bench.repair().is_equal

    @pytest.mark.parametrize(("vanishing", "held"), [(50, 1000), (10, 11), (0, 0)])
    def test_below_its_limit_it_is_silent(self, vanishing: int, held: int) -> None:
        Brake(5.0).check(vanishing=vanishing, held=held, in_source=1)

    def test_above_its_limit_it_names_the_figures(self) -> None:
        with pytest.raises(BrakeOn, match=r"51 of 1,000 items \(5\.1 %\)"):
            Brake(5.0).check(vanishing=51, held=1000, in_source=1)


def test_a_late_write_of_an_older_reading_is_ignored(bench: Bench) -> None:
    """What a feeder that lost its lease may still have under way."""
    bench.put(3)
    stale = bench.version()
    known = bench.reader
    list(known.scan().chunks())
    old = known.current_state(ids=["상품-1"])
    bench.repair()
    bench.items.active["상품-1"] = False
    bench.repair()
    applied = bench.store.apply(changes_of(old, VERSION, stale), {})
    assert applied.stale_ignored == 1
    assert bench.compare().is_equal


def test_an_index_that_nobody_writes_is_listed_once(bench: Bench) -> None:
    bench.put(60)
    bench.repair()
    for number in range(40):
        bench.vectors.rows[number] = (f"상품-{number}", np.array([0, 0, 1, 0], dtype=np.float32))
    bench.store.listings = 0
    report = bench.compare()
    assert len(report.left.changed) == 40 and bench.store.listings == 1
    bench.store.listings = 0
    assert bench.repair().is_equal and bench.store.listings == 1


@pytest.mark.long
@pytest.mark.parametrize("differing", [3, 400])
def test_few_others_are_listed_with_the_rows_that_differ(bench: Bench, differing: int) -> None:
    """Seen at 1,000,000 rows: of 10,000 that differ nearly every bucket does."""
    bench.reader.close()
    bench.batch_items = 2_000
    bench.reader = VectorReader(
        bench.vectors, bench.items, KeyMap(IN_MEMORY), id_kind="string", page_rows=20_000
    )
    bench.reader.open()
    bench.put(20_000)
    bench.repair(Brake(100.0))
    bench.store.listed = bench.store.listings = 0
    for number in range(differing):
        bench.vectors.rows[number * 7] = (f"상품-{number * 7}", np.array([0, 0, 1, 0], dtype=np.float32))
    del bench.vectors.rows[19_999]
    bench.put(1, first=30_000)
    seen = bench.compare()
    assert len(seen.left.changed) == differing
    assert (seen.left.missing, seen.left.extra) == (["상품-30000"], ["상품-19999"])
    assert bench.store.listings == 1 and bench.store.listed < 6 * (differing + 2)
    assert bench.repair().is_equal and bench.compare().is_equal
