"""Seals, merges, rebuilds and scrubs in one low-priority process per data directory.

Any number of processes may call this; a lock file lets one of them work at a time. It holds no state that
it could not read again from the disk, so it may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from index_store.ann.calibration import Clock
from index_store.ann.validation import count_allowed
from index_store.catalog.data_directory import collection_directories
from index_store.catalog.pointer import read_pointer
from index_store.catalog.quarantine import remove_expired
from index_store.catalog.snapshots import SEGMENTS, SNAPSHOTS, open_newest, registered_snapshots
from index_store.diagnosis import is_passing, unreadable, what_helps
from index_store.errors import StoreDamaged
from index_store.lexical.postings import lexical_version
from index_store.maintenance.compaction import BUILD_ERRORS, BuildContext, drop_old, make_snapshot
from index_store.maintenance.policy import GenerationShape, MaintenanceLimits, segments_kept
from index_store.maintenance.rebuild_request import ANSWER_FILE, RebuildQueue
from index_store.maintenance.scrub import Scrub
from index_store.record.pointer import GenerationName
from index_store.segment.builder import Progress
from index_store.segment.open import OpenSegments, OpenSnapshot
from index_store.storage.disk_guard import FreeBytes, free_bytes
from index_store.storage.schema import STORE_FILE, Connector, connect_sqlite, read_lexical_fields
from index_store.storage.sealed_directory import sweep_leftovers

log = logging.getLogger(__name__)

MAINTENANCE_LOCK = "maintenance.lock"

_NICE = 10
_GROWING_SHARE = 0.005
_BYTES_A_NUMBER = 10
"""float32 rows, a float32 graph, codes and links: 9.4 bytes a component at 384 dimensions."""
_BYTES_OF_WORDS = 500
"""Of a row's postings, where none are sealed yet: 454 as measured over names of goods."""

Stop: TypeAlias = threading.Event


class BuildStopped(Exception):
    """Raised inside a build when the process is to end; nothing of the build is kept."""


