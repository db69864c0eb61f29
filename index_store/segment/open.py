"""A sealed segment with what a generation needs beside its vectors, and a snapshot of several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index_store.ann.port import Bitmap
from index_store.filter.cache import SealedMasks
from index_store.segment.metadata import SealedMetadata
from index_store.segment.reader import Segment


@dataclass(frozen=True, slots=True)
class Sealed:
    """One open segment under the name of its directory. Nothing in it changes."""

    name: str
    segment: Segment
    metadata: SealedMetadata
    masks: SealedMasks

    @property
    def seq(self) -> int:
        """Every write up to it is in this segment or in an earlier one."""
        return self.segment.facts.identity.seq


@dataclass(frozen=True, slots=True)
class Base:
    """An open snapshot. live: one bitmap a segment, as of `seq`. name: '' when there is none."""

    name: str
    seq: int
    sealed: tuple[Sealed, ...]
    live: tuple[Bitmap, ...]


Known = Mapping[tuple[str, str], Sealed]
"""Open segments by name and manifest checksum: a segment that stays is not opened again."""


def open_sealed(directory: Path, verified_sha256: str | None) -> Sealed:
    """Map a segment's directory. Raises StoreDamaged."""
    segment = Segment.open(directory, verified_sha256)
    metadata = SealedMetadata.open(directory)
    return Sealed(directory.name, segment, metadata, SealedMasks(metadata, segment.rows))
