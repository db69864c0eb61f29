"""A promotion is refused for each item that it would take out of searches, as of the moment of the step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import GenerationConflict
from index_store.types import CollectionStatus, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from service.app.rebuild.promotions import Promotions
from service.app.report.gates import GateResult
from service.collections import Collection
from tests.unit.test_index_store_filling import by, fill, made, store

COLLECTION = Collection("things", dim=4, metric="l2")


class Meanwhile:
    """Gates that hold, and models that every worker has; something happens while a promotion waits for
    them."""

    def __init__(self) -> None:
        self.report: Callable[[], object] = lambda: None
        self.loading: Callable[[], object] = lambda: None
        self.reading: Callable[[], object] = lambda: None

    async def gates_of_promotion(
        self, collection: Collection, status: CollectionStatus, *, is_made: bool
    ) -> Sequence[GateResult]:
        del collection, status, is_made
        self.report()
        return []

    async def require_everywhere(self, collection: str, embedding_version: str) -> None:
        del collection, embedding_version
        self.loading()

    async def require_in_memory(self, collection: str, embedding_version: str) -> None:
        del collection, embedding_version
        self.reading()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, [COLLECTION.spec])
    index.open()
    index.advance("things", "begin", "v1")
    store(index, made(1, "one"), made(2, "two"), made(3, "three"))
    index.advance("things", "begin", "v2")
    fill(index)
    index.record_origin("things", "v2", "a model")
    yield index
    index.close()


def without_vector(index: EmbeddedIndex, item_id: int, **fields: object) -> None:
    """An item whose content the next generation's model can't read: it waits there for a vector."""
    store(index, made(item_id, f"broken {item_id}"))
    if fields:
        index.write("things", WriteBatch([ItemWrite(item_id, **fields)]))  # type: ignore[arg-type]


def promote(index: EmbeddedIndex, meanwhile: Meanwhile | None = None, *, is_forced: bool = False) -> None:
    given = meanwhile or Meanwhile()
    with ThreadPoolExecutor(1) as readers:
        promotions = Promotions(index, given, given, readers, look_s=0.001)
        status = index.status("things")
        subject = status.in_role("next")
        assert subject is not None
        ready = promotions.require_ready(COLLECTION, status, subject, "me", is_forced=is_forced)
        asyncio.run(ready)
    index.advance("things", "promote", "v2", is_forced=is_forced)


@pytest.mark.parametrize("stage", ["report", "loading", "reading"])
def test_what_is_lost_while_it_waits_counts(index: EmbeddedIndex, stage: str) -> None:
    meanwhile = Meanwhile()
    setattr(meanwhile, stage, lambda: without_vector(index, 2))
    with pytest.raises(GenerationConflict, match=r"1 item.*as 2"):
        promote(index, meanwhile)
    assert index.status("things").of_version("v2").role == "next"  # type: ignore[union-attr]


def test_a_hidden_item_without_a_vector_stops_nothing_and_is_found_once_it_has_one(
    index: EmbeddedIndex,
) -> None:
    without_vector(index, 2, active=False)
    promote(index)
    index.write("things", WriteBatch([ItemWrite(2, active=True)]))
    (awaiting,) = index.awaiting("things", "v2", None, 5)
    assert awaiting.id == 2 and awaiting.content is not None
    assert fill(index) == 1
    (found,) = index.search("things", [SearchRequest(by("v2", "broken 2"), 1)])
    assert [hit.id for hit in found.hits] == [2]


def test_counts_that_agree_hide_no_lost_item(index: EmbeddedIndex) -> None:
    batch = WriteBatch([ItemWrite(9, by("v2", "nine"), True, {})], embedding_version="v2")
    index.write("things", WriteBatch(batch.items, embedding_version="v2", except_versions=("v1",)))
    index.write("things", WriteBatch([], [ItemDelete(3)], embedding_version="v2", except_versions=("v1",)))
    statuses = index.status("things")
    assert [each.live for each in statuses.generations] == [3, 3]
    with pytest.raises(GenerationConflict, match="as 3"):
        promote(index)
    promote(index, is_forced=True)


def test_a_lack_that_is_over_by_the_step_stops_nothing(index: EmbeddedIndex) -> None:
    meanwhile = Meanwhile()
    meanwhile.report = lambda: without_vector(index, 2)
    meanwhile.loading = lambda: fill(index)
    promote(index, meanwhile)


def test_a_worker_that_would_answer_late_stops_what_is_not_forced(index: EmbeddedIndex) -> None:
    def one_is_missing() -> None:
        raise GenerationConflict("1 worker(s) have not read it")

    meanwhile = Meanwhile()
    meanwhile.reading = one_is_missing
    with pytest.raises(GenerationConflict, match="1 worker"):
        promote(index, meanwhile)
    promote(index, meanwhile, is_forced=True)


def test_a_step_that_somebody_took_meanwhile_is_told(index: EmbeddedIndex) -> None:
    meanwhile = Meanwhile()
    meanwhile.report = lambda: index.advance("things", "abort", "v2")
    with pytest.raises(GenerationConflict, match="meanwhile"):
        promote(index, meanwhile)
