"""One generation as one process sees it: the store, and what a search needs of it.

    Generation = sealed segments (mapped, shared by all processes) + delta + bitmaps of live rows

The store is the truth. Before each search the tail of its commits is read and applied, so a write that any
process acknowledged before the search began is in the answer. When another process publishes a snapshot, a
thread opens it beside the searches, and one assignment swaps it in.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from index_store.embedded.delta import Delta
from index_store.embedded.nearest import Answer, answer, texts_of, vectors_of
from index_store.embedded.sealed import Known
from index_store.embedded.snapshots import SNAPSHOTS, open_newest, registered_in
from index_store.embedded.view import (
    View,
    based_view,
    empty_view,
    followed,
    forgetting,
    living_count,
    whole_view,
)
from index_store.errors import PageExpired, StoreDamaged
from index_store.storage.schema import Connector, connect_sqlite
from index_store.storage.scrubbed import SCRUB_FILE
from index_store.storage.store import Store, Tail
from index_store.types import CollectionSpec, Hit, PageKey, SearchRequest, SearchResult, Vector

log = logging.getLogger(__name__)

_CATCH_UP_ROWS = 32_768
_LOOK_S = 0.05
_FORMER_S = 60.0
"""How long pages of the snapshot before go on after a swap."""


class Generation:
    """Searches and its store. `refresh` and `nearest` are safe from any thread."""

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
        self._spec = spec
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._view = empty_view(spec)
        self._mark: int | None = None
        self._stamp = (0, 0)
        self._scrubbed = 0
        self._look_at = 0.0
        self._swapped_at = 0.0
        self._opener: threading.Thread | None = None
        self._is_closing = False

    def open(self) -> None:
        """Map the newest sound snapshot and replay what came after it, or else read the whole store.
        Raises StoreDamaged."""
        self.store.open(self._spec)
        self._stamp = _stamp(self.store.directory)
        self._scrubbed = _modified(self.store.directory / SCRUB_FILE)
        view = self._based({}, trusts=False) or self._loaded()
        with self._lock:
            self._view = view

    def close(self) -> None:
        with self._lock:
            self._is_closing = True
            opener = self._opener
        if opener is not None:
            opener.join()
        self.store.close()
        with self._lock:
            self._view = empty_view(self._spec)

    def refresh(self) -> View:
        """Apply what was committed since the last call, by any process, and return the newest view."""
        if self.store.mark() == self._mark and self._clock() < self._look_at:
            return self._view  # so ends almost every call, without a lock
        with self._lock:
            now = self._clock()
            if now >= self._look_at:
                self._look_at = now + _LOOK_S
                self._look(now)
            mark = self.store.mark()
            tail = self.store.tail(self._view.seq)
            if tail is not None:
                self._view = followed(self._view, self._tails(tail))
            self._mark = mark  # last: who finds it takes the view without a lock
            return self._view

    def catch_up(self, seq: int) -> None:
        """Keep up with writes that no search has asked for yet, some pages at a time: whoever searches next,
        after a promote say, must not pay for all of them."""
        if seq - self._view.seq >= _CATCH_UP_ROWS:
            self.refresh()

    def nearest(self, view: View, request: SearchRequest) -> SearchResult:
        """Answer a checked request from `view`. Raises PageExpired, InvalidFilter."""
        seq = view.seq
        if request.after is not None:
            view, seq = self._knowing(view, request.after), request.after.seq
        found = answer(view, self._spec, request)
        hits = self._hits(view, request, found)
        last = hits[-1] if hits and not found.exhausted else None
        return SearchResult(
            hits=hits,
            generation=self.name,
            embedding_version=self.embedding_version,
            seq=seq,
            exhausted=found.exhausted,
            next_page=None if last is None else PageKey(self.name, seq, last.distance, last.id),
        )

    def _knowing(self, view: View, after: PageKey) -> View:
        """The view, of this moment, that knows what was live at the page's seq."""
        if after.generation == self.name:
            for one in (view, view.former):
                if one is not None and one.history.is_known(after.seq, one.seq):
                    return one
        raise PageExpired("this page is older than the history that is kept; search again", "cursor")

    def _hits(self, view: View, request: SearchRequest, found: Answer) -> list[Hit]:
        distances = found.distances.tolist()
        if not request.with_metadata and not request.with_vectors:
            return list(map(Hit, found.ids, distances))
        nothing: Sequence[None] = [None] * len(found.ids)
        texts = texts_of(view, found) if request.with_metadata else nothing
        vectors: Sequence[Vector | None] = nothing
        if request.with_vectors:
            vectors = list(vectors_of(view, found, self._spec.dim))
        return [
            Hit(item_id, distance, None if text is None else json.loads(text), vector)
            for item_id, distance, text, vector in zip(found.ids, distances, texts, vectors, strict=True)
        ]

    def _tails(self, tail: Tail) -> list[Tail]:
        tails = [tail]
        while (more := self.store.tail(tails[-1].seq)) is not None and more.seq > tails[-1].seq:
            tails.append(more)
        return tails

    def _look(self, now: float) -> None:
        """Notice a snapshot published since, and forget the one before the last. Lock held."""
        if self._view.former is not None and now >= self._swapped_at + _FORMER_S:
            self._view = replace(self._view, former=None)
        scrubbed = _modified(self.store.directory / SCRUB_FILE)
        if scrubbed != self._scrubbed:
            self._scrubbed = scrubbed
            self.store.look_again()
        if self._opener is not None and self._opener.is_alive():
            return
        stamp = _stamp(self.store.directory)
        if stamp != self._stamp and not self._is_closing:
            self._stamp = stamp
            self._opener = threading.Thread(target=self._swap, name=f"open-{self.name}", daemon=True)
            self._opener.start()

    def _swap(self) -> None:
        """Open the newest snapshot beside the searches and make it the view."""
        old = self._view
        known = {(one.sealed.name, one.sealed.segment.sha256): one.sealed for one in old.segments}
        try:
            fresh = self._based(known, trusts=True, unless=old.base)
            if fresh is None:
                return
            with self._lock:
                if self._is_closing:
                    return
                tail = self.store.tail(fresh.seq)
                if tail is not None:
                    fresh = followed(fresh, self._tails(tail))
                if self._view.seq < fresh.seq and (tail := self.store.tail(self._view.seq)) is not None:
                    self._view = followed(self._view, self._tails(tail))
                former = replace(self._view, former=None) if self._view.seq == fresh.seq else None
                self._view = replace(fresh, former=former)
                self._swapped_at = self._clock()
            log.info("snapshot_opened", extra={"generation": self.name, "snapshot": fresh.base})
        except StoreDamaged as exc:
            log.error("snapshot_not_opened", extra={"generation": self.name, "error": str(exc)})

    def _based(self, known: Known, *, trusts: bool, unless: str = "") -> View | None:
        """A view of the newest sound snapshot and all commits after it; None: there is none, or it is
        `unless`."""
        directory = self.store.directory
        owner, entries = registered_in(directory, self._connect)
        if unless and entries and entries[0].name == unless:
            return None
        base = open_newest(directory, owner, entries, known, trusts)
        if base is None or base.name == unless:
            return None
        view, counted = based_view(base, self._spec), 0
        for tail in self.store.since(base.seq):
            view, counted = followed(view, [tail]), tail.live or 0
        if living_count(view) != counted and not self.store.damaged_rows:
            # Changes are found by an index of the store; a rotten page of it hides some.
            log.error("tail_incomplete", extra={"generation": self.name, "snapshot": base.name})
            return None
        return forgetting(view)

    def _loaded(self) -> View:
        delta, seq, counted = Delta(self._spec), 0, 0
        for page in self.store.load():
            live = [row for row in page.rows if row.is_live]
            if live:
                delta.append(live)
            seq, counted = page.seq, page.live or 0
        view = whole_view(delta, seq)
        if living_count(view) != counted and not self.store.damaged_rows:
            self.store.miss(abs(living_count(view) - counted))
        return view


def _modified(path: Path) -> int:
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
