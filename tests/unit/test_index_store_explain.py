"""Explanations of answers: state, exact rank and place in the answer, against a plain sort of all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidFilter, InvalidId, VersionMismatch
from index_store.explanation import Explanation
from index_store.query.explain import RANKS_RANKED
from index_store.request.ranking import GroupBy, Ranking
from index_store.types import Id, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from service.app.monitoring.explanations import reason_of
from tests.sealing import SPECS, batch, named, opened, sealed, vectors

ROWS = 120
SEALED = 90
DELETED, INACTIVE, EMPTY, BACK = 7, 95, 11, 12


@dataclass
class Scene:
    index: EmbeddedIndex
    collection: str

    def of(self, number: int, request: SearchRequest) -> Explanation:
        found = self.index.replay_source().explain(self.collection, request, self.id(number))
        assert found.embedding_version == "v1"
        assert found.generation == self.index.search(self.collection, [request])[0].generation
        return found

    def id(self, number: int) -> Id:
        return named(self.collection, number)


@pytest.fixture(scope="module", params=["numbers", "names"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Rows in a segment, changed, deleted and deactivated since, and rows in memory."""
    data_dir, name = tmp_path_factory.mktemp("explain"), str(request.param)
    data = vectors(ROWS)
    index = opened(data_dir)
    for spec in SPECS:
        index.advance(spec.name, "begin", "v1")
    index.write(name, batch(name, range(SEALED), data[:SEALED]))
    index.close()
    sealed(data_dir)
    index = opened(data_dir)
    index.write(name, batch(name, range(SEALED, ROWS), data[SEALED:]))
    index.write(
        name,
        WriteBatch(
            [
                ItemWrite(named(name, INACTIVE), active=False),
                ItemWrite(named(name, EMPTY), drops_vector=True, content_hash=b"another"),
                ItemWrite(named(name, BACK), data[BACK], metadata={"shade": 77}),
            ],
            [ItemDelete(named(name, DELETED), 9)],
            "v1",
        ),
    )
    yield Scene(index, name)
    index.close()


def by_exact_search(scene: Scene, request: SearchRequest) -> list[tuple[Id, float]]:
    """All that the search may show, in order, by the search itself."""
    every = SearchRequest(request.vector, ROWS, request.exclude_ids, request.filter, exact=True)
    return [(hit.id, hit.distance) for hit in scene.index.search(scene.collection, [every])[0].hits]


@pytest.mark.long
@pytest.mark.parametrize("condition", [None, {"shade": {"$in": [1, 2, 3, 77]}}])
def test_ranks_and_distances_are_those_of_the_searches(scene: Scene, condition: dict[str, object]) -> None:
    request = SearchRequest(vectors(1, 5)[0], 10, [scene.id(1)], condition, offset=4)
    order = by_exact_search(scene, request)
    places = {id: (rank, distance) for rank, (id, distance) in enumerate(order, 1)}
    answered = scene.index.search(scene.collection, [request])[0].hits
    in_answer = {hit.id: 5 + place for place, hit in enumerate(answered)}
    for number in range(ROWS):
        found, id = scene.of(number, request), scene.id(number)
        assert found.answer_rank == in_answer.get(id)
        assert (found.hits, found.last_distance) == (len(answered), answered[-1].distance)
        assert found.is_excluded == (number == 1)
        if id in places:
            assert (found.state, found.exact_rank, found.distance) == ("live", *places[id])
            assert found.is_indexed and found.passes_filter in (None, True)
        elif found.state == "live":
            assert found.is_excluded or found.passes_filter is False
            nearer = sum((distance, other) < (found.distance, id) for other, distance in order)  # type: ignore[operator]
            assert found.exact_rank == nearer + 1


@pytest.mark.long
def test_what_a_ranking_leaves_out_comes_back_without_its_cause(scene: Scene) -> None:
    """Group and collapsing at once: without what is named the item has a rank."""
    ranking = Ranking(group=GroupBy("shade", 2), collapse=4.5 if scene.collection == "numbers" else 0.6)
    request = SearchRequest(vectors(1, 7)[0], 5, ranking=ranking)

    def order(some: Ranking) -> list[Id]:
        every = SearchRequest(request.vector, ROWS, ranking=some)
        return [hit.id for hit in scene.index.search(scene.collection, [every])[0].hits]

    ranked = order(ranking)
    without = {
        "group_by": order(replace(ranking, group=None)),
        "collapse": order(replace(ranking, collapse=None)),
    }
    left_out: Counter[str] = Counter()
    for number in range(0, ROWS, 3):
        found, id = scene.of(number, request), scene.id(number)
        if found.state != "live":
            assert (found.ranking_rank, found.left_out_by) == (None, None)
        elif id in ranked:
            assert (found.ranking_rank, found.left_out_by) == (ranked.index(id) + 1, None)
        else:
            assert found.left_out_by is not None and found.ranking_rank is None
            if found.left_out_by == "group_by":
                assert id in without["group_by"]
            else:
                assert id not in without["group_by"]
            left_out[found.left_out_by] += 1
    assert left_out["group_by"] and left_out["collapse"]


def test_where_the_ranking_ends_before_the_ranks_looked_at_the_group_left_it_out(tmp_path: Path) -> None:
    """An item so far away that without groups it would have no rank among those looked at either."""
    index, data = opened(tmp_path), vectors(RANKS_RANKED + 100)
    index.advance("numbers", "begin", "v1")
    items = [ItemWrite(n, vector, metadata={"brand": 1}) for n, vector in enumerate(data)]
    index.write("numbers", WriteBatch(items, (), "v1"))
    farthest = int(np.linalg.norm(data - data[0], axis=1).argmax())
    request = SearchRequest(data[0], 2, ranking=Ranking(group=GroupBy("brand", 1)))
    told = index.replay_source().explain("numbers", request, farthest)
    assert told.exact_rank == len(items) and reason_of(told, request) == "grouped_out"
    index.close()


