"""A model change on a service under load, watched from outside.

    python -m benchmarks.bench_model_change [--items 100000] [--workers 2] [--quiet-s 30]

The kept texts of all items get vectors of a second model while a client process searches, rewords, deletes,
activates and deactivates at a steady pace: rebuild, promote, roll back, promote. The processes that fill and
seal stand still in every other turn, so that each phase is compared with quiet seconds beside it. Every
answer is judged: whether one model gave all of it, whether its distances are those of the texts at that
moment, whether something hidden was shown, whether an exact search missed anything. At each stop the stores
of both generations are read and compared with what was acknowledged, row by row.

The models are functions (hashed n-grams; noise seeded by the text), so that 100,000 texts are embedded within
minutes and the client can compute every vector itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import Report, Row, Served
from benchmarks.model_change_load import Pace, fill
from benchmarks.model_change_pauses import Turns
from benchmarks.model_change_stages import OLD, Stages, Watched

MODELS_DIR = Path(".models")
LATENCY_MAX = 1.5
RECALL_MIN = 0.95
TURN_SEARCHES_MIN = 50
CHANGES = (("promote", "promotion"), ("rollback", "rollback"), ("rollback", "second promotion"))
"""The step as the wire calls it: what was rolled back is the former generation, and rolls back in turn."""


def rows_of(watched: Watched) -> Iterator[Row]:
    for name, found in (
        ("failed requests", watched.failures),
        ("answers that could not have been given", watched.problems),
        ("rows of any generation other than the source's, all stops", watched.differences),
    ):
        yield Row(name, len(found), 0, detail="; ".join(found[:2])[:300])
    recall = watched.recalled / max(1, watched.recallable)
    detail = f"{watched.answers} answers, {watched.exact} of them exact; {watched.changes} writes"
    yield Row("recall@10 of searches by the graph, all stages", recall, RECALL_MIN, True, detail)
    for stage in watched.spans:
        busy, quiet = (watched.took_ms(each[stage]) for each in (watched.busy, watched.quiet))
        if not busy or not quiet:
            continue
        turns = [watched.took_ms([span]) for span in watched.busy[stage]]
        beside = [watched.took_ms([span]) for span in watched.quiet[stage]]
        detail = (
            f"p50 {p_ms(busy, 50):.1f}, p99 {p_ms(busy, 99):.1f}, most {max(busy):.0f} ms of {len(busy)}; "
            f"quiet p50 {p_ms(quiet, 50):.1f}, p99 {p_ms(quiet, 99):.1f} ms of {len(quiet)}; median p99 of "
            f"{len(turns)} and {len(beside)} turns {median_p99_ms(turns):.1f}, {median_p99_ms(beside):.1f} ms"
        )
        ratio = p_ms(busy, 99) / p_ms(quiet, 99)
        yield Row(f"search p99, {stage} / quiet beside it", ratio, LATENCY_MAX, detail=detail)


def p_ms(took_ms: Sequence[float], percentile: float) -> float:
    return float(np.percentile(took_ms, percentile))


def median_p99_ms(turns: Sequence[Sequence[float]]) -> float:
    """Return the median of the turns' p99: one turn that somebody else disturbed does not decide it."""
    return float(np.median([p_ms(each, 99) for each in turns if len(each) >= TURN_SEARCHES_MIN] or [np.nan]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quiet-s", type=float, default=20.0)
    parser.add_argument(
        "--turn-s", type=float, default=4.0, help="the rebuild stands still in every other turn; 0: never"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where the items lie; the first call with it stores them, and ends"
    )
    parser.add_argument("--search-ms-max", type=int, help="REBUILD_SEARCH_MS_MAX")
    given = parser.parse_args(arguments)
    environ = {"TEXT_MODEL": OLD, "IMAGE_MODEL": "builtin:descriptor", "WORKERS": str(given.workers)}
    if given.search_ms_max:
        environ["REBUILD_SEARCH_MS_MAX"] = str(given.search_ms_max)
    with tempfile.TemporaryDirectory(prefix="model-change-") as folder:
        data_dir = given.data_dir or Path(folder) / "data"
        is_filled = data_dir.exists()
        with Served(data_dir, MODELS_DIR, log=Path(folder) / "log", **environ) as service:
            if not is_filled:
                began = time.monotonic()
                fill(service.port, given.items)
                print(f"{given.items} items stored in {time.monotonic() - began:.0f} s", flush=True)
            service.wait_until_idle()
            if is_filled or not given.data_dir:
                turns = Turns(service.process_id, data_dir, given.turn_s)
                _change(Stages(service.port, turns, data_dir, given.items, Pace()), given.quiet_s)


def _change(stages: Stages, quiet_s: float) -> None:
    report = Report("bench_model_change")
    stages.quiet(quiet_s)
    print(f"filled: {stages.rebuild()}", flush=True)
    for step, name in CHANGES:
        stages.step(step, name)
    report.add(list(rows_of(stages.watched)))


if __name__ == "__main__":
    main()
