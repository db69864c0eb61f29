"""What the two sources say together: an item is there if it has a vector and stands in the items table.

A stream of changes and a full comparison both end here: they name ids, and this reads what holds now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from feeder.changes import Directory, IntDirectory, ItemRow, Key, TextDirectory, VectorPage, last_shown
from feeder.export import PAGES_AHEAD, UNFIT, Cleaned, choose, clean, pages, read_ahead
from feeder.known import Known, Portion
from feeder.ledger import Ledger
from feeder.pacing import Pacer
from feeder.sources.port import ItemSource, VectorSource
from feeder.tables import IdKind
from vector_client.types import Id


class Truth:
    """Reads one collection's sources. Fits known.Facts. For one thread; `ledger` belongs to it.

    pages_ahead: 0 keeps one processor busy instead of two while everything is read. pacer: rests after each
    of these pages.
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
    ) -> None:
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
        self._note_unfit(cleaned.set_aside)
        present = {item.id for item in cleaned.items}
        carried: dict[Key, Id | None] = dict.fromkeys(wanted_keys)
        carried.update(zip(page.keys, page.ids, strict=True))
        self._ledger.expect(carried)
        return Known(cleaned.items, [each for each in wanted_ids if each not in present], carried)

    def note(self, known: Known, rejected: Mapping[Id, str]) -> None:
        """Remember `known.rows`, and what the service refused; to be called when it has stored the rest."""
        self._ledger.note(known.rows)
        for item_id in (*known.absent, *(item.id for item in known.items)):
            self._rejected.pop(item_id, None)
        self._rejected |= rejected

    def everything(self) -> Iterator[Portion]:
        """Yield the whole source in key order. Once it is read to the end, `about` looks rows up in what was
        read."""
        directory = None if self._items is None else self._items.directory()
        if directory is not None and not directory.count:
            self._ledger.doubt()
            yield Portion((), np.zeros(0, np.bool_), np.zeros((0, 4), np.uint8), is_all_orphans=True)
        self._ledger.begin_anew()
        self._unfit.clear()
        if self._pacer is not None:
            self._pacer.begin()
        with read_ahead(pages(self._vectors, None, self._page_rows), self._pages_ahead) as ahead:
            for page in ahead:
                self._ledger.add(page.keys, page.ids)
                chosen = choose(page, directory, self._is_half)
                self._note_unfit(chosen.set_aside)
                bodies = chosen.packed.view(np.uint8)
                yield Portion(chosen.ids, chosen.active, bodies, set_aside=chosen.set_aside)
                if self._pacer is not None:
                    self._pacer.rest()
        self._ledger.end_anew()

    def confirm(self) -> None:
        """Declare `about` ready; to be called when the index holds everything that was read."""
        self._ledger.confirm(self._identity)

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        """None is ever due: a vector that can't be stored can't be until its row changes."""
        return {} if only_due else {**self._unfit, **self._rejected}

    def _note_unfit(self, set_aside: Mapping[str, Sequence[Id]]) -> None:
        for reason in set_aside.keys() & UNFIT:
            self._unfit |= dict.fromkeys(set_aside[reason], reason)

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


def _in_order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
