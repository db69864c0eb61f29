"""Metrics as they are read: Prometheus's own text, and one reading for all who take an older one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.observing.reading.kept import KeptReading
from service.observing.reading.text import text_of


class Collected(Collector):
    """What was collected once, to be collected again."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def test_the_text_is_what_prometheus_client_writes() -> None:
    registry = CollectorRegistry()
    counter = Counter("hits", 'Of\na "page" with \\.', ("path", "b", "a"), registry=registry)
    for path in ("plain", 'a "quoted" one', "back\\slash", "two\nlines", "김치", "", "\u2028"):
        counter.labels(path, "b", "a").inc(3)
    gauge = Gauge("size", "Without labels.", registry=registry)
    odd = Gauge("odd", "Values of every kind.", ("n",), registry=registry)
    for number, value in enumerate(
        (0, -0.0, 1.5, 1e6, 123456789.25, 1e22, -1e9, 1e-9, float("inf"), float("nan"))
    ):
        odd.labels(str(number)).set(value)
    gauge.set(7)
    Histogram("took", "Seconds.", ("route",), registry=registry).labels("/").observe(0.3)
    Gauge("never", "Without a value.", ("x",), registry=registry)
    collected = list(registry.collect())
    for metric in collected:  # created times are off in the service
        metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
    assert text_of(collected) == generate_latest(Collected(collected))


def test_a_reading_serves_all_who_take_one_that_old_and_nobody_else() -> None:
    now, made = [100.0], []

    def read() -> bytes:
        made.append(now[0])
        now[0] += 1  # a reading takes a second
        return f"{len(made)}".encode()

    kept = KeptReading(read, lambda: now[0])
    assert kept.at_most(60) == (b"1", 1.0), "there is none yet"
    now[0] = 109
    assert kept.at_most(10) == (b"1", 9.0)
    now[0] = 110
    assert kept.at_most(10)[0] == b"2", "it was begun ten seconds ago"
    assert kept.at_most(0)[0] == b"3"
    assert kept.at_most(0)[0] == b"4", "whoever asks for a fresh one gets it"
    assert kept.at_most(10)[0] == b"4"


def test_who_asks_while_one_is_made_waits_for_it() -> None:
    is_made, go_on, made = Event(), Event(), []

    def read() -> bytes:
        made.append("a reading")
        is_made.set()
        assert go_on.wait(30)
        return b"text"

    kept = KeptReading(read)
    with ThreadPoolExecutor(4) as askers:
        asked = [askers.submit(kept.at_most, 60.0)]
        assert is_made.wait(30)
        asked += [askers.submit(kept.at_most, 60.0) for _ in range(3)]
        go_on.set()
        assert [each.result(30)[0] for each in asked] == [b"text"] * 4
    assert len(made) == 1


def test_a_failed_reading_is_not_kept() -> None:
    made: list[bytes] = []

    def read() -> bytes:
        made.append(b"text")
        if len(made) == 1:
            raise OSError("gone")
        return made[-1]

    kept = KeptReading(read)
    with pytest.raises(OSError, match="gone"):
        kept.at_most(60)
    assert kept.at_most(60)[0] == b"text"
