"""What of a page is taken over, and in what order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from feeder.changes import ACTIVE, INACTIVE, UNKNOWN, IntDirectory, Key, Survey, TextDirectory, VectorPage
from feeder.load.import_cursor import ImportCursor
from feeder.read.pages import items_of_page, pages, read_ahead, renormalised
from feeder.sources.port import VectorShape
from index_store.answers.validation import checked_batch
from index_store.errors import InvalidVector
from index_store.types import CollectionSpec, ItemWrite, WriteBatch
from vector_client.types import Id


class ListSource:
    """A vector table held in a list; an honest small VectorSource with keys that may repeat."""

    def __init__(self, keys: Sequence[Key], ids: Sequence[Id], fails_behind: Key | None = None) -> None:
        self._rows = sorted(zip(keys, ids, strict=True), key=lambda row: row[0])  # type: ignore[arg-type, return-value]
        self._fails_behind = fails_behind

    def open(self) -> VectorShape:
        return VectorShape("list", "vector", False)

    def survey(self) -> Survey:
        return Survey(len(self._rows), [row[0] for row in self._rows], [row[1] for row in self._rows], {}, {})

    def page(self, after: Key | None, rows: int) -> VectorPage:
        if after is not None and after == self._fails_behind:
            raise ConnectionError("the source went away")
        left = [row for row in self._rows if after is None or row[0] > after]  # type: ignore[operator]
        cut = left[:rows]
        cut += [row for row in left[rows:] if row[0] == cut[-1][0]]
        vectors = np.array([[float(hash(row) % 97) + 1, 1.0] for row in cut], dtype=np.float32)
        return VectorPage([row[0] for row in cut], [row[1] for row in cut], vectors.reshape(-1, 2))

    def rows_at(self, keys: Sequence[Key]) -> VectorPage:
        raise NotImplementedError

    def close(self) -> None:
        pass


def page_of(ids: Sequence[Id], vectors: Sequence[Sequence[float]]) -> VectorPage:
    return VectorPage(list(range(len(ids))), ids, np.array(vectors, dtype=np.float32))


def test_the_last_usable_row_of_an_id_wins() -> None:
    page = page_of([5, 6, 5, 7, 5], [[1, 0], [2, 0], [3, 0], [4, 0], [0, 0]])
    cleaned = items_of_page(page, None)
    assert [(item.id, np.frombuffer(item.vector, "<f4")[0]) for item in cleaned.items] == [
        (6, 2.0),
        (5, 3.0),
        (7, 4.0),
    ]
    assert cleaned.skipped == {"zero_vector": [5], "duplicate": [5]}


def test_rows_that_cannot_be_stored_are_set_aside_by_name() -> None:
    nan, inf = float("nan"), float("inf")
    ids = ["a", "b", "c", "d", "", "x" * 256, "a\0b", "\ud83d", "y" * 255]
    page = page_of(ids, [[1, 1], [nan, 1], [inf, 1], [0, 0], *[[1, 1]] * 5])
    cleaned = items_of_page(page, None)
    assert [item.id for item in cleaned.items] == ["a", "y" * 255]
    assert cleaned.skipped == {
        "not_finite": ["b", "c"],
        "zero_vector": ["d"],
        "bad_id": ["", "x" * 256, "a\0b", "\ud83d"],
    }


def test_lengths_that_the_index_does_not_take_are_set_aside_alone() -> None:
    vectors = [[3e38, 3e38], [1e-30, 0], [1e13, 0], [1e-13, 0], [9e11, 0], [2e-12, 0], [1, 0]]
    page = page_of([1, 2, 3, 4, 5, 6, 7], vectors)
    cleaned = items_of_page(page, None)
    assert [item.id for item in cleaned.items] == [5, 6, 7]
    assert cleaned.skipped == {"bad_length": [1, 2, 3, 4]}
    spec = CollectionSpec("things", "int64", 2, "l2")
    for item_id, vector in zip(page.ids, page.vectors, strict=True):
        batch = WriteBatch([ItemWrite(item_id, vector)], embedding_version="v1")
        if item_id in (5, 6, 7):
            assert checked_batch(batch, spec).items
        else:
            with pytest.raises(InvalidVector):
                checked_batch(batch, spec)


def test_activity_comes_from_the_items_and_orphans_stay_out() -> None:
    directory = IntDirectory(np.array([1, 2, 2], dtype=np.int64), np.array([False, True, False]))
    cleaned = items_of_page(page_of([1, 2, 3], [[1, 0]] * 3), directory)
    assert [(item.id, item.active) for item in cleaned.items] == [(1, False), (2, True)]
    assert cleaned.skipped == {"orphan": [3]}
    assert cleaned.inactive == 1


def test_half_precision_is_renormalised_once_and_says_so() -> None:
    rng = np.random.default_rng(11)
    exact = rng.standard_normal((50, 512))
    exact /= np.linalg.norm(exact, axis=1)[:, None]
    halves = exact.astype(np.float16).astype(np.float32)
    assert np.abs(np.linalg.norm(halves.astype(np.float64), axis=1) - 1).max() > 1e-6
    fixed = renormalised(halves)
    assert np.abs(np.linalg.norm(fixed.astype(np.float64), axis=1) - 1).max() < 1e-7
    assert np.array_equal(renormalised(halves * 3), halves * 3), (
        "vectors that were never unit stay as they are"
    )
    page = VectorPage([1], ["7"], halves[:1])
    (item,) = items_of_page(page, None, {"7": {"name": "국"}}, is_half=True).items
    assert item.metadata == {"name": "국", "vector_source": "halfvec", "renormalised": True}
    (item,) = items_of_page(page, None, {"7": {"name": "국"}}).items
    assert np.array_equal(np.frombuffer(item.vector, "<f4"), halves[0]), "float32 goes over bit for bit"


def test_a_directory_knows_unknown_inactive_and_active() -> None:
    texts = TextDirectory()
    for item_id, active in (("7", True), ("007", False), ("7", False)):
        texts.add(item_id, active)
    assert texts.states(["7", "007", "07"]).tolist() == [ACTIVE, INACTIVE, UNKNOWN]
    assert (texts.count, texts.active_count) == (2, 1)
    empty = IntDirectory(np.zeros(0, np.int64), np.zeros(0, bool))
    assert empty.states([1, 2]).tolist() == [UNKNOWN, UNKNOWN]
    ends = IntDirectory(np.array([-(2**63), 2**63 - 1]), np.array([True, False]))
    assert ends.states([2**63 - 1, 0, -(2**63)]).tolist() == [INACTIVE, UNKNOWN, ACTIVE]


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_rows_that_share_a_key_are_never_parted(rows: int) -> None:
    keys = [1, 1, 1, 2, 3, 3, 3, 3, 9]
    source = ListSource(keys, list(range(len(keys))))
    read = [item_id for page in pages(source, None, rows) for item_id in page.ids]
    assert sorted(map(int, read)) == list(range(len(keys)))
    behind = [item_id for page in pages(source, 2, rows) for item_id in page.ids]
    assert sorted(map(int, behind)) == [4, 5, 6, 7, 8]


def test_a_failing_source_comes_out_where_its_page_would_have() -> None:
    source = ListSource(range(10), range(10), fails_behind=5)
    got: list[Id] = []
    with pytest.raises(ConnectionError), read_ahead(pages(source, None, 2)) as ahead:
        for page in ahead:
            got += page.ids
    assert got == [0, 1, 2, 3, 4, 5]


def test_reading_ahead_is_bounded_and_ends_with_its_block() -> None:
    given: list[int] = []

    def endless() -> Iterator[VectorPage]:
        for number in range(10**9):
            given.append(number)
            yield page_of([number], [[1, 1]])

    before = threading.active_count()
    with read_ahead(endless(), depth=2) as ahead:
        assert next(ahead).ids == [0]
    assert len(given) <= 5
    assert threading.active_count() == before


def test_a_cursor_survives_its_text() -> None:
    cursor = (
        ImportCursor("db/t/1").labelled("m.1").moved("갈비-7", 20, {"zero_vector": 2}).counted({"stored": 18})
    )
    assert ImportCursor.resumed(cursor.to_json(), "db/t/1", restart=False) == cursor


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}",
        "null",
        "7",
        '{"format": 2}',
        ImportCursor("t", done=True).to_json(),
        ImportCursor("u", 5).to_json(),
    ],
)
def test_a_cursor_that_is_not_ours_begins_again(text: str | None) -> None:
    assert ImportCursor.resumed(text, "t", restart=False) == ImportCursor("t")


def test_another_version_begins_again() -> None:
    cursor = ImportCursor("t").labelled("m.1").moved(9, 10, {"stored": 10})
    assert cursor.labelled("m.1") == cursor
    assert cursor.labelled("m.2") == ImportCursor("t", version="m.2")
    assert ImportCursor.resumed(cursor.to_json(), "t", restart=True) == ImportCursor("t")
