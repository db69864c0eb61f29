"""A filled generation counts as ready to serve once its rows are sealed, or when nobody seals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from index_store.footprint import Footprint
from index_store.types import CollectionSpec, CollectionStatus, GenerationStatus
from service.app.rebuild.sealing import UNSEALED_ROWS_MAX, Sealing

SPEC = CollectionSpec("recipes", "int64", 4, "l2")
HOUR_S = 3600.0


class CountedRows:
    """An index that says how many rows of g1, which serves, and of g2 are in memory."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows

    def footprints(self, collection: str) -> list[Footprint]:
        del collection
        empty = Footprint("", 0, 0, 0, 0, 0, 0, 0)
        return [replace(empty, generation=name, delta_rows=rows) for name, rows in self.rows.items()]

    def status(self, collection: str) -> CollectionStatus:
        del collection
        current = GenerationStatus("g1", "current", "v1", 0, 0, 0, {})
        return CollectionStatus(SPEC, current, [], [])


def sealing(index: Any, clock: list[float]) -> Sealing:
    return Sealing(index, lambda: clock[0])


def test_a_generation_waits_until_its_rows_are_sealed() -> None:
    index, clock = CountedRows(g1=10, g2=50_000), [0.0]
    waits = sealing(index, clock)
    assert not waits.is_done("recipes", "g2")
    index.rows["g2"] = UNSEALED_ROWS_MAX + 1
    assert not waits.is_done("recipes", "g2")
    index.rows["g2"] = UNSEALED_ROWS_MAX
    assert waits.is_done("recipes", "g2")


def test_as_many_rows_as_the_current_one_has_are_no_reason_to_wait() -> None:
    assert sealing(CountedRows(g1=60_000, g2=50_000), [0.0]).is_done("recipes", "g2")


def test_it_waits_while_rows_are_sealed_and_not_for_ever() -> None:
    index, clock = CountedRows(g1=0, g2=50_000), [0.0]
    waits = sealing(index, clock)
    for sealed in range(3):
        index.rows["g2"] = 50_000 - sealed
        assert not waits.is_done("recipes", "g2")
        clock[0] += HOUR_S / 3
    clock[0] += HOUR_S
    assert waits.is_done("recipes", "g2"), "nobody seals"
