"""When the next snapshot of a generation is due, and what it keeps: pure functions of counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from index_store.segment.builder import BuildOptions
from index_store.storage.disk_guard import RESERVE_BYTES

QUARANTINE_KEEP_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class MaintenanceLimits:
    """When maintenance does what.

    seal_rows: changes since the newest snapshot that make the next one due. segments_max: more are merged.
    waste_share: changes and dead rows, as a share of the first segment, that rebuild everything.
    snapshots_kept: the newest ones; older ones are removed. pause_s: seconds between two polls of the disk.
    scrub_pause_s: seconds between two rounds of reading everything. growing_polls_max: how many polls a
    rebuild waits for an import to end. quarantine_keep_s: seconds that a retired generation is kept.
    disk_reserve_bytes: what a build leaves free. build: how segments are built.
    """

    seal_rows: int = 4096
    segments_max: int = 4
    waste_share: float = 0.2
    snapshots_kept: int = 2
    pause_s: float = 1.0
    scrub_pause_s: float = 3600.0
    growing_polls_max: int = 120
    quarantine_keep_s: float = QUARANTINE_KEEP_S
    disk_reserve_bytes: int = RESERVE_BYTES
    build: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True, slots=True)
class GenerationShape:
    """A generation as the policy sees it. rows: of each segment. dead: rows of segments that are not live.
    changes: rows of the store, tombstones included, that came after the snapshot. is_stale: segments have
    not the postings that the store's lexical fields ask for."""

    rows: tuple[int, ...]
    dead: int
    changes: int
    is_damaged: bool
    is_stale: bool = False


def segments_kept(shape: GenerationShape, limits: MaintenanceLimits) -> int | None:
    """Return how many segments the next snapshot keeps, the first ones; None when no snapshot is due. Pure.

    All of them: the changes become one more segment (seal). 1: the small ones are merged behind the first.
    0: everything is built again."""
    if shape.is_damaged:
        if not shape.rows and not shape.changes:
            return None
    elif shape.changes < limits.seal_rows and not shape.is_stale:
        return None
    if not shape.rows or shape.is_stale:
        return 0
    if sum(shape.rows[1:]) + shape.dead + shape.changes > limits.waste_share * shape.rows[0]:
        return 0
    return 1 if len(shape.rows) >= limits.segments_max else len(shape.rows)
