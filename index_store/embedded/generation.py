"""One generation as one process sees it: the store, and in memory what a search needs of it.

    Generation = sealed segments (none yet) + delta + liveness masks

The store is the truth. Before each search the tail of its commits is read and applied, so a write that any
process acknowledged before the search began is in the answer.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from index_store.embedded.delta import Candidates, Delta, Place
from index_store.embedded.filters import Mask
from index_store.embedded.history import History
from index_store.embedded.keys import KeyIndex, RowNumbers
from index_store.errors import PageExpired
from index_store.storage.store import Store, Tail
from index_store.types import CollectionSpec, Hit, PageKey, SearchRequest, SearchResult

log = logging.getLogger(__name__)

_COMPACT_ROWS = 16_384
_CATCH_UP_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class View:
    """What one search sees, whole and unchanging: rows up to `count`, of which `live` are live at `seq`."""

    delta: Delta
    count: int
    live: Mask
    index: KeyIndex
    history: History
    seq: int


class Generation:
    """Searches and its store. `refresh` and `nearest` are safe from any thread."""

    def __init__(self, name: str, embedding_version: str, spec: CollectionSpec, store: Store) -> None:
        self.name = name
        self.embedding_version = embedding_version
        self.store = store
        self._spec = spec
        self._lock = threading.Lock()
        self._view = _empty(spec)

    def open(self) -> None:
        """Read the whole store. Raises StoreDamaged."""
        self.store.open(self._spec)
        delta, seq = Delta(self._spec), 0
        for page in self.store.load():
            live = [row for row in page.rows if row.is_live]
            if live:
                delta.append(live)
            seq = page.seq
        with self._lock:
            self._view = _whole(delta, seq)

    def close(self) -> None:
        self.store.close()

    def refresh(self) -> View:
        """Apply what was committed since the last call, by any process, and return the newest view."""
        with self._lock:
            tail = self.store.tail(self._view.seq)
            if tail is not None:
                tails = [tail]
                while (tail := self.store.tail(tails[-1].seq)) is not None and tail.seq > tails[-1].seq:
                    tails.append(tail)
                view = self._view
                for tail in tails:
                    view = _applied(view, tail)
                history = self._view.history.after(self._view.seq, tails)
                self._view = _tidied(replace(view, history=history))
            return self._view

    def catch_up(self, seq: int) -> None:
        """Keep up with writes that no search has asked for yet, some pages at a time: whoever searches next,
        after a promote say, must not pay for all of them."""
        if seq - self._view.seq >= _CATCH_UP_ROWS:
            self.refresh()

    def nearest(self, view: View, request: SearchRequest) -> SearchResult:
        """Answer a checked request from `view`. Raises PageExpired, InvalidFilter."""
        delta = view.delta
        seq = view.seq if request.after is None else request.after.seq
        allowed = self._allowed(view, request)
        excluded = delta.rows_of(request.exclude_ids, view.index, view.count)
        allowed[excluded] = False
        after = None if request.after is None else Place(request.after.distance, request.after.id)
        wanted = request.offset + request.k
        found = delta.candidates(request.vector, wanted + 1, allowed, after)
        if request.max_distance is not None:
            within = int(np.searchsorted(found.distances, request.max_distance, side="right"))
            found = Candidates(found.rows[:within], found.distances[:within])
        page = slice(request.offset, wanted)
        found_here = Candidates(found.rows[page], found.distances[page])
        _check_answer(view, found_here, excluded)
        hits = self._hits(view, request, found_here)
        exhausted = len(found.rows) <= wanted
        last = hits[-1] if hits and not exhausted else None
        return SearchResult(
            hits=hits,
            generation=self.name,
            embedding_version=self.embedding_version,
            seq=seq,
            exhausted=exhausted,
            next_page=None if last is None else PageKey(self.name, seq, last.distance, last.id),
        )

    def _allowed(self, view: View, request: SearchRequest) -> Mask:
        """A mask of its own for this request: live rows (as of the page's seq) that pass the filter."""
        if request.after is None:
            allowed = view.live[: view.count].copy()
        else:
            allowed = self._pinned(view, request.after)
        if request.filter is not None:
            allowed &= view.delta.masks.mask(request.filter, view.count)
        return allowed

    def _pinned(self, view: View, after: PageKey) -> Mask:
        """Rows live at the page's seq, less those whose item is not live any more: a later page shows
        items where they stood, but never a deleted one."""
        if after.generation != self.name or not view.history.is_known(after.seq, view.seq):
            raise PageExpired("this page is older than the history that is kept; search again", "cursor")
        born, dead = view.delta.born.data[: view.count], view.delta.dead.data[: view.count]
        allowed: Mask = (born <= after.seq) & (dead > after.seq)
        changed = np.flatnonzero(allowed & ~view.live[: view.count])
        if len(changed):
            ids = view.delta.ids(changed)
            rows = view.delta.rows_of(ids, view.index, view.count)
            living = set(view.delta.ids(rows[view.live[rows]]))
            allowed[changed] = [item_id in living for item_id in ids]
        return allowed

    def _hits(self, view: View, request: SearchRequest, found: Candidates) -> list[Hit]:
        ids = view.delta.ids(found.rows)
        nothing: Sequence[None] = [None] * len(ids)
        texts = view.delta.metadata_texts(found.rows) if request.with_metadata else nothing
        vectors = view.delta.vectors(found.rows) if request.with_vectors else nothing
        return [
            Hit(item_id, distance, None if text is None else json.loads(text), vector)
            for item_id, distance, text, vector in zip(
                ids, found.distances.tolist(), texts, vectors, strict=True
            )
        ]


def _check_answer(view: View, found: Candidates, excluded: RowNumbers) -> None:
    """The last look before an answer leaves: no id twice, none excluded, none that is not live. It can
    only fail by our own mistake."""
    ids = view.delta.ids(found.rows)
    rows = view.delta.rows_of(ids, view.index, view.count)
    living = set(view.delta.ids(rows[view.live[rows]]))
    assert len(living) == len(ids) and living.issuperset(ids), "an id that is not live was found"
    assert not np.isin(rows, excluded).any(), "an excluded id was found"


def _empty(spec: CollectionSpec) -> View:
    return _whole(Delta(spec), 0)


def _whole(delta: Delta, seq: int) -> View:
    """The view of a delta whose rows are all live, with no history before `seq`."""
    keys = delta.keys.data[: delta.rows].copy()
    live = np.ones(delta.rows, dtype=np.bool_)
    return View(delta, delta.rows, live, KeyIndex(keys), History(floor=seq), seq)


def _applied(view: View, tail: Tail) -> View:
    """The view after a tail: old rows of its ids are buried, live states are appended."""
    delta = view.delta
    seqs = {row.id: row.seq for row in tail.rows} | dict.fromkeys(tail.damaged, tail.seq)
    old = delta.rows_of(list(seqs), view.index, view.count)
    old = old[view.live[old]]
    fresh = [row for row in tail.rows if row.is_live]
    count = view.count + len(fresh)
    live = np.ones(count, dtype=np.bool_)
    live[: view.count] = view.live[: view.count]
    live[old] = False
    delta.bury(old, np.array([seqs[item_id] for item_id in delta.ids(old)], dtype=np.int64))
    if fresh:
        delta.append(fresh)
    return replace(view, count=count, live=live, seq=tail.seq)


def _tidied(view: View) -> View:
    """Sort keys again, or drop dead rows, when enough of them have come together."""
    dead = view.count - int(np.count_nonzero(view.live))
    if dead > max(_COMPACT_ROWS, view.count // 2):
        log.info("delta_compacted", extra={"rows": view.count, "dead": dead})
        return _whole(view.delta.compacted(view.live), view.seq)
    if view.index.is_behind(view.count):
        return replace(view, index=KeyIndex(view.delta.keys.data[: view.count].copy()))
    return view
