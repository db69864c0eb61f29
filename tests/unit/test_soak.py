"""What the soak counts: growth of memory under a sawtooth, open files, ids that were deleted throughout."""

from __future__ import annotations

import pytest

from benchmarks.soak import WINDOW_S, Deleted, Sample, Slope, files_growth, slope_of

MINUTES = 30


def samples(mb_an_hour: float, files_an_hour: float = 0.0) -> list[Sample]:
    """Every five seconds; between two seals memory rises by 30 MB and falls again."""
    seconds = range(0, MINUTES * 60, 5)
    return [
        Sample(at, 1000 + (at % 150) / 5 + mb_an_hour * at / 3600, round(170 + files_an_hour * at / 3600), 10)
        for at in seconds
    ]


def test_memory_that_grows_is_found() -> None:
    assert slope_of(samples(0)).percent == pytest.approx(0, abs=0.1)
    assert slope_of(samples(20)).percent == pytest.approx(2, abs=0.2)
    assert slope_of(samples(20)).verdict(1).endswith("it grows")
    assert slope_of(samples(-20)).verdict(1).endswith("it does not grow")


def test_a_short_run_that_cannot_tell_says_so() -> None:
    """Windows that differ by 1 % hide a growth of 1 % an hour for half an hour, and not for some days."""
    noise = [0, 9, 3, 10, 1, 6, 8, 2]

    def uneven(hours: float) -> Slope:
        step = WINDOW_S / 44
        seconds = [step * n for n in range(int(hours * 3600 / step))]
        return slope_of([Sample(at, 1000 + noise[int(at / WINDOW_S) % 8], 170, 10) for at in seconds])

    short = uneven(0.5)
    assert short.low < 1 < short.high and "this run cannot tell 1 %, one of some" in short.verdict(1)
    assert uneven(24).verdict(1).endswith("it does not grow")


def test_files_that_stay_open_are_found() -> None:
    assert files_growth(samples(0)) == 0
    assert files_growth(samples(0, files_an_hour=60)) == pytest.approx(20, abs=2)


def test_an_id_counts_as_shown_only_if_it_was_deleted_all_through_the_search() -> None:
    deleted = Deleted()
    deleted.deleted([1, 2])
    before = deleted.now()
    assert deleted.shown(before, [1, 3]) == [1]
    deleted.coming_back([1])
    assert deleted.shown(before, [1, 2]) == [2]
    deleted.deleted([1])  # it was there in between
    assert deleted.shown(before, [1]) == []
