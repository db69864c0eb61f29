"""The rows of a generation that no search reads are left on disk until it is about to become current."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.footprint import Footprint
from index_store.types import ItemDelete, SearchRequest, Vector, WriteBatch
from tests.sealing import batch, opened, sealed, vectors

NAME = "numbers"


def begun(tmp_path: Path) -> tuple[EmbeddedIndex, Vector]:
    """An index whose next generation holds 50 items as well, under other vectors, which are returned."""
    index = opened(tmp_path)
    index.advance(NAME, "begin", "v1")
    index.write(NAME, batch(NAME, range(50), vectors(50)))
    index.advance(NAME, "begin", "v2")
    theirs = vectors(50, seed=1)
    write(index, range(50), theirs)
    return index, theirs


def write(index: EmbeddedIndex, numbers: range, theirs: Vector) -> None:
    """Only to the next generation."""
    items = batch(NAME, numbers, theirs).items
    index.write(NAME, WriteBatch(items, embedding_version="v2", except_versions=("v1",)))


def nearest(index: EmbeddedIndex, vector: Vector) -> list[object]:
    (found,) = index.search(NAME, [SearchRequest(vector, 3)])
    return [found.embedding_version, *(hit.id for hit in found.hits)]


def next_footprint(index: EmbeddedIndex) -> Footprint:
    return index.footprints(NAME)[1]


@pytest.mark.long
def test_nothing_but_a_wish_a_search_or_a_step_reads_the_next_generation(tmp_path: Path) -> None:
    index, theirs = begun(tmp_path)
    index.write(NAME, WriteBatch(deletes=[ItemDelete(7)]))
    index.status(NAME)
    index.footprints(NAME)
    index.digest(NAME, embedding_version="v2")
    write(index, range(50, 350), vectors(300, seed=2))
    assert index.catch_up_others(NAME) == [], "a large write leaves it alone, too"
    assert index.catch_up_others(NAME, {"v9"}) == []
    assert index.catch_up_others(NAME, {"v2"}) == ["v2"]
    write(index, range(400, 401), np.ones((1, 16), np.float32))
    assert index.catch_up_others(NAME) == ["v2"], "it is followed from then on"
    index.close()
    index = opened(tmp_path)
    request = SearchRequest(theirs[3], 1)
    (found,) = index.replay_source().search_version(NAME, "v2", [request])
    assert found.hits[0].id == 3
    assert index.catch_up_others(NAME) == ["v2"]
    index.close()


@pytest.mark.long
def test_every_worker_answers_from_a_promoted_generation_that_it_had_left_alone(tmp_path: Path) -> None:
    index, theirs = begun(tmp_path)
    other = opened(tmp_path)
    index.write(NAME, WriteBatch(deletes=[ItemDelete(7)]))
    sealed(tmp_path)
    write(index, range(60, 63), vectors(3, seed=3))
    index.advance(NAME, "promote", "v2")
    for each in (index, other):
        assert nearest(each, theirs[3])[:2] == ["v2", 3]
        assert nearest(each, vectors(3, seed=3)[1])[:2] == ["v2", 61]
        assert 7 not in nearest(each, theirs[7])
    index.advance(NAME, "rollback", "v1")
    restarted = opened(tmp_path)
    assert restarted.catch_up_others(NAME) == [], "the former one is as little needed after a start"
    restarted.advance(NAME, "rollback", "v2")
    for each in (index, other, restarted):
        assert nearest(each, theirs[3])[:2] == ["v2", 3]
        each.close()


@pytest.mark.long
def test_a_footprint_is_the_same_on_disk_as_in_memory(tmp_path: Path) -> None:
    index, _ = begun(tmp_path)
    sealed(tmp_path)
    write(index, range(60, 65), vectors(5, seed=3))
    index.write(NAME, WriteBatch(deletes=[ItemDelete(62)]))
    on_disk = next_footprint(index)
    assert (on_disk.delta_rows, on_disk.segments, on_disk.sealed_rows) == (4, 1, 50)
    assert on_disk.mapped_bytes > 0 and on_disk.tombstones == 1
    index.close()
    index = opened(tmp_path)
    index.catch_up_others(NAME, {"v2"})
    in_memory = next_footprint(index)
    assert in_memory == replace(on_disk, store_bytes=in_memory.store_bytes), "the log is shorter by now"
    index.close()


@pytest.mark.long
def test_what_was_sealed_before_this_process_began_is_verified_when_it_is_read(tmp_path: Path) -> None:
    index, theirs = begun(tmp_path)
    sealed(tmp_path)
    index.close()
    (segment,) = (tmp_path / "collections" / NAME / "g000002" / "segments").iterdir()
    rotten = segment / "vectors.f32"
    data = bytearray(rotten.read_bytes())
    data[100] ^= 1
    rotten.write_bytes(data)
    index = opened(tmp_path)
    index.advance(NAME, "promote", "v2")
    assert index.footprints(NAME)[0].segments == 0, "the rows come from the store"
    assert nearest(index, theirs[3])[:2] == ["v2", 3]
    assert not segment.exists(), "it is set aside"
    index.close()
