"""Group commit: many callers, one thread, one fsync for all who wait.

The protocol of a commit, over the files of this folder. `STEPS` are the names of its effects, in order;
tests/simulation/test_commit_steps.py ends the process after each of them, and lets each fail.

1. `queued`        the caller takes a slot and queues its batch                                   here
2. `room_checked`  the disk has its reserve left, else ReadOnly: nothing was begun                disk_guard
3. `locked`        `store.lock` is held: one process commits at a time                          durable_files
4. `begun`         BEGIN IMMEDIATE on a connection with synchronous=FULL                          schema
5. `applied`       rows, contents, counters, digest, cursors and seq are in the transaction       transaction
6. `committed`     COMMIT has synced the write-ahead log: a power cut loses nothing from here on  SQLite
7. `seq_shared`    the new seq is in mapped memory: searches of every process see it              commit_marks
8. `seq_acked`     the seq is kept beside the store, unsynced: an older copy is recognised   commit_marks
9. the lock is released, and each caller gets its CommitResult                                    here

A failure before 6 leaves nothing. At 6 or 7 it is indeterminate, as SQLite may have made the commit
durable before it raised: callers get WriteFailed, and repeating the batch is safe. At 8 it is logged: the
commit stands.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from index_store import hints
from index_store.diagnosis import what_helps
from index_store.errors import IndexStoreError, ReadOnly, Unavailable, WriteFailed
from index_store.record.batches import CommitResult, WriteJob
from index_store.record.digest import ShareHasher
from index_store.storage.commit_marks import AckedSeq, SharedSeq
from index_store.storage.disk_guard import DiskGuard
from index_store.storage.durable_files import holder_of, locked
from index_store.storage.schema import LOCK_FILE, STORE_FILE, Connection, Connector, prepare
from index_store.storage.transaction import commit_jobs
from index_store.types import Trouble
from item_rules.metadata import METADATA_BYTES_MAX

log = logging.getLogger(__name__)

STEPS = ("queued", "room_checked", "locked", "begun", "applied", "committed", "seq_shared", "seq_acked")
"""Names of the effects of a commit, in order; see the head of this file."""

_FEWER_WRITES = "send larger batches less often; see whether the disk is slow (`iostat -x 1`)"


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How much may wait, and how much one transaction takes. stall_s: a writer is told when no transaction
    has ended for so long. metadata_bytes_max: of an item after a merge."""

    queue_batches_max: int = 1024
    batches_max: int = 256
    rows_max: int = 20_000
    queue_wait_s: float = 30.0
    stall_s: float = 60.0
    metadata_bytes_max: int = METADATA_BYTES_MAX


@dataclass(frozen=True, slots=True)
class _QueuedWrite:
    job: WriteJob
    done: Future[CommitResult]

    @property
    def rows(self) -> int:
        return len(self.job.batch.items) + len(self.job.batch.deletes)