class Maintenance:
    """`run_once` and `run_forever` belong to one thread."""

    def __init__(
        self,
        data_dir: Path,
        *,
        limits: MaintenanceLimits | None = None,
        connect: Connector = connect_sqlite,
        clock: Clock = time.perf_counter,
        stopwatch: Clock = time.thread_time,
        now: Clock = time.time,
        free: FreeBytes = free_bytes,
        step: Callable[[str], None] = lambda _name: None,
        progress: Progress = lambda _step, _share: None,
    ) -> None:
        self._data_dir = data_dir
        self._limits = limits or MaintenanceLimits()
        self._connect = connect
        self._free = free
        self._step = step
        self._clock = clock
        self._now = now
        self._progress = progress
        self._may_continue: Callable[[], bool] = lambda: True
        # A build compares engines: by processor time, or what else the machine does would choose.
        self._context = BuildContext(connect, self._limits.build, stopwatch, self._report_progress, step)
        self._open_snapshots: dict[Path, OpenSnapshot] = {}
        self._growth: dict[Path, tuple[int, int]] = {}
        self._scrubs: dict[Path, Scrub] = {}
        self._next_scrub_at: dict[Path, float] = {}
        self._swept: set[Path] = set()
        self._damaged_pointers: dict[Path, str] = {}
        self._waiting: set[Path] = set()
        self._requests = RebuildQueue(data_dir)

    def run_forever(self, stop: Stop, may_continue: Callable[[], bool] = lambda: True) -> None:
        """Work whenever this process is the elected one, until `stop` is set or `may_continue` says no."""
        self._may_continue = lambda: not stop.is_set() and may_continue()
        with self._elected() as is_elected:
            while self._may_continue():
                try:
                    if is_elected():
                        self._serve_requests()
                        self._maintain_all()
                except BuildStopped:
                    log.info("maintenance_stopped")
                except OSError as exc:
                    self._note_failure(self._data_dir, exc)
                stop.wait(self._limits.pause_s)

    def _serve_requests(self) -> None:
        path = self._data_dir / ANSWER_FILE
        try:
            self._requests.serve(self._rebuild_all)
            self._waiting.discard(path)
        except OSError as exc:
            self._note_failure(path, exc)

    def _report_progress(self, step: str, share: float) -> None:
        """A build may take minutes: it is left, and nothing of it kept, when the process is to end."""
        if not self._may_continue():
            raise BuildStopped
        self._progress(step, share)

    def run_once(self) -> bool:
        """One look at every generation; False when another process is at it."""
        with self._elected() as is_elected:
            if not is_elected():
                return False
            self._maintain_all()
            return True

    @contextmanager
    def _elected(self) -> Iterator[Callable[[], bool]]:
        """Whether the lock is ours, asked again while it is not. The kernel frees a dead holder's."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        path = self._data_dir / MAINTENANCE_LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        is_ours = False

        def is_elected() -> bool:
            nonlocal is_ours
            if not is_ours:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_ours = True
                except BlockingIOError:
                    return False
            return True

        try:
            yield is_elected
        finally:
            os.close(descriptor)

    def _maintain_all(self) -> None:
        found: set[Path] = set()
        for collection in collection_directories(self._data_dir):
            for member in self._generations(collection):
                found.add(collection / member.name)
                self._maintain_one(collection, member)
        self._open_snapshots = {path: base for path, base in self._open_snapshots.items() if path in found}
        self._swept &= found
        self._waiting.discard(self._data_dir)

    def _generations(self, collection: Path) -> tuple[GenerationName, ...]:
        """The generations to look after; none where the pointer is damaged, which is logged once."""
        try:
            members = read_pointer(collection).members
        except StoreDamaged as exc:
            if self._damaged_pointers.get(collection) != str(exc):
                log.error("pointer_damaged", extra={"path": str(collection), "problem": str(exc)})
            self._damaged_pointers[collection] = str(exc)
            return ()
        self._damaged_pointers.pop(collection, None)
        remove_expired(collection, self._limits.quarantine_keep_s, self._now())
        return members

    def _maintain_one(self, collection: Path, member: GenerationName) -> None:
        directory = collection / member.name
        try:
            if directory not in self._swept:
                _sweep(directory)
                self._swept.add(directory)
            self._publish_if_due(directory)
            self._scrub(directory)
            self._waiting.discard(directory)
        except BUILD_ERRORS as exc:
            self._open_snapshots.pop(directory, None)
            self._note_failure(directory, exc)

    def _note_failure(self, path: Path, error: Exception) -> None:
        """Say what went wrong. What the system stands in the way of, a full disk for instance, is foreseen
        and tried again at the next look: one line says so until it goes well."""
        extra = {"path": str(path), "error": str(error), "hint": what_helps(error, path)}
        if not is_passing(error):
            log.error("maintenance_failed", extra=extra, exc_info=error)
        elif path not in self._waiting:
            self._waiting.add(path)
            log.warning("maintenance_waits", extra=extra)

    def _publish_if_due(self, directory: Path) -> None:
        """Publish the next snapshot of a generation if one is due."""
        if not (directory / STORE_FILE).exists():
            return  # it was dropped between reading its name and looking
        shape = self._measure_shape(directory)
        keep = segments_kept(shape, self._limits)
        if keep is None:
            return
        if keep == 0 and self._is_growing(directory, shape):
            return
        base = self._open_snapshots.get(directory)
        self._require_room(directory, shape, keep)
        log.info("snapshot_begun", extra={"path": str(directory), "keep": keep, "changes": shape.changes})
        self._publish(directory, base, keep)

    def _is_growing(self, directory: Path, shape: GenerationShape) -> bool:
        """Whether to wait with a graph that takes minutes because rows are still pouring in: it would be
        made again right after. Until then they are searched in memory. For a bounded number of looks."""
        rows = sum(shape.rows) + shape.changes
        before, waited = self._growth.get(directory, (0, 0))
        grows = shape.changes - before > _GROWING_SHARE * rows
        is_worth_it = rows >= self._limits.build.graph_rows_min and not shape.is_damaged
        if is_worth_it and grows and waited < self._limits.growing_polls_max:
            self._growth[directory] = (shape.changes, waited + 1)
            return True
        self._growth.pop(directory, None)
        return False

    def _scrub(self, directory: Path) -> None:
        """One page of the slow reading of everything."""
        if not (directory / STORE_FILE).exists() or self._clock() < self._next_scrub_at.get(directory, 0.0):
            return
        scrub = self._scrubs.setdefault(directory, Scrub(directory))
        connection = self._connect(directory / STORE_FILE)
        before = scrub.quarantined
        try:
            if scrub.step(connection):
                self._next_scrub_at[directory] = self._clock() + self._limits.scrub_pause_s
            if scrub.quarantined > before:
                self._open_snapshots.pop(directory, None)  # what is open here may be what is rotten
        finally:
            connection.close()

    def rebuild(self) -> list[str] | None:
        """Make every generation's snapshot again out of its store alone, and return what went wrong, a
        sentence each; None when another process works."""
        with self._elected() as is_elected:
            return self._rebuild_all() if is_elected() else None

    def _rebuild_all(self) -> list[str]:
        """One generation that can't be rebuilt does not stop the others."""
        problems = []
        for collection in collection_directories(self._data_dir):
            for member in self._generations(collection):
                try:
                    self._publish(collection / member.name, None, 0)
                except BUILD_ERRORS as exc:
                    problems.append(f"{collection / member.name}: {exc}")
                    log.error(
                        "rebuild_failed", extra={"path": str(collection / member.name), "error": str(exc)}
                    )
            if collection in self._damaged_pointers:
                problems.append(self._damaged_pointers[collection])
        return problems

    def _publish(self, directory: Path, base: OpenSnapshot | None, keep: int) -> None:
        _sweep(directory)
        make_snapshot(directory, base, keep, self._context)
        self._open_newest(directory, trusts=True)
        drop_old(directory, self._connect, self._limits.snapshots_kept, self._step)

    def _open_newest(self, directory: Path, *, trusts: bool) -> bool:
        """Open the newest sound snapshot; whether a newer one was found damaged."""
        identity, entries = registered_snapshots(directory, self._connect)
        old = self._open_snapshots.pop(directory, None)
        if old is not None and entries and entries[0].name == old.name:
            self._open_snapshots[directory] = old
            return False
        segments = () if old is None else old.segments
        known: OpenSegments = {(one.name, one.reader.sha256): one for one in segments}
        base = open_newest(directory, identity, entries, known, trusts)
        if base is not None:
            self._open_snapshots[directory] = base
        return bool(entries) and (base is None or base.name != entries[0].name)

    def _measure_shape(self, directory: Path) -> GenerationShape:
        is_damaged = self._open_newest(directory, trusts=False)
        base = self._open_snapshots.get(directory)
        connection = self._connect(directory / STORE_FILE)
        try:
            (changes,) = connection.execute(
                "SELECT COUNT(*) FROM item WHERE seq>?", (0 if base is None else base.seq,)
            ).fetchone()
            wanted = lexical_version(read_lexical_fields(connection))
        finally:
            connection.close()
        if base is None:
            return GenerationShape((), 0, int(changes), is_damaged)
        rows = tuple(one.reader.rows for one in base.segments)
        live = sum(count_allowed(bits) for bits in base.live)
        is_stale = any(one.lexical_version != wanted for one in base.segments)
        return GenerationShape(rows, sum(rows) - live, int(changes), is_damaged, is_stale)

    def _require_room(self, directory: Path, shape: GenerationShape, keep: int) -> None:
        """Raises OSError: a build must leave the room that the store needs for writes."""
        try:
            connection = self._connect(directory / STORE_FILE)
            try:
                (dim,) = connection.execute("SELECT value FROM meta WHERE key='dim'").fetchone()
                has_words = bool(read_lexical_fields(connection))
            finally:
                connection.close()
        except sqlite3.Error as exc:
            raise unreadable(directory / STORE_FILE, exc) from exc
        a_row = int(dim) * _BYTES_A_NUMBER
        if has_words:
            a_row += _bytes_of_words(directory, self._open_snapshots.get(directory))
        needed = (sum(shape.rows[keep:]) + shape.changes) * a_row
        free = self._free(directory)
        if free < needed + self._limits.disk_reserve_bytes:
            problem = f"a snapshot may need {needed >> 20} MiB, {free >> 20} MiB are free"
            raise OSError(errno.ENOSPC, problem, str(directory))


def _sweep(directory: Path) -> None:
    """Remove the unpublished directories of a build that was killed; they may be gigabytes."""
    for folder in (directory / SEGMENTS, directory / SNAPSHOTS):
        if folder.is_dir():
            sweep_leftovers(folder)


def _bytes_of_words(directory: Path, base: OpenSnapshot | None) -> int:
    """Return what the postings of a row take, as those that are sealed do."""
    rows = size = 0
    for one in () if base is None else base.segments:
        files = list((directory / SEGMENTS / one.name).glob("lexical_*"))
        rows += one.reader.rows if files else 0
        size += sum(file.stat().st_size for file in files)
    return -(-size // rows) if rows else _BYTES_OF_WORDS


def lower_priority() -> None:
    """Run at low priority from here on, as a batch that keeps no core from who wakes up beside it
    (docs/decisions/0132)."""
    os.nice(max(0, _NICE - os.nice(0)))
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # where a sandbox forbids it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
