"""What an index takes of memory and disk, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one generation takes, as this process sees it. delta_rows: rows that are not sealed yet, which
    wait in memory where searches read them. hidden_rows: sealed rows that no search returns, since they were
    changed, deactivated or deleted; of a generation that is not in memory those of its newest snapshot.
    tombstones: deleted ids that are kept, up to a minute old. store_bytes: of the store of record with its
    write-ahead log. mapped_bytes: of the files of its segments."""

    generation: str
    delta_rows: int
    segments: int
    sealed_rows: int
    hidden_rows: int
    tombstones: int
    store_bytes: int
    mapped_bytes: int


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Of the disk that the collections are on. free_bytes: None where it can't be told from here.
    reserve_bytes: writes are refused while less is free; None where nothing here refuses them."""

    free_bytes: int | None
    reserve_bytes: int | None
