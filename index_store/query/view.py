"""What one search sees of a generation, whole and unchanging; and how commits make the next view of it.

    View = sealed segments, each with a bitmap of its live rows + the delta: rows committed since

Views share everything that only grows: the delta and the deletion logs. One thread at a time makes a view out
of the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import holds, without
from index_store.ann.port import Bitmap
from index_store.ann.validation import count_allowed
from index_store.delta.delta import Delta
from index_store.delta.id_index import IdIndex, RowNumbers
from index_store.filter.compile import Mask
from index_store.filter.growable import GrowableColumn
from index_store.query.pool import RowPool
from index_store.query.visibility import History
from index_store.segment.open import OpenSegment, OpenSnapshot
from index_store.storage.store import RowPage
from index_store.types import CollectionSpec, Id, Vector

_COMPACT_ROWS = 16_384


class DeletionLog:
    """Which rows of a segment were deleted at which seq, in that order. One thread adds."""

    def __init__(self) -> None:
        self._rows = GrowableColumn(np.int64(0), 64)
        self._seqs = GrowableColumn(np.int64(0), 64)

    def add(self, start: int, rows: RowNumbers, seqs: npt.NDArray[np.int64]) -> None:
        """Append deletions. start: how many there were before. seqs: at which each row was deleted."""
        self._rows.put(start, rows)
        self._seqs.put(start, seqs)

    def deleted_after(self, seq: int, count: int) -> RowNumbers:
        """The rows among the first `count` deletions that were still live at `seq`."""
        rows: RowNumbers = self._rows.data[:count][self._seqs.data[:count] > seq]
        return rows


@dataclass(frozen=True, slots=True)
class SegmentView:
    """live: rows that may be returned. hidden: how many may not. deletion_count: how many entries of
    `deletions` belong to this view."""

    segment: OpenSegment
    live: Bitmap
    hidden: int
    deletions: DeletionLog
    deletion_count: int

    def rows_with(self, ids: Sequence[Id]) -> RowNumbers:
        """The rows of those ids that the segment holds, live or not, in any order."""
        rows = self.segment.reader.rows_of(ids)
        return rows[rows >= 0]


@dataclass(frozen=True, slots=True)
class View:
    """Delta rows up to `count`, of which `live` are live at `seq`, and the segments of one snapshot.

    snapshot: its name, '' without one. former: the same moment over the snapshot that was served before: it
    knows what was live at older seqs. pool: what rows of a store elsewhere are fetched through; such a view
    has no segments, counts none of the rows of its delta, and serves one search.
    """

    segments: tuple[SegmentView, ...]
    delta: Delta
    count: int
    live: Mask
    index: IdIndex
    history: History
    seq: int
    snapshot: str
    former: View | None
    pool: RowPool | None = None


def empty_view(spec: CollectionSpec) -> View:
    """Return the view of a collection without rows."""
    return _view_without_history(Delta(spec), 0, (), "")


def view_of_delta(delta: Delta, seq: int) -> View:
    """A view without segments of a delta whose rows are all live, with no history before `seq`."""
    return _view_without_history(delta, seq, (), "")


def view_of_pool(pool: RowPool, seq: int) -> View:
    """A view, for one search, of a store elsewhere as of `seq`."""
    return replace(_view_without_history(pool.delta, seq, (), ""), pool=pool)


def view_of_snapshot(snapshot: OpenSnapshot, spec: CollectionSpec) -> View:
    """A snapshot as it was sealed."""
    segments = tuple(
        _segment_view(one, live) for one, live in zip(snapshot.segments, snapshot.live, strict=True)
    )
    return _view_without_history(Delta(spec), snapshot.seq, segments, snapshot.name)


def _view_without_history(delta: Delta, seq: int, segments: tuple[SegmentView, ...], snapshot: str) -> View:
    keys = delta.keys.data[: delta.rows].copy()
    live = np.ones(delta.rows, dtype=np.bool_)
    return View(
        segments, delta, delta.rows, live, IdIndex(keys), History(floor=seq), seq, snapshot, former=None
    )


def _segment_view(segment: OpenSegment, live: Bitmap) -> SegmentView:
    return SegmentView(segment, live, segment.reader.rows - count_allowed(live), DeletionLog(), 0)


def without_history(view: View) -> View:
    """The same view with no history: for one that was replayed from pages that hold last states only."""
    return replace(view, history=History(floor=view.seq))


def apply_commits(view: View, pages: Sequence[RowPage]) -> View:
    """The view after pages of commits that follow it without a gap."""
    start, history = view.seq, view.history
    former = view.former
    if former is not None:
        former = None if needs_compaction(former) else apply_commits(former, pages)
    for page in pages:
        view = _apply_page(view, page)
    return replace(view, history=history.after(start, pages), former=former)


def _apply_page(view: View, page: RowPage) -> View:
    """The view after one page: old rows of its ids are marked dead, live states are appended."""
    delta = view.delta
    damaged = [item_id for item_id in page.damaged if _is_readable(item_id)]
    seqs = {row.id: row.seq for row in page.rows} | dict.fromkeys(damaged, page.seq)
    ids = list(seqs)
    segments = tuple(_with_deletions(one, ids, seqs) for one in view.segments)
    old = delta.find_rows(ids, view.index, view.count)
    old = old[view.live[old]]
    fresh = [row for row in page.rows if row.is_live]
    count = view.count + len(fresh)
    live = np.ones(count, dtype=np.bool_)
    live[: view.count] = view.live[: view.count]
    live[old] = False
    delta.mark_deleted(old, np.array([seqs[item_id] for item_id in delta.ids(old)], dtype=np.int64))
    if fresh:
        delta.add_rows(fresh)
    return replace(view, segments=segments, count=count, live=live, seq=page.seq)


def _is_readable(item_id: object) -> bool:
    """A flipped byte can make an id of a damaged row unlike any that was ever stored."""
    if not isinstance(item_id, str):
        return isinstance(item_id, int)
    return item_id.isascii() or not any("\ud800" <= character <= "\udfff" for character in item_id)


def _with_deletions(one: SegmentView, ids: list[Id], seqs: dict[Id, int]) -> SegmentView:
    rows = one.rows_with(ids)
    rows = rows[holds(one.live, rows)]
    if not len(rows):
        return one
    died = [seqs[item_id] for item_id in one.segment.reader.ids_of(rows).tolist()]
    one.deletions.add(one.deletion_count, rows, np.array(died, dtype=np.int64))
    return replace(
        one,
        live=without(one.live, rows),
        hidden=one.hidden + len(rows),
        deletion_count=one.deletion_count + len(rows),
    )


def needs_compaction(view: View) -> bool:
    """Whether so many rows of the delta are dead that it is worth making one without them."""
    return view.count - int(np.count_nonzero(view.live)) > max(_COMPACT_ROWS, view.count // 2)


def compacted(view: View) -> View:
    """The same moment without dead rows, and so with no history before it. Reads a view that others follow
    meanwhile; takes about 3 us a row."""
    segments = tuple(replace(one, deletions=DeletionLog(), deletion_count=0) for one in view.segments)
    return _view_without_history(view.delta.compacted(view.live), view.seq, segments, view.snapshot)


def with_fresh_index(view: View) -> View:
    """The same view, its keys sorted again if many have come since."""
    if not view.index.is_behind(view.count):
        return view
    return replace(view, index=IdIndex(view.delta.keys.data[: view.count].copy()))


def live_ids(view: View, ids: Sequence[Id]) -> set[Id]:
    """Those of the ids that are live now, in whatever part."""
    if view.pool is not None:
        return view.pool.fetcher.live_ids(ids)
    rows = view.delta.find_rows(ids, view.index, view.count)
    found = set(view.delta.ids(rows[view.live[rows]]))
    for one in view.segments:
        rows = one.rows_with(ids)
        found.update(one.segment.reader.ids_of(rows[holds(one.live, rows)]).tolist())
    return found


def live_count(view: View) -> int:
    """How many items are live."""
    if view.pool is not None:
        return view.pool.fetcher.live_count()
    return int(np.count_nonzero(view.live)) + sum(
        one.segment.reader.rows - one.hidden for one in view.segments
    )


def has_key(view: View, key: str) -> bool:
    """Whether any row has, or had, a value under this key of the metadata."""
    if view.pool is not None:
        return view.pool.fetcher.has_key(key)
    if any(one.segment.masks.known_keys.has(key) for one in view.segments):
        return True
    return view.delta.masks.known_keys.has(key)


class PartRows(NamedTuple):
    """Some rows of one part. number: of the segment, -1 for the delta. positions: where they stood among all
    rows."""

    number: int
    positions: npt.NDArray[np.int64]
    rows: RowNumbers


def by_part(numbers: npt.NDArray[np.int64], rows: RowNumbers) -> Iterator[PartRows]:
    """Yield rows of several parts part by part. numbers: of the segment of each, -1 for the delta."""
    different = sorted(set(numbers.tolist()))
    if len(different) == 1:
        yield PartRows(different[0], np.arange(len(rows)), rows)
        return
    for number in different:
        positions = np.flatnonzero(numbers == number)
        yield PartRows(number, positions, rows[positions])


def vectors_at(view: View, numbers: npt.NDArray[np.int64], rows: RowNumbers) -> Vector:
    """Return (rows, dim) copies of the vectors of rows. numbers: of the segment of each, -1 for the delta."""
    parts = list(by_part(numbers, rows))
    if len(parts) == 1:
        return _vectors_in(view, parts[0].number, rows)
    out = np.empty((len(rows), view.delta.dim), np.float32)
    for number, positions, some in parts:
        out[positions] = _vectors_in(view, number, some)
    return out


def _vectors_in(view: View, number: int, rows: RowNumbers) -> Vector:
    if number < 0:
        return view.delta.vectors(rows)
    found: Vector = view.segments[number].segment.reader.vectors[rows]
    return found
