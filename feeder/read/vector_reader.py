"""What the two sources say together: an item is there if it has a vector and stands in the items table.

A stream of changes and a full comparison both end here: they name ids, and this reads what holds now.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from feeder.changes import Directory, IntDirectory, ItemRow, Key, TextDirectory, VectorPage, last_shown
from feeder.errors import SettingsWrong
from feeder.facts import Chunk, Scan, SourceState
from feeder.read.pages import PAGES_AHEAD, UNFIT, PageItems, chosen_rows, items_of_page, pages, read_ahead
from feeder.sources.port import ItemSource, Throttling, VectorSource
from feeder.state.key_map import KeyMap
from feeder.throttle import Throttle
from item_rules.ids import IdKind
from vector_client.types import Id


@dataclass(frozen=True, slots=True)
class VectorScanSources:
    """Connections of their own to the two tables, closed while nobody compares."""

    vectors: VectorSource
    items: ItemSource | None


@dataclass(slots=True)
class _ScanNotes:
    """What a scan found, for the reader's thread to merge. missing_pairs: rows that the key map
    lacked. unfit: rows whose vectors can't be stored."""

    missing_pairs: list[tuple[Key, Id]] = field(default_factory=list)
    unfit: dict[Id, str] = field(default_factory=dict)

    def add_unfit(self, skipped: Mapping[str, Sequence[Id]]) -> None:
        for reason in skipped.keys() & UNFIT:
            self.unfit |= dict.fromkeys(skipped[reason], reason)


