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
    assert drawn.plane is not None and 0 < drawn.plane.explained[1] <= drawn.plane.explained[0] < 1
    found = index.get("numbers", [3])[0]
    assert found is not None and found.vector is not None
    ((x, y),) = drawn.plane.places(found.vector[None])
    drawn_there = next(point for point in drawn.points if point.id == 3)
    assert (x, y) == pytest.approx((drawn_there.x, drawn_there.y), abs=1e-5)


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
    index.write("numbers", WriteBatch(deletes=[ItemDelete(id) for id in range(2, 20)]))
    assert ItemMaps(index).map_of("numbers", 100, []).points == []


def test_one_map_is_drawn_at_a_time(index: ReferenceIndex) -> None:
    maps = ItemMaps(index)
    with maps._is_busy, pytest.raises(Overloaded):
        maps.map_of("numbers", 10, [])
    assert maps.map_of("numbers", 10, []).points == []


def test_the_plane_is_that_of_the_whole_decomposition() -> None:
    rng = np.random.default_rng(3)
    spread = np.concatenate([[9.0, 5.0], np.ones(62)])
    rows = (rng.standard_normal((700, 64)) * spread + 3).astype(np.float32)
    plane = plane_of(rows)
    xy, explained = plane.places(rows), plane.explained
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    truth = centred @ directions[:2].T
    for axis in range(2):
        assert abs(np.corrcoef(truth[:, axis], xy[:, axis])[0, 1]) > 0.9999
        assert explained[axis] == pytest.approx(strength[axis] ** 2 / (strength**2).sum(), rel=1e-3)
    assert np.array_equal(plane.axes, plane_of(rows).axes)
    assert np.linalg.norm(plane.axes, axis=1) == pytest.approx((1, 1), abs=1e-5)


@pytest.mark.parametrize("rows", [np.zeros((1, 5)), np.ones((2, 5)), np.ones((40, 5))])
def test_too_few_or_equal_rows_have_no_directions(rows: np.ndarray) -> None:
    plane = plane_of(rows.astype(np.float32))
    assert plane.axes.shape == (2, rows.shape[1])
    assert not plane.places(rows.astype(np.float32)).any()
    assert plane.explained == (0.0, 0.0)


def test_one_dimension_is_a_line() -> None:
    rows = np.arange(10, dtype=np.float32)[:, None]
    plane = plane_of(rows)
    assert plane.explained == pytest.approx((1.0, 0.0))
    assert not plane.places(rows)[:, 1].any()
