"""How Korean and Latin text sounds, in one rough alphabet: 김치찌개, kimchi jjigae and gimchi jigae come out
alike.

Syllables are read as the Revised Romanisation reads them, with the sounds that meet between two of them;
letters that people mix up when they write Korean in Latin are one letter here (g, k, kk; o, eo; u, eu, oo).
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Letters: TypeAlias = npt.NDArray[np.uint32]

FIRST_SYLLABLE, LAST_SYLLABLE = 0xAC00, 0xD7A3
_VOWELS, _CODAS = 21, 28
_SILENT = 11
_NO_ONSET = 19

_ONSET_LETTERS = [
    "k",
    "k",
    "n",
    "t",
    "t",
    "r",
    "m",
    "p",
    "p",
    "s",
    "s",
    "-",
    "j",
    "j",
    "j",
    "k",
    "t",
    "p",
    "h",
]
_VOWEL_LETTERS = [
    "a",
    "e",
    "ya",
    "ye",
    "o",
    "e",
    "yo",
    "ye",
    "o",
    "wa",
    "we",
    "we",
    "yo",
    "u",
    "wo",
    "we",
    "wi",
    "yu",
    "u",
    "ui",
    "i",
]
_CODA_LETTERS = [
    "-",
    "k",
    "k",
    "k",
    "n",
    "n",
    "n",
    "t",
    "r",
    "k",
    "m",
    "r",
    "r",
    "r",
    "p",
    "r",
    "m",
    "p",
    "p",
    "t",
    "t",
    "nk",
    "t",
    "t",
    "k",
    "t",
    "p",
    "t",
]
_CODA_BEFORE_VOWEL = [
    "-",
    "k",
    "k",
    "ks",
    "n",
    "nj",
    "n",
    "t",
    "r",
    "rk",
    "rm",
    "rp",
    "rs",
    "rt",
    "rp",
    "r",
    "m",
    "p",
    "ps",
    "s",
    "s",
    "nk",
    "j",
    "j",
    "k",
    "t",
    "p",
    "-",
]
_LOST_H = {6: "n", 15: "r", 27: "-"}
"""Codas with ㅎ before a consonant that it only aspirates."""
_NASAL = {"k": "nk", "t": "n", "p": "m"}
_N, _R, _M, _H = 2, 5, 6, 18

_LATIN_FOLDS = (
    ("ch", "j"), ("sh", "s"), ("ph", "p"), ("th", "t"), ("kh", "k"), ("qu", "ku"), ("ck", "k"),
    ("ee", "i"), ("eo", "o"), ("eu", "u"), ("oo", "u"), ("ae", "e"), ("oe", "we"), ("x", "ks"),
)  # fmt: skip
_LATIN_LETTERS = str.maketrans("gqcdbfvlz", "kkktppprj")


def fold_latin(text: str) -> str:
    """Return `text`, in lower case, with letters that stand for one Korean sound made one."""
    if text.isascii() and not any(map(str.isalpha, text)):
        return text
    for written, folded in _LATIN_FOLDS:
        if written in text:
            text = text.replace(written, folded)
    return text.translate(_LATIN_LETTERS)


@cache
def _tables() -> tuple[Letters, Letters, Letters]:
    """(coda before, onset), vowel, and (coda, onset behind) to letters, 0 where there are fewer."""
    onsets = np.zeros((_CODAS, _NO_ONSET, 1), np.uint32)
    codas = np.zeros((_CODAS, _NO_ONSET + 1, 2), np.uint32)
    for coda in range(_CODAS):
        codas[coda, _NO_ONSET] = _codes(_CODA_LETTERS[coda], 2)
        for onset in range(_NO_ONSET):
            before, behind = _meeting(coda, onset)
            codas[coda, onset], onsets[coda, onset] = _codes(before, 2), _codes(behind, 1)
    return onsets, np.array([_codes(each, 2) for each in _VOWEL_LETTERS]), codas


def _meeting(coda: int, onset: int) -> tuple[str, str]:
    """The letters of a coda and of the onset behind it."""
    ours, theirs = _CODA_LETTERS[coda], _ONSET_LETTERS[onset]
    if onset == _SILENT:
        return _CODA_BEFORE_VOWEL[coda], "-"
    if coda in _LOST_H and onset != _M:
        return _LOST_H[coda], theirs
    if onset == _H and ours in ("k", "t", "p"):
        return ("j", "-") if coda in (5, 22, 23) else (ours, "-")
    if onset == _R and coda and ours not in ("r", "n"):
        return _NASAL.get(ours, ours), "n"
    if onset in (_N, _M):
        return ("r", "r") if ours == "r" and onset == _N else (_NASAL.get(ours, ours), theirs)
    return ("r", "r") if ours == "n" and onset == _R else (ours, theirs)


def _codes(letters: str, width: int) -> Letters:
    plain = letters.replace("-", "")
    return np.array([*map(ord, plain), *[0] * (width - len(plain))], np.uint32)


def sounds(points: Letters) -> tuple[Letters, npt.NDArray[np.int64]]:
    """Return the letters of code points, and at which of `points` each stands; no letter twice in a row.

    points: (n,) uint32, Latin letters folded by `fold_latin`, without spaces. What is neither Hangul nor
    Latin stands for itself.
    """
    onsets, vowels, codas = _tables()
    is_hangul = (points >= FIRST_SYLLABLE) & (points <= LAST_SYLLABLE)
    places = np.flatnonzero(is_hangul)
    out = np.zeros((len(points), 5), np.uint32)
    out[:, 0] = points
    if len(places):
        number = points[places].astype(np.int64) - FIRST_SYLLABLE
        onset = number // (_VOWELS * _CODAS)
        coda = np.zeros(len(points) + 1, np.int64)
        coda[places + 1] = number % _CODAS
        following = np.full(len(points) + 1, _NO_ONSET)
        following[places] = onset
        out[places, 0:1] = onsets[coda[places], onset]
        out[places, 1:3] = vowels[number // _CODAS % _VOWELS]
        out[places, 3:5] = codas[coda[places + 1], following[places + 1]]
    flat = out.ravel()
    kept = np.flatnonzero(flat)
    letters = flat[kept]
    fresh = np.ones(len(letters), np.bool_)
    fresh[1:] = letters[1:] != letters[:-1]
    return letters[fresh], kept[fresh] // out.shape[1]
