"""BM25 over a dictionary of texts, row by row: what the engine's searches by words are held to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from index_store.explanation import WordMatch
from index_store.lexical.analysis import document_text, letter_grams, normalise, sound_grams
from index_store.lexical.scores import QueryGrams, query_grams
from index_store.types import Id

_GRAMS = {"letters": letter_grams, "sounds": sound_grams}
_K1, _B, _SOUND_SHARE = 0.1, 0.75, 0.8


def words_of(query: str, documents: Mapping[Id, str | None], fields: Sequence[str]) -> dict[Id, float]:
    """What the words of each document score. documents: the metadata of all live items, as JSON."""
    asked = query_grams(query)
    texts = {item_id: document_text(metadata, fields) for item_id, metadata in documents.items()}
    found = {stream: _scores(stream, asked, texts) for stream in asked.grams}
    joined = found["sounds"]
    if "letters" in found:
        share = np.float32(_SOUND_SHARE)
        joined = {i: max(score, joined[i] * share) for i, score in found["letters"].items()}
    return {item_id: float(score * score) for item_id, score in joined.items()}


def matches_of(query: str, text: str) -> list[WordMatch]:
    """Which words of a query a normalised text holds, as far as chance does not."""
    matches = []
    for word in dict.fromkeys(normalise(query).split()):
        shares: dict[str, float] = {}
        for stream in query_grams(query).grams:
            asked = set(_GRAMS[stream]([word]).grams.tolist())
            held = set(_GRAMS[stream]([text]).grams.tolist())
            shares[stream] = len(asked & held) / max(1, len(asked))
        letters, sounds = shares.get("letters", 0.0), shares["sounds"]
        if letters > 0.41 and (letters >= sounds or sounds < 0.6):
            matches.append(WordMatch(word, "letters", letters))
        elif sounds >= 0.6:
            matches.append(WordMatch(word, "sounds", sounds))
    return matches


def _scores(stream: str, asked: QueryGrams, texts: Mapping[Id, str]) -> dict[Id, np.float32]:
    held = {item_id: Counter(_GRAMS[stream]([text]).grams.tolist()) for item_id, text in texts.items()}
    grams = asked.grams[stream].tolist()
    scores = {item_id: np.float32(0) for item_id in texts}
    if not grams or not texts:
        return scores
    lengths = {item_id: sum(counts.values()) for item_id, counts in held.items()}
    having = np.array([sum(gram in counts for counts in held.values()) for gram in grams])
    rarity = np.log1p((len(texts) - having + 0.5) / (having + 0.5))
    if stream == "sounds" and len(asked.grams) > 1:
        grams = [gram for gram, each in zip(grams, rarity, strict=True) if each >= 0.3 * rarity.max()]
        rarity = rarity[rarity >= 0.3 * rarity.max()]
    weights = (rarity / rarity.sum()).astype(np.float32)
    mean = max(1.0, sum(lengths.values()) / len(texts))
    for item_id, counts in held.items():
        for gram, weight in zip(grams, weights, strict=True):
            if gram in counts:
                scores[item_id] += weight * _share(min(counts[gram], 7), lengths[item_id], mean)
    return scores


def _share(count: int, length: int, mean: float) -> np.float32:
    """Lengths count in steps of 4 %, as they are kept."""
    rounded = 2 ** (math.floor(18 * math.log2(length + 1)) / 18) - 1
    return np.float32(count / (count + _K1 * (1 - _B + _B * rounded / mean)))
