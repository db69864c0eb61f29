"""Pages of any ranking equal those of a dictionary, while items are written and deleted between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from index_store.request.ranking import Boost, Decay, GroupBy, Linear, Ranking
from index_store.types import ItemDelete, ItemWrite, SearchRequest, TextQuery, Vector, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.unit.test_index_store_words import SPEC, opened, sealed

BOOSTS = [
    Boost(0.5, Linear("size", 0.0, 9.0)),
    Boost(-0.3, Decay("nest.size", 2.0, 4.0, "gauss")),
    Boost(0.4, Decay("made", "30d", "2026-02-01", "linear")),
    Boost(0.3, {"shade": {"$in": ["red", "blue"]}}),
]


def vector_of(kind: int) -> Vector:
    return np.random.default_rng(kind).standard_normal(SPEC.dim).astype(np.float32)


def item_of(number: int, random: Random) -> ItemWrite:
    metadata: dict[str, Any] = {"title": random.choice(["김치 찌개", "두부", "kimchi stew", "된장 두부"])}
    metadata |= {"shade": random.choice(["red", "green", "blue"])} if random.random() < 0.8 else {}
    metadata |= {"size": random.choice([*range(10), None, "7", True, [1, 2]])}
    metadata |= {"nest": {"size": random.randrange(9)}} if random.random() < 0.5 else {"nest.size": 4}
    metadata |= {"made": random.choice(["2026-01-05", "2026-03-01T10:00:00+09:00", 1.77e9, 1.771e12, "x"])}
    return ItemWrite(
        number, vector_of(random.randrange(25)), active=random.random() < 0.95, metadata=metadata
    )


def ranking_of(random: Random) -> Ranking:
    return Ranking(
        random.sample(BOOSTS, random.randrange(4)),
        random.choice([None, GroupBy("shade", 2), GroupBy("size", 1), GroupBy("nest.size", 3)]),
        random.choice([None, None, 0.0, 1.5]),
        random.choice([0.0, 0.0, 0.4, 1.0]),
        random.choice([3, 7, 20, 200]),
        1.77e9,
    )


def request_of(random: Random) -> SearchRequest:
    mode: Any = random.choice([None, "lexical", "hybrid"])
    return SearchRequest(
        vector_of(random.randrange(100)),
        random.choice([1, 4, 9]),
        random.sample(range(60), random.randrange(6)),
        random.choice([None, {"shade": {"$ne": "green"}}]),
        exact=random.random() < 0.3,
        max_distance=random.choice([None, None, 4.5]) if mode != "lexical" else None,
        text=None if mode is None else TextQuery(random.choice(["김치찌개", "두부 kimchi"]), mode),
        ranking=ranking_of(random),
    )


def assert_pages_alike(indexes: Sequence[Any], request: SearchRequest, random: Random) -> int:
    """How many pages there were."""
    index, reference = indexes
    asked = [request, request]
    for page in range(100):
        got = index.search("numbers", asked[:1])[0]
        reference.text_weight = got.text_weight if not page else reference.text_weight
        wanted = reference.search("numbers", asked[1:])[0]
        assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits], (request, page)
        assert got.exhausted == wanted.exhausted, (request, page)
        if got.exhausted:
            return page + 1
        asked = [replace(request, after=each.next_page) for each in (got, wanted)]
        items = [item_of(random.randrange(70), random) for _ in range(random.randrange(3))]
        deletes = [ItemDelete(random.randrange(70))] if random.random() < 0.3 else []
        for one in indexes:
            one.write("numbers", WriteBatch(items, deletes, "v1"))
    raise AssertionError("pages never end")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_any_ranking_equals_a_dictionary_page_by_page(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    indexes = [opened(tmp_path), ReferenceIndex([SPEC])]
    for one in indexes:
        one.advance("numbers", "begin", "v1")
    first = [item_of(number, random) for number in range(60)]
    for one in indexes:
        one.write("numbers", WriteBatch(first, embedding_version="v1"))
    sealed(tmp_path, indexes[0])  # type: ignore[arg-type]
    pages = [assert_pages_alike(indexes, request_of(random), random) for _ in range(12)]
    assert sum(pages) > 12
    indexes[0].close()
