"""What one process of several does in `bench_ann`: open a segment, search it, report.

    python -m benchmarks.ann_processes DIRECTORY QUERIES.npy THREADS SEARCHES

Says "ready", waits for a line, searches, then prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np

from index_store.segment.reader import SegmentReader


def run_processes(
    directory: Path, queries: Path, processes: int, threads: int, searches: int
) -> list[dict[str, float]]:
    """Return each process's report; all search at the same time, `searches` a thread."""
    command = [sys.executable, "-m", "benchmarks.ann_processes", str(directory), str(queries)]
    started = [
        subprocess.Popen(
            [*command, str(threads), str(searches)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:  # all have opened the segment; now all search
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = []
    for process in started:
        assert process.stdout is not None
        reports.append(json.loads(process.stdout.readline()))
    for process in started:  # kept alive until all have reported: memory is shared while all map it
        process.communicate("stop\n")
    return reports


def _memory(directory: Path) -> tuple[float, float]:
    """(MB of the directory's mapped files that are this process's share, private MB of all else)."""
    shared = private = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            is_ours = str(directory) in line
        elif first == "Pss:" and is_ours:
            shared += int(line.split()[1])
        elif first in ("Private_Dirty:",) and not is_ours:
            private += int(line.split()[1])
    return shared / 1024, private / 1024


def main() -> None:
    directory, queries = Path(sys.argv[1]).resolve(), np.load(sys.argv[2])
    threads, searches = int(sys.argv[3]), int(sys.argv[4])
    faiss.omp_set_num_threads(1)
    before = _memory(directory)[1]
    segment = SegmentReader.open(directory)
    print("ready", flush=True)
    sys.stdin.readline()

    def search(_thread: int) -> None:
        faiss.omp_set_num_threads(1)
        for n in range(searches):
            segment.candidates(queries[n % len(queries)], 25, None)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(search, range(threads)))
    took = time.perf_counter() - began
    shared, private = _memory(directory)
    report = {"per_second": threads * searches / took, "shared_mb": shared, "private_mb": private - before}
    print(json.dumps(report), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
