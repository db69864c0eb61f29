"""Rows of the store by id, those that no search can find among them.

Views hold live rows only, so this reads the store: one pass over the small columns in the order of ids, from
wherever the last one ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from index_store.filter.cache import CompiledFilter
from index_store.filter.lifetimes import shown_texts
from index_store.filter.texts import passing_texts
from index_store.listings import ItemsRequest
from index_store.record.rows import Row
from index_store.storage.schema import Connection, is_bindable
from index_store.storage.transaction import read_rows
from index_store.types import Id
from item_rules.lifetime import ShownSpan
from item_rules.metadata import text_bytes

_CHUNK_ROWS = 512
"""Searches run in the same interpreter: between two rows SQLite lets others have their turn, so what Python
does at once must be short."""
_COLUMNS = "SELECT id, deleted, active, vector IS NOT NULL, metadata FROM item"


@dataclass(frozen=True, slots=True)
class StoredPage:
    """rows: sound ones that were wanted, by id. damaged: ids of wanted ones that failed their checksum.
    next_after: as of `ItemsResult`. seq: of the moment that all this is of. looked: at so many rows."""

    rows: Sequence[Row]
    damaged: Sequence[Id]
    next_after: Id | None
    seq: int
    looked: int


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """One row that was looked at. id: None where it has rotted into something else. is_wanted: known, of the
    state that was asked for, and passing the filter."""

    id: Id | None
    is_wanted: bool
    metadata_bytes: int


def read_item_page(
    connection: Connection,
    request: ItemsRequest,
    condition: CompiledFilter | None,
    span: ShownSpan | None = None,
) -> StoredPage:
    """Return the next stored items. span: which of them are shown, where that says who is live. Inside the
    caller's transaction."""
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    wanted: list[Id] = []
    looked, size, last = 0, 0, request.after
    is_full = False
    for row in scanned_rows(connection, request, condition, span):
        looked += 1
        last = last if row.id is None else row.id
        if row.is_wanted and row.id is not None:
            wanted.append(row.id)
            size += row.metadata_bytes
            is_full = len(wanted) == request.items_max or size >= request.metadata_bytes_max
            if is_full:
                break
    sound, damaged = read_rows(connection, wanted)
    is_end = not is_full and looked < request.rows_max
    rows = [sound[item_id] for item_id in wanted if item_id in sound]
    return StoredPage(rows, list(damaged), None if is_end else last, seq, looked)


def read_ids(
    connection: Connection,
    request: ItemsRequest,
    condition: CompiledFilter | None,
    span: ShownSpan | None = None,
) -> tuple[list[Id], Id | None]:
    """Return the ids of all wanted items among the next rows, and where to go on. span: as of
    `read_item_page`."""
    wanted: list[Id] = []
    looked, last = 0, request.after
    for row in scanned_rows(connection, request, condition, span):
        looked += 1
        if row.id is not None:
            last = row.id
            if row.is_wanted:
                wanted.append(row.id)
    return wanted, None if looked < request.rows_max else last


def scanned_rows(
    connection: Connection,
    request: ItemsRequest,
    condition: CompiledFilter | None,
    span: ShownSpan | None = None,
) -> Iterator[ScannedRow]:
    """Yield `rows_max` rows beyond `after` by id, tombstones among them; fewer at the end."""
    for chunk in _chunks(connection, request):
        if condition is None:
            passes: Sequence[bool] = [True] * len(chunk)
        else:
            passes = passing_texts(condition.node, [text for *_, text in chunk])
        shown: Sequence[bool] = [True] * len(chunk)
        if span is not None and request.is_live is not None:
            shown = shown_texts(span, [text for *_, text in chunk])
        for (item_id, deleted, active, has_vector, text), does_pass, is_shown in zip(
            chunk, passes, shown, strict=True
        ):
            is_of_state = request.is_live in (None, bool(active and has_vector and is_shown))
            is_of_state &= request.is_active in (None, bool(active))
            is_readable = isinstance(item_id, int | str) and is_bindable(item_id)
            is_wanted = bool(not deleted and does_pass and is_of_state)
            size = text_bytes(text) if isinstance(text, str) else 0
            yield ScannedRow(item_id if is_readable else None, is_wanted, size)


def _chunks(connection: Connection, request: ItemsRequest) -> Iterator[list[Any]]:
    after = request.after
    if after is None:
        rows = connection.execute(f"{_COLUMNS} ORDER BY id LIMIT ?", (request.rows_max,))
    else:
        rows = connection.execute(f"{_COLUMNS} WHERE id>? ORDER BY id LIMIT ?", (after, request.rows_max))
    left = iter(rows)
    while chunk := list(islice(left, _CHUNK_ROWS)):
        yield chunk
