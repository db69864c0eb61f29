"""The writes by which the index comes to hold what the source says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from feeder.changes import Changes
from feeder.facts import SourceReader, SourceState, has_content
from feeder.sink.brake import Store
from feeder.sink.writer import WriteResult
from vector_client.types import Id, Item

T = TypeVar("T")


def store_state(
    store: Store,
    reader: SourceReader,
    current: SourceState,
    version: str,
    source_version: int,
    cursors: Mapping[str, str],
) -> tuple[WriteResult, Mapping[Id, str]]:
    """Write what is known, remember it, and return what the service refused, with its reasons.

    An item whose new content is refused keeps its old one, but must not be shown while it is inactive: that
    is said on its own, and the cursors go behind it.
    """
    deactivated = {item.id for item in current.items if not item.active and has_content(item)}
    changes = changes_of(current, version, source_version)
    applied = store.apply(changes, {} if deactivated else cursors)
    refused = {row.id: f"{row.code}: {row.detail}" for row in applied.rejected if row.id is not None}
    if deactivated:
        still_deactivated = [
            Item(i, active=False, source_version=source_version) for i in refused if i in deactivated
        ]
        store.apply(
            Changes(still_deactivated, embedding_version=version if still_deactivated else None), cursors
        )
    reader.note_stored(current, refused)
    if not applied.unknown_ids:
        return applied, refused
    # It was taken for stored, and somebody has deleted it there: this time with its content.
    again = reader.current_state(ids=applied.unknown_ids, refetch=True)
    items = [item for item in again.items if has_content(item)]
    _, refused_again = store_state(
        store, reader, replace(again, items=items), version, source_version, cursors
    )
    return applied, {**refused, **refused_again}


def changes_of(current: SourceState, version: str, source_version: int) -> Changes:
    """Return the writes that make the index hold what is known. source_version: newer than that of any
    write made before these facts were read."""
    items = [replace(item, source_version=source_version) for item in current.items]
    return Changes(items, current.absent, version if items else None, delete_version=source_version)


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of at most `size` values, in order."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
