"""An open segment with its metadata and filters, and an open snapshot of several segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index_store.ann.port import Bitmap
from index_store.filter.cache import FilterBitmaps
from index_store.filter.lifetimes import SealedLifetimes
from index_store.lexical.postings import SealedPostings, open_postings
from index_store.segment.metadata import SealedMetadata
from index_store.segment.reader import SegmentReader


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """One open segment under the name of its directory. Nothing in it changes. postings: None where it was
    sealed without any."""

    name: str
    reader: SegmentReader
    metadata: SealedMetadata
    masks: FilterBitmaps
    lifetimes: SealedLifetimes
    postings: SealedPostings | None = None

    @property
    def seq(self) -> int:
        """Every write up to it is in this segment or in an earlier one."""
        return self.reader.facts.identity.seq

    @property
    def lexical_version(self) -> str:
        """Return what its rows' words are found by; empty without postings."""
        return "" if self.postings is None else self.postings.version


@dataclass(frozen=True, slots=True)
class OpenSnapshot:
    """An open snapshot. live: one bitmap a segment, as of `seq`. name: '' when there is none."""

    name: str
    seq: int
    segments: tuple[OpenSegment, ...]
    live: tuple[Bitmap, ...]


OpenSegments = Mapping[tuple[str, str], OpenSegment]
"""Open segments by name and manifest checksum: a segment that stays is not opened again."""


def open_segment(directory: Path, verified_sha256: str | None) -> OpenSegment:
    """Map a segment's directory. Raises StoreDamaged."""
    reader = SegmentReader.open(directory, verified_sha256)
    metadata = SealedMetadata.open(directory)
    masks = FilterBitmaps(metadata, reader.rows)
    lifetimes = SealedLifetimes(metadata, reader.rows)
    return OpenSegment(directory.name, reader, metadata, masks, lifetimes, open_postings(directory))
