"""What items were made of: kept in the commit of the item, dropped with it, never another item's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from index_store.contents.table import KeptContent, read_contents
from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidRequest
from index_store.maintenance.check import check
from index_store.maintenance.scrub import ScrubProgress
from index_store.record.digest import BUCKETS
from index_store.storage.schema import STORE_FILE
from index_store.storage.scrub_state import SCRUB_FILE
from index_store.types import CollectionSpec, Content, Id, ItemDelete, ItemWrite, WriteBatch
from tests.fixtures.golden.make import DIRECTORY, SPECS, vector

SPEC = {
    "numbers": CollectionSpec("numbers", "int64", 4, "l2"),
    "names": CollectionSpec("names", "string", 4, "l2"),
}
LONG = "갈비탕은 소갈비를 오래 끓인 국이다. " * 20


@pytest.fixture(params=["numbers", "names"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    found = opened(tmp_path)
    yield found
    found.close()
    assert check(tmp_path) == []


def opened(data_dir: Path) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, list(SPEC.values()))
    index.open()
    for name in SPEC:
        if index.status(name).current is None:
            index.advance(name, "begin", "v1")
    return index


def id_of(name: str, number: int) -> Id:
    return number if name == "numbers" else f"상품-{number}"


def made(name: str, number: int, text: str | None, kind: str = "text") -> ItemWrite:
    """An item whose vector was made of `text`; None: its vector came as such."""
    values = np.array([1, number, 0, 2], dtype=np.float32)
    if text is None:
        return ItemWrite(id_of(name, number), values)
    data = text.encode()
    content = Content(kind, data)  # type: ignore[arg-type]
    return ItemWrite(id_of(name, number), values, content_hash=hashlib.sha256(data).digest(), content=content)


def store(index: EmbeddedIndex, name: str, *items: ItemWrite) -> None:
    index.write(name, WriteBatch(items=items, embedding_version="v1"))


def kept(data_dir: Path, name: str) -> dict[Id, KeptContent]:
    connection = sqlite3.connect(data_dir / "collections" / name / "g000001" / "store.sqlite")
    try:
        return read_contents(connection, [id_of(name, number) for number in range(100)])
    finally:
        connection.close()


def counted(index: EmbeddedIndex, name: str) -> int:
    current = index.status(name).current
    assert current is not None
    return current.contents


def test_content_comes_back_as_it_was_given(index: EmbeddedIndex, tmp_path: Path, name: str) -> None:
    store(
        index,
        name,
        made(name, 1, "국"),
        made(name, 2, LONG),
        made(name, 3, "https://img.example/b.jpg", "address"),
    )
    store(index, name, made(name, 4, "\x00\xff raw", "picture"), made(name, 5, None))
    found = kept(tmp_path, name)
    assert {item_id: each.content.data.decode() for item_id, each in found.items()} == {
        id_of(name, 1): "국",
        id_of(name, 2): LONG,
        id_of(name, 3): "https://img.example/b.jpg",
        id_of(name, 4): "\x00\xff raw",
    }
    assert [found[id_of(name, n)].content.kind for n in (1, 3, 4)] == ["text", "address", "picture"]
    assert found[id_of(name, 1)].content_hash == hashlib.sha256("국".encode()).digest()
    assert counted(index, name) == 4


def test_a_text_is_smaller_on_disk(index: EmbeddedIndex, tmp_path: Path) -> None:
    store(index, "numbers", made("numbers", 1, LONG))
    connection = sqlite3.connect(tmp_path / "collections" / "numbers" / "g000001" / "store.sqlite")
    (size,) = connection.execute("SELECT length(data) FROM content").fetchone()
    connection.close()
    assert size < len(LONG.encode()) / 5


def test_what_no_longer_holds_is_dropped(index: EmbeddedIndex, tmp_path: Path, name: str) -> None:
    store(index, name, *(made(name, number, f"글 {number}") for number in range(1, 7)))
    store(index, name, made(name, 1, None), made(name, 2, "다른 글"))
    index.write(name, WriteBatch(deletes=[ItemDelete(id_of(name, 3))]))
    index.write(name, WriteBatch(items=[ItemWrite(id_of(name, 4), active=False, metadata={"a": 1})]))
    unkept = made(name, 5, "글 5")
    store(index, name, ItemWrite(unkept.id, unkept.vector, content_hash=unkept.content_hash))
    found = kept(tmp_path, name)
    assert found.keys() == {id_of(name, 2), id_of(name, 4), id_of(name, 6)}
    assert found[id_of(name, 2)].content.data.decode() == "다른 글"
    assert counted(index, name) == 3
    store(index, name, made(name, 3, "글 3"), made(name, 3, "글 3 neu"))
    assert kept(tmp_path, name)[id_of(name, 3)].content.data.decode() == "글 3 neu"
    assert counted(index, name) == 4


def test_an_older_write_leaves_the_newer_content(index: EmbeddedIndex, tmp_path: Path) -> None:
    new, old = made("numbers", 1, "neu"), made("numbers", 1, "alt")
    for item, version in ((new, 5), (old, 4)):
        fresh = ItemWrite(
            item.id, item.vector, source_version=version, content_hash=item.content_hash, content=item.content
        )
        store(index, "numbers", fresh)
    assert kept(tmp_path, "numbers")[1].content.data == b"neu"


def test_content_without_its_hash_is_refused(index: EmbeddedIndex) -> None:
    item = ItemWrite(1, np.ones(4, np.float32), content=Content("text", b"x"))
    with pytest.raises(InvalidRequest, match=r"items\[0\].content needs its content_hash"):
        store(index, "numbers", item)


def test_a_collection_of_vectors_has_no_such_table(index: EmbeddedIndex, tmp_path: Path) -> None:
    store(index, "numbers", made("numbers", 1, None))
    index.write("numbers", WriteBatch(deletes=[ItemDelete(1)]))
    connection = sqlite3.connect(tmp_path / "collections" / "numbers" / "g000001" / "store.sqlite")
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name='content'").fetchall()
    connection.close()
    assert kept(tmp_path, "numbers") == {} and counted(index, "numbers") == 0


def test_a_golden_directory_takes_content_with_its_next_write(tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "data")
    index = EmbeddedIndex(tmp_path / "data", SPECS)
    index.open()
    status = index.status("numbers").current
    assert status is not None and status.contents == 0
    content = Content("text", b"new")
    item = ItemWrite(77, vector(77), content_hash=hashlib.sha256(b"new").digest(), content=content)
    index.write("numbers", WriteBatch(items=[item], embedding_version="golden-1"))
    status = index.status("numbers").current
    assert status is not None and status.contents == 1
    index.close()
    assert check(tmp_path / "data") == []


def test_a_flipped_byte_is_noticed_and_not_served(tmp_path: Path) -> None:
    index = opened(tmp_path)
    store(index, "numbers", made("numbers", 1, "eins"), made("numbers", 2, "zwei"))
    index.close()
    connection = sqlite3.connect(tmp_path / "collections" / "numbers" / "g000001" / "store.sqlite")
    connection.execute("UPDATE content SET data=? WHERE id=1", (b"Eins",))
    connection.execute("UPDATE meta SET value=9 WHERE key='contents'")
    connection.commit()
    connection.close()
    assert kept(tmp_path, "numbers").keys() == {2}
    problems = check(tmp_path)
    assert any("kept content of 1 fails its checksum" in each for each in problems)
    assert any("counts 9 kept contents, there are 2" in each for each in problems)


def test_an_id_that_has_rotted_into_no_text_hides_nothing_else(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.write("names", WriteBatch([made("names", n, None) for n in (1, 2)], embedding_version="v1"))
    index.close()
    directory = tmp_path / "collections/names/g000001"
    with contextlib.closing(sqlite3.connect(directory / STORE_FILE)) as connection, connection:
        connection.execute("UPDATE item SET id=CAST(x'61b9' AS TEXT) WHERE id=?", (id_of("names", 1),))
    scrubbed = ScrubProgress(damaged=("a\udcb9",), damaged_contents=("a\udcb9",))
    (directory / SCRUB_FILE).write_text(json.dumps(asdict(scrubbed)))
    index = EmbeddedIndex(tmp_path, list(SPEC.values()))
    assert index.open() == {}
    status = index.status("names")
    assert index.digest("names").items == 1
    assert [row.id for row in index.digest_rows("names", range(BUCKETS))] == [id_of("names", 2)]
    index.close()
    assert [trouble.code for trouble in status.troubles] == ["rows_damaged"]
