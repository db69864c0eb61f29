"""Postings of a few rows whose grams are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.lexical.analysis import Grams
from index_store.lexical.postings import (
    COUNT_MAX,
    STREAMS,
    GramPostings,
    LengthCodes,
    Lengths,
    codes_of,
)


class RowGrams(NamedTuple):
    """The grams of some rows in one stream, those of one row after the other, each as often as its text holds
    it. lengths: how many each row has."""

    grams: Grams
    lengths: Lengths

    def of_rows(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> RowGrams:
        """Return those of some rows, ascending."""
        if len(rows) == len(self.lengths):
            return self
        kept = np.zeros(len(self.lengths), np.bool_)
        kept[rows] = True
        return RowGrams(self.grams[np.repeat(kept, self.lengths)], self.lengths[kept])


def grams_of_texts(texts: Sequence[str]) -> dict[str, RowGrams]:
    """Return the grams of each text, by stream. texts: as `document_text` gives them."""
    out = {}
    for stream, split in STREAMS.items():
        found = split(texts)
        order = np.argsort(found.documents, kind="stable")
        lengths = np.bincount(found.documents, minlength=len(texts)).astype(np.int32)
        out[stream] = RowGrams(found.grams[order], lengths)
    return out


@dataclass(frozen=True, slots=True)
class RowPostings:
    """Fits `PostingSource`. grams: of the rows, by stream."""

    grams: Mapping[str, RowGrams]

    def lists(self, stream: str, grams: Grams) -> GramPostings:
        """See `PostingSource`. grams: ascending."""
        own = self.grams[stream]
        count = max(1, len(own.lengths))
        places = grams.searchsorted(own.grams)
        places[places == len(grams)] = 0
        matching = np.flatnonzero(grams[places] == own.grams) if len(grams) else np.empty(0, np.int64)
        of_row = np.repeat(np.arange(len(own.lengths)), own.lengths)[matching]
        pairs, counts = np.unique(places[matching] * count + of_row, return_counts=True)
        edges = pairs.searchsorted(np.arange(len(grams) + 1) * count)
        held = np.minimum(counts, COUNT_MAX).astype(np.uint8)
        return GramPostings((pairs % count).astype(np.int32), held, edges[:-1], edges[1:])

    def lengths(self, stream: str) -> Lengths:
        """See `PostingSource`."""
        return self.grams[stream].lengths

    def length_codes(self, stream: str) -> LengthCodes:
        """See `PostingSource`."""
        return codes_of(self.grams[stream].lengths)


def joined_grams(parts: Sequence[Mapping[str, RowGrams]]) -> dict[str, RowGrams]:
    """Return the grams of all rows of these, one after the other."""
    out = {}
    for stream in STREAMS:
        grams = [np.empty(0, np.int64), *(each[stream].grams for each in parts)]
        lengths = [np.empty(0, np.int32), *(each[stream].lengths for each in parts)]
        out[stream] = RowGrams(np.concatenate(grams), np.concatenate(lengths))
    return out
