"""Pages of stored items: rows by id as of one head, tombstones among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg

from index_store.listings import ItemsRequest
from index_store.postgres.conditions import EVERYTHING, Condition, all_of
from index_store.types import Id

_FIRST_ROWS = 128
_WIDER = 4


class ItemScan(NamedTuple):
    """What a list goes through. table: of the rows. head: as of which seq. passes: what is wanted by the
    filter. shown: who is live by the clock."""

    connection: psycopg.Connection[Any]
    table: str
    head: int
    passes: Condition = EVERYTHING
    shown: Condition = EVERYTHING


class IdPage(NamedTuple):
    """ids: of wanted items, in order. next_after: as of `ItemsResult`. looked: at so many rows."""

    ids: Sequence[Id]
    next_after: Id | None
    looked: int


def read_page(scan: ItemScan, request: ItemsRequest) -> IdPage:
    """Return the ids of the next items, as many as a page of stored items holds."""
    wanted: list[Id] = []
    looked, size, last = 0, 0, request.after
    first_rows = min(request.rows_max, max(_FIRST_ROWS, request.items_max))
    for row_id, is_wanted, metadata_bytes in _scanned_rows(scan, request, first_rows):
        looked += 1
        last = row_id
        if is_wanted:
            wanted.append(row_id)
            size += metadata_bytes
            if len(wanted) == request.items_max or size >= request.metadata_bytes_max:
                return IdPage(wanted, last, looked)
    return IdPage(wanted, None if looked < request.rows_max else last, looked)


def read_ids(scan: ItemScan, request: ItemsRequest) -> IdPage:
    """Return the ids of all wanted items among the next rows."""
    rows = list(_scanned_rows(scan, request, request.rows_max))
    next_after = None if len(rows) < request.rows_max else rows[-1][0]
    return IdPage([row_id for row_id, is_wanted, _ in rows if is_wanted], next_after, len(rows))


def _scanned_rows(scan: ItemScan, request: ItemsRequest, first_rows: int) -> Iterator[tuple[Id, bool, int]]:
    """Yield id, whether it is wanted and the bytes of its metadata, of `rows_max` rows beyond `after` by id;
    of fewer at the end. first_rows: fetched at once, four times as many after that."""
    wanted = _wanted(scan, request)
    after, left, count = request.after, request.rows_max, first_rows
    while left > 0:
        count = min(count, left)
        beyond = Condition("true") if after is None else Condition("id > %s", (after,))
        query = (
            f"SELECT id, {wanted.sql}, coalesce(octet_length(metadata), 0) FROM {scan.table} "
            f"WHERE seq <= %s AND (until IS NULL OR until > %s) AND {beyond.sql} ORDER BY id LIMIT %s"
        )
        parameters = (*wanted.parameters, scan.head, scan.head, *beyond.parameters, count)
        rows = scan.connection.execute(query.encode(), parameters).fetchall()
        yield from rows
        if len(rows) < count:
            return
        after, left, count = rows[-1][0], left - count, count * _WIDER


def _wanted(scan: ItemScan, request: ItemsRequest) -> Condition:
    """Return the condition that a row is known, of the state that is asked for, and passes."""
    wanted = [Condition("NOT deleted"), scan.passes]
    if request.is_active is not None:
        wanted.append(Condition("active" if request.is_active else "NOT active"))
    if request.is_live is not None:
        live = f"active AND vector IS NOT NULL AND ({scan.shown.sql})"
        wanted.append(Condition(live if request.is_live else f"NOT ({live})", scan.shown.parameters))
    return all_of(wanted)
