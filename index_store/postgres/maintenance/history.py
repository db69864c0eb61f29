"""Old versions of rows are removed once no page asks for them any more.

A page asks for rows as of the seq of its first page. What was given `keep_s` ago or later is answered; then
`history_from` rises, and older pages are told that they have expired. A search that has read the old value
may still be under way, so the rows go only `grace_s` after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from index_store.postgres.connections import BoundedConnection
from index_store.postgres.schema import rows_table, words_table

_BATCH_ROWS = 5000
"""Of one transaction, but for more that ended with one write."""


@dataclass(slots=True)
class _Known:
    """Of one generation. heads: (when, which), rising. history_from: since `stated_at`."""

    heads: deque[tuple[float, int]] = field(default_factory=deque)
    history_from: int = 0
    stated_at: float = 0.0


class VersionHistory:
    """Which heads were seen when: in memory, so a new process keeps everything for `keep_s` first. For one
    thread."""

    def __init__(self, keep_s: float, grace_s: float, clock: Callable[[], float]) -> None:
        """clock: seconds that only go forward. grace_s: longer than any search takes."""
        self._keep_s = keep_s
        self._grace_s = grace_s
        self._clock = clock
        self._known: dict[int, _Known] = {}

    def prune(self, connection: BoundedConnection, number: int, head: int) -> int:
        """Note the head of a generation, remove what no page can ask for, and return how many versions that
        were. Raises psycopg.Error."""
        known = self._known.setdefault(number, _Known())
        if not known.heads or known.heads[-1][1] != head:
            known.heads.append((self._clock(), head))
        removed = 0
        if known.history_from and self._clock() >= known.stated_at + self._grace_s:
            removed = _removed(connection, number, known.history_from)
        expired = self._clock() - self._keep_s
        while len(known.heads) > 1 and known.heads[1][0] <= expired:
            known.heads.popleft()
        seen_at, seen = known.heads[0]
        if seen_at <= expired and seen > known.history_from:
            connection.execute(
                "UPDATE generation SET history_from = greatest(history_from, %s) WHERE number = %s",
                (seen, number),
            )
            known.history_from, known.stated_at = seen, self._clock()
        return removed


def _removed(connection: BoundedConnection, number: int, history_from: int) -> int:
    """Remove versions that ended at `history_from` or before, and their words, a few at a time."""
    table = rows_table(number)
    removed = 0
    while True:
        found = connection.execute(
            f"SELECT max(until), count(*) FROM (SELECT until FROM {table} WHERE until <= %s ORDER BY until "
            f"LIMIT {_BATCH_ROWS}) oldest".encode(),
            (history_from,),
        ).fetchone()
        assert found is not None
        until, count = found
        if not count:
            return removed
        with connection.transaction():
            connection.execute(
                f"DELETE FROM {words_table(number)} w USING {table} r "
                "WHERE r.until <= %s AND w.id = r.id AND w.seq = r.seq".encode(),
                (until,),
            )
            gone = connection.execute(f"DELETE FROM {table} WHERE until <= %s".encode(), (until,))
        removed += gone.rowcount
