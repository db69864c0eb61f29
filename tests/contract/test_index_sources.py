"""What a rebuild, a report and an operator ask of an index beside searches: the engines answer alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from index_store.catalog.data_directory import DataDirectory
from index_store.engine.index import EmbeddedIndex
from index_store.errors import UnknownCollection, VersionMismatch
from index_store.port import FootprintSource, IndexStorage, RebuildSource, SourceIndex
from index_store.postgres.sources.storage import Database
from index_store.types import (
    Content,
    GenerationIdentity,
    ItemDelete,
    ItemWrite,
    NewGeneration,
    SearchRequest,
    WriteBatch,
)
from tests.contract.conftest import POSTGRES, postgres_index
from tests.contract.vectors import SPECS, AnyIndex, begin_all, find, put, vectors

DATA = vectors(6)


class Engine(SourceIndex, AnyIndex, RebuildSource, FootprintSource, Protocol):
    """An index as the service has it."""


@contextmanager
def opened(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Engine, IndexStorage]]:
    if request.param != "embedded":
        address = request.getfixturevalue("postgres_database")
        with postgres_index(address, 2000) as index:
            yield index, Database(index.connections.dsn)
        return
    engine = EmbeddedIndex(folder, SPECS)
    engine.open()
    yield engine, DataDirectory(folder)
    engine.close()


@pytest.fixture(params=["embedded", POSTGRES[0]])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, IndexStorage]]:
    """An index without a generation, and where it keeps its collections."""
    with opened(request, tmp_path) as found:
        yield found


@pytest.fixture
def index(both: tuple[Engine, IndexStorage]) -> Engine:
    """An index with the first generations of all collections, v1."""
    begin_all(both[0])
    return both[0]


def made_of(text: str) -> dict[str, object]:
    return {"content": Content("text", text.encode()), "content_hash": text.encode()}


def keep(index: Engine, collection: str = "numbers") -> list[int | str]:
    """Six items, made of texts but the last, and a next generation v2 that waits for all vectors."""
    ids: list[int | str] = [f"n{place}" if collection == "names" else place for place in range(6)]
    items = [
        ItemWrite(item_id, DATA[place], **(made_of("x" * (place + 1)) if place < 5 else {}))  # type: ignore[arg-type]
        for place, item_id in enumerate(ids)
    ]
    put(index, items, collection)
    index.advance(collection, "begin", "v2", NewGeneration())
    return ids


@pytest.mark.parametrize("collection", ["numbers", "names"])
def test_items_that_wait_come_by_id_with_what_they_are_made_of(index: Engine, collection: str) -> None:
    ids = keep(index, collection)
    found = index.awaiting(collection, "v2", None, 3)
    assert [each.id for each in found] == ids[:3]
    assert (found[1].content, found[1].content_hash) == (Content("text", b"xx"), b"xx")
    filled = ItemWrite(ids[3], DATA[3], fills=b"xxxx", **made_of("xxxx"))  # type: ignore[arg-type]
    put(index, [filled], collection, "v2")
    index.write(collection, WriteBatch(deletes=[ItemDelete(ids[0])]))
    assert [each.id for each in index.awaiting(collection, "v2", None, 9)] == [ids[1], ids[2], ids[4]]
    assert [each.id for each in index.awaiting(collection, "v2", ids[2], 9)] == [ids[4]]
    assert index.awaiting(collection, "v2", ids[4], 9) == []
    assert index.awaiting(collection, "v1", None, 9) == index.awaiting(collection, "v9", None, 9) == []
    assert index.content_sample(collection, 2) == [Content("text", b"xx"), Content("text", b"xxx")]


@pytest.mark.parametrize("collection", ["numbers", "names"])
def test_what_a_promotion_would_lose_is_found(index: Engine, collection: str) -> None:
    ids = keep(index, collection)
    assert index.find_lost(collection, "v2") == ids
    put(index, [ItemWrite(ids[0], DATA[0])], collection, "v2")
    index.write(collection, WriteBatch([ItemWrite(ids[1], active=False)], [ItemDelete(ids[2])]))
    assert index.find_lost(collection, "v2") == ids[3:]
    assert index.find_lost(collection, "v2", [ids[4], ids[0], ids[2]]) == [ids[4]]
    assert index.find_lost(collection, "v1") == []
    with pytest.raises(VersionMismatch, match="v9"):
        index.find_lost(collection, "v9")


def test_an_origin_is_noted_once(both: tuple[Engine, IndexStorage]) -> None:
    index, storage = both
    assert not index.record_origin("numbers", "v1", "a model")
    assert storage.current_identity("numbers") is None and storage.current_identity("nowhere") is None
    begin_all(index)
    assert [index.record_origin("numbers", "v1", origin) for origin in ("a", "a", "b")] == [True, False, True]
    assert storage.current_identity("numbers") == GenerationIdentity("v1", 8, "b")
    assert index.status("numbers").generations[0].origin == "b"


def test_a_storage_tells_whether_anything_was_begun(both: tuple[Engine, IndexStorage]) -> None:
    index, storage = both
    index.status("numbers")
    if isinstance(storage, Database):
        assert storage.is_empty()
    begin_all(index)
    assert not storage.is_empty()
    name = storage.store_id()
    assert len(name) == 32 and storage.store_id() == name
    assert not any(storage.quarantined_bytes().values())


@pytest.mark.parametrize("collection", ["numbers", "names"])
def test_items_are_drawn_by_a_seed(index: Engine, collection: str) -> None:
    ids, source = keep(index, collection), index.replay_source()
    index.write(collection, WriteBatch([ItemWrite(ids[0], active=False)], [ItemDelete(ids[2])]))
    live = [ids[1], *ids[3:]]
    assert source.draw_ids(collection, "a seed", 9) == live
    drawn = source.draw_ids(collection, "a seed", 2)
    assert drawn == source.draw_ids(collection, "a seed", 2) == sorted(drawn) and set(drawn) < set(live)
    contents = source.draw_contents(collection, "a seed", 9, 10**6)
    assert [item_id for item_id, _ in contents] == live[:-1]
    assert dict(contents)[ids[3]] == Content("text", b"xxxx")
    assert len(source.draw_contents(collection, "a seed", 9, 1)) == 1


def test_any_generation_is_searched_and_read(index: Engine) -> None:
    keep(index)
    put(index, [ItemWrite(place, DATA[5 - place], metadata={"n": place}) for place in range(6)], version="v2")
    source = index.replay_source()
    for version, wanted in (("v1", 4), ("v2", 1)):
        (found,) = source.search_version("numbers", version, [SearchRequest(DATA[4], 1, with_metadata=True)])
        assert [hit.id for hit in found.hits] == [wanted] and found.embedding_version == version
    read = source.get_version("numbers", "v2", [1, 77, 0])
    assert read[1] is None and read[0] is not None and read[0].metadata == {"n": 1}
    assert np.array_equal(np.asarray(read[0].vector), DATA[4])
    for call in (
        lambda: source.search_version("numbers", "v9", [SearchRequest(DATA[4], 1)]),
        lambda: source.get_version("numbers", "v9", [1]),
    ):
        with pytest.raises(VersionMismatch, match="v9"):
            call()
    with pytest.raises(UnknownCollection):
        source.draw_ids("nowhere", "s", 1)


def test_an_answer_is_explained(index: Engine) -> None:
    keep(index)
    index.write("numbers", WriteBatch([ItemWrite(1, active=False)], [ItemDelete(2)]))
    source = index.replay_source()

    def facts(item_id: int, **more: object) -> tuple[object, ...]:
        request = SearchRequest(DATA[0], 2, **more)  # type: ignore[arg-type]
        found = source.explain("numbers", request, item_id)
        return found.state, found.is_indexed, found.is_excluded, found.exact_rank, found.answer_rank

    ranked = find(index, DATA[0], 6)
    assert facts(0) == ("live", True, False, 1, 1)
    last = ranked[-1]
    assert facts(last) == ("live", True, False, len(ranked), None)
    assert facts(0, exclude_ids=[0])[2:] == (True, 1, None)
    assert [facts(item_id)[0] for item_id in (1, 2, 77)] == ["inactive", "deleted", "unknown"]


def test_a_footprint_tells_what_each_generation_takes(index: Engine) -> None:
    keep(index)
    index.write("numbers", WriteBatch(deletes=[ItemDelete(2)]))
    current, following = index.footprints("numbers")
    names = [each.generation for each in index.status("numbers").generations]
    assert [current.generation, following.generation] == names
    assert current.store_bytes > 0 and current.tombstones == 1
    assert list(index.catch_up_others("numbers", {"v2"})) == ["v2"]
