"""The format on disk: a directory written when it was new must open, and answer, for ever."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index_store.__main__ import main
from index_store.ann.rerank import rescore
from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE
from index_store.engine.index import EmbeddedIndex
from index_store.errors import UnknownFormat
from index_store.maintenance.check import check
from index_store.types import Metric, SearchRequest
from tests.fixtures.golden.make import DIRECTORY, SPECS, vector
from tests.sealing import generation_of

DIGESTS = {
    "numbers": "75de7fe215c06950ffd61778ddf63a39e05c54db2b3465d2cf3c88580facc6dc",
    "names": "96c4583a5f47d358b870db38a587ea9e10da20d4e2f7ce00cab226f66eee8812",
}
LIVE = [n for n in range(165) if n not in (0, 140, 158)]


@pytest.mark.parametrize(("collection", "metric"), [("numbers", "l2"), ("names", "cosine")])
def test_the_golden_directory_opens_and_answers(tmp_path: Path, collection: str, metric: Metric) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "data")
    assert check(tmp_path / "data") == []
    index = EmbeddedIndex(tmp_path / "data", SPECS)
    index.open()
    view = generation_of(index, collection).refresh()
    assert [one.segment.reader.rows for one in view.segments] == [149, 19] and view.count == 6
    query = vector(77) + np.float32(0.1)
    truth = rescore(query, np.stack([vector(n) for n in LIVE]), metric)
    wanted = [LIVE[place] for place in np.argsort(truth)]
    names = wanted if collection == "numbers" else [f"상품-{n}" for n in wanted]
    hits = index.search(collection, [SearchRequest(query, 200, with_metadata=True)])[0].hits
    assert [hit.id for hit in hits] == names
    assert [hit.distance for hit in hits] == np.sort(truth).tolist()
    assert [hit.metadata for hit in hits] == [{"shade": n % 3, "이름": f"n{n}"} for n in wanted]
    some = index.search(collection, [SearchRequest(query, 200, filter={"shade": 1})])[0].hits
    assert [hit.id for hit in some] == [name for name, n in zip(names, wanted, strict=True) if n % 3 == 1]
    status = index.status(collection).current
    assert status is not None and (status.items, status.live, status.cursors) == (162, 162, {"source": "165"})
    assert index.digest(collection).root == DIGESTS[collection]
    item = index.get(collection, [names[0]])[0]
    assert item is not None and item.source_version == wanted[0]
    assert index.get(collection, [140 if collection == "numbers" else "상품-140"]) == [None]
    index.close()


def pointer_of_a_later_release(data: Path) -> None:
    """The file alone: its writer was killed before it wrote the copy."""
    path = data / "collections/numbers" / POINTER_FILE
    text = path.read_text().rpartition("\n}")[0].replace('"format_version": 1', '"format_version": 2') + "\n}"
    path.write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")


def copy_of_a_later_release(data: Path) -> None:
    pointer_of_a_later_release(data)
    (data / "collections/numbers" / POINTER_FILE).rename(data / "collections/numbers" / BACKUP_FILE)


def store_of_a_later_release(data: Path) -> None:
    connection = sqlite3.connect(data / "collections/numbers/g000001/store.sqlite")
    with connection:
        connection.execute("UPDATE meta SET value = 2 WHERE key = 'format_version'")
    connection.close()


def contents(data: Path) -> dict[str, bytes]:
    """Every file of the collection, but for what SQLite keeps beside a store that is open."""
    files = (path for path in (data / "collections/numbers").rglob("*") if path.is_file())
    return {
        str(path): path.read_bytes() for path in files if not path.name.endswith((".lock", "-wal", "-shm"))
    }


@pytest.mark.parametrize(
    "written", [pointer_of_a_later_release, copy_of_a_later_release, store_of_a_later_release]
)
def test_what_a_later_release_wrote_is_refused_by_name_and_left_as_it_is(
    tmp_path: Path, written: Callable[[Path], None]
) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "data")
    written(tmp_path / "data")
    before = contents(tmp_path / "data")
    index = EmbeddedIndex(tmp_path / "data", SPECS)
    refused = index.open()
    index.close()
    assert list(refused) == ["numbers"]  # the other collection is served
    error = refused["numbers"]
    assert isinstance(error, UnknownFormat) and "its format_version is 2" in str(error)
    assert "UPGRADES.md" in error.hint
    assert any("format_version is 2" in problem for problem in check(tmp_path / "data"))
    if written is not store_of_a_later_release:
        assert main(["repoint", str(tmp_path / "data"), "numbers"]) != 0
    assert contents(tmp_path / "data") == before
