"""What the generations of a collection hold and take, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from index_store.catalog.snapshots import SEGMENTS
from index_store.engine.generation import Generation
from index_store.engine.open_generations import OpenGenerations
from index_store.footprint import Footprint
from index_store.query.view import View
from index_store.storage.schema import STORE_FILE
from index_store.types import GenerationStatus


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
        mapped_bytes=_mapped_bytes(directory, view),
    )


def _mapped_bytes(directory: Path, view: View) -> int:
    return sum(_bytes_of((directory / SEGMENTS / one.segment.name).iterdir()) for one in view.segments)


def _bytes_of(paths: Iterable[Path]) -> int:
    """Return how long these files are together. Maintenance may remove some meanwhile."""
    found = 0
    try:
        for path in paths:
            found += path.stat().st_size
    except FileNotFoundError:
        return found
    return found
