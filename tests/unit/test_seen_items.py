"""What was shown under a key: shared, bounded by keys, items, bytes and time; a fault hides nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import IndexStoreError, StoreUnavailable
from index_store.request.confidence import ConfidenceQuery, Curve
from index_store.types import Hit, SearchRequest, SearchResult
from service.app.seen.seen_items import SeenItems, SeenLimits
from service.app.seen.unseen import UnseenSearch
from service.collections import Collection
from service.errors import DeadlineExceeded, InvalidInput, Overloaded, ServiceError
from tests.clock import Clock

LIMITS = SeenLimits(keys_max=20, ids_max=10, bytes_max=1 << 20, kept_s=60.0)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


def test_two_workers_know_the_same(tmp_path: Path, clock: Clock) -> None:
    one, other = (SeenItems(tmp_path, LIMITS, clock) for _ in range(2))
    one.note_shown("recipes", "ann", [1, 2])
    other.note_shown("recipes", "ann", [3, 2**63 - 1, -(2**63)])
    assert one.shown_ids("recipes", "ann") == [1, 2, 3, 2**63 - 1, -(2**63)]
    one.note_shown("names", "ann", ["상품-7", "7"])
    assert other.shown_ids("names", "ann") == ["상품-7", "7"]
    assert other.shown_ids("recipes", "bob") == [] and other.counts().keys == 2
    other.forget("recipes", "ann")
    assert one.shown_ids("recipes", "ann") == [] and one.shown_ids("names", "ann")
    for each in (one, other):
        each.close()


def test_a_key_keeps_its_newest_items(clock: Clock) -> None:
    seen = SeenItems(None, LIMITS, clock)
    for start in range(0, 40, 4):
        seen.note_shown("recipes", "ann", list(range(start, start + 4)))
    assert seen.shown_ids("recipes", "ann") == list(range(30, 40))


def test_what_was_used_longest_ago_goes_first(clock: Clock) -> None:
    seen = SeenItems(None, LIMITS, clock)
    for number in range(30):
        clock.now += 1
        seen.note_shown("recipes", f"key {number}", [number])
        seen.note_shown("recipes", "used", [number])
    assert seen.counts().keys <= LIMITS.keys_max
    assert seen.shown_ids("recipes", "used") and seen.shown_ids("recipes", "key 29") == [29]
    assert seen.shown_ids("recipes", "key 0") == []


def test_a_key_expires_after_its_last_use(clock: Clock) -> None:
    seen = SeenItems(None, LIMITS, clock)
    seen.note_shown("recipes", "ann", [1])
    clock.now += 59
    seen.note_shown("recipes", "ann", [])
    clock.now += 59
    assert seen.shown_ids("recipes", "ann") == [1], "an answer without items is a use"
    clock.now += 1
    assert seen.shown_ids("recipes", "ann") == [] and seen.counts().keys == 0
    seen.note_shown("recipes", "ann", [2])
    assert seen.shown_ids("recipes", "ann") == [2], "what has expired does not come back"


def test_bytes_are_bounded(tmp_path: Path, clock: Clock) -> None:
    limits = LIMITS._replace(keys_max=100_000, ids_max=100)
    seen = SeenItems(tmp_path, limits, clock)
    for number in range(200):
        clock.now += 0.01
        seen.note_shown("names", f"key {number}", ["x" * 200 + f"{place}" for place in range(100)])
        assert seen.counts().bytes_count <= limits.bytes_max
    assert len(seen.shown_ids("names", "key 199")) == 100 and seen.shown_ids("names", "key 0") == []
    assert 20 < seen.counts().keys < 60
    seen.close()


def test_no_key_stands_in_the_file(tmp_path: Path, clock: Clock) -> None:
    seen = SeenItems(tmp_path, LIMITS, clock)
    seen.note_shown("recipes", "session-of-ann", [1])
    seen.close()
    assert all(b"session-of-ann" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_fault_forgets_and_hides_nothing(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "seen.sqlite").write_bytes(b"no database" * 1000)
    seen = SeenItems(tmp_path, LIMITS, clock)
    seen.note_shown("recipes", "ann", [1])
    assert seen.shown_ids("recipes", "ann") == [] and seen.counts().keys == 0
    lost = SeenItems(tmp_path / "nowhere", LIMITS, clock)
    assert lost.shown_ids("recipes", "ann") == []


def test_it_can_be_off() -> None:
    async def find(*_: SearchRequest) -> SearchResult:
        raise AssertionError("refused before anything is searched")

    with ThreadPoolExecutor(1) as readers, pytest.raises(InvalidInput, match="SEEN_KEYS_MAX"):
        request = SearchRequest(np.ones(2, np.float32), 3)
        unseen = UnseenSearch(None, readers)
        recipes = Collection("recipes", dim=2)
        asyncio.run(unseen.find_unseen(recipes, "ann", request, find, find, is_reset=False))


@pytest.mark.parametrize(
    "refusal",
    [
        Overloaded("", retry_after_s=1.0, reason="search"),
        DeadlineExceeded("late"),
        StoreUnavailable("gone", "wait"),
    ],
)
def test_an_answer_that_was_found_is_given_though_none_can_be_asked_for_what_was_shown(
    tmp_path: Path, clock: Clock, refusal: ServiceError | IndexStoreError
) -> None:
    """It is not known then that nothing shown was a good match: so it is not said either."""
    found = SearchResult([Hit(2, 0.5, confidence=0.1)], "g1", "v1", 1, exhausted=True, next_page=None)

    async def find() -> SearchResult:
        return found

    async def ask(_: SearchRequest) -> SearchResult:
        raise refusal

    seen = SeenItems(tmp_path, LIMITS, clock)
    seen.note_shown("recipes", "ann", [1])
    with ThreadPoolExecutor(1) as readers:
        request = SearchRequest(
            np.ones(2, np.float32), 3, confidence=ConfidenceQuery("국", lambda *_: Curve(1.0, 0.0))
        )
        unseen, recipes = UnseenSearch(seen, readers), Collection("recipes", dim=2)
        result, has_shown_match = asyncio.run(
            unseen.find_unseen(recipes, "ann", request, find, ask, is_reset=False)
        )
    assert result.hits == found.hits and has_shown_match
    assert seen.shown_ids("recipes", "ann") == [1, 2]
    seen.close()
