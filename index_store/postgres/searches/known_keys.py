"""Which keys of filters some row of a generation has, or had: what a process has found is kept, and only rows
that came since are looked at."""

from __future__ import annotations

from typing import Any

import psycopg

from index_store.lru import LruCache
from index_store.postgres.conditions import key_condition
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.schema import rows_table

FIRST_ROWS = 64
"""A common key is found in these."""
ROWS_MAX = 200_000
"""Looked at for one answer (some .3 s): a search by a misspelled key must not take as long as a pass."""
_FOUND = -1


class RowKeys:
    """Safe from any thread."""

    def __init__(self, keys_max: int = 4096, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._looked: LruCache[tuple[int, str], int] = LruCache(keys_max)
        """Up to which seq, by number of the generation and key; `_FOUND` where a row has it."""

    def is_held(self, connection: psycopg.Connection[Any], generation: GenerationRecord, key: str) -> bool:
        """Return False only where no row up to the generation's head has, or had, a value under the key. With
        more rows than are looked at for one answer, the answers before the last look say True. Raises
        psycopg.Error, InvalidFilter."""
        number, head = generation.number, generation.head
        looked = self._looked.find((number, key)) or 0
        if looked == _FOUND or looked >= head:
            return looked == _FOUND
        for rows in (FIRST_ROWS, self._rows_max):
            is_found, until = _look(connection, number, key, looked, head, rows)
            looked = _FOUND if is_found else until
            self._looked.keep((number, key), looked)
            if looked in (_FOUND, head):
                break
        return looked != head


def _look(
    connection: psycopg.Connection[Any], number: int, key: str, looked: int, head: int, rows: int
) -> tuple[bool, int]:
    """Return whether one of the next rows by seq has the key, and up to which seq they go: whole seqs, and
    `head` where there are no more."""
    held = key_condition(key)
    query = (
        f"SELECT coalesce(bool_or({held.sql}), false), count(*), max(seq) FROM (SELECT seq, facts "
        f"FROM {rows_table(number)} WHERE seq > %s AND seq <= %s "
        "ORDER BY seq FETCH FIRST %s ROWS WITH TIES) AS looked"
    )
    found = connection.execute(query.encode(), (*held.parameters, looked, head, rows)).fetchone()
    assert found is not None, "one row, whatever there is"
    is_found, count, until = found
    return bool(is_found), head if count < rows else int(until)
