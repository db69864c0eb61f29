"""One generation as one process sees it: the store, and what a search needs of it.

    Generation = sealed segments (mapped, shared by all processes) + delta + bitmaps of live rows

The store is the source of everything. Before each search the newest commits are read and applied, so a write
that any process acknowledged before the search began is in the answer. What takes longer (a delta without
dead rows, a snapshot that another process published) is prepared by a background thread, and one assignment
swaps it in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from index_store.answers.hits import result_of, with_span
from index_store.answers.requests import check_served, outcome_of
from index_store.catalog.identity import record_lexical_fields
from index_store.catalog.snapshots import SNAPSHOTS
from index_store.engine.generation_view import replayed, view_of_newest_snapshot, view_of_store
from index_store.engine.tombstone_counter import TombstoneCounter
from index_store.errors import PageExpired, SeqNotReached, Unavailable
from index_store.explanation import Explanation
from index_store.processes import give_memory_back
from index_store.query.explain import explain
from index_store.query.view import (
    View,
    apply_commits,
    compacted,
    empty_view,
    needs_compaction,
    with_fresh_index,
)
from index_store.storage.schema import Connector, connect_sqlite
from index_store.storage.scrub_state import SCRUB_FILE
from index_store.storage.store import RowPage, Store
from index_store.types import CollectionSpec, Id, PageKey, SearchOutcome, SearchRequest, SearchResult

log = logging.getLogger(__name__)

_CATCH_UP_ROWS = 128
"""A search applies a row in 12 us."""
_REPLAYS_MAX = 8
_POLL_S = 0.05
_SEQ_POLL_S = 0.002
_FORMER_KEPT_S = 60.0
"""After a swap, how long pages can be continued over the snapshot before."""


class Generation:
    """A store, and the view that searches of it use. `refresh` and `answers` are safe from any thread.

    is_in_memory: whether this process has read its rows, and so applies what is committed to it.
    """

    def __init__(
        self,
        name: str,
        embedding_version: str,
        spec: CollectionSpec,
        store: Store,
        *,
        connect: Connector = connect_sqlite,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.embedding_version = embedding_version
        self.store = store
        self.tombstones = TombstoneCounter(store, clock)
        self._spec = spec
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._view = empty_view(spec)
        self._mark: int | None = None
        self._stamp = (0, 0)
        self._scrub_modified_ns = 0
        self._next_poll_at = 0.0
        self._swapped_at = 0.0
        self._background: threading.Thread | None = None
        self._is_closing = False
        self._trusts = False
        self.is_in_memory = False

    def open(self) -> None:
        """Open the store. Its rows are read by `read_into_memory`, or else by the first search. Raises
        StoreDamaged, StoreUnavailable, OSError. To be closed even then."""
        # What is published from here on is not read again in full, as when a snapshot is swapped in.
        self._trusts = _stamp(self.store.directory) == (0, 0)
        self.store.open(self._spec)
        self._spec = replace(self._spec, dim=self.store.dim)
        self._record_lexical_fields()
        self._scrub_modified_ns = _modified_ns(self.store.directory / SCRUB_FILE)

    def read_into_memory(self) -> None:
        """Map the newest sound snapshot and replay what came after it, or else read the whole store; does
        nothing where that was done. Searches of this generation wait, writes do not. Raises StoreDamaged,
        StoreUnavailable, OSError."""
        with self._lock:
            self._read_into_memory()

    def _read_into_memory(self) -> None:
        """Lock held."""
        if self.is_in_memory:
            return
        self._stamp = _stamp(self.store.directory)
        snapshot = view_of_newest_snapshot(self.store, self._spec, self._connect, {}, trusts=self._trusts)
        self._view = snapshot or view_of_store(self.store, self._spec)
        self.is_in_memory = True

    def _record_lexical_fields(self) -> None:
        """Note them for maintenance, which seals by what the store says. Searches by vectors need none."""
        fields = self._spec.lexical_fields
        if fields == self.store.lexical_fields:
            return
        try:
            record_lexical_fields(self.store.directory, self._connect, fields)
        except Unavailable as exc:
            log.error("lexical_fields_not_recorded", extra={"generation": self.name, "error": str(exc)})

    def close(self) -> None:
        """Wait for the background thread, then close the store."""
        with self._lock:
            self._is_closing = True
            upkeep = self._background
        if upkeep is not None:
            upkeep.join()
        self.store.close()
        with self._lock:
            self._view = empty_view(self._spec)

    @property
    def dim(self) -> int:
        """How many numbers its vectors have."""
        return self.store.dim

    def is_caught_up(self) -> bool:
        """Whether `refresh` would have nothing to do (0.3 us, never waits)."""
        return self.store.shared_seq.latest() == self._mark and self._clock() < self._next_poll_at

    def refresh(self) -> View:
        """Apply what was committed since the last call, by any process, and return the newest view."""
        if self.store.shared_seq.latest() == self._mark and self._clock() < self._next_poll_at:
            return self._view  # almost every call ends here, without a lock
        with self._lock:
            self._read_into_memory()
            now = self._clock()
            is_poll_due = now >= self._next_poll_at
            if is_poll_due:
                self._next_poll_at = now + _POLL_S
                self._poll_disk(now)
            mark = self.store.shared_seq.latest()
            if mark != self._mark or is_poll_due:  # else the thread that held the lock has just applied it
                self._apply_commits()
                self._schedule_maintenance()
            self._mark = mark  # last: a thread that reads it takes the view without a lock
            return self._view

    def catch_up(self, seq: int) -> None:
        """Apply a large write at once, in the thread that made it: only a few rows are left to the next
        search. A generation that is not in memory is left as it is."""
        if self.is_in_memory and seq - self._view.seq >= _CATCH_UP_ROWS:
            self.refresh()

    def follow(self) -> None:
        """Apply what was committed, for a generation that no search reads; of one that is not in memory look
        only whether rows were scrubbed. Raises as `read_into_memory`."""
        if self.is_in_memory:
            self.refresh()
            return
        with self._lock:
            self._recheck_if_scrubbed()

    def newest_seq(self) -> int:
        """The newest seq that was heard of: applied here, or noted by any process (0.3 us, never waits)."""
        return max(self._view.seq, self.store.shared_seq.latest())

    def answers(self, requests: Sequence[SearchRequest], wait_s: float) -> list[SearchOutcome]:
        """Answer each request, or say why it is refused, all from one view: one that knows the `min_seq` of
        each, which is waited for `wait_s` at most. Raises as `read_into_memory`."""
        view = self.refresh()
        min_seq = max((request.min_seq or 0 for request in requests), default=0)
        if view.seq < min_seq:
            view = self._view_from(min_seq, wait_s)
        return [outcome_of(request, self._spec, partial(self._nearest, view)) for request in requests]

    def explain_item(self, request: SearchRequest, item_id: Id) -> Explanation:
        """Explain one checked request without a page. Blocks for as long as an exact search takes. Raises
        VersionMismatch, InvalidVector, InvalidFilter, StoreUnavailable."""
        check_served(request, self._spec, self.name, self.embedding_version)
        while True:  # until nobody has written the item between the two looks
            row = self.store.read_all([item_id]).get(item_id)
            view = self.refresh()
            if self.store.read_all([item_id]).get(item_id) == row:
                break
        found = explain(view, with_span(request, self._spec.lifetime), item_id, row, self._spec)
        return replace(found, generation=self.name, embedding_version=self.embedding_version)

    def _view_from(self, min_seq: int, wait_s: float) -> View:
        """The view once it holds `min_seq`, which another process may be committing, or else the newest one
        after a while."""
        deadline = self._clock() + wait_s
        never = threading.Event()
        while (view := self.refresh()).seq < min_seq:
            if self._clock() >= deadline:
                break
            never.wait(_SEQ_POLL_S)  # processes learn of each other's commits from the file only
        return view

    def _nearest(self, view: View, request: SearchRequest) -> SearchResult:
        """Raises VersionMismatch, PageExpired, InvalidVector, InvalidFilter, SeqNotReached, WordsNotSealed,
        StoreDamaged."""
        check_served(request, self._spec, self.name, self.embedding_version)
        seq = view.seq
        if request.min_seq is not None and seq < request.min_seq:
            raise SeqNotReached(f"seq {request.min_seq} was not reached, the newest is {seq}")
        if request.after is not None:
            view, seq = self._view_knowing(view, request.after), request.after.seq
        request = with_span(request, self._spec.lifetime)
        return result_of(view, request, self.name, self.embedding_version, seq)

    def _view_knowing(self, view: View, after: PageKey) -> View:
        """Return the view that knows what was live at the page's seq: the newest or the one before."""
        if after.generation == self.name:
            for one in (view, view.former):
                if one is not None and one.history.is_known(after.seq, one.seq):
                    return one
        raise PageExpired("this page is older than the history that is kept; search again", "cursor")

    def _apply_commits(self) -> None:
        """Apply what was committed since. Lock held."""
        tail = self.store.tail(self._view.seq)
        if tail is not None:
            self._view = apply_commits(self._view, self._pages_from(tail))

    def _pages_from(self, tail: RowPage) -> list[RowPage]:
        pages = [tail]
        while (more := self.store.tail(pages[-1].seq)) is not None and more.seq > pages[-1].seq:
            pages.append(more)
        return pages

    def _poll_disk(self, now: float) -> None:
        """Check whether rows were scrubbed, and drop the former snapshot when its time is over. Lock held."""
        if self._view.former is not None and now >= self._swapped_at + _FORMER_KEPT_S:
            self._view = replace(self._view, former=None)
        self._recheck_if_scrubbed()

    def _recheck_if_scrubbed(self) -> None:
        scrubbed = _modified_ns(self.store.directory / SCRUB_FILE)
        if scrubbed != self._scrub_modified_ns:
            self._scrub_modified_ns = scrubbed
            self.store.recheck_suspects()

    def _schedule_maintenance(self) -> None:
        """Start the background thread if anything is due that searches must not wait for. Lock held."""
        if self._is_closing or (self._background is not None and self._background.is_alive()):
            return
        view, stamp = self._view, _stamp(self.store.directory)
        if stamp != self._stamp:
            self._stamp, work = stamp, self._swap_snapshot
        elif needs_compaction(view):
            work = self._compact
        elif view.index.is_behind(view.count):
            work = self._refresh_index
        elif view.delta.postings.has_many_unread(view.count):
            work = self._read_words
        else:
            return
        self._background = threading.Thread(
            target=self._run_background, args=(work,), name=f"upkeep-{self.name}", daemon=True
        )
        self._background.start()

    def _run_background(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (Unavailable, OSError) as exc:
            log.error("upkeep_failed", extra={"generation": self.name, "error": str(exc)})

    def _refresh_index(self) -> None:
        """Sort the newest ids into the index."""
        index = with_fresh_index(self._view).index
        with self._lock:
            self._view = replace(self._view, index=index)  # of the same delta: this is the only upkeep

    def _read_words(self) -> None:
        """Read the words of many new rows, so that no search by words has to; until something else is due."""
        view = self._view
        while view.delta.postings.unread(view.count) and self._view.delta is view.delta:
            if self._is_closing or _stamp(self.store.directory) != self._stamp:
                return
            view.delta.postings.read_some(view.count)

    def _compact(self) -> None:
        """Swap in a delta without dead rows."""
        rows = self._view.count
        self._swap_view(compacted(self._view), keeps_former=False)
        log.info("delta_compacted", extra={"generation": self.name, "rows": rows, "live": self._view.count})

    def _swap_snapshot(self) -> None:
        """Swap in the newest snapshot, if it is another one than is served."""
        old = self._view
        known = {(one.segment.name, one.segment.reader.sha256): one.segment for one in old.segments}
        fresh = view_of_newest_snapshot(
            self.store, self._spec, self._connect, known, trusts=True, unless=old.snapshot
        )
        if fresh is not None:
            self._swap_view(fresh, keeps_former=True)
            log.info("snapshot_opened", extra={"generation": self.name, "snapshot": fresh.snapshot})

    def _swap_view(self, fresh: View, *, keeps_former: bool) -> None:
        """Bring a prepared view up to date and serve it. keeps_former: pages continue over the old one."""
        for _ in range(_REPLAYS_MAX):  # without the lock, until little is left to do under it
            before = fresh.seq
            fresh, _ = replayed(self.store, fresh)
            words = fresh.delta.postings  # read here, or searches by words would be refused for a while
            while words.has_many_unread(fresh.count) and not self._is_closing:
                words.read_some(fresh.count)
            if fresh.seq - before < _CATCH_UP_ROWS:
                break
        with self._lock:
            tail = self.store.tail(fresh.seq)
            if tail is not None:
                fresh = apply_commits(fresh, self._pages_from(tail))
            if self._view.seq < fresh.seq:
                self._apply_commits()
            former = replace(self._view, former=None) if keeps_former else self._view.former
            self._view = replace(fresh, former=former if self._view.seq == fresh.seq else None)
            if keeps_former:
                self._swapped_at = self._clock()
        give_memory_back()  # of the views before: else the process keeps it, scattered over its arenas


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _stamp(directory: Path) -> tuple[int, int]:
    """Changes with every snapshot that is published or dropped (2 us)."""
    try:
        found = (directory / SNAPSHOTS).stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_nlink)
