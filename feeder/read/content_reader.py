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
from feeder.facts import Chunk, Content, Failure, Scan, SourceState
from feeder.read.image_fetch import PictureFetcher, PictureRefused
from feeder.read.text_template import rendered
from feeder.sources.port import ItemSource
from feeder.state.content_cache import ContentCache, StoredContent
from feeder.table_mapping import Modality
from feeder.throttle import Throttle
from vector_client.types import Id, Item

NO_HASH = bytes(32)
"""Stands for content that was not seen yet: equal to no hash, so it is looked at."""


@dataclass(frozen=True, slots=True)
class ContentRules:
    """How rows become what is embedded. page_items: read and hashed at a time. fetches: at a time."""

    modality: Modality
    template: str
    page_items: int
    fetches: int


@dataclass(frozen=True, slots=True)
class ContentScanSources:
    """Connections of a scan of its own, so that `current_state` can be called meanwhile; closed between
    scans. throttle: pauses after each page."""

    items: ItemSource
    state: ContentCache
    throttle: Throttle


class ContentReader:
    """Fits facts.SourceReader. For one thread; `state` belongs to it."""

    def __init__(
        self,
        items: ItemSource,
        state: ContentCache,
        pictures: PictureFetcher,
        recipe: ContentRules,
        identity: str,
        clock: Callable[[], float] = time.time,
        scan_sources: ContentScanSources | None = None,
    ) -> None:
        self._scan_sources = scan_sources
        self._items = items
        self._state = state
        self._pictures = pictures
        self._recipe = recipe
        self._identity = identity
        self._clock = clock

    def open(self) -> None:
        """Connect to the items table and open the cache. Raises SourceDown, SettingsWrong."""
        self._items.open()
        self._state.open()

    def close(self) -> None:
        """Let connection and cache go."""
        self._items.close()
        self._state.close()

    @property
    def is_ready(self) -> bool:
        """Whether the cache speaks of the whole source: a scan has been finished."""
        return self._state.is_complete_for(self._identity)

    def current_state(
        self, keys: Iterable[Key] = (), ids: Iterable[Id] = (), *, refetch: bool = False
    ) -> SourceState:
        """Return items with their content where it is new, or `refetch` asks for it. keys: ids here, too."""
        wanted = list(dict.fromkeys([*keys, *ids]))
        rows = {item_id: shown(found) for item_id, found in self._items.fetch(wanted).items()}
        refs = {item_id: self._ref(row) for item_id, row in rows.items()}
        absent = [item_id for item_id in wanted if not refs.get(item_id)]
        past = self._state.lookup(wanted)
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
            if before is not None and before.is_waiting(ref, now):
                failed[item_id] = Failure(ref, str(before.reason), row.active, is_new=False)
            elif (
                before is not None
                and before.content is not None
                and before.content.ref == ref
                and not refetch
            ):
                contents[item_id] = before.content
                items.append(Item(item_id, active=row.active, metadata=row.metadata))
            else:
                new.append(item_id)
        for item_id, made in self._with_content(new, rows, refs):
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
        return SourceState(items, absent, contents=contents, failed=failed)

    def note_stored(self, current: SourceState, rejected: Mapping[Id, str]) -> None:
        """Write down what the service acknowledged, and when to try again what it refused."""
        kept_back = rejected.keys() | current.failed.keys()
        stored = {item.id: current.contents[item.id] for item in current.items if item.id not in kept_back}
        failed = dict(current.failed)
        active = {item.id: item.active for item in current.items}
        for item_id, reason in rejected.items():
            if item_id in current.contents and item_id not in failed:
                failed[item_id] = Failure(current.contents[item_id].ref, reason, active[item_id])
        self._state.record(stored, failed, current.absent)

    def scan(self) -> Scan:
        """Return what should be embedded; a picture whose address is new counts as not seen yet."""
        sources = self._scan_sources
        chunks = (
            self._chunks(self._items, self._state, None)
            if sources is None
            else self._scan_while_following(sources)
        )
        return Scan(chunks, lambda: self._state.mark_complete_for(self._identity))

    def _scan_while_following(self, scan_sources: ContentScanSources) -> Generator[Chunk, None, None]:
        with closing(scan_sources.items), closing(scan_sources.state):
            scan_sources.items.open()
            scan_sources.state.open()
            yield from self._chunks(scan_sources.items, scan_sources.state, scan_sources.throttle)

    def _chunks(
        self, items: ItemSource, state: ContentCache, throttle: Throttle | None
    ) -> Generator[Chunk, None, None]:
        if throttle is not None:
            throttle.reset()
        ids = items.directory(None if throttle is None else throttle.slow_down).ids()
        size = self._recipe.page_items
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            yield self._chunk(items.fetch(some), state.lookup(some))
            if throttle is not None:
                throttle.slow_down()

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        """Return the ids whose content can't be had or stored, and why. only_due: to try again."""
        return self._state.failures(only_due=only_due)

    def retry_quarantined(self) -> None:
        """Make all of them due now."""
        self._state.end_pauses()

    def _chunk(self, found: Mapping[Id, Sequence[ItemRow]], past: Mapping[Id, StoredContent]) -> Chunk:
        now = self._clock()
        kept: list[Id] = []
        active: list[bool] = []
        digests: list[bytes] = []
        quarantined: dict[Id, bool] = {}
        empty: list[Id] = []
        for item_id, rows in found.items():
            row, before = shown(rows), past.get(item_id)
            ref = self._ref(row)
            if not ref:
                empty.append(item_id)
                continue
            digest = self._digest(ref, before)
            if before is not None and before.is_waiting(ref, now):
                quarantined[item_id] = row.active
                if before.content is None:
                    continue
                digest = before.content.digest
            kept.append(item_id)
            active.append(row.active)
            digests.append(digest)
        bodies = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, len(NO_HASH))
        left_out = {"no_content": empty} if empty else {}
        return Chunk(kept, np.array(active, dtype=np.bool_), bodies, True, left_out, quarantined)

    def _digest(self, ref: str, before: StoredContent | None) -> bytes:
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

    def _with_content(
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
            for item_id, got in zip(
                ids, pool.map(lambda each: self._picture_or_reason(refs[each]), ids), strict=True
            ):
                row, ref = rows[item_id], refs[item_id]
                if isinstance(got, str):
                    yield item_id, Failure(ref, got, row.active)
                    continue
                item = Item(item_id, image=got, active=row.active, metadata=row.metadata)
                yield item_id, (item, Content(ref, hashlib.sha256(got).digest()))

    def _picture_or_reason(self, url: str) -> bytes | str:
        """Return the picture, or why it can't be had."""
        try:
            return self._pictures.picture_at(url)
        except PictureRefused as exc:
            return str(exc)


def shown(rows: Sequence[ItemRow]) -> ItemRow:
    """Of several rows of one id an active one tells the content, always the same one whatever their order."""
    active = [row for row in rows if row.active] or list(rows)
    return max(active, key=lambda row: sorted(row.content.items()))
