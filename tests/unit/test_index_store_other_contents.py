"""Two generations made of other contents: no content and no stale vector passes from one to the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.types import Content, ItemWrite, NewGeneration, WriteBatch
from tests.sealing import SPECS, vectors

OLD, NEW = "m.t00000001", "m.t00000002"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    engine = EmbeddedIndex(tmp_path, SPECS)
    engine.open()
    engine.advance("numbers", "begin", OLD)
    write(engine, OLD, 1, 2, 3)
    engine.advance("numbers", "begin", NEW, NewGeneration(with_contents=False))
    yield engine
    engine.close()
    assert check(tmp_path) == []


def write(index: EmbeddedIndex, version: str, *ids: int, source_version: int | None = None) -> None:
    """Texts as the template of that version makes them."""
    items = []
    for item_id, vector in zip(ids, vectors(len(ids)), strict=True):
        text = f"{item_id} by {version}".encode()
        digest = hashlib.sha256(text).digest()
        content = Content("text", text)
        items.append(
            ItemWrite(item_id, vector, source_version=source_version, content_hash=digest, content=content)
        )
    index.write(
        "numbers",
        WriteBatch(
            items,
            embedding_version=version,
            is_for_current=version == OLD,
            takes_content=lambda other: other == version,
        ),
    )


def told(index: EmbeddedIndex) -> dict[str, tuple[int, int, int, int]]:
    return {
        each.embedding_version: (each.items, each.live, each.contents, each.awaiting)
        for each in index.status("numbers").generations
    }


def test_what_is_kept_of_the_one_is_no_content_of_the_other(index: EmbeddedIndex) -> None:
    assert told(index) == {OLD: (3, 3, 3, 0), NEW: (3, 0, 0, 0)}, "nothing waits: nobody here has its texts"
    write(index, OLD, 4)
    assert told(index) == {OLD: (4, 4, 4, 0), NEW: (4, 0, 0, 0)}
    write(index, NEW, 4)
    assert told(index)[NEW] == (4, 1, 1, 0)


def test_a_vector_of_what_the_item_was_before_goes(index: EmbeddedIndex) -> None:
    write(index, NEW, 1, 2)
    assert told(index) == {OLD: (3, 3, 3, 0), NEW: (3, 2, 2, 0)}, "searches lose nothing by the next one"
    write(index, OLD, 1)
    assert told(index) == {OLD: (3, 3, 3, 0), NEW: (3, 1, 1, 0)}


def test_both_writes_of_one_fact_may_come_in_any_order(index: EmbeddedIndex) -> None:
    for fact, order in ((7, (OLD, NEW)), (9, (NEW, OLD))):
        for version in order:
            write(index, version, 1, source_version=fact)
        assert told(index) == {OLD: (3, 3, 3, 0), NEW: (3, 1, 1, 0)}, f"{order}: each of its own text"
    write(index, OLD, 1, source_version=10)
    assert told(index)[NEW][1] == 0, "of an older fact"
