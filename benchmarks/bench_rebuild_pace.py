"""How fast a real model fills a generation, and what searches notice, by REBUILD_SEARCH_MS_MAX.

    python -m benchmarks.bench_rebuild_pace [--items 1500] [--limits 10 25 50 100] [--seconds 48]

A service of two workers with the built-in e5 model; the rebuild is to the same model in 8 bits. Searches by
text come at a steady pace, as do a few writes. For each limit the service starts from a copy of one data
directory; filling stands still in every other turn, then the job is ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import Report, Row, Served
from benchmarks.model_change_load import Caller, Load, Pace, fill
from benchmarks.model_change_pauses import Span, Turns, parts
from benchmarks.model_change_shop import Item, Search

MODELS_DIR = Path(".models")
OLD, NEW = "builtin:multilingual-e5-small", "builtin:multilingual-e5-small+int8"
LIMITS = (10, 25, 50, 100)
PACE = Pace(searchers=3, search_every_s=0.15, writers=1, write_every_s=1.0)
LATENCY_MAX = 1.5
_SEED = 20_261_128
_LOADED_S_MAX = 60.0
_TURN_S = 4.0


def p_ms(searches: Sequence[Search], percentile: float) -> float:
    return float(np.percentile([each.latency_ms for each in searches if not each.exact], percentile))


def within(searches: Sequence[Search], spans: Sequence[Span]) -> list[Search]:
    return [each for each in searches if any(first <= each.due < last for first, last in spans)]


def measured(data_dir: Path, items: int, limit: int, seconds: float) -> Iterator[Row]:
    environ = {"TEXT_MODEL": OLD, "IMAGE_MODEL": "none", "WORKERS": "2", "REBUILD_SEARCH_MS_MAX": str(limit)}
    with Served(data_dir, MODELS_DIR, log=data_dir.parent / f"log-{limit}", **environ) as service:
        load, caller = Load(service.port, [Item(0)] * items, PACE, _SEED + limit), Caller(service.port)
        turns = Turns(service.process_id, data_dir, _TURN_S)
        status, answer = caller.post("/v1/rebuild", {"collection": "recipes", "model": NEW})
        if status != 202:
            raise RuntimeError(f"{status} {answer!r}")
        job_id = json.loads(answer)["job"]["id"]
        give_up = time.monotonic() + _LOADED_S_MAX
        while (job := json.loads(caller.ask("GET", f"/v1/jobs/{job_id}")[1]))["phase"] != "embedding":
            if time.monotonic() > give_up:
                raise TimeoutError(f"it does not begin: {job}")
            time.sleep(0.1)
        with load.running(), turns.taken():
            before = waiting(caller)
            began = time.monotonic()
            time.sleep(seconds)
            ended = time.monotonic()
            filled = before - waiting(caller)
        happened = load.take()
        failed = [each.what for each in happened.failures]
        caller.ask("DELETE", f"/v1/jobs/{job_id}")
    name = f"REBUILD_SEARCH_MS_MAX={limit}"
    busy, paused = parts((began, ended), turns.paused)
    filling, quiet = within(happened.searches, busy), within(happened.searches, paused)
    took_s = sum(last - first for first, last in busy)
    ratio = p_ms(filling, 99) / p_ms(quiet, 99)
    detail = "; ".join(
        f"{what} p50 {p_ms(some, 50):.0f}, p99 {p_ms(some, 99):.0f} ms of {len(some)}"
        for what, some in (("quiet", quiet), ("filling", filling))
    )
    yield Row(f"{name}: search p99, filling / quiet", ratio, LATENCY_MAX, detail=detail)
    yield Row(f"{name}: items filled a second", filled / took_s, 1.0, True, f"failed: {failed[:2]}")


def waiting(caller: Caller) -> int:
    told = json.loads(caller.ask("GET", "/v1/collections/recipes/generations")[1])["generations"]
    return int(next(each["awaiting"] for each in told if each["role"] == "next"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_500)
    parser.add_argument("--limits", type=int, nargs="*", default=list(LIMITS))
    parser.add_argument("--seconds", type=float, default=48.0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rebuild-pace-") as folder:
        first = Path(folder) / "first"
        with Served(
            first, MODELS_DIR, log=Path(folder) / "log", TEXT_MODEL=OLD, IMAGE_MODEL="none"
        ) as service:
            began = time.monotonic()
            fill(service.port, given.items, step=100)
            rate = given.items / (time.monotonic() - began)
            print(f"{given.items} texts stored by {OLD}, {rate:.0f} a second", flush=True)
        report = Report("bench_rebuild_pace")
        for limit in given.limits:
            data_dir = Path(folder) / f"data-{limit}"
            shutil.copytree(first, data_dir)
            report.add(list(measured(data_dir, given.items, limit, given.seconds)))


if __name__ == "__main__":
    main()
