"""From where a model has English queries to where it has Korean ones: an English query that is moved by that
finds Korean documents rather than those that happen to hold Latin letters (docs/decisions/0108)."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from service.embedding.port import TextEmbedder

Vector: TypeAlias = npt.NDArray[np.float32]

_WORDS: Final = (
    ("water", "물"), ("house", "집"), ("road", "길"), ("woman", "여자"), ("cat", "고양이"),
    ("mountain", "산"), ("sun", "해"), ("sky", "하늘"), ("wind", "바람"), ("white", "하얀색"),
    ("hand", "손"), ("head", "머리"),
    ("shoes", "신발"), ("chair", "의자"), ("door", "문"), ("computer", "컴퓨터"), ("music", "음악"),
    ("money", "돈"), ("hospital", "병원"), ("park", "공원"), ("train", "기차"), ("bicycle", "자전거"),
    ("student", "학생"), ("mother", "어머니"), ("bread", "빵"), ("fish", "생선"), ("milk", "우유"),
    ("salt", "소금"), ("cold", "차가운"), ("new", "새로운"), ("happy", "행복한"), ("time", "시간"),
    ("morning", "아침"), ("country", "나라"), ("work", "일"), ("key", "열쇠"), ("machine", "기계"),
)  # fmt: skip
"""What many texts have words of, in both languages; our own (CC0)."""
_FOUND_MIN: Final = 0.3
"""Of the English words, so many must have their Korean one nearest: else the model does not know both."""
_LATIN: Final = re.compile("[A-Za-z]")


def language_shift(embedder: TextEmbedder) -> Vector | None:
    """Return what is added to the vector of an English query, (dim,); None for a model that does not know
    both languages. Takes 74 short texts. Raises ModelUnavailable."""
    vectors = embedder.embed([word for pair in _WORDS for word in pair], "query").vectors
    english, korean = vectors[::2], vectors[1::2]
    is_found = (english @ korean.T).argmax(axis=1) == np.arange(len(_WORDS))
    if is_found.mean() < _FOUND_MIN:
        return None
    shift: Vector = korean.mean(axis=0) - english.mean(axis=0)
    shift.flags.writeable = False
    return shift


def shifted(vector: Vector, shift: Vector) -> Vector:
    """Return a query's vector moved by `shift`, (dim,) of unit length."""
    moved = vector.astype(np.float64) + shift
    return (moved / np.linalg.norm(moved)).astype(np.float32)


def is_latin(text: str) -> bool:
    """Return whether a text has letters of the English alphabet, and none of Korean or another script's."""
    return _LATIN.search(text) is not None and (
        text.isascii() or not any(each.isalpha() and each > "\u024f" for each in text)
    )
