"""Which rows of a view a search may return, and which were live at the seq of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import holds, with_rows
from index_store.ann.port import Bitmap
from index_store.ann.validation import count_allowed
from index_store.filter.cache import CompiledFilter
from index_store.filter.compile import Mask
from index_store.query.pool import LiveSeqs
from index_store.query.view import DeletionLog, SegmentView, View, by_part, live_ids
from index_store.types import Id, SearchRequest
from item_rules.lifetime import ShownSpan


class Allowed(NamedTuple):
    """bits: None for all rows. known: how many are set, where it is known."""

    bits: Bitmap | None
    known: int | None


class AllowedRows(NamedTuple):
    """Of a whole view. segments: of each of its segments, as `allowed_bits`. delta: as `allowed_mask`. seqs:
    when they are live, for a pool, whose store knows the rest."""

    segments: Sequence[Allowed]
    delta: Mask
    seqs: LiveSeqs


def allowed_rows(view: View, request: SearchRequest, condition: CompiledFilter | None) -> AllowedRows:
    """Return which rows of each part a search may return."""
    segments = [allowed_bits(view, one, request, condition) for one in view.segments]
    mask = allowed_mask(view, request, condition) if view.count else view.live
    seq = view.seq if request.after is None else request.after.seq
    return AllowedRows(segments, mask, LiveSeqs(seq, view.seq))


def allowed_bits(
    view: View, one: SegmentView, request: SearchRequest, condition: CompiledFilter | None
) -> Allowed:
    """Live rows (as of the page's seq) that are shown now and pass the filter, excluded ones among them."""
    bits = one.live if one.hidden else None
    count: int | None = one.segment.reader.rows - one.hidden
    if request.after is not None and one.deletion_count:
        bits, count = _pinned_bits(view, one, request.after.seq), None
    passing = passing_bits(one, bits, condition, request.shown)
    return Allowed(passing, count if passing is bits else None)


def passing_bits(
    one: SegmentView, bits: Bitmap | None, condition: CompiledFilter | None, span: ShownSpan | None
) -> Bitmap | None:
    """Return those of some rows of a segment that pass the filter and are shown; `bits` itself where neither
    is asked. bits: None for all rows."""
    if condition is not None:
        passing = one.segment.masks.bitmap(condition)
        bits = passing if bits is None else bits & passing
    shown = None if span is None else one.segment.lifetimes.shown_bits(span)
    if shown is not None:
        bits = shown if bits is None else bits & shown
    return bits


def _pinned_bits(view: View, one: SegmentView, seq: int) -> Bitmap:
    """Rows live at `seq`, less those whose item is not live any more: a later page shows items where they
    stood, but never a deleted one."""
    rows = one.deletions.deleted_after(seq, one.deletion_count)
    ids: list[Id] = one.segment.reader.ids_of(rows).tolist()
    alive = live_ids(view, ids)
    return with_rows(one.live, rows[np.array([i in alive for i in ids], dtype=np.bool_)])


def bits_live_at(one: SegmentView, seq: int | None) -> tuple[Bitmap, int]:
    """Return the rows of a segment that were live at `seq`, None: now; and how many were not."""
    if seq is None or not one.deletion_count:
        return one.live, one.hidden
    live = with_rows(one.live, one.deletions.deleted_after(seq, one.deletion_count))
    return live, one.segment.reader.rows - count_allowed(live)


def view_at(view: View, seq: int) -> View:
    """Return the view with what was live at `seq`, deleted items among them; of a seq that it knows."""
    if seq == view.seq:
        return view
    segments = []
    for one in view.segments:
        live, hidden = bits_live_at(one, seq)
        segments.append(SegmentView(one.segment, live, hidden, DeletionLog(), 0))
    return replace(view, segments=tuple(segments), live=live_at(view, seq), seq=seq)


def are_shown(
    view: View, numbers: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], span: ShownSpan
) -> Mask:
    """Return which of these rows are shown. numbers: of the segment of each, -1 for the delta."""
    shown: Mask = np.ones(len(rows), np.bool_)
    for number, positions, some in by_part(numbers, rows):
        if number < 0:
            mask = view.delta.lifetimes.shown_rows(span, int(some.max(initial=-1)) + 1)
            shown[positions] = True if mask is None else mask[some]
        else:
            bits = view.segments[number].segment.lifetimes.shown_bits(span)
            shown[positions] = True if bits is None else holds(bits, some)
    return shown


def live_at(view: View, seq: int) -> Mask:
    """Return which rows of the delta were live at `seq`."""
    created, deleted = view.delta.created_seq.data, view.delta.deleted_seq.data
    return (created[: view.count] <= seq) & (deleted[: view.count] > seq)


def allowed_mask(view: View, request: SearchRequest, condition: CompiledFilter | None) -> Mask:
    """The same for the delta, less the excluded; nobody may change it, since it can be the view's own."""
    live = view.live[: view.count]
    if request.after is None or request.after.seq == view.seq:
        allowed = live
    else:
        allowed = live_at(view, request.after.seq)
        changed = np.flatnonzero(allowed & ~live)
        if len(changed):
            ids = view.delta.ids(changed)
            alive = live_ids(view, ids)
            allowed[changed] = [item_id in alive for item_id in ids]
    allowed = passing_mask(view, allowed, condition, request.shown)
    if len(request.exclude_ids):
        allowed = allowed.copy()
        allowed[view.delta.find_rows(request.exclude_ids, view.index, view.count)] = False
    return allowed


def passing_mask(view: View, mask: Mask, condition: CompiledFilter | None, span: ShownSpan | None) -> Mask:
    """The same of the delta; `mask` itself where neither is asked. mask: (count,), over the view's rows."""
    if condition is not None:
        mask = mask & view.delta.masks.mask(condition, view.count)
    shown = None if span is None else view.delta.lifetimes.shown_rows(span, view.count)
    return mask if shown is None else mask & shown
