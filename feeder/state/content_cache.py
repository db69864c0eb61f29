"""Which content of each item the service has embedded, and what could not be: the memory of a collection
whose vectors the service makes.

A content is sent again only when it changed, so this file remembers what was acknowledged. Losing it costs
one full comparison, which for pictures means fetching each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from feeder.facts import Content, Failure
from feeder.state.state_file import StateFile
from vector_client.types import Id

VARIABLES = 500
BACKOFF_S, BACKOFF_S_MAX = 60.0, 86_400.0
DUE_MAX = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS content(
  id PRIMARY KEY NOT NULL, ref TEXT, digest BLOB,
  failed_ref TEXT, reason TEXT, attempts INTEGER NOT NULL DEFAULT 0, retry_at REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS content_retry ON content(retry_at) WHERE reason IS NOT NULL;
"""
_STORED = """
INSERT INTO content(id, ref, digest) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET
ref=excluded.ref, digest=excluded.digest, failed_ref=NULL, reason=NULL, attempts=0, retry_at=NULL
"""
_FAILED = """
INSERT INTO content(id, failed_ref, reason, attempts, retry_at) VALUES(?, ?, ?, ?, ?)
ON CONFLICT(id) DO UPDATE SET
failed_ref=excluded.failed_ref, reason=excluded.reason, attempts=excluded.attempts, retry_at=excluded.retry_at
"""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """content: what the service acknowledged, None before. failed_ref, reason: what could not be stored
    since, None if nothing; retry_at: when to try again."""

    content: Content | None
    failed_ref: str | None
    reason: str | None
    attempts: int
    retry_at: float

    def is_waiting(self, ref: str, now: float) -> bool:
        """Tell whether this very content failed, and is not to be tried again yet."""
        return self.reason is not None and self.failed_ref == ref and now < self.retry_at


class ContentCache(StateFile):
    """For one thread. path: a file, or ":memory:". clock: seconds since 1970."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        super().__init__(path, _TABLES)
        self._clock = clock

    def lookup(self, ids: Sequence[Id]) -> dict[Id, StoredContent]:
        """Return what is remembered of these ids; of the others, nothing."""
        found: dict[Id, StoredContent] = {}
        for start in range(0, len(ids), VARIABLES):
            some = ids[start : start + VARIABLES]
            marks = ",".join("?" * len(some))
            for item_id, ref, digest, failed, reason, attempts, at in self.db.execute(
                "SELECT id, ref, digest, failed_ref, reason, attempts, retry_at FROM content"
                f" WHERE id IN ({marks})",
                some,
            ):
                content = None if digest is None else Content(ref, digest)
                found[item_id] = StoredContent(content, failed, reason, attempts, at or 0.0)
        return found

    def record(self, stored: Mapping[Id, Content], failed: Mapping[Id, Failure], gone: Iterable[Id]) -> None:
        """Write down, durably, what the service acknowledged, and when to try the rest again."""
        before = self.lookup(list(failed))
        now = self._clock()
        rows = []
        for item_id, failure in failed.items():
            if not failure.is_new:
                continue
            known = before.get(item_id)
            attempts = 1 + (known.attempts if known and known.failed_ref == failure.ref else 0)
            pause = min(BACKOFF_S * 2.0 ** min(attempts - 1, 16), BACKOFF_S_MAX)
            rows.append((item_id, failure.ref, failure.reason, attempts, now + pause))
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_STORED, [(item_id, each.ref, each.digest) for item_id, each in stored.items()])
        db.executemany(_FAILED, rows)
        db.executemany("DELETE FROM content WHERE id = ?", [(item_id,) for item_id in gone])
        db.execute("COMMIT")

    def failures(self, *, only_due: bool = False) -> dict[Id, str]:
        """Return the ids whose last attempt failed, and why. only_due: at most 500 whose pause is over."""
        if only_due:
            rows = self.db.execute(
                "SELECT id, reason FROM content WHERE reason IS NOT NULL AND retry_at <= ?"
                " ORDER BY retry_at LIMIT ?",
                (self._clock(), DUE_MAX),
            )
        else:
            rows = self.db.execute("SELECT id, reason FROM content WHERE reason IS NOT NULL ORDER BY id")
        return dict(rows.fetchall())

    def end_pauses(self) -> None:
        """Make everything that failed due now."""
        self.db.execute("UPDATE content SET retry_at = 0 WHERE reason IS NOT NULL")
