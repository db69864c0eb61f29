"""What the feeder exposes is what docs/METRICS.md lists, name by name and label by label."""

from __future__ import annotations

import re

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from feeder.sources.change_feed import Backlog
from feeder.telemetry.metrics import Metrics, process_registry
from tests.metrics_document import documented


def exposed() -> str:
    registry = process_registry()
    metrics = Metrics(registry)
    metrics.set_tier("recipes", "items", "log")
    metrics.observe_lag("recipes", "items", 0.2)
    metrics.set_backlog("recipes", "items", Backlog())
    metrics.count_written("recipes", 1, 2, 3)
    metrics.set_quarantined("recipes", 1)
    metrics.set_vanished("recipes", 1)
    metrics.set_brake("recipes", False)
    metrics.set_compared("recipes", True, 1.0)
    metrics.set_following("recipes", True)
    metrics.set_activity_only("recipes", False)
    metrics.count_failure("recipes", "Unavailable")
    return generate_latest(registry).decode()


def test_the_document_lists_what_is_exposed_and_nothing_else() -> None:
    rows = documented("feeder")
    found = {}
    for family in text_string_to_metric_families(exposed()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, family.documentation)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(rows[name].labels), sample
    assert found == {name: (row.kind, row.meaning) for name, row in rows.items()}


def test_no_counter_has_a_second_series() -> None:
    assert not re.search(r"_created\b", exposed())
