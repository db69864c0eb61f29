"""Postings: for each gram the rows that hold it, in mapped files of a segment.

lexical.json                        lexical_version, and the spread of similarities (docs/FORMAT.md)
lexical_<stream>_grams.npy          sorted grams: int64
lexical_<stream>_starts.npy         where the rows of each gram begin, and where the last one's end: int64
lexical_<stream>_rows.npy           rows of one gram after the other, ascending: int32
lexical_<stream>_counts.npy         how often each of those rows holds it, 255 at most: uint8
lexical_<stream>_lengths.npy        how many grams each row has: int32
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store import hints
from index_store.errors import StoreDamaged
from index_store.lexical.analysis import (
    ANALYSIS_VERSION,
    Grams,
    TextGrams,
    document_text,
    letter_grams,
    sound_grams,
)

Lengths: TypeAlias = npt.NDArray[np.int32]
LengthCodes: TypeAlias = npt.NDArray[np.uint8]

STREAMS: Mapping[str, Callable[[Sequence[str]], TextGrams]] = {"letters": letter_grams, "sounds": sound_grams}
"""What texts are found by, each counted by itself."""

COUNT_MAX = 255
_CODES_A_DOUBLING = 18
"""4 % apart: a byte holds more than the longest text has."""
_FACTS = "lexical.json"
_LOT_CHARS = 500_000
"""Letters whose grams are sorted at a time: 100 MB of them, however long the texts are."""
_LOT_ROWS = 16_384


def lexical_version(fields: Sequence[str]) -> str:
    """Return the name of what texts are found by, and of the metadata fields that they stand in; empty for no
    fields. Sealed rows of another one are sealed again."""
    return f"grams-{ANALYSIS_VERSION}:{','.join(fields)}" if fields else ""


def codes_of(lengths: Lengths) -> LengthCodes:
    """Return lengths in a byte each, rounded down to steps of 4 %: what scoring reads fits a cache."""
    steps = np.log2(lengths.astype(np.float64) + 1.0) * _CODES_A_DOUBLING
    codes: LengthCodes = np.minimum(steps, 255).astype(np.uint8)
    return codes


@cache
def lengths_of_codes() -> npt.NDArray[np.float64]:
    """Return the length that each of the 256 codes stands for."""
    return np.exp2(np.arange(256) / _CODES_A_DOUBLING) - 1.0


class GramPostings(NamedTuple):
    """Of some grams. rows, counts: of all, gram n from starts[n] to stops[n], ascending."""

    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]


class PostingSource(Protocol):
    """Rows that are found by their grams."""

    def lists(self, stream: str, grams: Grams) -> GramPostings:
        """Return the rows that hold each of these grams, which are distinct."""

    def lengths(self, stream: str) -> Lengths:
        """Return how many grams each row has."""

    def length_codes(self, stream: str) -> LengthCodes:
        """Return the same, as `codes_of` makes it a byte."""


class _Stream(NamedTuple):
    grams: Grams
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class SealedPostings:
    """Fits `PostingSource`. Safe from any thread. version: as `lexical_version` gave it. spread: see
    `index_store.ann.background.RowSample`. totals: of the lengths of all rows, by stream. codes: of each of
    these lengths, in memory from the first search by words on."""

    version: str
    spread: float
    totals: Mapping[str, int]
    streams: Mapping[str, _Stream]
    codes: dict[str, LengthCodes] = field(default_factory=dict)

    def lists(self, stream: str, grams: Grams) -> GramPostings:
        """See `PostingSource`."""
        own = self.streams[stream]
        places = own.grams.searchsorted(grams)
        clipped = np.minimum(places, max(0, len(own.grams) - 1))
        is_held = own.grams[clipped] == grams if len(own.grams) else np.zeros(len(grams), np.bool_)
        starts, stops = own.starts[clipped], own.starts[np.minimum(clipped + 1, len(own.grams))]
        return GramPostings(own.rows, own.counts, starts, np.where(is_held, stops, starts))

    def lengths(self, stream: str) -> Lengths:
        """See `PostingSource`."""
        return self.streams[stream].lengths

    def length_codes(self, stream: str) -> LengthCodes:
        """See `PostingSource`."""
        known = self.codes.get(stream)
        if known is None:  # two threads may make the same
            known = self.codes[stream] = codes_of(self.streams[stream].lengths)
        return known


def write_postings(
    directory: Path,
    metadata: Sequence[str | None],
    fields: Sequence[str],
    spread: float,
    *,
    lot_chars: int = _LOT_CHARS,
) -> None:
    """Write the files. metadata: by row, JSON objects. lot_chars: letters that are looked at in one go.
    Raises OSError."""
    totals = {}
    runs: dict[str, list[_StoredChunk]] = {stream: [] for stream in STREAMS}
    start = 0
    for texts in _lots((document_text(each, fields) for each in metadata), lot_chars):
        for stream, grams_of in STREAMS.items():
            runs[stream].append(_left_on_disk(directory, sorted_chunk(grams_of(texts), start, len(texts))))
        start += len(texts)
    for stream, own in runs.items():
        grams, starts = _layout(own)
        _gather(directory, stream, own, grams, starts)
        lengths = np.concatenate([np.empty(0, np.int32), *(run.lengths for run in own)])
        totals[stream] = int(lengths.sum(dtype=np.int64))
        for name, array in (("grams", grams), ("starts", starts), ("lengths", lengths)):
            np.save(directory / _file(stream, name), array)
    facts = {"lexical_version": lexical_version(fields), "spread": spread, "totals": totals}
    (directory / _FACTS).write_text(json.dumps(facts, ensure_ascii=False), "utf-8")


class PostingChunk(NamedTuple):
    """The postings of some rows in a row, by (gram, row)."""

    grams: Grams
    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    lengths: Lengths


def sorted_chunk(found: TextGrams, first_row: int, rows: int) -> PostingChunk:
    """Return the postings of `rows` texts, the first of which is row `first_row`."""
    order = np.argsort(found.grams, kind="stable")  # and so by text within each gram
    grams, documents = found.grams[order], found.documents[order]
    is_first = np.ones(len(grams), np.bool_)
    is_first[1:] = (grams[1:] != grams[:-1]) | (documents[1:] != documents[:-1])
    places = np.flatnonzero(is_first)
    counts = np.minimum(np.diff(np.append(places, len(grams))), COUNT_MAX).astype(np.uint8)
    lengths = np.bincount(documents, minlength=rows).astype(np.int32)
    return PostingChunk(grams[places], (documents[places] + first_row).astype(np.int32), counts, lengths)


class _StoredChunk(NamedTuple):
    """A PostingChunk whose rows and counts stand on disk. grams: distinct; held: how many rows have each."""

    grams: Grams
    held: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    lengths: Lengths


def _lots(texts: Iterable[str], chars_max: int) -> Iterator[list[str]]:
    """The texts in order, so many at a time that their grams fit into memory."""
    lot: list[str] = []
    chars = 0
    for text in texts:
        lot.append(text)
        chars += len(text)
        if chars >= chars_max or len(lot) >= _LOT_ROWS:
            yield lot
            lot, chars = [], 0
    if lot:
        yield lot


def _left_on_disk(directory: Path, chunk: PostingChunk) -> _StoredChunk:
    """Leave what a chunk weighs to the disk, in files that have no name any more. Raises OSError."""
    is_first = np.ones(len(chunk.grams), np.bool_)
    is_first[1:] = chunk.grams[1:] != chunk.grams[:-1]
    places = np.flatnonzero(is_first)
    held = np.diff(np.append(places, len(chunk.grams)))
    rows, counts = (_nameless(directory / "lexical_run.npy", each) for each in (chunk.rows, chunk.counts))
    return _StoredChunk(chunk.grams[places], held, rows, counts, chunk.lengths)


def _nameless(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not len(array):
        return array
    np.save(path, array)
    mapped = _mapped(path)
    path.unlink()
    return mapped


def _layout(runs: Sequence[_StoredChunk]) -> tuple[Grams, npt.NDArray[np.int64]]:
    """All grams, and where the rows of each begin."""
    grams: Grams = np.empty(0, np.int64)
    for run in runs:
        grams = np.union1d(grams, run.grams)
    starts = np.zeros(len(grams) + 1, np.int64)
    for run in runs:
        starts[grams.searchsorted(run.grams) + 1] += run.held
    return grams, np.cumsum(starts)


def _gather(
    directory: Path, stream: str, runs: Sequence[_StoredChunk], grams: Grams, starts: npt.NDArray[np.int64]
) -> None:
    """Write the rows and counts of all runs, one gram after the other. Raises OSError."""
    total = int(starts[-1])
    rows = _new_mapped(directory / _file(stream, "rows"), np.int32, total)
    counts = _new_mapped(directory / _file(stream, "counts"), np.uint8, total)
    next_place = starts[:-1].copy()
    for run in runs:
        places = grams.searchsorted(run.grams)
        before = np.cumsum(run.held) - run.held
        to = np.repeat(next_place[places] - before, run.held) + np.arange(len(run.rows))
        rows[to], counts[to] = run.rows, run.counts
        next_place[places] += run.held
    rows.flush()
    counts.flush()


def _new_mapped(path: Path, kind: type[np.generic], length: int) -> Any:
    """A new file to write through memory, all of it there: a full disk raises OSError here, and would end the
    process later."""
    mapped = np.lib.format.open_memmap(path, "w+", kind, (length,))
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


def open_postings(directory: Path) -> SealedPostings | None:
    """Map files that were verified; None where the segment was sealed without any. Raises StoreDamaged."""
    if not (directory / _FACTS).exists():
        return None
    try:
        facts = json.loads((directory / _FACTS).read_bytes())
        streams = {
            stream: _Stream(*(_mapped(directory / _file(stream, name)) for name in _Stream._fields))
            for stream in STREAMS
        }
        totals = {stream: int(facts["totals"][stream]) for stream in STREAMS}
        return SealedPostings(str(facts["lexical_version"]), float(facts["spread"]), totals, streams)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreDamaged(
            f"the postings of {directory} can't be opened: {exc!r}", hints.rebuild(directory)
        ) from exc


def _file(stream: str, name: str) -> str:
    return f"lexical_{stream}_{name}.npy"


def _mapped(path: Path) -> npt.NDArray[Any]:
    loaded: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded.view(np.ndarray)
