"""The first view of a generation that a process opens, and of a snapshot that another one has published."""

from __future__ import annotations

import logging

from index_store.catalog.snapshots import open_newest, registered_snapshots
from index_store.delta.delta import Delta
from index_store.query.view import (
    View,
    apply_commits,
    live_count,
    view_of_delta,
    view_of_snapshot,
    with_fresh_index,
    without_history,
)
from index_store.segment.open import OpenSegments
from index_store.storage.schema import Connector
from index_store.storage.store import Store
from index_store.types import CollectionSpec

log = logging.getLogger(__name__)


def replayed(store: Store, view: View) -> tuple[View, int]:
    """Return the view after all commits since it, and how many live items the store counts then."""
    counted = 0
    for tail in store.commits_after(view.seq):
        view, counted = with_fresh_index(apply_commits(view, [tail])), tail.live or 0
    return without_history(view), counted


def view_of_newest_snapshot(
    store: Store,
    spec: CollectionSpec,
    connect: Connector,
    known: OpenSegments,
    *,
    trusts: bool,
    unless: str = "",
) -> View | None:
    """Return a view of the newest sound snapshot and all commits after it; None where there is none, or
    where it is `unless`. known: segments that are open. trusts: as of `open_newest`."""
    directory = store.directory
    owner, entries = registered_snapshots(directory, connect)
    if unless and entries and entries[0].name == unless:
        return None
    snapshot = open_newest(directory, owner, entries, known, trusts)
    if snapshot is None or snapshot.name == unless:
        return None
    if spec.lifetime is not None:
        for one in snapshot.segments:
            one.lifetimes.prepare(spec.lifetime)
    view, counted = replayed(store, view_of_snapshot(snapshot, spec))
    if live_count(view) != counted and not store.damaged_rows:
        # Changes are found by an index of the store; a rotten page of it hides some.
        log.error("tail_incomplete", extra={"generation": directory.name, "snapshot": snapshot.name})
        return None
    return view


def view_of_store(store: Store, spec: CollectionSpec) -> View:
    """Return a view of every live row of the store, all in memory."""
    delta, seq, counted = Delta(spec), 0, 0
    empty = store.page_without_vectors()
    for page in [empty] if empty else store.scan_items():
        live = [row for row in page.rows if row.is_live]
        if live:
            delta.add_rows(live)
        seq, counted = page.seq, page.live or 0
    view = view_of_delta(delta, seq)
    if live_count(view) != counted and not store.damaged_rows:
        store.report_missing(abs(live_count(view) - counted))
    return view
