"""Counts and facets: items are counted by value where they are, and only distinct values come back.

What a value is to a facet, which of several locations of a key counts, and where ranges lie is decided by
`index_store.query.facets`, as for an index on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from index_store.listings import Facet, FacetsRequest, NumberRange
from index_store.postgres.conditions import Condition, key_locations
from index_store.postgres.facts import LOCAL_MOMENTS_KEY, MOMENTS_KEY, decoded
from index_store.query.facets import FacetBuilder, range_edges, ranges_between


class ConditionRows(NamedTuple):
    """Some rows of a table with a column `facts`: those for which `where` holds. For one thread."""

    connection: psycopg.Connection[Any]
    table: str
    where: Condition

    def select(self, columns: Condition, rest: str = "", *behind: object) -> list[tuple[Any, ...]]:
        """Return these columns of the rows; `rest` follows the condition, with the parameters `behind`."""
        query = f"SELECT {columns.sql} FROM {self.table} WHERE ({self.where.sql}) {rest}"
        parameters = (*columns.parameters, *self.where.parameters, *behind)
        return self.connection.execute(query.encode(), parameters).fetchall()

    def found_in_each(self, found: Condition) -> Condition:
        """Return a table of what is found in these rows, in a column `found`: null where nothing is."""
        return Condition(
            f"(SELECT {found.sql} AS found FROM {self.table} WHERE ({self.where.sql})) AS held",
            (*found.parameters, *self.where.parameters),
        )


def count_rows(rows: ConditionRows) -> int:
    """Return how many rows there are."""
    return int(rows.select(Condition("count(*)"))[0][0])


def read_facets(rows: ConditionRows, request: FacetsRequest) -> list[Facet]:
    """Return the facets of the keys that are wanted, in their order; each takes a pass over the rows."""
    if request.keys is not None:
        return [_facet(rows, key, request) for key in request.keys]
    facets = []
    for key, items in _common_keys(rows, request.keys_max):
        building = _counted(rows, key, request)
        # Of too many values not even the numbers are looked at.
        facets.append(Facet(key, items, None, (), ()) if building is None else building.facet(key, request))
    return facets


def _common_keys(rows: ConditionRows, keys_max: int) -> list[tuple[str, int]]:
    """Return the most common top-level keys, and how many rows have each."""
    held = rows.found_in_each(Condition("jsonb_object_keys(facts)"))
    query = (
        f"SELECT found, count(*) FROM {held.sql} "
        'WHERE found NOT IN (%s, %s) GROUP BY found ORDER BY count(*) DESC, found COLLATE "C" LIMIT %s'
    )
    parameters = (*held.parameters, MOMENTS_KEY, LOCAL_MOMENTS_KEY, keys_max)
    return [(decoded(key), items) for key, items in rows.connection.execute(query.encode(), parameters)]


def _facet(rows: ConditionRows, key: str, request: FacetsRequest) -> Facet:
    building = _counted(rows, key, request)
    return _facet_of_many(rows, key, request) if building is None else building.facet(key, request)


def _counted(rows: ConditionRows, key: str, request: FacetsRequest) -> FacetBuilder | None:
    """Return what the rows have under a key; None for too many values."""
    held, most = rows.found_in_each(_found(key)), request.distinct_max
    query = (
        f"WITH counted AS (SELECT found, count(*) AS items FROM {held.sql} WHERE found IS NOT NULL "
        "GROUP BY found LIMIT %s), told AS (SELECT count(*) AS distinct_values FROM counted) "
        # Of too many one is enough to say so.
        "SELECT distinct_values, found, items FROM counted, told "
        "LIMIT (SELECT CASE WHEN distinct_values > %s THEN 1 ELSE %s END FROM told)"
    )
    counted = rows.connection.execute(query.encode(), (*held.parameters, most + 1, most, most)).fetchall()
    if counted and counted[0][0] > most:
        return None
    building = FacetBuilder(most)
    for _, found, items in counted:
        building.include(decoded(found), items)
    return building


def _found(key: str) -> Condition:
    """Return the list of values that a row has under a key, of its first location that leads to any."""
    cases, parameters = [], []
    for location in key_locations(key):
        exists, values = location.exists(), location.all_values()
        cases.append(f"WHEN {exists.sql} THEN {values.sql}")
        parameters += [*exists.parameters, *values.parameters]
    return Condition(f"CASE {' '.join(cases)} END" if cases else "NULL::jsonb", tuple(parameters))


def _facet_of_many(rows: ConditionRows, key: str, request: FacetsRequest) -> Facet:
    """The facet of a key with too many values to be told apart: how many items, and the ranges of numbers,
    unless lists are among the values."""
    held = rows.found_in_each(_found(key))
    query = (
        "SELECT count(found), coalesce(bool_or(found @? 'strict $[*] ? (@.type() == \"array\")'), false) "
        f"FROM {held.sql}"
    )
    ((items, has_lists),) = rows.connection.execute(query.encode(), held.parameters)
    ranges = () if has_lists else _ranges(rows, held, request.ranges)
    return Facet(key, items, None, (), ranges)


def _ranges(rows: ConditionRows, held: Condition, wanted: int) -> Sequence[NumberRange]:
    numbers = (
        f"{held.sql}, LATERAL (SELECT DISTINCT each::float8 AS number "
        "FROM jsonb_path_query(found, '$[*] ? (@.type() == \"number\")') AS each) AS element"
    )
    query = f"SELECT min(number), max(number), bool_and(number = floor(number)) FROM {numbers}"
    ((low, high, are_whole),) = rows.connection.execute(query.encode(), held.parameters)
    if low is None:
        return ()
    edges = range_edges(low, high, wanted, are_whole=are_whole)
    if not len(edges):
        return ()
    query = f"SELECT width_bucket(number, %s::float8[]), count(*) FROM {numbers} GROUP BY 1"
    counted = dict(rows.connection.execute(query.encode(), (edges.tolist(), *held.parameters)).fetchall())
    return ranges_between(edges, [counted.get(number, 0) for number in range(1, len(edges))])
