"""What the proof costs beside reading the rows that it is about.

    python -m benchmarks.bench_verify [--rows 1000000] [--dim 512] [--repeats 3]

In turns over one table of a private PostgreSQL: the feeder's pages read and dropped ("reading"), and a whole
comparison by `feeder.compare.reconciler` with its list of rows in memory, as `verify` runs it. The other side
answers with the sums of an index that is equal, as a service does from its stored 4,096 sums (some ms over
HTTP, not counted). Then one row is changed, and the comparison has to name it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import numpy as np

from benchmarks.bench_import import connect, exported, fill, private_databases, source_of
from feeder.changes import Changes
from feeder.compare.reconciler import Reconciler
from feeder.compare.report import Report
from feeder.compare.source_side import SourceSide
from feeder.digest import Shares, Sums, bucket_of, root_of
from feeder.read.vector_reader import VectorReader
from feeder.settings import Settings
from feeder.sink.brake import Brake
from feeder.sink.writer import WriteResult
from feeder.state.key_map import IN_MEMORY, KeyMap
from vector_client.types import CollectionState, Differing, Digest, DigestRow, Id

VERSION = "bench-space"


class EqualIndex:
    """An index that holds what the source held when it was made. Fits sink.brake.Store."""

    def __init__(self, reader: VectorReader) -> None:
        self._side = SourceSide(Shares(VERSION))
        for chunk in reader.scan().chunks():
            self._side.add_chunk(chunk)
        self._side.seal()
        self._sums = self._side.sums.copy()

    def state(self) -> CollectionState:
        raise NotImplementedError

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> WriteResult:
        raise NotImplementedError

    def digest(self) -> Digest:
        return Digest(root_of(self._sums), self._sums.tolist(), self._side.count, 1)

    def differing(self, sums: Sums) -> Differing:
        parts = np.flatnonzero(self._side.sums_in(len(sums)) != sums).tolist()
        held = self._side.rows_in(parts, len(sums))
        rows = [DigestRow(item_id, row.share, row.active, True) for item_id, row in held.items()]
        return Differing(parts, rows)


def reader_of(settings: Settings, options: argparse.Namespace) -> VectorReader:
    source = source_of(settings, options.dim)
    reader = VectorReader(source, None, KeyMap(IN_MEMORY), id_kind="int64", page_rows=options.page_rows)
    reader.open()
    return reader


def compared(settings: Settings, options: argparse.Namespace, index: EqualIndex) -> Report:
    reader = reader_of(settings, options)
    try:
        return Reconciler(
            "bench", index, reader, Brake(5), batch_items=2_000, clock=time.time, pause=lambda _: None
        ).compare(VERSION)
    finally:
        reader.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page-rows", type=int, default=20_000)
    options = parser.parse_args()
    with private_databases("postgres") as databases:
        environ = databases["postgres"]
        fill(environ, options.rows, options.dim)
        settings = Settings.from_environ(environ)
        reader = reader_of(settings, options)
        index = EqualIndex(reader)
        reader.close()
        ratios: list[float] = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            exported(settings, options.dim, options.page_rows)
            reading = time.perf_counter() - began
            began = time.perf_counter()
            report = compared(settings, options, index)
            verifying = time.perf_counter() - began
            assert report.is_equal, report
            ratios.append(verifying / reading)
            print(f"reading {reading:.2f} s, verify {verifying:.2f} s: {ratios[-1]:.2f} x", flush=True)
        median = statistics.median(ratios)
        print(f"{options.rows:,} rows of {options.dim}: median {median:.2f} x (1.5 is the aim)")
        changed: Id = options.rows // 2
        with connect(environ) as db:
            db.execute(
                "UPDATE bench SET v = (SELECT v FROM bench WHERE pk = 0) WHERE item_id = %s", (changed,)
            )
        began = time.perf_counter()
        found = compared(settings, options, index).left.all_ids
        print(f"one changed row of bucket {bucket_of(changed)}: {found}, {time.perf_counter() - began:.2f} s")
        assert found == [changed]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
