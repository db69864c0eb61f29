"""What one search sees of a generation, whole and unchanging; and how commits make the next view of it.

    View = sealed segments, each with a bitmap of its live rows + the delta: rows committed since

Views share everything that only grows (delta, burials). One thread at a time makes a view out of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import holds, without
from index_store.ann.port import Bitmap
from index_store.ann.validation import count_allowed
from index_store.delta.delta import Delta
from index_store.delta.id_index import KeyIndex, RowNumbers
from index_store.filter.compile import Mask
from index_store.filter.growable import Column
from index_store.query.visibility import History
from index_store.segment.open import Base, Sealed
from index_store.storage.store import Tail
from index_store.types import CollectionSpec, Id

_COMPACT_ROWS = 16_384


class Burials:
    """Which rows of a segment died at which seq, in the order of dying. One thread appends."""

    def __init__(self) -> None:
        self._rows = Column(np.int64(0), 64)
        self._seqs = Column(np.int64(0), 64)

    def append(self, start: int, rows: RowNumbers, seqs: npt.NDArray[np.int64]) -> None:
        self._rows.put(start, rows)
        self._seqs.put(start, seqs)

    def after(self, seq: int, count: int) -> RowNumbers:
        """The rows among the first `count` burials that were still live at `seq`."""
        rows: RowNumbers = self._rows.data[:count][self._seqs.data[:count] > seq]
        return rows


@dataclass(frozen=True, slots=True)
class SealedView:
    """live: what may be returned; `hidden` rows of the segment may not. buried: burials that belong to it."""

    sealed: Sealed
    live: Bitmap
    hidden: int
    burials: Burials
    buried: int

    def rows_of(self, ids: Sequence[Id]) -> RowNumbers:
        """The rows of those ids that the segment holds, live or not, in any order."""
        rows = self.sealed.segment.rows_of(ids)
        return rows[rows >= 0]


@dataclass(frozen=True, slots=True)
class View:
    """Delta rows up to `count`, of which `live` are live at `seq`, and the segments of snapshot `base`.

    former: the same moment over the snapshot that was served before: it knows what was live at older seqs.
    """

    segments: tuple[SealedView, ...]
    delta: Delta
    count: int
    live: Mask
    index: KeyIndex
    history: History
    seq: int
    base: str
    former: View | None


def empty_view(spec: CollectionSpec) -> View:
    return _whole(Delta(spec), 0, (), "")


def whole_view(delta: Delta, seq: int) -> View:
    """A view without segments of a delta whose rows are all live, with no history before `seq`."""
    return _whole(delta, seq, (), "")


def based_view(base: Base, spec: CollectionSpec) -> View:
    """A snapshot as it was sealed."""
    segments = tuple(_sealed_view(one, live) for one, live in zip(base.sealed, base.live, strict=True))
    return _whole(Delta(spec), base.seq, segments, base.name)


def _whole(delta: Delta, seq: int, segments: tuple[SealedView, ...], base: str) -> View:
    keys = delta.keys.data[: delta.rows].copy()
    live = np.ones(delta.rows, dtype=np.bool_)
    return View(segments, delta, delta.rows, live, KeyIndex(keys), History(floor=seq), seq, base, former=None)


def _sealed_view(sealed: Sealed, live: Bitmap) -> SealedView:
    return SealedView(sealed, live, sealed.segment.rows - count_allowed(live), Burials(), 0)


def forgetting(view: View) -> View:
    """The same view with no history: for one that was replayed from tails that hold last states only."""
    return replace(view, history=History(floor=view.seq))


def followed(view: View, tails: Sequence[Tail]) -> View:
    """The view after tails that follow it without a gap."""
    start, history = view.seq, view.history
    former = view.former
    if former is not None:
        former = None if is_wasteful(former) else followed(former, tails)
    for tail in tails:
        view = _applied(view, tail)
    return replace(view, history=history.after(start, tails), former=former)


def _applied(view: View, tail: Tail) -> View:
    """The view after a tail: old rows of its ids are buried, live states are appended."""
    delta = view.delta
    damaged = [item_id for item_id in tail.damaged if _is_readable(item_id)]
    seqs = {row.id: row.seq for row in tail.rows} | dict.fromkeys(damaged, tail.seq)
    ids = list(seqs)
    segments = tuple(_buried(one, ids, seqs) for one in view.segments)
    old = delta.rows_of(ids, view.index, view.count)
    old = old[view.live[old]]
    fresh = [row for row in tail.rows if row.is_live]
    count = view.count + len(fresh)
    live = np.ones(count, dtype=np.bool_)
    live[: view.count] = view.live[: view.count]
    live[old] = False
    delta.bury(old, np.array([seqs[item_id] for item_id in delta.ids(old)], dtype=np.int64))
    if fresh:
        delta.append(fresh)
    return replace(view, segments=segments, count=count, live=live, seq=tail.seq)


def _is_readable(item_id: object) -> bool:
    """A flipped byte can make an id of a damaged row unlike any that was ever stored."""
    if not isinstance(item_id, str):
        return isinstance(item_id, int)
    return item_id.isascii() or not any("\ud800" <= character <= "\udfff" for character in item_id)


def _buried(one: SealedView, ids: list[Id], seqs: dict[Id, int]) -> SealedView:
    rows = one.rows_of(ids)
    rows = rows[holds(one.live, rows)]
    if not len(rows):
        return one
    died = [seqs[item_id] for item_id in one.sealed.segment.ids_of(rows).tolist()]
    one.burials.append(one.buried, rows, np.array(died, dtype=np.int64))
    return replace(
        one,
        live=without(one.live, rows),
        hidden=one.hidden + len(rows),
        buried=one.buried + len(rows),
    )


def is_wasteful(view: View) -> bool:
    """Whether so many rows of the delta are dead that it is worth making one without them."""
    return view.count - int(np.count_nonzero(view.live)) > max(_COMPACT_ROWS, view.count // 2)


def compacted(view: View) -> View:
    """The same moment without dead rows, and so with no history before it. Reads a view that others follow
    meanwhile; takes about 3 us a row."""
    segments = tuple(replace(one, burials=Burials(), buried=0) for one in view.segments)
    return _whole(view.delta.compacted(view.live), view.seq, segments, view.base)


def sorted_anew(view: View) -> View:
    """The same view, its keys sorted again if many have come since."""
    if not view.index.is_behind(view.count):
        return view
    return replace(view, index=KeyIndex(view.delta.keys.data[: view.count].copy()))


def living(view: View, ids: Sequence[Id]) -> set[Id]:
    """Those of the ids that are live now, in whatever part."""
    rows = view.delta.rows_of(ids, view.index, view.count)
    found = set(view.delta.ids(rows[view.live[rows]]))
    for one in view.segments:
        rows = one.rows_of(ids)
        found.update(one.sealed.segment.ids_of(rows[holds(one.live, rows)]).tolist())
    return found


def living_count(view: View) -> int:
    """How many items are live."""
    return int(np.count_nonzero(view.live)) + sum(
        one.sealed.segment.rows - one.hidden for one in view.segments
    )
