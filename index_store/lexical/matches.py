"""Which words of a query a text holds, and how: for who is told why an item was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.posting_kernels import held_in
from index_store.explanation import Stream, WordMatch
from index_store.lexical.analysis import QUERY_CHARS_MAX, Grams, normalise
from index_store.lexical.postings import STREAMS, PostingSource
from index_store.lexical.scores import query_grams

SHARES_MIN: Mapping[Stream, float] = {"letters": 0.42, "sounds": 0.6}
"""김밥 holds a third of 김치 by chance, 된장찌개 three sevenths of 김치찌개 by its second half. A word has
fewer sounds: half of those of 치즈 are in 김치찌개."""


@dataclass(frozen=True, slots=True)
class QueryWords:
    """grams: by stream, letters first, distinct in each word, with the position of the word that each stands
    in."""

    words: Sequence[str]
    grams: Mapping[Stream, tuple[Grams, npt.NDArray[np.int64]]]


def query_words(text: str) -> QueryWords:
    """Return the words of what was typed, in what a search looks for them by."""
    words = list(dict.fromkeys(normalise(text, QUERY_CHARS_MAX).split()))
    grams: dict[Stream, tuple[Grams, npt.NDArray[np.int64]]] = {}
    streams = query_grams(text).grams
    for stream in SHARES_MIN:
        if stream not in streams:
            continue
        found = STREAMS[stream](words)
        pairs = sorted({*zip(found.documents.tolist(), found.grams.tolist(), strict=True)})
        places, held = np.array(pairs, np.int64).reshape(-1, 2).T
        grams[stream] = (held, places)
    return QueryWords(words, grams)


def matched_words(
    query: QueryWords, source: PostingSource, rows: npt.NDArray[np.int64]
) -> list[Sequence[WordMatch]]:
    """Return of each of these rows which words it holds more of than by chance, in their order."""
    best = [[WordMatch(word, "letters", 0.0)] * len(rows) for word in query.words]
    for stream in query.grams:  # letters first: they win where both are held alike
        shares = _shares(query, stream, source, rows)
        for word, row in np.argwhere(shares >= SHARES_MIN[stream]).tolist():
            share = float(shares[word, row])
            if share > best[word][row].share:
                best[word][row] = WordMatch(query.words[word], stream, share)
    return [[each[row] for each in best if each[row].share] for row in range(len(rows))]


def _shares(
    query: QueryWords, stream: Stream, source: PostingSource, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(words, rows): how much of each word a row holds; 0 of words without grams."""
    grams, places = query.grams[stream]
    distinct, back = np.unique(grams, return_inverse=True)
    lists = source.lists(stream, distinct)
    held = held_in(lists.rows, lists.starts, lists.stops, rows)[back]
    shares = np.zeros((len(query.words), len(rows)))
    np.add.at(shares, places, held)
    counts = np.bincount(places, minlength=len(query.words))[:, None]
    found: npt.NDArray[np.float64] = shares / np.maximum(counts, 1)
    return found
