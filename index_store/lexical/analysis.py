"""What a text is found by: its letters in ones and twos, and its sounds in threes. Pure functions.

A *gram* is a few letters in a row as one number; spaces count for nothing, so that 된장 찌개 and 된장찌개 are
alike. Whatever a text holds, the time is bounded by `CHARS_MAX`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.lexical.sounds import Letters, fold_latin, sounds

Grams: TypeAlias = npt.NDArray[np.int64]

ANALYSIS_VERSION = 1
"""Rises with every change of what a text is found by: what was sealed by another one is sealed again."""

CHARS_MAX = 4096
"""Of a document: what stands behind is not found by its words."""
QUERY_CHARS_MAX = 128
FIELD_BREAK = "\t"
_TEXT_BREAK, _LAST_BREAK = 10, 31
_SHIFT = 21
PAIR_MIN = 1 << _SHIFT
"""Grams of letters from here on are of two."""
_FIRST_SYLLABIC = 0x1100
_IGNORED = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]+"
)
_NO_LETTER = re.compile(r"[\W_]+")
_REPEATED_JAMO = re.compile("([\u1100-\u11ff\u3130-\u318f])\\1+")


@dataclass(frozen=True, slots=True)
class TextGrams:
    """The grams of some texts, in no order. documents: the place of the text that each stands in; a gram
    stands there as often as the text holds it."""

    grams: Grams
    documents: npt.NDArray[np.int64]


def normalise(text: str, chars_max: int = CHARS_MAX) -> str:
    """Return the letters and digits of a text in one form, everything between them as single spaces: NFKC
    (so half-width jamo become syllables), lower case, without characters of no width, a jamo once where it
    is repeated (ㅋㅋㅋ)."""
    text = _IGNORED.sub("", text[: 2 * chars_max])[:chars_max]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)[: 2 * chars_max]
    text = _NO_LETTER.sub(" ", text.lower())
    return _REPEATED_JAMO.sub(r"\1", text).strip()


def document_text(metadata: str | None, fields: Sequence[str]) -> str:
    """Return what an item is found by: the texts, numbers and lists of those that stand under `fields`,
    normalised, a break between any two. metadata: a JSON object."""
    if metadata is None:
        return ""
    held = json.loads(metadata)
    pieces: list[str] = []
    for field in fields:
        value = held.get(field)
        pieces += [
            str(each) for each in (value if isinstance(value, list) else [value]) if _is_searchable(each)
        ]
    return FIELD_BREAK.join(filter(None, map(normalise, pieces)))[:CHARS_MAX]


def _is_searchable(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def has_hangul(text: str) -> bool:
    """Whether a normalised text holds a Korean syllable."""
    return not text.isascii() and any("가" <= each <= "힣" for each in text)


def letter_grams(texts: Sequence[str]) -> TextGrams:
    """Return syllables one by one, and any two letters in a row. texts: normalised."""
    points, documents = _points(texts)
    single = points >= _FIRST_SYLLABIC
    both = (points[1:] > _LAST_BREAK) & (points[:-1] > _LAST_BREAK)
    wide = points.astype(np.int64)
    pairs = (wide[:-1] << _SHIFT | wide[1:])[both]
    return TextGrams(
        np.concatenate([wide[single], pairs]), np.concatenate([documents[single], documents[:-1][both]])
    )


def sound_grams(texts: Sequence[str]) -> TextGrams:
    """Return any three sounds in a row. texts: normalised."""
    points, documents = _points([fold_latin(text) for text in texts])
    letters, places = sounds(points)
    wide = letters.astype(np.int64)
    triples = wide[:-2] << 2 * _SHIFT | wide[1:-1] << _SHIFT | wide[2:]
    is_break = letters <= _LAST_BREAK
    whole = ~(is_break[:-2] | is_break[1:-1] | is_break[2:])
    return TextGrams(triples[whole], documents[places[:-2]][whole])


def _points(texts: Sequence[str]) -> tuple[Letters, npt.NDArray[np.int64]]:
    """The code points of all texts without spaces, a break behind each text, and of which text each is."""
    joined = "\n".join([*texts, ""])
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    points = points[points != ord(" ")]
    is_end = points == _TEXT_BREAK
    return points, np.cumsum(is_end) - is_end
