"""Rate limits: a window that slides, many callers in bounded memory, workers that share a quota."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.http.rate_limits import RateLimit
from tests.waiting import until

CHILD = """
import sys
from pathlib import Path
from service.http.rate_limits import RateLimit
limit = RateLimit("search", 1000, 10**9, Path(sys.argv[1]))
for line in sys.stdin:
    grant = limit.spend("key shared", float(line))
    print(int(grant.is_given), int(grant.left), flush=True)
"""


class Clock:
    now = 3_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limit_of(clock: Clock, units: int = 100, shared_dir: Path | None = None, process: int = 1) -> RateLimit:
    return RateLimit("search", units, 60, shared_dir, clock, process)


def test_a_caller_has_its_quota_and_no_more(clock: Clock) -> None:
    limit = limit_of(clock)
    grants = [limit.spend("a", 30) for _ in range(4)]
    assert [grant.is_given for grant in grants] == [True, True, True, False]
    assert [grant.left for grant in grants] == [70, 40, 10, 10]
    assert limit.spend("b", 100).is_given, "another caller has a quota of its own"
    assert limit.spend("a", 10).is_given, "what was refused is not counted"
    assert not limit.spend("a", 0.5).is_given


def test_the_window_slides(clock: Clock) -> None:
    limit = limit_of(clock)
    assert limit.spend("a", 100).is_given
    clock.now += 60 + 30
    assert limit.spend("a", 50).is_given, "half of the window before has gone by"
    assert not limit.spend("a", 1).is_given
    clock.now += 60
    assert limit.spend("a", 75).is_given
    clock.now += 1000
    assert limit.spend("a", 100).is_given, "long ago is forgotten"


@pytest.mark.parametrize("wanted", [1.0, 20.0, 55.0, 100.0])
@pytest.mark.parametrize(("before", "used", "at"), [(0, 100, 20), (80, 60, 6), (100, 0, 0), (100, 99, 59.5)])
def test_after_the_wait_that_is_told_as_much_is_granted(
    clock: Clock, wanted: float, before: float, used: float, at: float
) -> None:
    limit = limit_of(clock)
    if before:
        assert limit.spend("a", before).is_given
    clock.now += 60 + at
    for _ in range(int(used)):
        limit.spend("a", 1)
    refused = limit.spend("a", wanted)
    if refused.is_given:
        return
    clock.now += refused.wait_s - 1e-3
    if refused.wait_s > 1e-3:
        assert not limit.spend("a", wanted).is_given
    clock.now += 2e-3
    assert limit.spend("a", wanted).is_given


def test_more_than_the_quota_is_granted_once_all_of_it_is_left(clock: Clock) -> None:
    limit = limit_of(clock)
    assert limit.spend("a", 5000) == (True, 0.0, pytest.approx(60.0), 0.0)
    assert not limit.spend("a", 5000).is_given
    clock.now += 120
    assert limit.spend("a", 5000).is_given


def test_what_is_given_back_can_be_taken_again(clock: Clock) -> None:
    limit = limit_of(clock)
    assert limit.spend("a", 80).is_given
    limit.give_back("a", 80)
    assert limit.spend("a", 100).is_given


@pytest.mark.long
def test_memory_is_bounded_and_a_heavy_caller_is_not_forgotten_for_many_light_ones(clock: Clock) -> None:
    limit = limit_of(clock)
    assert limit.spend("heavy", 100).is_given
    for number in range(30_000):
        assert limit.spend(f"2001:db8:{number:x}", 1).is_given
    assert not limit.spend("heavy", 1).is_given


def test_workers_share_one_quota(clock: Clock, tmp_path: Path) -> None:
    one, two = (limit_of(clock, 100, tmp_path, process) for process in (os.getpid(), os.getppid()))
    given = sum(limit.spend("a", 1).is_given for _ in range(100) for limit in (one, two))
    assert given == 100
    clock.now += 90
    given = sum(limit.spend("a", 1).is_given for _ in range(100) for limit in (two, one))
    assert given == 50


@pytest.mark.long
def test_two_processes_give_no_double_quota(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    given = [0, 0]

    def ask(which: int, units: int) -> int:
        """Return the units that are left, as that process sees it."""
        child = children[which]
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"{units}\n")
        child.stdin.flush()
        is_given, left = child.stdout.readline().split()
        given[which] += int(is_given) * units
        return int(left)

    for which in (0, 1):
        ask(which, 1)
    for which in (0, 1):  # each looks for tables of others once a second
        until(lambda which=which: ask(which, 0) == 998)  # type: ignore[misc]
    for _ in range(60):
        ask(1, 10)
        ask(0, 10)
    for child in children:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        child.stdout.close()
        assert child.wait(60) == 0
    assert given == [491, 501]


def test_a_table_of_a_worker_that_ended_goes(clock: Clock, tmp_path: Path) -> None:
    limit_of(clock, 100, tmp_path, 2**22 + 1).spend("a", 100)  # no process has such a number
    one = limit_of(clock, 100, tmp_path, os.getpid())
    assert one.spend("a", 100).is_given
    assert [path.name for path in tmp_path.iterdir()] == [f"quota-search-{os.getpid()}.table"]


@pytest.mark.long
def test_what_workers_share_has_its_room_on_disk_from_the_start(tmp_path: Path) -> None:
    made = """
import sys
from pathlib import Path
from service.http.rate_limits import RateLimit
from service.observing.metrics import Metrics
shared = Path(sys.argv[1])
parts = Metrics(shared), RateLimit("search", 1000, 60, shared)
for file in shared.iterdir():
    assert file.stat().st_blocks * 512 >= file.stat().st_size > 0, file
print(len(list(shared.iterdir())))
"""
    shared = str(tmp_path)
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": shared}
    ran = subprocess.run([sys.executable, "-c", made, shared], env=environ, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "") and int(ran.stdout) >= 6
