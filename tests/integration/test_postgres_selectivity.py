"""A search in PostgreSQL with a narrow filter compares every row that passes, and walks the graph else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from index_store.errors import Unavailable
from index_store.filter.cache import compiled_filter
from index_store.listings import ItemsRequest
from index_store.postgres.index import PostgresIndex
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.selectivity import is_exact_faster
from index_store.types import ItemWrite, PlanStep, SearchRequest
from tests.contract.conftest import postgres_index, seal
from tests.contract.vectors import begin_all, put, vectors
from tests.integration.databases import PostgresServer

ROWS = 2_500
DATA = vectors(ROWS)


@pytest.fixture(scope="module")
def index(postgres: PostgresServer) -> Iterator[PostgresIndex]:
    database = postgres.create_database()
    with postgres_index(postgres.address(database), 100) as index:
        begin_all(index)
        put(index, [ItemWrite(n, DATA[n], metadata={"n": n, "ten": n % 10}) for n in range(ROWS)])
        seal(index)
        yield index
    postgres.drop_database(database)


@pytest.mark.parametrize(
    ("condition", "way"),
    [
        (None, "graph"),
        ({"n": 7}, "scan"),
        ({"ten": 3}, "scan"),
        ({"n": {"$lt": 30}}, "scan"),
        ({"n": {"$gte": 0}}, "graph"),
        ({"ten": {"$ne": 3}}, "graph"),
        ({"missing": 1}, "scan"),
    ],
)
def test_a_narrow_filter_is_searched_exactly(
    index: PostgresIndex, condition: dict[str, Any] | None, way: str
) -> None:
    for query in (DATA[5], DATA[7]):
        steps: list[PlanStep] = []
        (found,) = index.search("numbers", [SearchRequest(query, 10, filter=condition, steps=steps)])
        (exact,) = index.search("numbers", [SearchRequest(query, 10, filter=condition, exact=True)])
        assert [step[0] for step in steps] == [way]
        if way == "scan":
            assert found.hits == exact.hits
        assert len(found.hits) == len(exact.hits)


def test_a_key_is_not_called_unknown_before_all_rows_were_looked_at(index: PostgresIndex) -> None:
    keys = RowKeys(rows_max=1_000)

    def is_held(key: str) -> bool:
        with index.connections.using(30) as connection:
            current = read_collection(connection, index.status("numbers").spec).current
            assert current is not None
            return keys.is_held(connection, current, key)

    assert [is_held("late") for _ in range(4)] == [True, True, False, False]
    put(index, [ItemWrite(1, DATA[1], metadata={"n": 1, "ten": 1, "late": None})])
    assert is_held("late") and is_held("ten") and [is_held("a.b") for _ in range(3)][-1] is False


def test_lists_of_a_generation_without_a_table_are_unavailable_until_there_is_another(
    index: PostgresIndex,
) -> None:
    source = index.item_source()
    with index.connections.using(30) as connection:
        (number,) = connection.execute(
            "SELECT current FROM collection WHERE name = 'numbers'"
        ).fetchone() or (0,)
        connection.execute(
            "INSERT INTO generation(number, collection, embedding_version, dim) "
            "VALUES(999, 'numbers', 'v9', 8)"
        )
        connection.execute("UPDATE collection SET current = 999 WHERE name = 'numbers'")
    try:
        for ask in (source.list_items, source.list_ids):
            with pytest.raises(Unavailable, match="change faster"):
                ask("numbers", ItemsRequest())
        with pytest.raises(Unavailable, match="change faster"):
            source.count_items("numbers", None)
    finally:
        with index.connections.using(30) as connection:
            connection.execute("UPDATE collection SET current = %s WHERE name = 'numbers'", (number,))
            connection.execute("DELETE FROM generation WHERE number = 999")
    assert source.count_items("numbers", None).live == ROWS


@pytest.mark.parametrize(
    ("condition", "share", "live", "is_exact"),
    [
        ({"a": 1}, 0.01, 100_000, True),
        ({"a": 1}, 0.01, 1_000_000, True),
        ({"a": 1}, 0.1, 1_000_000, False),
        ({"a": 1}, 0.0, 10_000_000, True),
        ({"a": {"$lt": 1}}, 0.001, 100_000, True),
        ({"a": {"$lt": 1}}, 0.01, 1_000_000, False),
        ({"a": {"$ne": 1}}, 0.9, 1_000_000, False),
    ],
)
def test_what_is_found_by_an_index_is_compared_sooner(
    condition: dict[str, Any], share: float, live: int, is_exact: bool
) -> None:
    assert is_exact_faster(share, live, 41, compiled_filter(condition)) is is_exact
