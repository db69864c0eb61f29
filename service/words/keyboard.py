"""Text typed with the keyboard in the other language: rlaclWlro for 김치찌개, ㅏㅑㅡ초ㅑ for kimchi.

Pure functions. The layout is the Korean standard one of two sets (KS X 5002).
"""

from __future__ import annotations

import re

_KEYS = "rRseEfaqQtTdwWczxvgkoiOjpuPhynbml"
_JAMO = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎㅏㅐㅑㅒㅓㅔㅕㅖㅗㅛㅜㅠㅡㅣ"
_PAIRS = {
    "ㅘ": "ㅗㅏ", "ㅙ": "ㅗㅐ", "ㅚ": "ㅗㅣ", "ㅝ": "ㅜㅓ", "ㅞ": "ㅜㅔ", "ㅟ": "ㅜㅣ", "ㅢ": "ㅡㅣ",
    "ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ", "ㄽ": "ㄹㅅ",
    "ㄾ": "ㄹㅌ", "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ",
}  # fmt: skip
_ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_CODAS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_JAMO_OF = dict(zip(_KEYS, _JAMO, strict=True)) | {
    key.upper(): jamo for key, jamo in zip(_KEYS, _JAMO, strict=True) if key.upper() not in _KEYS
}
_KEY_OF = dict(zip(_JAMO, _KEYS, strict=True))
_JOINED = {pair: one for one, pair in _PAIRS.items()}
_CONSONANT, _VOWEL = "[ㄱ-ㅎ]", "[ㅏ-ㅣ]"
_SYLLABLE = re.compile(
    f"({_CONSONANT})(ㅗ[ㅏㅐㅣ]|ㅜ[ㅓㅔㅣ]|ㅡㅣ|{_VOWEL})"
    f"((?:ㄱㅅ|ㄴ[ㅈㅎ]|ㄹ[ㄱㅁㅂㅅㅌㅍㅎ]|ㅂㅅ|[ㄱ-ㅎ])(?!{_VOWEL})|[ㄱ-ㅎ](?!{_VOWEL}))?"
)
_LONE = re.compile("[ㄱ-ㅣ]")
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3


def as_hangul(text: str) -> str | None:
    """Return what the keys of an English text write in Korean; None where that leaves a letter alone, or
    where there is no letter to read."""
    if not text.isascii() or not any(map(str.isalpha, text)):
        return None
    typed = "".join(_JAMO_OF.get(each, each) for each in text)
    written = _SYLLABLE.sub(_composed, typed)
    return None if _LONE.search(written) else written


def _composed(found: re.Match[str]) -> str:
    onset, vowel, coda = found.group(1), found.group(2), found.group(3) or " "
    vowel, coda = _JOINED.get(vowel, vowel), _JOINED.get(coda, coda)
    if coda not in _CODAS:  # ㄸ, ㅃ and ㅉ end no syllable
        return chr(_code(onset, vowel, " ")) + coda
    return chr(_code(onset, vowel, coda))


def _code(onset: str, vowel: str, coda: str) -> int:
    place = _ONSETS.index(onset) * len(_VOWELS) + _VOWELS.index(vowel)
    return _FIRST_SYLLABLE + place * len(_CODAS) + _CODAS.index(coda)


def as_latin(text: str) -> str | None:
    """Return what the keys of a Korean text write in English; None where each letter is part of a syllable,
    as Korean is written."""
    if not _LONE.search(text):
        return None
    return "".join("".join(map(_key, _jamo_of(each))) for each in text)


def _key(jamo: str) -> str:
    return "".join(_KEY_OF.get(each, each) for each in _PAIRS.get(jamo, jamo))


def _jamo_of(letter: str) -> str:
    if not _FIRST_SYLLABLE <= ord(letter) <= _LAST_SYLLABLE:
        return letter
    number = ord(letter) - _FIRST_SYLLABLE
    head, coda = divmod(number, len(_CODAS))
    onset, vowel = divmod(head, len(_VOWELS))
    return _ONSETS[onset] + _VOWELS[vowel] + _CODAS[coda].strip()
