"""What keeping the text of an item costs: upserts a second and bytes on disk, with `keep_content` or not.

    python -m benchmarks.bench_kept_content [--items 8000] [--batch 100]

One service, two collections, the same texts and vectors of the same cheap model; batches go to one and the
other in turn, so what else the machine does hits both. First short texts (recipes, some 70 characters), then
ten of them in one.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.embedding_service import Report, Row, Served, texts
from benchmarks.model_change_load import Caller

MODELS_DIR = Path(".models")
NAMES = ("kept", "not_kept")
RATE_MIN, BYTES_MAX = 0.8, 1.5
COLLECTIONS = "".join(
    f"[collections.{name}]\nmodel = 'builtin:hashed-ngrams'\nkeep_content = {str(name == 'kept').lower()}\n"
    for name in NAMES
)


def bodies(some: Sequence[str], batch: int) -> list[list[dict[str, object]]]:
    items: list[dict[str, object]] = [{"id": number, "text": text} for number, text in enumerate(some)]
    return [items[at : at + batch] for at in range(0, len(items), batch)]


def stored_bytes(data_dir: Path, name: str) -> int:
    """Return the size of a store's pages in use, whatever lies in its write-ahead log."""
    store = data_dir / "collections" / name / "g000001" / "store.sqlite"
    connection = sqlite3.connect(store)
    try:
        pages, free, size = (
            connection.execute(f"PRAGMA {each}").fetchone()[0]
            for each in ("page_count", "freelist_count", "page_size")
        )
    finally:
        connection.close()
    return int((pages - free) * size)


def measured(kind: str, some: Sequence[str], batch: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="kept-content-") as folder:
        file, data_dir = Path(folder) / "collections.toml", Path(folder) / "data"
        file.write_text(COLLECTIONS)
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        with Served(
            data_dir, MODELS_DIR, log=Path(folder) / "log", COLLECTIONS_FILE=str(file), MAINTENANCE="off"
        ) as service:
            caller = Caller(service.port)
            for turn, items in enumerate(bodies(some, batch)):
                for name in NAMES if turn % 2 else NAMES[::-1]:
                    began = time.perf_counter()
                    status, answer = caller.post("/v1/upsert", {"collection": name, "items": items})
                    seconds[name].append(time.perf_counter() - began)
                    if status != 200:
                        raise RuntimeError(f"{status} {answer[:300]!r}")
        kept, bare = (stored_bytes(data_dir, name) for name in NAMES)
    per_second = {name: batch / statistics.median(took) for name, took in seconds.items()}
    size = sum(len(text.encode()) for text in some) / len(some)
    name = f"{kind} texts ({size:.0f} bytes)"
    detail = f"{per_second['kept']:.0f} and {per_second['not_kept']:.0f} items a second, batches of {batch}"
    sizes = f"{kept / len(some):.0f} and {bare / len(some):.0f} bytes an item"
    return [
        Row(f"{name}: upserts a second, kept / not kept", per_second["kept"] / per_second["not_kept"],
            RATE_MIN, True, detail),
        Row(f"{name}: store, kept / not kept", kept / bare, BYTES_MAX, detail=sizes),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=100)
    given = parser.parse_args(arguments)
    report = Report("bench_kept_content")
    short = texts(given.items)
    report.add(measured("short", short, given.batch))
    long = [" ".join(short[(at + step) % len(short)] for step in range(10)) for at in range(given.items)]
    report.add(measured("long", long, given.batch))


if __name__ == "__main__":
    main()