class GroupCommitter:
    """The only writer of a store in this process; `submit` may be called from any thread.

    After a failed commit the connection is opened again before the next write, so that nothing of the failed
    transaction lives on in memory.
    """

    def __init__(
        self,
        directory: Path,
        hasher: ShareHasher,
        connect: Connector,
        disk: DiskGuard,
        limits: WriterLimits,
        step: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """step: called after each of `STEPS` with its name; tests end the process there, or raise OSError."""
        self._directory = directory
        self._hasher = hasher
        self._connect = connect
        self._disk = disk
        self._limits = limits
        self._step = step
        self._jobs: queue.Queue[_QueuedWrite | None] = queue.Queue()
        self._slots = threading.Semaphore(limits.queue_batches_max)
        self._connection: Connection | None = None
        self._store_uuid = ""
        self._shared_seq = SharedSeq(directory)
        self._acked_seq = AckedSeq(directory)
        self._thread = threading.Thread(target=self._run, name=f"commit-{directory.name}", daemon=True)
        self._is_closed = False
        self._ended = 0
        self._failure = ""
        self._state_lock = threading.Lock()

    def start(self) -> None:
        """Raises OSError."""
        self._shared_seq.open()
        self._thread.start()

    def close(self) -> None:
        """Commit what waits, then stop."""
        with self._state_lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._thread.ident is None:  # opening the store failed before that
            self._shared_seq.close()
            return
        self._jobs.put(None)
        self._thread.join()

    def submit(self, job: WriteJob) -> CommitResult:
        """Return when the batch is on disk. Raises WriteFailed, ReadOnly, Unavailable."""
        queued = _QueuedWrite(job, Future())
        # Outside of the state lock: there each caller would wait for the limits of all callers before it.
        if not self._slots.acquire(timeout=self._limits.queue_wait_s):
            raise Unavailable("too many writes are waiting; try again later", _FEWER_WRITES)
        with self._state_lock:
            if self._is_closed:
                self._slots.release()
                raise Unavailable("the store is closed", hints.TRY_AGAIN)
            self._jobs.put(queued)
        self._step("queued")
        return self._outcome(queued.done)

    def _outcome(self, done: Future[CommitResult]) -> CommitResult:
        """Wait as long as transactions end. Raises as `submit`."""
        while True:
            ended = self._ended
            try:
                return done.result(self._limits.stall_s)
            except TimeoutError:
                if done.done() or self._ended != ended:
                    continue
            holder = holder_of(self._directory / LOCK_FILE)
            log.error("commit_stalled", extra={"store": str(self._directory), "holder": holder})
            raise WriteFailed(
                f"no write of {self._directory} has ended for {self._limits.stall_s:g} s; this one may or "
                "may not be stored, repeating it is safe",
                hints.stuck_writer(holder),
            )

    def trouble(self) -> Trouble | None:
        """Return why a write would be refused now, as far as that is known without writing; None if it would
        not."""
        try:
            problem = self._disk.problem()
        except OSError as exc:
            problem = f"the free space of the disk can't be read: {exc}"
        if problem is None and self._failure:
            problem = f"the last write failed, and none went well since: {self._failure}"
        if problem is None:
            return None
        return Trouble("writes_refused", f"{self._directory}: {problem}", self._hint())

    def _hint(self) -> str:
        return f"df -h {self._directory}; free space there, or see dmesg; writes go on without a restart"

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._next_batch()
            if not jobs:
                continue
            try:
                try:
                    results = self._commit([each.job for each in jobs])
                finally:
                    self._ended += 1
            except IndexStoreError as exc:
                for job in jobs:
                    job.done.set_exception(exc)
            except Exception as exc:
                log.exception("commit_failed")
                self._failure = str(exc)
                self._drop_connection()
                for job in jobs:
                    job.done.set_exception(WriteFailed(f"the write failed: {exc}", self._hint()))
            else:
                for job, result in zip(jobs, results, strict=True):
                    job.done.set_result(result)
        self._drop_connection()
        self._shared_seq.close()
        self._acked_seq.close()

    def _next_batch(self) -> tuple[list[_QueuedWrite], bool]:
        """Wait for one job, then take what else has come while the last commit was running."""
        jobs: list[_QueuedWrite] = []
        rows = 0
        job = self._jobs.get()
        while job is not None:
            self._slots.release()
            jobs.append(job)
            rows += job.rows
            if len(jobs) >= self._limits.batches_max or rows >= self._limits.rows_max:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: list[WriteJob]) -> list[CommitResult]:
        problem = self._disk.problem()
        if problem:
            raise ReadOnly(problem, self._hint())
        try:
            self._step("room_checked")
            # The lock is fair where SQLite's busy handler sleeps and starves.
            with locked(self._directory / LOCK_FILE):
                self._step("locked")
                connection = self._open_connection()
                connection.execute("BEGIN IMMEDIATE")
                self._step("begun")
                results = commit_jobs(connection, self._hasher, jobs, self._limits.metadata_bytes_max)
                self._step("applied")
                connection.execute("COMMIT")
                self._step("committed")
                if results:
                    self._shared_seq.publish(results[-1].seq)
                    self._step("seq_shared")
                    self._mark_acked(results[-1].seq)
                    self._step("seq_acked")
        except (sqlite3.Error, OSError) as exc:
            self._drop_connection()
            self._failure = str(exc)
            raise WriteFailed(
                f"the write failed and may or may not be stored; repeating it is safe ({exc})",
                what_helps(exc, self._directory),
            ) from exc
        self._failure = ""
        return results

    def _mark_acked(self, seq: int) -> None:
        """What is committed stays so, whatever happens to the side file."""
        try:
            self._acked_seq.record(self._store_uuid, seq)
        except OSError as exc:
            log.warning("acked_seq_not_noted", extra={"store": str(self._directory), "error": str(exc)})

    def _open_connection(self) -> Connection:
        if self._connection is None:
            connection = self._connect(self._directory / STORE_FILE)
            prepare(connection)
            (self._store_uuid,) = connection.execute(
                "SELECT value FROM meta WHERE key='store_uuid'"
            ).fetchone()
            self._connection = connection
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except sqlite3.Error as exc:
            log.warning("store_close_failed", extra={"error": str(exc)})
