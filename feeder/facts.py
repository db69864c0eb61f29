"""What a collection's sources say, whatever they are: the words that following and comparing share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feeder.changes import Key
from vector_client.types import Id, Item

Bodies = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Content:
    """What an item's vector is made of. ref: what tells that it changed (a picture's address; a text's own
    hash). digest: sha256 of the bytes that are embedded."""

    ref: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class SourceState:
    """What holds now. items: what the index must hold; one without vector, text or image is there already and
    only its activity and metadata are said. absent: what it must not hold. rows: the vector rows that were
    asked for, with the ids that each key carries, none where the row is gone.

    contents: of the items whose vectors the service makes. failed: ids whose content can't be had, with what
    was tried and why; what the index holds of them stays as it is, but for its activity.
    """

    items: Sequence[Item]
    absent: Sequence[Id]
    rows: Mapping[Key, Sequence[Id]] = field(default_factory=dict)
    contents: Mapping[Id, Content] = field(default_factory=dict)
    failed: Mapping[Id, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """is_new: an attempt was made just now, and counts towards the back-off."""

    ref: str
    reason: str
    active: bool
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the source as a comparison needs it. active: (n,) bool. bodies: (n, bytes) uint8, what each
    share is made of: the packed vector, or (is_hashed) the sha256 of what the service embeds. quarantined:
    ids, and whether they are active; only their activity is compared. is_all_orphans: said
    first, with no row, where the source knows no item, so that nothing that follows will count."""

    ids: Sequence[Id]
    active: npt.NDArray[np.bool_]
    bodies: Bodies
    is_hashed: bool = False
    skipped: Mapping[str, Sequence[Id]] = field(default_factory=dict)
    quarantined: Mapping[Id, bool] = field(default_factory=dict)
    is_all_orphans: bool = False


class Scan:
    """One reading of a whole source: its chunks, once and to the end; then `finish`.

    chunks: may be taken by another thread than the one that made the scan. finish: belongs to the reader's
    thread.
    """

    def __init__(self, chunks: Generator[Chunk, None, None], finish: Callable[[], None]) -> None:
        self._chunks = chunks
        self._finish = finish
        self._is_read = False

    def chunks(self) -> Generator[Chunk, None, None]:
        """Return the source in chunks; of two rows of one id the later one holds.

        May be left at any time (close it in the thread that took chunks): then the comparison is owed.
        Raises SourceDown, SettingsWrong.
        """
        yield from self._chunks
        self._is_read = True

    def finish(self) -> None:
        """Mark the reader's memory complete, once the index holds everything that was read."""
        assert self._is_read, "chunks() comes first, to its end"
        self._finish()


class SourceReader(Protocol):
    """One collection's sources. For one thread, but for the chunks of a scan."""

    def open(self) -> None:
        """Connect, and open what is remembered. Raises SourceDown, SettingsWrong."""

    def close(self) -> None:
        """Let connections and files go; `open` may follow."""

    @property
    def is_ready(self) -> bool:
        """Whether `current_state` knows every row: a scan has been finished."""

    def current_state(
        self, keys: Iterable[Key] = (), ids: Iterable[Id] = (), *, refetch: bool = False
    ) -> SourceState:
        """Return what holds for these ids, and for every id that these rows carried or carry now.

        refetch: read content again although it was stored before, since the index was found to differ.
        Raises SourceDown, SettingsWrong.
        """

    def note_stored(self, current: SourceState, rejected: Mapping[Id, str]) -> None:
        """Remember what was written. rejected: what the service refused of it, with its reasons. Call it once
        the service has stored the rest."""

    def scan(self) -> Scan:
        """Return a reading of the whole source that has not begun. If the reader was ready when this was
        called, everything else here may be called while the chunks are taken."""

    def quarantined(self, *, only_due: bool = False) -> Mapping[Id, str]:
        """Return the ids that could not be stored, and why. only_due: some that want another attempt now."""

    def retry_quarantined(self) -> None:
        """Want another attempt for each now, where one can help before its row changes."""


def has_content(item: Item) -> bool:
    """Tell whether the service is to embed something of it."""
    return item.text is not None or item.image is not None
