"""A sample in a plane: the directions of largest variance, an even sample, plain values, bounded work."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.types import ItemDelete, WriteBatch
from service.app.item_map import ItemMaps, plane_of
from service.errors import Overloaded
from tests.contract.vectors import SPECS, begin_all, fill
from tests.reference_index import ReferenceIndex


@pytest.fixture
def index() -> ReferenceIndex:
    reference = ReferenceIndex(SPECS)
    begin_all(reference)
    return reference


def test_a_small_collection_is_drawn_whole_with_what_was_asked_for(index: ReferenceIndex) -> None:
    fill(index, 40)
    drawn = ItemMaps(index).map_of("numbers", 100, ["n", "even", "unknown"])
    assert sorted(point.id for point in drawn.points) == list(range(40))
    assert {point.id: point.values for point in drawn.points}[3] == {"n": 3, "even": False}
    assert (drawn.embedding_version, drawn.live) == ("v1", 40)
    assert 0 < drawn.explained[1] <= drawn.explained[0] < 1


@pytest.mark.parametrize("sample", [50, 300, 1000])
def test_of_a_larger_one_about_as_many_are_drawn_as_were_asked_for(
    index: ReferenceIndex, sample: int
) -> None:
    fill(index, 3000)
    points = ItemMaps(index).map_of("numbers", sample, []).points
    assert sample / 2 < len(points) <= sample
    assert 900 < np.median([point.id for point in points]) < 2100  # from all over
    again = ItemMaps(index).map_of("numbers", sample, []).points
    assert again == points


def test_what_no_search_finds_is_not_drawn(index: ReferenceIndex) -> None:
    assert ItemMaps(index).map_of("numbers", 10, []).points == []
    fill(index, 20)
    index.write("numbers", WriteBatch(deletes=[ItemDelete(id) for id in range(5)]))
    drawn = ItemMaps(index).map_of("numbers", 100, [])
    assert sorted(point.id for point in drawn.points) == list(range(5, 20))


def test_one_map_is_drawn_at_a_time(index: ReferenceIndex) -> None:
    maps = ItemMaps(index)
    with maps._is_busy, pytest.raises(Overloaded):
        maps.map_of("numbers", 10, [])
    assert maps.map_of("numbers", 10, []).points == []


def test_the_plane_is_that_of_the_whole_decomposition() -> None:
    rng = np.random.default_rng(3)
    spread = np.concatenate([[9.0, 5.0], np.ones(62)])
    rows = (rng.standard_normal((700, 64)) * spread + 3).astype(np.float32)
    xy, explained = plane_of(rows)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    truth = centred @ directions[:2].T
    for axis in range(2):
        assert abs(np.corrcoef(truth[:, axis], xy[:, axis])[0, 1]) > 0.9999
        assert explained[axis] == pytest.approx(strength[axis] ** 2 / (strength**2).sum(), rel=1e-3)
    again, _ = plane_of(rows)
    assert np.array_equal(xy, again)


@pytest.mark.parametrize("rows", [np.zeros((0, 0)), np.ones((2, 5)), np.ones((40, 5))])
def test_too_few_or_equal_rows_have_no_directions(rows: np.ndarray) -> None:
    xy, explained = plane_of(rows.astype(np.float32))
    assert xy.shape == (len(rows), 2)
    assert not xy.any()
    assert explained == (0.0, 0.0)


def test_one_dimension_is_a_line() -> None:
    xy, explained = plane_of(np.arange(10, dtype=np.float32)[:, None])
    assert explained == pytest.approx((1.0, 0.0))
    assert not xy[:, 1].any()