def test_what_is_not_live_is_told_apart(scene: Scene) -> None:
    request = SearchRequest(vectors(1, 6)[0], 3, filter={"shade": 77})
    states = {n: scene.of(n, request) for n in (DELETED, INACTIVE, EMPTY, BACK, 5000)}
    assert {n: found.state for n, found in states.items()} == {
        DELETED: "deleted", INACTIVE: "inactive", EMPTY: "without_vector", BACK: "live", 5000: "unknown",
    }  # fmt: skip
    assert {n: found.is_indexed for n, found in states.items()} == {
        DELETED: False, INACTIVE: False, EMPTY: False, BACK: True, 5000: False,
    }  # fmt: skip
    assert states[DELETED].source_version == 9 and states[DELETED].item_seq == states[BACK].seq
    assert states[5000].item_seq is None
    assert states[INACTIVE].distance is not None and states[EMPTY].distance is None
    # The new metadata counts, though the row in the segment holds the old.
    assert [states[n].passes_filter for n in (BACK, INACTIVE, EMPTY, DELETED)] == [True, False, False, None]


def test_equal_distances_rank_by_id(scene: Scene) -> None:
    vector = vectors(1, 8)[0]
    twins = [scene.id(n) for n in (700, 701, 702)]
    scene.index.write(scene.collection, WriteBatch([ItemWrite(id, vector) for id in twins], (), "v1"))
    request = SearchRequest(vector, 1)
    assert [scene.of(n, request).exact_rank for n in (700, 701, 702)] == [1, 2, 3]
    assert [scene.of(n, request).answer_rank for n in (700, 701, 702)] == [1, None, None]
    scene.index.write(scene.collection, WriteBatch((), [ItemDelete(id) for id in twins]))


def test_refusals_are_those_of_a_search(scene: Scene) -> None:
    wrong: Id = "1" if scene.collection == "numbers" else 1
    source, vector = scene.index.replay_source(), vectors(1)[0]
    with pytest.raises(InvalidId):
        source.explain(scene.collection, SearchRequest(vector, 1), wrong)
    with pytest.raises(InvalidFilter):
        source.explain(scene.collection, SearchRequest(vector, 1, filter={"$no": 1}), scene.id(1))
    with pytest.raises(VersionMismatch):
        source.explain(scene.collection, SearchRequest(vector, 1, embedding_version="v0"), scene.id(1))


def test_a_collection_without_a_generation_holds_nothing(tmp_path: Path) -> None:
    index = opened(tmp_path)
    try:
        found = index.replay_source().explain("numbers", SearchRequest(vectors(1)[0], 1), 1)
        assert found == Explanation("unknown")
    finally:
        index.close()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Explanation("live", is_indexed=True, distance=1.0, exact_rank=3, answer_rank=3), "in_answer"),
        (Explanation("inactive", is_excluded=True), "inactive"),
        (Explanation("live", is_indexed=True, distance=1.0, is_excluded=True, exact_rank=1), "excluded"),
        (Explanation("live", is_indexed=True, distance=1.0, passes_filter=False), "filtered_out"),
        (Explanation("live", distance=1.0, exact_rank=4), "not_indexed"),
        (Explanation("live", is_indexed=True, distance=2.5, exact_rank=4), "too_far"),
        (Explanation("live", is_indexed=True, distance=2.5, is_vetoed=True), "vetoed"),
        (Explanation("live", is_indexed=True, distance=1.0, exact_rank=2), "before_offset"),
        (Explanation("live", is_indexed=True, distance=1.0, exact_rank=12), "missed_by_graph"),
        (Explanation("live", is_indexed=True, distance=1.0, exact_rank=13), "beyond_top_k"),
        (Explanation("live", is_indexed=True, distance=1.0), "beyond_top_k"),
    ],
)
def test_the_first_reason_that_applies_is_told(facts: Explanation, reason: str) -> None:
    request = SearchRequest(np.ones(3, np.float32), 10, offset=2, max_distance=2.0)
    assert reason_of(facts, request) == reason


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"ranking_rank": 3, "answer_rank": 3}, "in_answer"),
        ({"ranking_rank": 13}, "beyond_top_k"),
        ({"ranking_rank": 1}, "before_offset"),
        ({"left_out_by": "group_by"}, "grouped_out"),
        ({"left_out_by": "collapse"}, "collapsed"),
        ({"exact_rank": 1001}, "beyond_top_k"),
        ({"exact_rank": 1000}, "missed_by_graph"),
        ({"exact_rank": 9, "ranking_ranks_seen": 0}, "beyond_top_k"),
    ],
)
def test_reasons_of_a_ranking(facts: dict[str, Any], reason: str) -> None:
    known = {"is_indexed": True, "distance": 1.0, "exact_rank": 1, "ranking_ranks_seen": 1000}
    explanation = Explanation("live", **{**known, **facts})
    request = SearchRequest(np.ones(3, np.float32), 10, offset=2, ranking=Ranking())
    assert reason_of(explanation, request) == reason
    if reason == "missed_by_graph":
        assert reason_of(explanation, replace(request, exact=True)) == "beyond_top_k"
