"""What an operator is told: lag, retained log, what is set aside, the brake; the document names all of it."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry

from feeder.errors import BrakeOn
from feeder.telemetry.metrics import Metrics
from tests.integration.follower import FollowerHarness, on_pg
from tests.integration.product_shop import DIM
from tests.integration.service_process import ROOT
from tests.waiting import PATIENCE_S


def value(follower: FollowerHarness, name: str, **labels: str) -> float:
    found = follower.value(name, **labels)
    assert found is not None, name
    return found


def test_the_four_that_matter(log_follower: FollowerHarness) -> None:
    follower = log_follower
    assert follower.running is not None
    on_pg(follower, "UPDATE product SET is_active = NOT is_active WHERE id = 'p1'")
    follower.follow()
    assert value(follower, "feeder_lag_seconds_count", side="items") >= 1
    assert 0 < value(follower, "feeder_lag_seconds_sum", side="items") < PATIENCE_S

    on_pg(follower, "SELECT pg_logical_emit_message(true, 'x', repeat('x', 100000))")
    follower.running._check()
    assert value(follower, "feeder_retained_wal_bytes", side="vectors") > 50_000

    zero = "[" + ",".join(["0"] * DIM) + "]"
    on_pg(follower, f"UPDATE product_vectors SET vector = '{zero}' WHERE product_id IN ('p2', 'p3')")
    while value(follower, "feeder_quarantined_items") != 2:
        follower.running.step()
    follower.running.compare_all("for a test")
    assert value(follower, "feeder_quarantined_items") == 2, "a full comparison counts the same"
    assert '"quarantined": 2' in follower.store.state().cursors["sync.report"]
    on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p3'")
    while value(follower, "feeder_quarantined_items") != 1:
        follower.running.step()

    assert value(follower, "feeder_brake") == 0
    on_pg(follower, "TRUNCATE product_vectors")
    with pytest.raises(BrakeOn):
        follower.follow()
    assert value(follower, "feeder_brake") == 1


def test_the_document_names_every_metric() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    text = (ROOT / "docs" / "FEEDER.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(feeder_\w+)`", text))
    kinds = {"counter": "_total", "info": "_info"}
    assert {family.name + kinds.get(family.type, "") for family in registry.collect()} <= documented
