"""Makes the golden data directory of the present format: `python -m tests.golden.make`.

Run it only when `format_version` changes, into a directory of that version; older ones stay as they are.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np

from index_store.embedded.engine import EmbeddedIndex
from index_store.embedded.maintenance import Maintenance, MaintenanceLimits
from index_store.embedded.segment_build import BuildOptions
from index_store.storage.schema import FORMAT_VERSION
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, Vector, WriteBatch

DIRECTORY = Path(__file__).parent / f"format-{FORMAT_VERSION}"
SPECS = [CollectionSpec("numbers", "int64", 4, "l2"), CollectionSpec("names", "string", 4, "cosine")]


def vector(number: int) -> Vector:
    """Written out, not drawn: no library's random numbers may change what is expected."""
    return np.array([math.sin((number + 1) * (place + 1)) for place in range(4)], dtype=np.float32)


def main() -> None:
    index = EmbeddedIndex(DIRECTORY, SPECS)
    index.open()
    limits = MaintenanceLimits(seal_rows=1, waste_share=1e9, disk_reserve_bytes=0, build=BuildOptions("hnsw"))
    for spec in SPECS:
        index.advance(spec.name, "begin", "golden-1")

    def write(first: int, last: int) -> None:
        for spec in SPECS:
            named = [n if spec.id_kind == "int64" else f"상품-{n}" for n in range(first, last)]
            items = [
                ItemWrite(one, vector(n), metadata={"shade": n % 3, "이름": f"n{n}"}, source_version=n)
                for n, one in zip(range(first, last), named, strict=True)
            ]
            gone = [ItemDelete(named[0], first + 1000)]
            index.write(spec.name, WriteBatch(items, gone, "golden-1", {"source": str(last)}))

    write(0, 150)
    Maintenance(DIRECTORY, limits=limits).run_once()
    write(140, 160)
    Maintenance(DIRECTORY, limits=limits).run_once()
    write(158, 165)  # not sealed
    index.close()
    for store in DIRECTORY.rglob("store.sqlite"):
        connection = sqlite3.connect(store)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    for path in DIRECTORY.rglob("*"):
        if path.name.endswith((".lock", "-wal", "-shm")) or path.name == "scrub.json":
            path.unlink()
    for stale in DIRECTORY.glob("*.tmp-*"):
        shutil.rmtree(stale)


if __name__ == "__main__":
    main()
