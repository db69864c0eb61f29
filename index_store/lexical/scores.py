"""How well a row's text fits a query's: BM25 of each stream, as a share of what the query could get.

All statistics are of the items that are live at the seq that is searched, wherever their rows stand: what a
row scores depends on the query and on those items alone, whichever rows were sealed, merged or deleted since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.posting_kernels import (
    add_weights,
    count_set,
    length_hidden,
    square_better,
)
from index_store.ann.port import Bitmap
from index_store.lexical.analysis import (
    ANALYSIS_VERSION,
    QUERY_CHARS_MAX,
    Grams,
    has_hangul,
    letter_grams,
    normalise,
    sound_grams,
)
from index_store.lexical.postings import GramPostings, LengthCodes, PostingSource, lengths_of_codes
from index_store.lru import LruCache

TextScores: TypeAlias = npt.NDArray[np.float32]

_K1 = 0.1
"""Low: that a name holds a word counts, hardly how often (docs/decisions/0107)."""
_B = 0.75
_COUNTS = 8
"""A gram that a text holds more often counts as if it were one less than this."""
_KOREAN_WEIGHT = 1.0
_OTHER_WEIGHT = 2.8
"""Times the spread of similarities: what a full text score is worth (docs/decisions/0107)."""
SOUND_SHARE = 0.8
"""Of what sounds alike, beside what is spelt alike, for a Korean query."""

_RARITY_MIN = 0.3
"""Of sounds beside spelling, against the rarest of the query: what many items hold takes most of the time and
tells least."""

SCORING = 100 * ANALYSIS_VERSION + 1
"""Rises with every change of what a text scores or weighs: a page that began by another one is
followed by none, since that might repeat or skip items."""


@dataclass(frozen=True, slots=True)
class QueryGrams:
    """What a query asks for. grams: distinct, by stream. is_korean: whether it holds a syllable: then how it
    is spelt counts, else only how it sounds."""

    grams: Mapping[str, Grams]
    is_korean: bool


_KNOWN: LruCache[str, QueryGrams] = LruCache(1024)
"""By the beginning of what was typed: pages, confidence and the other keyboard ask again for the same, and
shoppers for what others ask for (.2 ms)."""


def query_grams(text: str) -> QueryGrams:
    """Return what a text asks for, to be read only. text: as it was typed; what stands behind
    `QUERY_CHARS_MAX` characters is not looked for."""
    head = text[: 2 * QUERY_CHARS_MAX]  # all that `normalise` looks at
    known = _KNOWN.find(head)
    if known is None:
        known = _grams_of(head)
        _KNOWN.keep(head, known)
    return known


def _grams_of(text: str) -> QueryGrams:
    plain = normalise(text, QUERY_CHARS_MAX)
    grams = {"sounds": np.unique(sound_grams([plain]).grams)}
    is_korean = has_hangul(plain)
    if is_korean or not len(grams["sounds"]):
        grams["letters"] = np.unique(letter_grams([plain]).grams)
    return QueryGrams(grams, is_korean)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Some rows that are found by text. live: those that count for statistics; hidden: how many do not.
    totals: of the lengths of all rows, by stream; None: to be counted."""

    source: PostingSource
    rows: int
    live: Bitmap
    hidden: int
    totals: Mapping[str, int] | None = None

    def total_length(self, stream: str) -> int:
        """Return the lengths of the live rows, added up."""
        lengths = self.source.lengths(stream)
        total = int(lengths.sum(dtype=np.int64)) if self.totals is None else self.totals[stream]
        return total - int(length_hidden(lengths, self.live)) if self.hidden else total

    def frequencies(self, lists: GramPostings) -> npt.NDArray[np.int64]:
        """Return how many live rows hold each gram."""
        if not self.hidden:
            return lists.stops - lists.starts
        found: npt.NDArray[np.int64] = count_set(lists.rows, lists.starts, lists.stops, self.live)
        return found


class StreamStatistics(NamedTuple):
    """Of one stream, over the items that count. held: how many of `documents` hold each gram of a query.
    mean: grams of one, 1 at least."""

    documents: int
    held: npt.NDArray[np.int64]
    mean: float


class StreamTerms(NamedTuple):
    """What rows score by in one stream. counting: places, among the query's, of the grams that count. grams,
    weights: of those, ascending; the weights are float32 and 1 together. shares: as `_shares` has them."""

    counting: npt.NDArray[np.int64]
    grams: Grams
    weights: npt.NDArray[np.float32]
    shares: npt.NDArray[np.float32]


