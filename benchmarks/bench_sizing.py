"""What a collection takes on this machine: disk, memory, time to build, searches a second of one core.

    python -m benchmarks.bench_sizing [--sizes 10000x384 100000x384 100000x512 100000x768] [--seconds 4]

Prints the table of docs/DEPLOY.md, one row a size, and keeps it in .out/bench_sizing.json. Rows are made up,
as clustered as embeddings are; they are written as an import writes them, sealed by `index_store rebuild` and
searched over the wire (ten results, no model). `own` is what each worker holds for itself, `mapped` what all
share in the page cache; a core's searches are those answered for each second of the service's CPU.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import CORES, OUT
from benchmarks.http_load import closed_loop, cpu_seconds, post
from benchmarks.http_server import serving
from benchmarks.processes import free_port
from index_store.ann.rerank import Matrix
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec, ItemWrite, WriteBatch

SIZES = ("10000x384", "100000x384", "100000x512", "100000x768")
QUERIES = 500
CONNECTIONS = 8
TOP_K = 10
_BATCH = 2_000
_MB = 1 << 20
_SETTINGS = """\
[collections.bench]
model = "none"
dim = {dim}
default = true
"""
_COLUMNS = (
    ("rows", "items", "{:,}"),
    ("dim", "dim", "{}"),
    ("store_mb", "store, MB", "{:.0f}"),
    ("segments_mb", "segments, MB", "{:.0f}"),
    ("build_s", "build, s", "{:.0f}"),
    ("build_cpu_s", "build, CPU s", "{:.0f}"),
    ("builder_mb", "while building, MB", "{:.0f}"),
    ("own_mb", "own, MB", "{:.0f}"),
    ("mapped_mb", "mapped, MB", "{:.0f}"),
    ("searches_per_core", "searches/s a core", "{:,.0f}"),
    ("ms_p50", "p50, ms", "{:.1f}"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """What one collection takes. build: of all its segments. own: of the worker, mapped: of all workers."""

    rows: int
    dim: int
    store_mb: float
    segments_mb: float
    write_s: float
    build_s: float
    build_cpu_s: float
    builder_mb: float
    own_mb: float
    mapped_mb: float
    searches_per_core: float
    ms_p50: float


def vectors(count: int, dim: int, seed: int) -> Matrix:
    """Unit rows: points of a 24-dimensional mixture, bent into `dim`. The same mixture for each seed."""
    mixture, random = np.random.default_rng(5), np.random.default_rng(seed)
    centres = mixture.normal(size=(200, 24)).astype(np.float32)
    first = mixture.normal(size=(24, 128)).astype(np.float32)
    second = mixture.normal(size=(128, dim)).astype(np.float32)
    latent = centres[random.integers(0, 200, count)] + random.normal(size=(count, 24)).astype(np.float32)
    bent: Matrix = np.maximum(latent @ first, 0) @ second
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)
    return bent


def write(data: Path, rows: int, dim: int) -> float:
    """Return the seconds of writing, the making of vectors left out."""
    index, took = EmbeddedIndex(data, [CollectionSpec("bench", "int64", dim, "l2")]), 0.0
    index.open()
    index.advance("bench", "begin", "sizing-1")
    for start in range(0, rows, _BATCH):
        made = vectors(min(_BATCH, rows - start), dim, start + 1)
        items = [ItemWrite(start + place, row) for place, row in enumerate(made)]
        began = time.perf_counter()
        index.write("bench", WriteBatch(items, embedding_version="sizing-1"))
        took += time.perf_counter() - began
    index.close()
    return took


def build(data: Path) -> tuple[float, float, float]:
    """Return seconds, CPU seconds and peak memory in MB of making all segments. Raises RuntimeError."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "index_store", "rebuild", str(data)], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"rebuild ended with {status}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def megabytes(paths: Iterator[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / _MB


def memory_mb(process_id: int) -> tuple[float, float]:
    """Return (own, mapped) MB of a process: anonymous memory, and files in its memory."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process_id}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024, int(lines["RssFile"].split()[0]) / 1024


def served(folder: Path, dim: int, seconds: float) -> tuple[float, float, float, float]:
    """Return own and mapped MB, searches a second of a core and p50 in ms of one worker."""
    (folder / "collections.toml").write_text(_SETTINGS.format(dim=dim))
    bodies = [
        {"vector": base64.b64encode(row.tobytes()).decode(), "top_k": TOP_K}
        for row in vectors(QUERIES, dim, 1 << 30)
    ]
    requests = [post("/v1/search", json.dumps(body).encode()) for body in bodies]
    port = free_port()
    environ = {
        "PORT": str(port),
        "DATA_DIR": str(folder / "data"),
        "COLLECTIONS_FILE": str(folder / "collections.toml"),
        "KEYLESS_WRITES": "loopback",
        "LOG_LEVEL": "error",
        "MAINTENANCE": "off",
        "RECALL_SAMPLE_S": "0",
        "SEARCH_DEADLINE_MS": "60000",
        "QUEUE_MS_MAX": "60000",
    }
    with serving("service", [], environ, port, folder / "log", requests[0]) as server:
        closed_loop(port, requests, connections=CONNECTIONS, seconds=seconds / 2)  # everything is mapped
        before = cpu_seconds(server.process_id)
        load = closed_loop(port, requests, connections=CONNECTIONS, seconds=seconds).require_ok()
        used = cpu_seconds(server.process_id) - before
        alone = closed_loop(port, requests, connections=1, seconds=seconds / 2).require_ok()
        own, mapped = memory_mb(server.process_id)
    return own, mapped, len(load.seconds) / used, alone.ms(50)


def measure(rows: int, dim: int, seconds: float) -> Size:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        write_s = write(data, rows, dim)
        build_s, build_cpu_s, builder_mb = build(data)
        own, mapped, searches, p50 = served(folder, dim, seconds)
        store = megabytes(data.rglob("store.sqlite*"))
        segments = megabytes((data / "collections").rglob("segments/*/*"))
    return Size(
        rows, dim, store, segments, write_s, build_s, build_cpu_s, builder_mb, own, mapped, searches, p50
    )


def table(sizes: Sequence[Size]) -> Iterator[str]:
    """The rows of a Markdown table."""
    yield f"| {' | '.join(title for _, title, _ in _COLUMNS)} |"
    yield f"|{' ---: |' * len(_COLUMNS)}"
    for size in sizes:
        figures = asdict(size)
        yield f"| {' | '.join(form.format(figures[name]) for name, _, form in _COLUMNS)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="ROWSxDIM")
    parser.add_argument("--seconds", type=float, default=4.0, help="of searches under load")
    wanted = parser.parse_args(argv)
    print(f"{CORES} cores, load average {os.getloadavg()[0]:.1f}: what else runs takes from every time")
    sizes = []
    for size in wanted.sizes:
        rows, dim = map(int, size.split("x"))
        sizes.append(measure(rows, dim, wanted.seconds))
        print(sizes[-1], flush=True)
    OUT.mkdir(exist_ok=True)
    (OUT / "bench_sizing.json").write_text(json.dumps([asdict(each) for each in sizes], indent=1) + "\n")
    print("\n".join(table(sizes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
