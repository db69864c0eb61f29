"""Two generations live: each takes vectors of its own version, and what has none waits to be filled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidVector, VersionMismatch
from index_store.maintenance.check import check
from index_store.storage.schema import Connection, connect_sqlite
from index_store.types import (
    CollectionSpec,
    Content,
    GenerationStatus,
    ItemDelete,
    ItemWrite,
    SearchRequest,
    Vector,
    WriteBatch,
)

SPEC = CollectionSpec("things", "int64", 4, "l2")


def by(version: str, text: str) -> Vector:
    """As a model of that version would make it of the text."""
    seed = int.from_bytes(hashlib.sha256(f"{version} {text}".encode()).digest()[:4])
    return np.random.default_rng(seed).standard_normal(4).astype(np.float32)


def made(item_id: int, text: str, version: str = "v1") -> ItemWrite:
    data = text.encode()
    content_hash = hashlib.sha256(data).digest()
    return ItemWrite(
        item_id,
        by(version, text),
        True,
        {"t": text},
        content_hash=content_hash,
        content=Content("text", data),
    )


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    index.advance("things", "begin", "v1")
    yield index
    index.close()
    assert check(tmp_path) == []


def store(index: EmbeddedIndex, *items: ItemWrite, both: bool = False) -> None:
    vectors = {"v2": [by("v2", str((item.metadata or {})["t"])) for item in items]} if both else {}
    batch = WriteBatch(items, embedding_version="v1", other_vectors=vectors, is_for_current=True)
    index.write("things", batch)


def status_of(index: EmbeddedIndex, version: str) -> GenerationStatus:
    status = index.status("things")
    return next(each for each in status.generations if each.embedding_version == version)


def fill(index: EmbeddedIndex, version: str = "v2") -> int:
    """What a rebuild does, once through; return how many were stored."""
    after, stored = None, 0
    while found := index.awaiting("things", version, after, 2):
        items = [filled(version, item.id, item.content) for item in found]  # type: ignore[arg-type]
        stored += index.write("things", WriteBatch(items, embedding_version=version)).upserted
        after = found[-1].id
    return stored


def filled(version: str, item_id: int, content: Content) -> ItemWrite:
    content_hash = hashlib.sha256(content.data).digest()
    vector = by(version, content.data.decode())
    return ItemWrite(item_id, vector, content_hash=content_hash, content=content, fills=content_hash)


def answers(index: EmbeddedIndex, version: str, text: str) -> list[int | str]:
    request = SearchRequest(by(version, text), 100, embedding_version=version)
    return [hit.id for hit in index.search("things", [request])[0].hits]


def test_a_new_generation_knows_the_contents_and_is_filled_from_them(index: EmbeddedIndex) -> None:
    store(index, *(made(n, f"글 {n}") for n in range(1, 8)))
    index.write("things", WriteBatch([ItemWrite(9, by("v1", "x"))], embedding_version="v1"))
    index.write("things", WriteBatch([ItemWrite(3, active=False)], [ItemDelete(4)]))
    index.advance("things", "begin", "v2")
    fresh = status_of(index, "v2")
    assert (fresh.items, fresh.live, fresh.contents, fresh.awaiting) == (7, 0, 6, 6)
    assert fill(index) == 6
    fresh = status_of(index, "v2")
    assert (fresh.items, fresh.live, fresh.contents, fresh.awaiting) == (7, 5, 6, 0)
    index.advance("things", "promote", "v2")
    for n in (1, 2, 5, 6, 7):
        assert answers(index, "v2", f"글 {n}")[0] == n
    assert set(answers(index, "v2", "글 3")) == {1, 2, 5, 6, 7}, (
        "9 came as a vector, 3 is inactive, 4 deleted"
    )


def test_a_write_brings_each_generation_its_own_vector(index: EmbeddedIndex) -> None:
    store(index, made(1, "alt"))
    index.advance("things", "begin", "v2")
    store(index, made(1, "neu"), made(2, "zwei"), both=True)
    assert status_of(index, "v2").awaiting == 0 and fill(index) == 0
    assert answers(index, "v1", "neu")[0] == 1
    index.advance("things", "promote", "v2")
    assert answers(index, "v2", "neu")[0] == 1 and answers(index, "v2", "zwei")[0] == 2
    item = index.get("things", [1])[0]
    assert item is not None and item.metadata == {"t": "neu"}
    index.advance("things", "rollback", "v1")
    assert answers(index, "v1", "zwei")[0] == 2


def test_without_a_vector_of_its_version_an_item_waits_and_no_old_one_is_shown(index: EmbeddedIndex) -> None:
    store(index, made(1, "alt"), made(2, "bleibt"))
    index.advance("things", "begin", "v2")
    assert fill(index) == 2
    store(index, made(1, "neu"))
    fresh = status_of(index, "v2")
    assert (fresh.live, fresh.awaiting) == (1, 1)
    assert fill(index) == 1
    index.advance("things", "promote", "v2")
    assert answers(index, "v2", "neu")[0] == 1


def test_metadata_reaches_every_generation_whatever_else_is_in_the_batch(index: EmbeddedIndex) -> None:
    store(index, made(1, "eins"), made(2, "zwei"))
    index.advance("things", "begin", "v2")
    assert fill(index) == 2
    batch = [
        ItemWrite(1, metadata={"t": "neu"}),
        ItemWrite(2, by("v1", "anders")),
        ItemWrite(3, active=False),
    ]
    index.write("things", WriteBatch(batch, embedding_version="v1"))
    index.advance("things", "promote", "v2")
    told = index.get("things", [1, 2, 3])
    assert told[0] is not None and told[0].metadata == {"t": "neu"}
    assert told[1] is not None and told[1].metadata == {"t": "zwei"} and told[2] is None


@pytest.mark.parametrize("reads_along", [True, False])
def test_who_reads_along_has_nothing_to_read_after_a_promotion(
    index: EmbeddedIndex, tmp_path: Path, reads_along: bool
) -> None:
    """Another worker, which wrote nothing: its first search after the promotion finds all applied."""
    statements: list[str] = []

    def watched(path: Path) -> Connection:
        connection = connect_sqlite(path)
        connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]
        return connection

    store(index, *(made(n, f"글 {n}") for n in range(1, 8)))
    index.advance("things", "begin", "v2")
    reader = EmbeddedIndex(tmp_path, [SPEC], connect=watched)
    reader.open()
    assert fill(index) == 7
    if reads_along:
        assert reader.catch_up_others("things") == []
        assert reader.catch_up_others("things", {"v2"}) == ["v2"]
    index.advance("things", "promote", "v2")
    statements.clear()
    assert answers(reader, "v2", "글 3")[0] == 3
    assert any("FROM item WHERE deleted=0" in each for each in statements) != reads_along
    reader.close()


def test_what_fills_gives_way_to_what_was_written_meanwhile(index: EmbeddedIndex) -> None:
    store(index, *(made(n, "alt") for n in range(1, 6)))
    index.advance("things", "begin", "v2")
    found = index.awaiting("things", "v2", None, 10)
    late = [filled("v2", item.id, item.content) for item in found]  # type: ignore[arg-type]
    store(index, made(1, "neu"), both=True)
    store(index, made(2, "neu"))
    index.write("things", WriteBatch(deletes=[ItemDelete(3)]))
    index.write("things", WriteBatch([ItemWrite(4, active=False)]))
    ack = index.write("things", WriteBatch(late, embedding_version="v2"))
    assert (ack.upserted, ack.stale_ignored) == (2, 3)
    assert status_of(index, "v2").awaiting == 1 and fill(index) == 1
    index.advance("things", "promote", "v2")
    items = {item.id: item for item in index.get("things", [1, 2, 3, 4, 5]) if item is not None}
    assert items.keys() == {1, 2, 4, 5} and not items[4].active
    for item_id, text in ((1, "neu"), (2, "neu"), (5, "alt")):
        assert np.array_equal(items[item_id].vector, by("v2", text))  # type: ignore[arg-type]


def test_a_fill_changes_no_other_generation(index: EmbeddedIndex) -> None:
    store(index, made(1, "alt"))
    index.advance("things", "begin", "v2")
    before = status_of(index, "v1")
    fill(index)
    assert status_of(index, "v1") == before


def test_a_write_for_the_current_generation_is_refused_after_a_promotion(index: EmbeddedIndex) -> None:
    store(index, made(1, "alt"))
    index.advance("things", "begin", "v2")
    index.advance("things", "promote", "v2")
    with pytest.raises(VersionMismatch) as refused:
        store(index, made(1, "neu"))
    assert refused.value.expected == "v2"
    index.write("things", WriteBatch([replace(made(2, "b"), content=None)], embedding_version="v1"))


def test_other_vectors_are_checked(index: EmbeddedIndex) -> None:
    wrong = {"v2": [np.zeros(4, np.float32)]}
    with pytest.raises(InvalidVector, match=r"other_vectors\[0\]"):
        index.write("things", WriteBatch([made(1, "a")], embedding_version="v1", other_vectors=wrong))
