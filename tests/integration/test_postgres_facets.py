"""Counts and facets in SQL equal the embedded engine's over the same rows, whatever metadata hold."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest

from index_store.delta.delta_columns import DeltaColumns
from index_store.filter.cache import FilterMasks, compiled_filter
from index_store.listings import Facet, FacetsRequest
from index_store.postgres.conditions import EVERYTHING, Condition, filter_condition
from index_store.postgres.listing.facets import ConditionRows, count_rows, read_facets
from index_store.query.facets import LiveRows, facets_of
from tests.integration.databases import PostgresServer
from tests.integration.test_postgres_filters import HEADS, STEPS, path, store, value

ANY_TEXT = "lang" * 257
KEYS = ("price", "shade", "tags", "nest", "nest.x", "mixed", "missing", "long")


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect() as connection:
        connection.execute("CREATE TEMPORARY TABLE item (id bigint, facts jsonb NOT NULL)")
        yield connection


def expected(
    texts: Sequence[str | None], request: FacetsRequest, condition: dict[str, Any] | None = None
) -> list[Facet]:
    columns = DeltaColumns(lambda start, stop: texts[start:stop])
    columns.append_texts(texts)
    mask = np.ones(len(texts), np.bool_)
    if condition is not None:
        mask = FilterMasks(columns).mask(compiled_filter(condition), len(texts))
    return facets_of([LiveRows(columns, mask)], request)


def rows_where(connection: psycopg.Connection[Any], condition: dict[str, Any] | None = None) -> ConditionRows:
    where = EVERYTHING if condition is None else filter_condition(compiled_filter(condition).node)
    return ConditionRows(connection, "item", where)


def product(number: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "price": number * 10,
        "shade": ("red", "파랑")[number % 2],
        "nest": {"x": number % 4},
    }
    found["tags"] = [["a", "b"], ["a"], [], "b", ["a", "a", 1], [["c"], {"d": 1}]][number % 6]
    found["mixed"] = [1, "1", True, None, 1.5, 1.0, -0.0, [2, 3]][number % 8]
    if number % 7 == 0:
        found |= {"nest.x": "own", "long": ANY_TEXT}
    return found


@pytest.mark.parametrize(
    "condition", [None, {"shade": "red"}, {"nest.x": {"$in": [1, "own"]}}, {"price": -1}]
)
@pytest.mark.parametrize("distinct_max", [20, 1_000])
def test_facets_of_products_are_the_same(
    connection: psycopg.Connection[Any], condition: dict[str, Any] | None, distinct_max: int
) -> None:
    texts = store(connection, [None, *map(product, range(200))])
    rows = rows_where(connection, condition)
    for keys in (KEYS, None):
        request = FacetsRequest(condition, keys, values_max=5, distinct_max=distinct_max)
        found, wanted = read_facets(rows, request), expected(texts, request, condition)
        assert [list_of(each) for each in found] == [list_of(each) for each in wanted]
    assert count_rows(rows) == sum(
        condition is None or bool(passes)
        for passes in FilterMasks(columns_of(texts)).mask(compiled_filter(condition or {}), len(texts))
    )


def columns_of(texts: Sequence[str | None]) -> DeltaColumns:
    columns = DeltaColumns(lambda start, stop: texts[start:stop])
    columns.append_texts(texts)
    return columns


def list_of(facet: Facet) -> tuple[Any, ...]:
    return facet.key, facet.items, facet.distinct, list(facet.values), list(facet.ranges)


def test_facets_of_hostile_metadata_are_the_same(connection: psycopg.Connection[Any]) -> None:
    draw = random.Random(5)
    texts = store(connection, [{draw.choice(HEADS): value(draw, 4) for _ in range(5)} for _ in range(300)])
    keys = [*HEADS, *STEPS, *(".".join(path(draw)) for _ in range(40)), "\ud800", "a.\ud800"]
    rows = ConditionRows(connection, "item", Condition("id >= %s", (0,)))
    for request in (FacetsRequest(keys=keys, values_max=1_000), FacetsRequest(keys_max=30)):
        found, wanted = read_facets(rows, request), expected(texts, request)
        for one, other in zip(found, wanted, strict=True):
            assert list_of(one) == list_of(other), one.key