class VectorReader:
    """Reads one collection's sources. Fits facts.SourceReader. For one thread; `key_map` belongs to it.

    pages_ahead: 0 keeps one processor busy instead of two during a scan. throttle: pauses after each page of
    a scan. scan_sources: what a scan reads from, so that `current_state` can be called meanwhile.
    """

    def __init__(
        self,
        vectors: VectorSource,
        items: ItemSource | None,
        key_map: KeyMap,
        *,
        id_kind: IdKind,
        page_rows: int,
        pages_ahead: int = PAGES_AHEAD,
        throttle: Throttle | None = None,
        scan_sources: VectorScanSources | None = None,
    ) -> None:
        self._scan_sources = scan_sources
        self._read: _ScanNotes | None = None
        self._read_meanwhile: set[Id] | None = None
        self._vectors = vectors
        self._items = items
        self._key_map = key_map
        self._id_kind = id_kind
        self._page_rows = page_rows
        self._pages_ahead = pages_ahead
        self._throttle = throttle
        self._is_half = False
        self._identity = ""
        self._rejected: dict[Id, str] = {}
        self._unfit: dict[Id, str] = {}

    def open(self) -> None:
        """Connect to both tables and open the key map. Raises SourceDown, SettingsWrong."""
        shape = self._vectors.open()
        self._is_half, self._identity = shape.kind == "halfvec", shape.identity
        if self._items is not None:
            self._items.open()
        self._key_map.open()

    def close(self) -> None:
        """Let connections and key map go."""
        self._vectors.close()
        if self._items is not None:
            self._items.close()
        self._key_map.close()

    @property
    def is_ready(self) -> bool:
        """Whether the key map holds every row of this very table: a scan has been finished."""
        return self._key_map.is_complete_for(self._identity)

    def current_state(
        self,
        keys: Iterable[Key] = (),
        ids: Iterable[Id] = (),
        *,
        refetch: bool = False,  # noqa: ARG002  # vectors are sent whole every time
    ) -> SourceState:
        """Return what holds for these ids, and for every id that these rows carried or carry now."""
        self._merge_scan()
        wanted_keys, wanted_ids = set(keys), set(ids)
        wanted_ids |= self._key_map.ids_of(wanted_keys)
        while True:
            wanted_keys |= self._key_map.keys_of(wanted_ids)
            page = self._page_of(wanted_keys)
            newly_found = set(page.ids) - wanted_ids
            wanted_ids |= newly_found
            if not self._key_map.keys_of(newly_found) - wanted_keys:
                break
        cleaned = self._items_of(page, wanted_ids)
        for each in wanted_ids:
            self._unfit.pop(each, None)
        now = _ScanNotes()
        now.add_unfit(cleaned.skipped)
        self._unfit |= now.unfit
        if self._read_meanwhile is not None:
            self._read_meanwhile |= wanted_ids
        present = {item.id for item in cleaned.items}
        carried: dict[Key, list[Id]] = {key: [] for key in wanted_keys}
        for key, item_id in zip(page.keys, page.ids, strict=True):
            carried[key].append(item_id)
        self._key_map.add_current(carried)
        return SourceState(cleaned.items, [each for each in wanted_ids if each not in present], carried)

    def note_stored(self, current: SourceState, rejected: Mapping[Id, str]) -> None:
        """Remember the rows, and what the service refused."""
        self._key_map.drop_former(current.rows)
        for item_id in (*current.absent, *(item.id for item in current.items)):
            self._rejected.pop(item_id, None)
        self._rejected |= rejected

    def scan(self) -> Scan:
        """Return the whole source in key order. Once its chunks are read to the end, `current_state` looks
        rows up in what was read."""
        self._read, self._read_meanwhile = None, set()
        if self._scan_sources is not None and self.is_ready:
            return Scan(self._scan_while_following(self._scan_sources), self._mark_complete)
        return Scan(self._scan_alone(), self._mark_complete)

    def _scan_alone(self) -> Generator[Chunk, None, None]:
        """Rebuild the key map; until it is complete, nothing can be followed by it."""
        read, throttle = _ScanNotes(), self._start_throttle()
        directory = None if self._items is None else self._items.directory(throttle)
        if directory is not None and not directory.count:
            self._key_map.invalidate()
            yield _all_orphans()
        self._key_map.begin_rebuild()
        for page in self._pages(self._vectors, throttle):
            self._key_map.add_to_rebuild(page.keys, page.ids)
            yield self._chunk(page, directory, read)
        self._key_map.finish_rebuild()
        self._read = read

    def _scan_while_following(self, sources: VectorScanSources) -> Generator[Chunk, None, None]:
        """The key map is complete and kept up meanwhile. Rows that it lacks, inserted while nobody followed,
        are added; deleted rows stay in it until they are asked for."""
        read, throttle = _ScanNotes(), self._start_throttle()
        with closing(sources.vectors), closing(self._key_map.view()) as view:
            if sources.vectors.open().identity != self._identity:
                raise SettingsWrong("the vector table is another one by now")
            directory = None
            if sources.items is not None:
                with closing(sources.items):
                    sources.items.open()
                    directory = sources.items.directory(throttle)
            if directory is not None and not directory.count:
                yield _all_orphans()
            for page in self._pages(sources.vectors, throttle):
                read.missing_pairs += view.missing_pairs(page.keys, page.ids)
                yield self._chunk(page, directory, read)
        self._read = read

    def _start_throttle(self) -> Throttling | None:
        """Return what pauses a scan that begins now."""
        if self._throttle is None:
            return None
        self._throttle.reset()
        return self._throttle.slow_down

    def _pages(self, vectors: VectorSource, throttle: Throttling | None) -> Iterator[VectorPage]:
        """Pause after each page, once it has been used."""
        with read_ahead(pages(vectors, None, self._page_rows), self._pages_ahead) as ahead:
            for page in ahead:
                yield page
                if throttle is not None:
                    throttle()

    def _chunk(self, page: VectorPage, directory: Directory | None, read: _ScanNotes) -> Chunk:
        chosen = chosen_rows(page, directory, self._is_half)
        read.add_unfit(chosen.skipped)
        bodies = chosen.packed.view(np.uint8)
        return Chunk(chosen.ids, chosen.active, bodies, skipped=chosen.skipped)

    def _merge_scan(self) -> None:
        """Merge what the last scan found; ids that were read meanwhile are newer than that."""
        read, asked = self._read, self._read_meanwhile
        if read is None or asked is None:
            return
        self._read = self._read_meanwhile = None
        self._key_map.add_missing(read.missing_pairs)
        newer = {item_id: why for item_id, why in self._unfit.items() if item_id in asked}
        older = {item_id: why for item_id, why in read.unfit.items() if item_id not in asked}
        self._unfit = {**older, **newer}

    def _mark_complete(self) -> None:
        self._merge_scan()
        self._key_map.mark_complete_for(self._identity)

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        """Return the ids whose vectors can't be stored. Never retried: an invalid vector stays invalid until
        its row changes."""
        self._merge_scan()
        return {} if only_due else {**self._unfit, **self._rejected}

    def retry_quarantined(self) -> None:
        """Do nothing: see `quarantined`."""

    def _page_of(self, keys: Iterable[Key]) -> VectorPage:
        wanted = sorted(keys, key=_in_order)
        return self._vectors.rows_at(wanted) if wanted else VectorPage((), (), np.zeros((0, 1), np.float32))

    def _items_of(self, page: VectorPage, ids: Iterable[Id]) -> PageItems:
        if self._items is None:
            return items_of_page(page, None, is_half=self._is_half)
        found = self._items.fetch(list(ids))
        metadata = {item_id: last_shown(rows).metadata for item_id, rows in found.items()}
        return items_of_page(page, self._directory(found), metadata, self._is_half)

    def _directory(self, found: Mapping[Id, Sequence[ItemRow]]) -> Directory:
        active = {item_id: any(row.active for row in rows) for item_id, rows in found.items()}
        if self._id_kind == "string":
            texts = TextDirectory()
            for item_id, is_active in active.items():
                texts.add(str(item_id), is_active)
            return texts
        ids = np.array([int(item_id) for item_id in active], dtype=np.int64)
        return IntDirectory(ids, np.array(list(active.values()), dtype=np.bool_))


def _all_orphans() -> Chunk:
    return Chunk((), np.zeros(0, np.bool_), np.zeros((0, 4), np.uint8), is_all_orphans=True)


def _in_order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
