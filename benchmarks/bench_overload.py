"""What the service does when more comes than it can answer.

    python -m benchmarks.bench_overload [--seconds 30] [--only text8 text40 text120 picture vector mix fair]

For each kind of request: capacity C in a closed loop, the p99 of answers at .8 C, then 2 and 5 times C in an
open loop. Figures are ratios within one run; the load client is a process of its own, on the same cores, in C
as well: how late it was stands beside each figure. The last part is one caller who sends 60
long texts a second beside another's short ones, which are less than that one's share of the cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.embedding_service import Report, Row
from benchmarks.http_load import post
from benchmarks.http_server import Server, serving
from benchmarks.overload_client import KINDS, Load, Seen
from benchmarks.processes import free_port

MODELS_DIR = Path(".models")
TIMES = (2, 5)
CLOSED_S = 8.0
REFERENCE_S = 10.0
WARM_S = 3.0
RECOVERY_S = 8.0
WINDOW_S = 1.0
CLIENT_S_MAX = 300
SHORT_A_SECOND, LONG_A_SECOND = 30.0, 60.0
KEYS = ("the-caller-of-long-texts", "the-caller-of-short-texts")


class LoadClient:
    """A client process; `seen` waits for what it saw."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overload_client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(load)).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def seen(self) -> Seen:
        out, _ = self._process.communicate(timeout=CLIENT_S_MAX)
        return Seen(**json.loads(out))


def sent(load: Load) -> Seen:
    return LoadClient(load).seen()


def p99_ms(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99)) * 1000 if seconds else float("nan")


def memory_mb(process_id: int) -> float:
    """Return what the service and its processes hold for themselves."""
    parent = psutil.Process(process_id)
    found = 0.0
    for process in (parent, *parent.children(recursive=True)):
        try:
            found += process.memory_full_info().uss / 1e6
        except psutil.NoSuchProcess:
            continue
    return found


def cpu_s(process_id: int) -> float:
    """Return the processor time of the service and its processes so far."""
    parent = psutil.Process(process_id)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def measured(kind: str, server: Server, seconds: float) -> Iterator[Row]:
    load = Load(server.port, kind, WARM_S)
    sent(load)
    used_s = cpu_s(server.process_id)
    capacity = len(sent(replace(load, seconds=CLOSED_S, seed=2)).ok_s) / CLOSED_S
    at_c = f"{(cpu_s(server.process_id) - used_s) / CLOSED_S:.2f} at C"
    calm = sent(replace(load, seconds=REFERENCE_S, rate=max(1.0, 0.8 * capacity), seed=3))
    calm_ms = p99_ms(calm.ok_s)
    for times in TIMES:
        before_mb = memory_mb(server.process_id)
        used_s = cpu_s(server.process_id)
        seen = sent(replace(load, seconds=seconds, rate=times * capacity, seed=3 + times))
        used_s = cpu_s(server.process_id) - used_s
        grown = memory_mb(server.process_id) / before_mb - 1
        after = sent(replace(load, seconds=RECOVERY_S, rate=max(1.0, capacity / 2), seed=10 + times))
        name = f"{kind} at {times} C"
        goodput = len(seen.ok_s) / seconds
        detail = (
            f"C {capacity:.1f}/s, sent {seen.sent}, unsent {seen.unsent}, others {seen.others}; "
            f"client late by {p99_ms(seen.late_s):.0f} ms (p99); service {used_s / seconds:.2f} cores, {at_c}"
        )
        yield Row(f"{name}: goodput / C", goodput / capacity, 0.9, at_least=True, detail=detail)
        yield Row(
            f"{name}: p99 of answers / at .8 C",
            p99_ms(seen.ok_s) / calm_ms,
            2.0,
            detail=f"{p99_ms(seen.ok_s):.0f} ms, {calm_ms:.0f} ms",
        )
        refused_ms = p99_ms(seen.refused_s) if seen.refused_s else 0.0
        yield Row(f"{name}: p99 of refusals, ms", refused_ms, 20.0, detail=f"{len(seen.refused_s)}")
        yield Row(f"{name}: memory grown by", grown, 0.1, detail=f"of {before_mb:.0f} MB")
        yield Row(f"{name}: normal again after, s", _normal_after_s(after, calm_ms), 5.0)


def _normal_after_s(seen: Seen, calm_ms: float) -> float:
    """Return when the first second began in which every answer was good and as fast as in calm; half of C."""
    for start in np.arange(0.0, RECOVERY_S - WINDOW_S, WINDOW_S / 2):
        inside = [
            took for at, took in zip(seen.ok_at, seen.ok_s, strict=True) if start <= at < start + WINDOW_S
        ]
        wanted = seen.sent / RECOVERY_S * WINDOW_S
        if len(inside) >= 0.95 * wanted - 1 and p99_ms(inside) <= 2 * calm_ms:
            return float(start)
    return RECOVERY_S


def fair(server: Server, seconds: float) -> Iterator[Row]:
    short = Load(server.port, "text8", min(10.0, seconds), SHORT_A_SECOND, keys=[KEYS[1]])
    alone = sent(short)
    hog = LoadClient(Load(server.port, "text120", seconds + 4, LONG_A_SECOND, keys=[KEYS[0]], seed=5))
    time.sleep(2)  # until the long ones queue
    beside = sent(replace(short, seed=6))
    long = hog.seen()
    share = (len(beside.ok_s) / beside.sent) / (len(alone.ok_s) / alone.sent)
    detail = ", ".join(
        f"{name} {len(seen.ok_s)} of {seen.sent}"
        for name, seen in (("beside", beside), ("alone", alone), ("long", long))
    )
    name = f"{SHORT_A_SECOND:.0f} short texts/s beside {LONG_A_SECOND:.0f} long"
    yield Row(f"{name}: answered / alone", share, 0.95, at_least=True, detail=detail)
    yield Row(f"{name}: p99 of the short ones, ms", p99_ms(beside.ok_s), 1000.0)


@contextmanager
def _service(keys: Sequence[str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        port = free_port()
        environ = {
            "HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": f"{folder}/data",
            "MODELS_DIR": str(MODELS_DIR.resolve()), "TEXT_MODEL": "builtin:multilingual-e5-small",
            "IMAGE_MODEL": "builtin:efficientnet-lite0-views", "SEARCH_API_KEY": ",".join(keys),
        }  # fmt: skip
        first = post("/v1/search", b'{"query": "soup"}')
        if keys:
            first = first.replace(b"\r\n", f"\r\nx-api-key: {keys[0]}\r\n".encode(), 1)
        with serving("service", ["--demo"], environ, port, Path(folder) / "log", first) as server:
            yield server


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", nargs="*", choices=[*KINDS, "fair"], default=[*KINDS, "fair"])
    given = parser.parse_args(arguments)
    report = Report("bench_overload")
    kinds = [kind for kind in given.only if kind != "fair"]
    if kinds:
        with _service(()) as server:
            for kind in kinds:
                for row in measured(kind, server, given.seconds):
                    report.add([row])
    if "fair" in given.only:
        with _service(KEYS) as server:
            report.add(list(fair(server, given.seconds)))


if __name__ == "__main__":
    main()
