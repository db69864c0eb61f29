"""Changes of a table out of a dirty set: triggers write down which rows changed.

Each change adds a row `(collection, side, gen, source_key)` in the writer's own transaction; the feeder reads
a batch, the rows are read again as they are by then, and exactly the gens that were read are deleted. A
change that commits late, or during the reading, has a gen of its own and stays. No order, no cursor, no lock
that a writer could wait for (docs/decisions/0021).
"""

from __future__ import annotations

import logging

from feeder.errors import FeedLost
from feeder.sources.change_feed import Backlog, ChangeBatch, Tier
from feeder.sources.triggers.dirty_set import EVENTS, Statements, WatchedTable, names_of
from feeder.sources.triggers.readers import Readers

log = logging.getLogger(__name__)

UNREAD_ROWS, UNREAD_CHUNKS = 5_000, 20
"""Rows deleted by one statement, and the most statements of one `tidy`."""
_INSTALLED = "SELECT install_id FROM {installs} WHERE collection = %s AND side = %s"
_READ = "SELECT gen, source_key, {moment} FROM {dirty} AS d WHERE {unseen} ORDER BY gen LIMIT %s"
_BACKLOG = "SELECT COUNT(*), COALESCE({age}, 0) FROM {dirty} AS d WHERE {unseen}"


class TriggerFeed:
    """Fits sources.change_feed.ChangeFeed. Needs the rights of docs/FEEDER.md.

    reader: who reads, named by the store id of its service.
    """

    tier: Tier = "triggers"

    def __init__(self, statements: Statements, watched: WatchedTable, rows_max: int, reader: str) -> None:
        self._statements = statements
        self._watched = watched
        self._rows_max = rows_max
        self._names = names_of(statements, watched)
        self._followed: str | None = None
        self._readers = Readers(statements, watched, reader)

    def is_granted(self) -> bool:
        """Tell whether triggers are installed and this role may read what they write."""
        try:
            installed = self._install_id()
        except FeedLost:
            return False
        if installed is None:
            return False
        try:
            self._readers.require_rights(installed)
        except FeedLost as exc:
            log.warning("triggers_not_granted", extra={"trigger": self._watched.trigger, "why": str(exc)})
            return False
        return True

    def open(self, bookmark: str | None) -> None:
        """Go on with this installation. Raises FeedLost where it is another one, or this reader was struck
        out."""
        installed = self._install_id()
        if installed is None:
            raise FeedLost(f"the triggers of {self._watched.trigger} are not installed")
        if bookmark != installed:
            raise FeedLost(f"the triggers of {self._watched.trigger} were installed again, or never followed")
        self._readers.resume(installed)
        self._followed = installed

    def restart(self) -> str:
        """Enter this reader; return the installation as a bookmark. Rows written before may be named as
        well."""
        installed = self._install_id()
        if installed is None:
            raise FeedLost(f"the triggers of {self._watched.trigger} are not installed")
        self._readers.enter(installed)
        self._followed = installed
        return installed

    def read(self) -> ChangeBatch:
        """Return the keys of the oldest rows that this reader has not seen."""
        unseen, values = self._readers.unseen()
        statement = _READ.format(moment=self._statements.moment, unseen=unseen, **self._names)
        rows = self._statements.rows(statement, [*values, self._rows_max])
        keys = (None if text is None else self._watched.read_key(str(text)) for _, text, _ in rows)
        return ChangeBatch(
            keys=list(dict.fromkeys(key for key in keys if key is not None)),
            gap="the table was truncated" if any(text is None for _, text, _ in rows) else None,
            receipt=[int(gen) for gen, _, _ in rows],
            is_full=len(rows) >= self._rows_max,
            committed_at_s=min((float(at) for _, _, at in rows), default=None),
        )

    def acknowledge(self, batch: ChangeBatch) -> None:
        """Note that this reader has seen the rows; they go once all readers have."""
        if batch.receipt:
            self._readers.mark_seen(batch.receipt)

    def wait_for_changes(self, seconds: float) -> None:
        """Return when a trigger may have fired, or after `seconds`."""
        self._statements.wait_for_notice(seconds)

    def backlog(self) -> Backlog:
        """Return how many rows wait for this reader. Raises FeedLost where the triggers are gone or new."""
        unseen, values = self._readers.unseen()
        statement = _BACKLOG.format(age=self._statements.age, unseen=unseen, **self._names)
        ((rows, oldest_s),) = self._statements.rows(statement, values)
        if self._followed is not None and self._install_id() != self._followed:
            raise FeedLost(f"the triggers of {self._watched.trigger} were removed, or installed again")
        if self._followed is not None:
            self._readers.keep_alive()
        return Backlog(rows=int(rows), oldest_s=max(0.0, float(oldest_s)))

    def close(self) -> None:
        """Let the connection go; the rows stay."""
        self._statements.close()

    def _install_id(self) -> str | None:
        """Return which installation it is; None where it is not, or its triggers do not fire (a table made
        again has none, a bulk load may switch them off)."""
        rows = self._statements.rows(
            _INSTALLED.format(**self._names), [self._watched.collection, self._watched.side]
        )
        if rows and self._statements.enabled is not None:
            triggers = [f"{self._watched.trigger}_{event}" for event in EVENTS]
            ((count,),) = self._statements.rows(self._statements.enabled, [self._names["table"], triggers])
            rows = rows if count == len(EVENTS) else []
        return str(rows[0][0]) if rows else None


class UnreadRows:
    """What triggers write although this reader follows the table otherwise."""

    def __init__(self, statements: Statements, watched: WatchedTable, reader: str) -> None:
        self._statements = statements
        self._watched = watched
        self._names = names_of(statements, watched)
        self._readers = Readers(statements, watched, reader)

    def tidy(self) -> int:
        """Delete the rows if nobody reads them; return how many are left. 0 where nothing is installed, or
        this user can't see it."""
        side = [self._watched.collection, self._watched.side]
        try:
            rows = self._statements.rows(_INSTALLED.format(**self._names), side)
            if rows and self._readers.leave(str(rows[0][0])):
                for _ in range(UNREAD_CHUNKS):
                    if self._readers.drop_some(UNREAD_ROWS) < UNREAD_ROWS:
                        break
        except FeedLost:
            pass  # looking is allowed, perhaps
        try:
            counted = "SELECT COUNT(*) FROM {dirty} WHERE collection = %s AND side = %s"
            ((count,),) = self._statements.rows(counted.format(**self._names), side)
        except FeedLost:
            return 0
        return int(count)

    def close(self) -> None:
        """Let the connection go."""
        self._statements.close()
