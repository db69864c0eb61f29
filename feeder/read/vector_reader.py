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
from feeder.facts import Known, Portion
from feeder.read.pages import PAGES_AHEAD, UNFIT, Cleaned, choose, clean, pages, read_ahead
from feeder.sources.port import ItemSource, Rest, VectorSource
from feeder.state.key_map import Ledger
from feeder.throttle import Pacer
from item_rules.ids import IdKind
from vector_client.types import Id


@dataclass(frozen=True, slots=True)
class Sources:
    """Connections of their own to the two tables, closed while nobody compares."""

    vectors: VectorSource
    items: ItemSource | None


@dataclass(slots=True)
class _Read:
    """What came of reading everything, for the thread that asks `about` to take over. lacking: rows that the
    ledger lacked. unfit: rows whose vectors can't be stored."""

    lacking: list[tuple[Key, Id]] = field(default_factory=list)
    unfit: dict[Id, str] = field(default_factory=dict)

    def note(self, set_aside: Mapping[str, Sequence[Id]]) -> None:
        for reason in set_aside.keys() & UNFIT:
            self.unfit |= dict.fromkeys(set_aside[reason], reason)


class Truth:
    """Reads one collection's sources. Fits known.Facts. For one thread; `ledger` belongs to it.

    pages_ahead: 0 keeps one processor busy instead of two while everything is read. pacer: rests after each
    of these pages. beside: what everything is read from, so that `about` can be asked meanwhile.
    """

    def __init__(
        self,
        vectors: VectorSource,
        items: ItemSource | None,
        ledger: Ledger,
        *,
        id_kind: IdKind,
        page_rows: int,
        pages_ahead: int = PAGES_AHEAD,
        pacer: Pacer | None = None,
        beside: Sources | None = None,
    ) -> None:
        self._beside = beside
        self._read: _Read | None = None
        self._asked: set[Id] | None = None
        self._vectors = vectors
        self._items = items
        self._ledger = ledger
        self._id_kind = id_kind
        self._page_rows = page_rows
        self._pages_ahead = pages_ahead
        self._pacer = pacer
        self._is_half = False
        self._identity = ""
        self._rejected: dict[Id, str] = {}
        self._unfit: dict[Id, str] = {}

    def open(self) -> None:
        shape = self._vectors.open()
        self._is_half, self._identity = shape.kind == "halfvec", shape.identity
        if self._items is not None:
            self._items.open()
        self._ledger.open()

    def close(self) -> None:
        self._vectors.close()
        if self._items is not None:
            self._items.close()
        self._ledger.close()

    @property
    def is_ready(self) -> bool:
        """Whether `about` knows every row: `everything` has been read to its end, and `confirm`ed."""
        return self._ledger.is_of(self._identity)

    def about(self, keys: Iterable[Key] = (), ids: Iterable[Id] = (), *, anew: bool = False) -> Known:  # noqa: ARG002  # vectors are sent whole every time
        """Return what holds for these ids, and for every id that these rows carried or carry now."""
        self._take_over()
        wanted_keys, wanted_ids = set(keys), set(ids)
        wanted_ids |= self._ledger.ids_of(wanted_keys)
        while True:
            wanted_keys |= self._ledger.keys_of(wanted_ids)
            page = self._rows(wanted_keys)
            news = set(page.ids) - wanted_ids
            wanted_ids |= news
            if not self._ledger.keys_of(news) - wanted_keys:
                break
        cleaned = self._cleaned(page, wanted_ids)
        for each in wanted_ids:
            self._unfit.pop(each, None)
        now = _Read()
        now.note(cleaned.set_aside)
        self._unfit |= now.unfit
        if self._asked is not None:
            self._asked |= wanted_ids
        present = {item.id for item in cleaned.items}
        carried: dict[Key, list[Id]] = {key: [] for key in wanted_keys}
        for key, item_id in zip(page.keys, page.ids, strict=True):
            carried[key].append(item_id)
        self._ledger.expect(carried)
        return Known(cleaned.items, [each for each in wanted_ids if each not in present], carried)

    def note(self, known: Known, rejected: Mapping[Id, str]) -> None:
        """Remember `known.rows`, and what the service refused; to be called when it has stored the rest."""
        self._ledger.note(known.rows)
        for item_id in (*known.absent, *(item.id for item in known.items)):
            self._rejected.pop(item_id, None)
        self._rejected |= rejected

    def everything(self) -> Generator[Portion, None, None]:
        """Return the whole source in key order. Once it is read to the end, `about` looks rows up in what was
        read."""
        self._read, self._asked = None, set()
        if self._beside is not None and self.is_ready:
            return self._beside_following(self._beside)
        return self._anew()

    def _anew(self) -> Generator[Portion, None, None]:
        """Make the ledger's list anew: nothing can be followed by what it holds."""
        read, rest = _Read(), self._resting()
        directory = None if self._items is None else self._items.directory(rest)
        if directory is not None and not directory.count:
            self._ledger.doubt()
            yield _all_orphans()
        self._ledger.begin_anew()
        for page in self._pages(self._vectors, rest):
            self._ledger.add(page.keys, page.ids)
            yield self._portion(page, directory, read)
        self._ledger.end_anew()
        self._read = read

    def _beside_following(self, sources: Sources) -> Generator[Portion, None, None]:
        """The list holds every row that the index may know of, and goes on being kept: what it lacks, rows
        that came while nobody followed, is added. Rows that went stay in it until they are asked for."""
        read, rest = _Read(), self._resting()
        with closing(sources.vectors), closing(self._ledger.beside()) as glance:
            if sources.vectors.open().identity != self._identity:
                raise SettingsWrong("the vector table is another one by now")
            directory = None
            if sources.items is not None:
                with closing(sources.items):
                    sources.items.open()
                    directory = sources.items.directory(rest)
            if directory is not None and not directory.count:
                yield _all_orphans()
            for page in self._pages(sources.vectors, rest):
                read.lacking += glance.lacking(page.keys, page.ids)
                yield self._portion(page, directory, read)
        self._read = read

    def _resting(self) -> Rest | None:
        """What paces one reading of everything, from now on."""
        if self._pacer is None:
            return None
        self._pacer.begin()
        return self._pacer.rest

    def _pages(self, vectors: VectorSource, rest: Rest | None) -> Iterator[VectorPage]:
        """Rest after each page, once it has been made use of."""
        with read_ahead(pages(vectors, None, self._page_rows), self._pages_ahead) as ahead:
            for page in ahead:
                yield page
                if rest is not None:
                    rest()

    def _portion(self, page: VectorPage, directory: Directory | None, read: _Read) -> Portion:
        chosen = choose(page, directory, self._is_half)
        read.note(chosen.set_aside)
        bodies = chosen.packed.view(np.uint8)
        return Portion(chosen.ids, chosen.active, bodies, set_aside=chosen.set_aside)

    def _take_over(self) -> None:
        """What was asked for meanwhile is newer than what was read."""
        read, asked = self._read, self._asked
        if read is None or asked is None:
            return
        self._read = self._asked = None
        self._ledger.complete(read.lacking)
        newer = {item_id: why for item_id, why in self._unfit.items() if item_id in asked}
        older = {item_id: why for item_id, why in read.unfit.items() if item_id not in asked}
        self._unfit = {**older, **newer}

    def confirm(self) -> None:
        """Declare `about` ready; to be called when the index holds everything that was read."""
        self._take_over()
        self._ledger.confirm(self._identity)

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        """None is ever due: a vector that can't be stored can't be until its row changes."""
        self._take_over()
        return {} if only_due else {**self._unfit, **self._rejected}

    def _rows(self, keys: Iterable[Key]) -> VectorPage:
        wanted = sorted(keys, key=_in_order)
        return self._vectors.rows_at(wanted) if wanted else VectorPage((), (), np.zeros((0, 1), np.float32))

    def _cleaned(self, page: VectorPage, ids: Iterable[Id]) -> Cleaned:
        if self._items is None:
            return clean(page, None, is_half=self._is_half)
        found = self._items.fetch(list(ids))
        metadata = {item_id: last_shown(rows).metadata for item_id, rows in found.items()}
        return clean(page, self._directory(found), metadata, self._is_half)

    def _directory(self, found: Mapping[Id, Sequence[ItemRow]]) -> Directory:
        active = {item_id: any(row.active for row in rows) for item_id, rows in found.items()}
        if self._id_kind == "string":
            texts = TextDirectory()
            for item_id, is_active in active.items():
                texts.add(str(item_id), is_active)
            return texts
        ids = np.array([int(item_id) for item_id in active], dtype=np.int64)
        return IntDirectory(ids, np.array(list(active.values()), dtype=np.bool_))


def _all_orphans() -> Portion:
    return Portion((), np.zeros(0, np.bool_), np.zeros((0, 4), np.uint8), is_all_orphans=True)


def _in_order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
