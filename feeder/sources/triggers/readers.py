"""Who reads what triggers wrote: each service's feeder for itself, and none takes a row from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feeder.errors import FeedLost
from feeder.sources.triggers.dirty_set import SHARED, Statements, WatchedTable, names_of

_SIDE = "collection = %s AND side = %s"
_UNSEEN = _SIDE + " AND NOT EXISTS (SELECT 1 FROM {seen} AS s WHERE s.reader = %s AND s.gen = d.gen)"
_READERS = "SELECT reader FROM {readers} WHERE " + _SIDE
_STRIKE_OUT = "DELETE FROM {readers} WHERE " + _SIDE + " AND reader = %s"
_SOME = "SELECT gen FROM {dirty} WHERE " + _SIDE + " ORDER BY gen LIMIT %s"
_SEEN_BY_ALL = (
    "SELECT d.gen FROM {dirty} AS d JOIN {seen} AS s ON s.gen = d.gen"
    " JOIN {readers} AS r ON r.reader = s.reader AND r.collection = d.collection AND r.side = d.side"
    " WHERE d.collection = %s AND d.side = %s GROUP BY d.gen"
    " HAVING COUNT(*) >= (SELECT COUNT(*) FROM {readers} WHERE " + _SIDE + ") LIMIT %s"
)
_ANY_SEEN = "SELECT 1 FROM {seen} LIMIT 1"
_FORGET_SEEN = "DELETE FROM {seen} WHERE gen NOT IN (SELECT gen FROM {dirty})"
DROPPED_AT_ONCE = 5_000
_RIGHTS = (
    "INSERT INTO {readers} (collection, side, reader, seen_at)"
    " SELECT collection, side, reader, seen_at FROM {readers} WHERE 1 = 0",
    "UPDATE {readers} SET seen_at = seen_at WHERE 1 = 0",
    "DELETE FROM {readers} WHERE 1 = 0",
    "INSERT INTO {seen} (reader, gen) SELECT reader, gen FROM {seen} WHERE 1 = 0",
    "DELETE FROM {seen} WHERE 1 = 0",
    "DELETE FROM {dirty} WHERE 1 = 0",
)


class Readers:
    """One reader among those of a watched table. For one thread. Where triggers of an older release are
    installed there can be one reader only: it holds a lock that another service's feeder can't take."""

    def __init__(self, statements: Statements, watched: WatchedTable, reader: str) -> None:
        self._statements = statements
        self._reader = reader
        self._names = names_of(statements, watched)
        self._side = [watched.collection, watched.side]
        self._lock = f"vector feeder dirty {watched.collection} {watched.side} {self._names['dirty']}"
        self._is_shared = True

    def require_rights(self, installed: str) -> None:
        """Raises FeedLost where this user may not read here, or somebody else is the only reader."""
        self._set_kind(installed)
        if self._is_shared:
            self._statements.change([statement.format(**self._names) for statement in _RIGHTS])

    def resume(self, installed: str) -> None:
        """Raises FeedLost unless this reader has been entered."""
        self._set_kind(installed)
        self.keep_alive()

    def enter(self, installed: str) -> None:
        """From now on rows are kept for this reader."""
        self._set_kind(installed)
        if self._is_shared:
            self._run_statement(self._statements.register, [*self._side, self._reader])

    def keep_alive(self) -> None:
        """Say that this reader is there, and drop what all have seen. Raises FeedLost where it was struck
        out, since rows may have gone unseen."""
        if not self._is_shared:
            self._claim()
            return
        readers = self._known()
        if self._reader not in readers:
            raise FeedLost(f"{self._names['readers']} does not name this service: never, or not for a week")
        self._run_statement(self._statements.beat, [*self._side, self._reader])
        if len(readers) > 1 or self._statements.rows(_ANY_SEEN.format(**self._names), []):
            self._run_statement(self._statements.lapse, self._side)
            self._drop_seen()

    def leave(self, installed: str) -> bool:
        """Read no more; return whether nobody else does."""
        self._set_kind(installed)
        if not self._is_shared:
            return True
        self._run_statement(_STRIKE_OUT, [*self._side, self._reader])
        self._run_statement(self._statements.lapse, self._side)
        return not self._known()

    def unseen(self) -> tuple[str, list[Any]]:
        """Return a condition on rows `d`, and its values."""
        if not self._is_shared:
            return _SIDE, [*self._side]
        return _UNSEEN.format(**self._names), [*self._side, self._reader]

    def mark_seen(self, gens: Sequence[int]) -> None:
        """Note that these rows have been dealt with."""
        if not self._is_shared or self._known() == [self._reader]:
            self._drop(gens)
            return
        self._run_statement(self._statements.note_seen, [self._reader, *self._side, gens])
        self._drop_seen()

    def drop_some(self, rows_max: int) -> int:
        """Delete up to `rows_max` rows, seen or not; return how many."""
        found = self._statements.rows(_SOME.format(**self._names), [*self._side, rows_max])
        return self._drop([int(gen) for (gen,) in found])

    def _set_kind(self, installed: str) -> None:
        self._is_shared = installed.startswith(SHARED)
        if not self._is_shared:
            self._claim()

    def _claim(self) -> None:
        """The connection may be a new one: a lock that is ours still is taken once more."""
        ((is_ours,),) = self._statements.rows(self._statements.claim, [self._lock])
        if not is_ours:
            raise FeedLost(
                "another service's feeder reads what these triggers write, which are of an older release",
                hint="Run `python -m feeder install-triggers` again, and grant what docs/FEEDER.md says.",
            )

    def _known(self) -> list[str]:
        return [str(name) for (name,) in self._statements.rows(_READERS.format(**self._names), self._side)]

    def _drop_seen(self) -> None:
        while True:
            values = [*self._side * 2, DROPPED_AT_ONCE]
            found = self._statements.rows(_SEEN_BY_ALL.format(**self._names), values)
            if self._drop([int(gen) for (gen,) in found]) < DROPPED_AT_ONCE:
                break
        self._run_statement(_FORGET_SEEN, [])

    def _drop(self, gens: Sequence[int]) -> int:
        """Delete rows; return how many were asked for."""
        if gens:
            self._run_statement(self._statements.drop, [*self._side, gens])
        return len(gens)

    def _run_statement(self, statement: str, values: Sequence[Any]) -> None:
        self._statements.change([statement.format(**self._names)], values)
