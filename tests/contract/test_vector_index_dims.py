"""Generations side by side, each with vectors of its own dim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from index_store.errors import InvalidVector, PageExpired, VersionMismatch
from index_store.types import ItemWrite, NewGeneration, SearchRequest, Vector, WriteBatch
from tests.contract.vectors import DIM, AnyIndex, fill, find, put, vectors

WIDE = 2 * DIM


def wide(count: int) -> Vector:
    found: Vector = np.random.default_rng(7).standard_normal((count, WIDE), dtype=np.float32)
    return found


@pytest.fixture
def both(index: AnyIndex) -> AnyIndex:
    """Twenty items under v1 with `DIM` numbers, under v2, the next generation, with `WIDE`."""
    fill(index, 20)
    index.advance("numbers", "begin", "v2", NewGeneration(WIDE))
    put(index, [ItemWrite(n, vector) for n, vector in enumerate(wide(20))], version="v2")
    return index


def test_each_generation_has_the_dim_that_it_was_begun_with(both: AnyIndex) -> None:
    status = both.status("numbers")
    assert [(each.embedding_version, each.dim) for each in status.generations] == [("v1", DIM), ("v2", WIDE)]
    assert list(both.dims_by_version("numbers").items()) == [("v1", DIM), ("v2", WIDE)]
    assert find(both, vectors(20)[3], 1) == [3]
    both.advance("numbers", "promote", "v2")
    assert find(both, wide(20)[4], 1) == [4]
    assert list(both.dims_by_version("numbers").items()) == [("v2", WIDE), ("v1", DIM)]
    both.advance("numbers", "rollback", "v1")
    assert find(both, vectors(20)[5], 1) == [5]
    assert [len(item.vector) for item in both.get("numbers", [5]) if item and item.vector is not None] == [
        DIM
    ]


def test_a_generation_that_names_no_dim_takes_that_of_the_current_one(both: AnyIndex) -> None:
    both.advance("numbers", "promote", "v2")
    both.advance("numbers", "begin", "v3")
    assert both.dims_by_version("numbers")["v3"] == WIDE


def test_a_vector_is_checked_against_the_generation_that_it_is_for(both: AnyIndex) -> None:
    narrow, long = vectors(1)[0], wide(1)[0]
    for version, vector in (("v1", long), ("v2", narrow)):
        with pytest.raises(InvalidVector, match=r"items\[0\].vector"):
            put(both, [ItemWrite(1, vector)], version=version)
    with pytest.raises(InvalidVector, match="vector"):
        both.search("numbers", [SearchRequest(long, 5)])
    with pytest.raises(InvalidVector):
        both.search("numbers", [SearchRequest(long, 5, checked_for="numbers")])
    mixed = WriteBatch([ItemWrite(1, narrow)], embedding_version="v1", other_vectors={"v2": [narrow]})
    with pytest.raises(InvalidVector, match="other_vectors"):
        both.write("numbers", mixed)
    assert [each.seq for each in both.status("numbers").generations] == [20, 40], "nothing was stored"


def test_who_names_a_version_or_a_page_learns_of_that_first(both: AnyIndex) -> None:
    """Not that the vector has another dim: it was right for what is asked for."""
    page = both.search("numbers", [SearchRequest(vectors(1)[0], 5)])[0].next_page
    both.advance("numbers", "promote", "v2")
    asked = SearchRequest(vectors(1)[0], 5)
    with pytest.raises(VersionMismatch) as caught:
        both.search("numbers", [replace(asked, embedding_version="v1")])
    assert (caught.value.expected, caught.value.got) == ("v2", "v1")
    with pytest.raises(PageExpired):
        both.search("numbers", [replace(asked, after=page)])
    with pytest.raises(VersionMismatch) as caught:
        put(both, [ItemWrite(1, vectors(1)[0])], version="v0")
    assert (caught.value.expected, caught.value.got) == ("v2", "v0")


def test_metadata_and_activity_that_come_with_a_vector_reach_every_generation(both: AnyIndex) -> None:
    """They are facts of the item; what another vector would be made of only its sender knows."""
    both.write(
        "numbers",
        WriteBatch(
            [
                ItemWrite(3, vectors(1)[0], metadata={"price": 1}),
                ItemWrite(4, vectors(1)[0], active=False, metadata={"price": 2}),
                ItemWrite(99, vectors(1)[0], metadata={"price": 3}),
            ],
            embedding_version="v1",
        ),
    )
    both.advance("numbers", "promote", "v2")
    three, four, new = both.get("numbers", [3, 4, 99])
    assert three is not None and four is not None and new is not None
    assert (three.metadata, three.is_live) == ({"price": 1}, True)
    assert (four.metadata, four.active) == ({"price": 2}, False)
    assert (new.metadata, new.vector) == ({"price": 3}, None)
    assert find(both, wide(20)[3], 1, filter={"price": 1}) == [3]