QueryTerms: TypeAlias = Mapping[str, StreamTerms]


def text_scores(query: QueryGrams, parts: Sequence[TextPart]) -> list[TextScores]:
    """Return for each part what each of its rows scores: (rows,) float32, 0 for what shares nothing with the
    query.

    A few syllables or sounds in common are chance: a row gets its share squared."""
    found: dict[str, list[TextScores]] = {}
    for stream, grams in query.grams.items():
        lists = [part.source.lists(stream, grams) for part in parts]
        terms = _stream_terms(query, stream, _statistics(stream, lists, parts))
        found[stream] = [
            _stream_scores(terms, each, part.source.length_codes(stream), part.rows)
            for part, each in zip(parts, lists, strict=True)
        ]
    return [_joined(dict(zip(found, each, strict=True))) for each in zip(*found.values(), strict=True)]


def query_terms(query: QueryGrams, statistics: Mapping[str, StreamStatistics]) -> QueryTerms:
    """Return what rows score by. statistics: of each stream of the query."""
    return {stream: _stream_terms(query, stream, statistics[stream]) for stream in query.grams}


def scores_by_terms(terms: QueryTerms, source: PostingSource, rows: int) -> TextScores:
    """Return what each of `rows` rows scores, as `text_scores`."""
    found = {}
    for stream, own in terms.items():
        every = own._replace(counting=np.arange(len(own.grams)))
        lists = source.lists(stream, own.grams)
        found[stream] = _stream_scores(every, lists, source.length_codes(stream), rows)
    return _joined(found)


def _joined(found: Mapping[str, TextScores]) -> TextScores:
    """Of both streams what scores more; to be changed by nobody else."""
    scores = found["sounds"]
    if "letters" in found:
        square_better(scores, found["letters"], np.float32(SOUND_SHARE))
    else:
        scores *= scores
    return scores


def _statistics(stream: str, lists: Sequence[GramPostings], parts: Sequence[TextPart]) -> StreamStatistics:
    documents = sum(part.rows - part.hidden for part in parts)
    if not documents or not len(lists[0].starts):
        return StreamStatistics(0, np.empty(0, np.int64), 1.0)
    held = sum(part.frequencies(each) for part, each in zip(parts, lists, strict=True))
    mean = sum(part.total_length(stream) for part in parts) / documents
    return StreamStatistics(documents, np.asarray(held), max(1.0, mean))


def _stream_terms(query: QueryGrams, stream: str, statistics: StreamStatistics) -> StreamTerms:
    documents, held, mean = statistics
    nothing = np.empty(0, np.int64)
    if not documents or not len(held):
        return StreamTerms(nothing, nothing, np.empty(0, np.float32), _shares(1.0))
    # As a share of the rarest gram's; those below do not count.
    rarity_min = _RARITY_MIN if len(query.grams) > 1 and stream == "sounds" else 0.0
    rarity = np.log1p((documents - held + 0.5) / (held + 0.5))
    counting = np.flatnonzero(rarity >= rarity_min * rarity.max())
    weights = (rarity[counting] / rarity[counting].sum()).astype(np.float32)
    return StreamTerms(counting, query.grams[stream][counting], weights, _shares(mean))


def _stream_scores(terms: StreamTerms, lists: GramPostings, codes: LengthCodes, rows: int) -> TextScores:
    scores = np.zeros(rows, np.float32)
    if len(terms.counting):
        starts, stops = lists.starts[terms.counting], lists.stops[terms.counting]
        add_weights(scores, lists.rows, lists.counts, codes, starts, stops, terms.weights, terms.shares)
    return scores


@lru_cache(maxsize=16)
def _shares(mean: float) -> npt.NDArray[np.float32]:
    """By count and by code of length, what BM25 makes of them: 0 to 1, to be read only. mean: of the
    lengths, which changes with writes alone."""
    counts = np.arange(_COUNTS, dtype=np.float64)[:, None]
    below = _K1 * (1 - _B + _B * lengths_of_codes() / mean)
    found: npt.NDArray[np.float32] = (counts / (counts + below)).astype(np.float32)
    return found


def text_weight(query: QueryGrams, alpha: float, spread: float) -> float:
    """Return what a text score is multiplied by before it is added to a similarity. spread: of similarities,
    as `index_store.ann.background.RowSample` has it."""
    return alpha * spread * (_KOREAN_WEIGHT if query.is_korean else _OTHER_WEIGHT)
