"""Pages out of a vector source: one read ahead of the other, then cleaned row by row."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feeder.changes import ACTIVE, UNKNOWN, Directory, Key, VectorPage, Vectors
from feeder.sources.port import VectorSource
from item_rules.ids import id_faults, kind_of
from item_rules.vectors import WHY, vector_faults
from vector_client.types import Id, Item

PAGES_AHEAD = 2
HALF_PRECISION_ERROR_MAX = 1e-3
UNFIT = frozenset({*WHY, "bad_id"})
"""Reasons to skip a row although its item exists: no index could store it."""
RENORMALISED: Mapping[str, object] = {"vector_source": "halfvec", "renormalised": True}


@dataclass(frozen=True, slots=True)
class PageItems:
    """What of a page can be stored: one item an id, the last row of it. skipped: ids by reason."""

    items: Sequence[Item]
    skipped: Mapping[str, Sequence[Id]]
    inactive: int


def pages(source: VectorSource, after: Key | None, rows: int) -> Iterator[VectorPage]:
    """Yield pages until the table ends."""
    while True:
        page = source.page(after, rows)
        if not page.keys:
            return
        yield page
        if len(page.keys) < rows:
            return
        after = page.keys[-1]


@contextlib.contextmanager
def read_ahead(
    source_pages: Iterator[VectorPage], depth: int = PAGES_AHEAD
) -> Iterator[Iterator[VectorPage]]:
    """Read pages in a thread of their own, at most `depth` before they are asked for; an error of the source
    comes out where its page would have. Leaving the block ends the thread. depth 0: no thread, one by one."""
    if not depth:
        yield source_pages
        return
    waiting: queue.Queue[VectorPage | BaseException | None] = queue.Queue(maxsize=depth)
    is_over = threading.Event()

    def offer(value: VectorPage | BaseException | None) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(value, timeout=0.1)
                break

    def read() -> None:
        try:
            for page in source_pages:
                offer(page)
                if is_over.is_set():
                    return
            offer(None)
        except BaseException as exc:  # handed to the thread that waits for the page
            offer(exc)

    def take() -> Iterator[VectorPage]:
        while (value := waiting.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value

    thread = threading.Thread(target=read, name="export", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        is_over.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """The rows of a page that count, in key order. packed: (rows, dim) little-endian float32."""

    ids: Sequence[Id]
    active: npt.NDArray[np.bool_]
    packed: npt.NDArray[np.float32]
    skipped: Mapping[str, Sequence[Id]]


def chosen_rows(page: VectorPage, directory: Directory | None, is_half: bool = False) -> ChosenRows:
    """Return the last row of each id that can be stored, and the ids that are skipped.

    directory None: every id counts as known and active. is_half: half precision leaves unit vectors up to
    8e-5 off; they are made unit length again, once.
    """
    vectors = page.vectors
    good, skipped = _without_faults(page)
    if directory is None:
        states = np.full(len(page.ids), ACTIVE, dtype=np.int8)
    else:
        states = directory.states(page.ids)
        _note(skipped, "orphan", page.ids, good & (states == UNKNOWN))
        good &= states != UNKNOWN
    rows = np.flatnonzero(good).tolist()
    last_of = {page.ids[row]: row for row in rows}
    if len(last_of) < len(rows):
        skipped["duplicate"] = [page.ids[row] for row in rows if last_of[page.ids[row]] != row]
        rows = sorted(last_of.values())
    if is_half:
        vectors = renormalised(vectors)
    is_whole = len(rows) == len(page.ids)
    ids = page.ids if is_whole else [page.ids[row] for row in rows]
    packed = np.ascontiguousarray(vectors if is_whole else vectors[rows], dtype="<f4")
    return ChosenRows(ids, states[rows] == ACTIVE, packed, skipped)


def items_of_page(
    page: VectorPage,
    directory: Directory | None,
    metadata: Mapping[Id, Mapping[str, object]] | None = None,
    is_half: bool = False,
) -> PageItems:
    """Return the items of a page, in key order, and the ids that are skipped. Where half precision was
    made good, metadata says so."""
    chosen = chosen_rows(page, directory, is_half)
    items = [
        Item(item_id, row.tobytes(), active=active, metadata=_metadata(item_id, metadata, is_half))
        for item_id, row, active in zip(chosen.ids, chosen.packed, chosen.active.tolist(), strict=True)
    ]
    return PageItems(items, chosen.skipped, sum(not item.active for item in items))


def renormalised(vectors: Vectors) -> Vectors:
    """Return the rows at unit length, where they were that but for half precision's rounding."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    near = np.abs(lengths - 1.0) < HALF_PRECISION_ERROR_MAX
    return np.where(near[:, None], vectors / np.where(near, lengths, 1.0)[:, None], vectors).astype(
        np.float32
    )


def _without_faults(page: VectorPage) -> tuple[npt.NDArray[np.bool_], dict[str, Sequence[Id]]]:
    """Return which rows have a vector and an id that the service can store, and the ids of the others."""
    skipped: dict[str, list[Id]] = {}
    good = np.ones(len(page.ids), dtype=bool)
    for row, fault in vector_faults(page.vectors).items():
        skipped.setdefault(fault, []).append(page.ids[row])
        good[row] = False
    for row in id_faults(page.ids, kind_of(page.ids[0])) if page.ids else ():
        if good[row]:
            skipped.setdefault("bad_id", []).append(page.ids[row])
            good[row] = False
    return good, dict(skipped)


def _note(
    skipped: dict[str, Sequence[Id]], reason: str, ids: Sequence[Id], where: npt.NDArray[np.bool_]
) -> None:
    rows = np.flatnonzero(where)
    if len(rows):
        skipped[reason] = [ids[int(row)] for row in rows]


def _metadata(
    item_id: Id, metadata: Mapping[Id, Mapping[str, object]] | None, is_half: bool
) -> Mapping[str, object] | None:
    known = metadata.get(item_id) if metadata is not None else None
    if not is_half:
        return known
    return {**(known or {}), **RENORMALISED}
