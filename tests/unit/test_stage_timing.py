"""Requests, stages and slow searches of several workers, which share a folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.observing.request_counters import RequestCounters
from service.observing.shared_rows import SharedRows
from service.observing.slow_searches import KEPT_MAX, PERIOD_S, SlowSearches
from service.observing.stage_timing import BOUNDS, SEARCH, StageTiming

NO_PROCESS = 999_999_999


class Clock:
    """Seconds as a test sets them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def slow_searches(clock: Clock | None = None, shared_dir: Path | None = None) -> SlowSearches:
    return SlowSearches(lambda: datetime(2026, 11, 28, tzinfo=UTC), clock or Clock(), shared_dir)


def samples(times: StageTiming, name: str, stage: str) -> list[tuple[str | None, float]]:
    (family,) = times.collect()
    return [
        (each.labels.get("le"), each.value)
        for each in family.samples
        if each.name == name and each.labels["stage"] == stage
    ]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_stage_is_a_histogram(tmp_path: Path, is_shared: bool) -> None:
    times = StageTiming(tmp_path if is_shared else None)
    for seconds in (0.0, BOUNDS[0], 0.0007, 0.0007, 1e9):
        times.observe(SEARCH, seconds)
    times.observe_pass([0.1, 0.2], 0.05)
    buckets = dict(samples(times, "uhok_stage_seconds_bucket", "search"))
    assert (buckets[str(BOUNDS[0])], buckets["0.0005"], buckets["0.001"]) == (2, 2, 4)
    assert (buckets[str(BOUNDS[-1])], buckets["+Inf"]) == (4, 5)
    assert samples(times, "uhok_stage_seconds_count", "search") == [(None, 5)]
    ((_, total),) = samples(times, "uhok_stage_seconds_sum", "embed_wait")
    assert total == pytest.approx(0.3)
    assert samples(times, "uhok_stage_seconds_count", "commit") == [(None, 0)]
    assert len(buckets) == len(BOUNDS) + 1


def test_workers_are_summed_ended_ones_included(tmp_path: Path) -> None:
    times = StageTiming(tmp_path)
    times.observe(SEARCH, 0.001)
    (own,) = tmp_path.glob("stages-*")
    (tmp_path / f"stages-{NO_PROCESS}.rows").write_bytes(own.read_bytes())
    (tmp_path / f"stages-{NO_PROCESS - 1}.rows").write_bytes(b"half")
    assert samples(times, "uhok_stage_seconds_count", "search") == [(None, 2)]


def test_requests_are_summed_and_those_of_an_ended_worker_are_not_in_flight(tmp_path: Path) -> None:
    counts = RequestCounters(tmp_path)
    for status in (200, 200, 503):
        counts.count_in()
        counts.count_out("/v1/search", "POST", status, 0.002)
    counts.count_in()
    (own,) = tmp_path.glob("requests-*")
    (tmp_path / f"requests-{NO_PROCESS}.rows").write_bytes(own.read_bytes())
    counted, took, now = counts.collect()
    assert {each.labels["status"]: each.value for each in counted.samples} == {"200": 4, "503": 2}
    assert [each.value for each in took.samples if each.labels.get("le") == "0.0025"] == [6]
    assert [each.value for each in took.samples if each.name.endswith("_sum")] == [pytest.approx(0.012)]
    assert [each.value for each in now.samples] == [1]


def test_names_beyond_the_bound_count_as_one() -> None:
    rows = SharedRows("some", 1, 4, None)
    for number in range(9):
        rows.values[rows.row(f"한글 {number}")] += 1
    assert {name: numbers[0] for name, numbers in rows.summed().items()} == {
        "한글 0": 1,
        "한글 1": 1,
        "한글 2": 1,
        "(others)": 6,
    }


def test_only_the_slowest_of_a_period_are_kept() -> None:
    slow = slow_searches()
    for number in range(3 * KEPT_MAX):
        slow.keep_if_slow(1 + number % 7 + number / 1000, {"number": number})
    told = [each["took_ms"] for each in slow.slowest(1000)]
    assert len(told) == KEPT_MAX and told == sorted(told, reverse=True)
    assert min(told) / 1000 == pytest.approx(slow.floor_s)
    slow.keep_if_slow(slow.floor_s, {"number": -1})
    assert all(each["number"] >= 0 for each in slow.slowest(1000))


def test_a_period_makes_room_for_the_next_and_is_forgotten_after_it() -> None:
    clock = Clock()
    slow = slow_searches(clock)
    for _ in range(KEPT_MAX):
        slow.keep_if_slow(9.0, {})
    clock.seconds = PERIOD_S
    slow.turn()
    assert slow.floor_s == 0.0
    slow.keep_if_slow(0.001, {})
    assert len(slow.slowest(1000)) == KEPT_MAX + 1
    clock.seconds = 2 * PERIOD_S
    slow.turn()
    assert len(slow.slowest(1000)) == 1
    clock.seconds = 9 * PERIOD_S
    slow.turn()
    assert slow.slowest(1000) == []


def test_a_worker_reads_what_the_others_wrote(tmp_path: Path) -> None:
    slow = slow_searches(shared_dir=tmp_path)
    slow.keep_if_slow(0.25, {"request_id": "a"})
    slow.share()
    (own,) = tmp_path.glob("slow-*.json")
    (tmp_path / "slow-1.json").write_bytes(own.read_bytes())  # process 1 always runs
    ended = tmp_path / f"slow-{NO_PROCESS}.json"
    ended.write_bytes(own.read_bytes())
    assert [each["request_id"] for each in slow.slowest(9)] == ["a", "a"]
    assert not ended.exists()
    (tmp_path / "slow-1.json").write_bytes(b"[{")
    assert len(slow.slowest(9)) == 1


def test_a_disk_that_takes_no_slow_searches_ends_nothing(tmp_path: Path) -> None:
    slow = slow_searches(shared_dir=tmp_path / "gone")
    slow.keep_if_slow(0.25, {"request_id": "a"})
    slow.share()
    assert len(slow.slowest(9)) == 1
