"""What an items table alone says: for collections whose vectors the service makes out of text or pictures.

What the two sides compare is the hash of the content, since a model's vectors can't be made again bit for
bit. A picture is fetched when its address is new; whatever can't be had is named, kept back and tried
again later.
"""

from __future__ import annotations

import hashlib
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from feeder.changes import ItemRow, Key
from feeder.facts import Content, Failure, Known, Portion
from feeder.read.image_fetch import PictureFetcher, PictureRefused
from feeder.read.text_template import rendered
from feeder.sources.port import ItemSource
from feeder.state.content_cache import ContentState, Remembered
from feeder.table_mapping import Modality
from feeder.throttle import Pacer
from vector_client.types import Id, Item

NO_HASH = bytes(32)
"""Stands for content that was not seen yet: equal to no hash, so it is looked at."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How content becomes what is embedded. page_items: read and hashed at a time. fetches: at a time."""

    modality: Modality
    template: str
    page_items: int
    fetches: int


@dataclass(frozen=True, slots=True)
class Beside:
    """Connections of their own, for whoever reads everything while `about` is asked; closed while nobody
    does. pacer: rests after each page."""

    items: ItemSource
    state: ContentState
    pacer: Pacer


class ContentTruth:
    """Fits known.Facts. For one thread; `state` belongs to it."""

    def __init__(
        self,
        items: ItemSource,
        state: ContentState,
        pictures: PictureFetcher,
        recipe: Recipe,
        identity: str,
        clock: Callable[[], float] = time.time,
        beside: Beside | None = None,
    ) -> None:
        self._beside = beside
        self._items = items
        self._state = state
        self._pictures = pictures
        self._recipe = recipe
        self._identity = identity
        self._clock = clock

    def open(self) -> None:
        self._items.open()
        self._state.open()

    def close(self) -> None:
        self._items.close()
        self._state.close()

    @property
    def is_ready(self) -> bool:
        return self._state.is_of(self._identity)

    def about(self, keys: Iterable[Key] = (), ids: Iterable[Id] = (), *, anew: bool = False) -> Known:
        """Return items with their content where it is new, or `anew` asks for it. keys: ids here, too."""
        wanted = list(dict.fromkeys([*keys, *ids]))
        rows = {item_id: shown(found) for item_id, found in self._items.fetch(wanted).items()}
        refs = {item_id: self._ref(row) for item_id, row in rows.items()}
        absent = [item_id for item_id in wanted if not refs.get(item_id)]
        past = self._state.recall(wanted)
        now = self._clock()
        items: list[Item] = []
        failed: dict[Id, Failure] = {}
        contents: dict[Id, Content] = {}
        new: list[Id] = []
        for item_id in wanted:
            ref, before = refs.get(item_id, ""), past.get(item_id)
            if not ref:
                continue
            row = rows[item_id]
            if before is not None and before.waits(ref, now):
                failed[item_id] = Failure(ref, str(before.reason), row.active, is_new=False)
            elif before is not None and before.content is not None and before.content.ref == ref and not anew:
                contents[item_id] = before.content
                items.append(Item(item_id, active=row.active, metadata=row.metadata))
            else:
                new.append(item_id)
        for item_id, made in self._made(new, rows, refs):
            row = rows[item_id]
            if isinstance(made, Failure):
                failed[item_id] = made
            else:
                item, contents[item_id] = made
                items.append(item)
        for item_id, failure in failed.items():
            held = past.get(item_id)
            if held is not None and held.content is not None:
                # What the index holds stays, but a product that was taken off sale has to vanish.
                contents[item_id] = held.content
                items.append(Item(item_id, active=failure.active, metadata=rows[item_id].metadata))
        return Known(items, absent, contents=contents, failed=failed)

    def note(self, known: Known, rejected: Mapping[Id, str]) -> None:
        kept_back = rejected.keys() | known.failed.keys()
        stored = {item.id: known.contents[item.id] for item in known.items if item.id not in kept_back}
        failed = dict(known.failed)
        active = {item.id: item.active for item in known.items}
        for item_id, reason in rejected.items():
            if item_id in known.contents and item_id not in failed:
                failed[item_id] = Failure(known.contents[item_id].ref, reason, active[item_id])
        self._state.note(stored, failed, known.absent)

    def everything(self) -> Generator[Portion, None, None]:
        """Return what should be embedded; a picture whose address is new counts as not seen yet."""
        if self._beside is None:
            return self._portions(self._items, self._state, None)
        return self._read_beside(self._beside)

    def _read_beside(self, beside: Beside) -> Generator[Portion, None, None]:
        with closing(beside.items), closing(beside.state):
            beside.items.open()
            beside.state.open()
            yield from self._portions(beside.items, beside.state, beside.pacer)

    def _portions(
        self, items: ItemSource, state: ContentState, pacer: Pacer | None
    ) -> Generator[Portion, None, None]:
        if pacer is not None:
            pacer.begin()
        ids = items.directory(None if pacer is None else pacer.rest).ids()
        size = self._recipe.page_items
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            yield self._portion(items.fetch(some), state.recall(some))
            if pacer is not None:
                pacer.rest()

    def confirm(self) -> None:
        self._state.confirm(self._identity)

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        return self._state.quarantined(only_due=only_due)

    def _portion(self, found: Mapping[Id, Sequence[ItemRow]], past: Mapping[Id, Remembered]) -> Portion:
        now = self._clock()
        kept: list[Id] = []
        active: list[bool] = []
        digests: list[bytes] = []
        aside: dict[Id, bool] = {}
        empty: list[Id] = []
        for item_id, rows in found.items():
            row, before = shown(rows), past.get(item_id)
            ref = self._ref(row)
            if not ref:
                empty.append(item_id)
                continue
            digest = self._digest(ref, before)
            if before is not None and before.waits(ref, now):
                aside[item_id] = row.active
                if before.content is None:
                    continue
                digest = before.content.digest
            kept.append(item_id)
            active.append(row.active)
            digests.append(digest)
        bodies = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, len(NO_HASH))
        left_out = {"no_content": empty} if empty else {}
        return Portion(kept, np.array(active, dtype=np.bool_), bodies, True, left_out, aside)

    def _digest(self, ref: str, before: Remembered | None) -> bytes:
        if self._recipe.modality == "text":
            return bytes.fromhex(ref)
        if before is not None and before.content is not None and before.content.ref == ref:
            return before.content.digest
        return NO_HASH

    def _ref(self, row: ItemRow) -> str:
        """Return what tells this content from another, "" when there is none."""
        if self._recipe.modality == "image":
            return row.content.get("image_url", "").strip()
        text = self._text(row)
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def _text(self, row: ItemRow) -> str:
        """Return the text as the service reads it: in NFC, without white space around it."""
        if not any(value.strip() for value in row.content.values()):
            return ""  # a template's own words are no content
        return unicodedata.normalize("NFC", rendered(self._recipe.template, row.content)).strip()

    def _made(
        self, ids: Sequence[Id], rows: Mapping[Id, ItemRow], refs: Mapping[Id, str]
    ) -> Iterator[tuple[Id, tuple[Item, Content] | Failure]]:
        if self._recipe.modality == "text":
            for item_id in ids:
                row, ref = rows[item_id], refs[item_id]
                item = Item(item_id, text=self._text(row), active=row.active, metadata=row.metadata)
                yield item_id, (item, Content(ref, bytes.fromhex(ref)))
            return
        if not ids:
            return
        with ThreadPoolExecutor(self._recipe.fetches, thread_name_prefix="picture") as pool:
            for item_id, got in zip(ids, pool.map(lambda each: self._fetched(refs[each]), ids), strict=True):
                row, ref = rows[item_id], refs[item_id]
                if isinstance(got, str):
                    yield item_id, Failure(ref, got, row.active)
                    continue
                item = Item(item_id, image=got, active=row.active, metadata=row.metadata)
                yield item_id, (item, Content(ref, hashlib.sha256(got).digest()))

    def _fetched(self, url: str) -> bytes | str:
        """Return the picture, or why it can't be had."""
        try:
            return self._pictures.fetch(url)
        except PictureRefused as exc:
            return str(exc)


def shown(rows: Sequence[ItemRow]) -> ItemRow:
    """Of several rows of one id an active one tells the content, always the same one whatever their order."""
    active = [row for row in rows if row.active] or list(rows)
    return max(active, key=lambda row: sorted(row.content.items()))
