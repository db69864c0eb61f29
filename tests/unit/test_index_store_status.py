"""What generations take, in numbers that agree with what was written."""

from __future__ import annotations

from pathlib import Path

from index_store.engine.tombstone_counter import TombstoneCounter
from index_store.types import ItemDelete, WriteBatch
from tests.sealing import batch, generation_of, opened, sealed, vectors
from tests.waiting import until

NAME = "numbers"


def test_a_footprint_tells_rows_in_memory_rows_in_segments_and_bytes(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance(NAME, "begin", "v1")
    index.write(NAME, batch(NAME, range(50), vectors(50)))
    (before,) = index.footprints(NAME)
    assert (before.generation, before.delta_rows, before.segments, before.sealed_rows) == (
        "g000001",
        50,
        0,
        0,
    )
    assert before.store_bytes >= (tmp_path / "collections" / NAME / "g000001" / "store.sqlite").stat().st_size
    assert before.mapped_bytes == 0
    sealed(tmp_path)
    until(lambda: index.footprints(NAME)[0].segments == 1)
    index.write(NAME, WriteBatch(deletes=[ItemDelete(3), ItemDelete(4)]))
    after = index.footprints(NAME)[0]
    assert (after.delta_rows, after.sealed_rows, after.hidden_rows) == (0, 50, 2)
    segment = next((tmp_path / "collections" / NAME / "g000001" / "segments").iterdir())
    assert after.mapped_bytes == sum(file.stat().st_size for file in segment.iterdir())
    index.close()


def test_a_collection_without_a_generation_takes_nothing(tmp_path: Path) -> None:
    index = opened(tmp_path)
    assert index.footprints(NAME) == []
    index.close()


def test_tombstones_are_counted_again_only_after_commits_and_a_minute(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance(NAME, "begin", "v1")
    seconds = [0.0]
    count = TombstoneCounter(generation_of(index, NAME).store, lambda: seconds[0])

    def deleted(number: int) -> int:
        return index.write(NAME, WriteBatch(deletes=[ItemDelete(number)])).seq

    index.write(NAME, batch(NAME, range(9), vectors(9)))
    assert count.as_of(deleted(1)) == 1
    seq = deleted(2)
    assert count.as_of(seq) == 1, "within the minute"
    seconds[0] = 61.0
    assert count.as_of(seq) == 2
    index.close()
