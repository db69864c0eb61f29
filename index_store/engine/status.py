"""What the generations of a collection hold and take, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from index_store.catalog.snapshots import SEGMENTS, newest_published
from index_store.engine.generation import Generation
from index_store.engine.open_generations import OpenGenerations
from index_store.footprint import Footprint
from index_store.storage.schema import LIVE, STORE_FILE
from index_store.types import GenerationStatus

_UNSEALED = f"SELECT COUNT(*) FROM item WHERE seq>? AND {LIVE}"


def statuses(members: OpenGenerations) -> list[GenerationStatus]:
    """Return what each generation's store counts, current first. Raises StoreDamaged, StoreUnavailable."""
    pointer = members.pointer
    roles = (("current", pointer.current), ("next", pointer.next), ("former", pointer.former))
    out = []
    for role, member in roles:
        if member is None:
            continue
        counters = members.generations[member.name].store.counters()
        out.append(
            GenerationStatus(
                generation=member.name,
                role=role,  # type: ignore[arg-type]
                embedding_version=member.embedding_version,
                items=counters.items,
                live=counters.live,
                seq=counters.seq,
                cursors=counters.cursors,
                dim=counters.dim,
                origin=counters.origin,
                contents=counters.contents,
                awaiting=counters.awaiting,
            )
        )
    return out


def footprints(members: OpenGenerations) -> list[Footprint]:
    """Return what each generation takes, current first. Raises StoreDamaged, StoreUnavailable."""
    return [_footprint(generation) for generation in members.in_order()]


def _footprint(generation: Generation) -> Footprint:
    if not generation.is_in_memory:
        return _footprint_on_disk(generation)
    view = generation.refresh()
    directory = generation.store.directory
    return Footprint(
        generation=generation.name,
        delta_rows=view.count,
        segments=len(view.segments),
        sealed_rows=sum(one.segment.reader.rows for one in view.segments),
        hidden_rows=sum(one.hidden for one in view.segments),
        tombstones=generation.tombstones.as_of(view.seq),
        store_bytes=_bytes_of(directory.glob(f"{STORE_FILE}*")),
        mapped_bytes=_mapped_bytes(directory, [one.segment.name for one in view.segments]),
    )


def _footprint_on_disk(generation: Generation) -> Footprint:
    """Of one that is not in memory: by its newest snapshot, and what the store counts since."""
    directory = generation.store.directory
    with generation.store.reading() as connection:
        snapshot = newest_published(directory, connection)
        seq, segments = (0, []) if snapshot is None else snapshot
        (unsealed,) = connection.execute(_UNSEALED, (seq,)).fetchone()
        (newest,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    return Footprint(
        generation=generation.name,
        delta_rows=unsealed,
        segments=len(segments),
        sealed_rows=sum(one.rows for one in segments),
        hidden_rows=sum(one.rows - one.live for one in segments),
        tombstones=generation.tombstones.as_of(newest),
        store_bytes=_bytes_of(directory.glob(f"{STORE_FILE}*")),
        mapped_bytes=_mapped_bytes(directory, [one.name for one in segments]),
    )


def _mapped_bytes(directory: Path, segments: Sequence[str]) -> int:
    return sum(_bytes_of((directory / SEGMENTS / name).iterdir()) for name in segments)


def _bytes_of(paths: Iterable[Path]) -> int:
    """Return how long these files are together. Maintenance may remove some meanwhile."""
    found = 0
    try:
        for path in paths:
            found += path.stat().st_size
    except FileNotFoundError:
        return found
    return found
