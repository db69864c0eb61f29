"""The planner decides from counts and a table alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from index_store.ann.calibration import Calibration, EfTable, Point
from index_store.segment.planner import GATHER_ROWS, Plan, SegmentProfile, first_plan, next_plan

TABLE = Calibration(
    points=(
        Point(32, (0.96, 0.93, 0.0), 130.0),
        Point(64, (0.985, 0.974, 0.0), 200.0),
        Point(128, (0.992, 0.991, 0.968), 400.0),
        Point(256, (0.998, 0.998, 0.992), 800.0),
    ),
    scan_us=((0.01, 300.0), (0.1, 1000.0), (0.3, 1800.0), (1.0, 2200.0)),
    noise=0.0005,
    queries=256,
)
ROWS = 100_000
GROUND = SegmentProfile(ROWS, TABLE, TABLE.ef_table(0.99))
SCAN_ONLY = SegmentProfile(ROWS, TABLE, EfTable(()))


def test_ef_grows_with_k_and_target() -> None:
    efs = [GROUND.table.ef_for(k) for k in (1, 10, 25, 60, 100, 200, 400)]
    assert all(ef is not None for ef in efs)
    assert efs == sorted(efs, key=lambda ef: ef or 0)
    assert efs[-1] == pytest.approx(4 * (efs[4] or 0), abs=4)
    by_target = [TABLE.ef_table(t).ef_for(25) for t in (0.95, 0.98, 0.99, 0.995)]
    assert by_target == sorted(by_target, key=lambda ef: ef or 0)


def test_ef_is_none_where_the_graph_never_got_there() -> None:
    assert TABLE.ef_table(0.9999).ef_for(10) is None
    short = Calibration(TABLE.points[:3], TABLE.scan_us, 0.0, 256).ef_table(0.99)
    assert short.ef_for(25) is not None and short.ef_for(100) is None and short.ef_for(101) is None


@pytest.mark.parametrize("k", [1, 10, 25, 100, 500])
def test_few_allowed_rows_never_meet_the_graph(k: int) -> None:
    assert first_plan(GROUND, GATHER_ROWS, k).way == "gather"
    for allowed in (GATHER_ROWS + 1, 1000, 20_000, 25_000):
        assert first_plan(GROUND, allowed, k).way == "scan"


def test_many_allowed_rows_use_the_graph_with_breadth_for_the_hidden_share() -> None:
    whole, most, half = (first_plan(GROUND, n, 25) for n in (ROWS, 70_000, 50_000))
    assert whole.way == most.way == half.way == "graph"
    assert whole.breadth < most.breadth < half.breadth


def test_the_graph_is_left_where_a_scan_costs_less() -> None:
    assert first_plan(GROUND, ROWS, 1000) == Plan("scan")
    assert first_plan(SCAN_ONLY, ROWS, 10) == Plan("scan")


def _places(found: int, last: int) -> npt.NDArray[np.int64]:
    """Where `found` allowed rows stand when they come without a gap and the last of them stands at `last`."""
    return np.arange(last - found + 1, last + 1)


def test_an_answer_stands_when_hidden_rows_are_where_they_were_expected() -> None:
    plan = first_plan(GROUND, 70_000, 25)
    assert next_plan(GROUND, plan, ROWS, 25, None) is None
    assert next_plan(GROUND, plan, 70_000, 25, np.arange(100) * 36 // 25) is None


def test_hidden_neighbours_widen_the_search_or_turn_it_into_a_scan() -> None:
    plan = first_plan(GROUND, ROWS - 100, 25)
    wider = next_plan(GROUND, plan, ROWS - 100, 25, _places(25, 99))
    assert wider is not None and wider.way == "graph" and wider.breadth > 2 * plan.breadth
    assert next_plan(GROUND, plan, ROWS - 1000, 25, _places(25, 899)) == Plan("scan")


def test_a_rank_is_guessed_from_where_the_few_found_stand() -> None:
    """The same number found: hidden rows in one lump before them push the rest less far out than rows
    hidden everywhere."""
    plan = first_plan(GROUND, ROWS - 100, 25)
    lump = next_plan(GROUND, plan, ROWS - 100, 25, _places(18, plan.breadth - 1))
    spread = next_plan(GROUND, plan, ROWS - 100, 25, np.arange(18) * (plan.breadth // 18))
    assert lump is not None and spread is not None
    assert lump.way == spread.way == "graph" and plan.breadth < lump.breadth < spread.breadth


def test_too_few_found_never_stands() -> None:
    plan = first_plan(GROUND, 60_000, 25)
    for found in range(25):
        for places in (_places(found, plan.breadth - 1), np.arange(found) * 3):
            again = next_plan(GROUND, plan, 60_000, 25, places)
            assert again is not None
            assert again.way == "scan" or again.breadth > plan.breadth
