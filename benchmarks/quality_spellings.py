"""How people write a Korean text otherwise: in Latin letters, on the wrong keyboard, with a letter wrong.

Pure functions. Written by themselves, not by what the service reads such texts with, so that a mistake there
shows here.
"""

from __future__ import annotations

import random
import unicodedata

_ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_CODAS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_PLAIN_CODAS = "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍ"


def _sounds(text: str) -> list[str]:
    """Those that stand between spaces; a dash is none."""
    return text.split(" ")


_ONSET_SOUNDS = _sounds("g kk n d tt r m b pp s ss - j jj ch k t p h")
_VOWEL_SOUNDS = _sounds("a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i")
_CODA_SOUNDS = _sounds("- k k k n n n t l k m l l l p l m p p t t ng t t k t p t")
_CARRIED = _sounds("- g kk gs n nj n d r lg lm lb ls lt lp r m b ps s ss ng j ch k t p -")
"""What a coda sounds like before a vowel."""
_NASAL = {"k": "ng", "t": "n", "p": "m"}
_ASPIRATED = {"g": "k", "d": "t", "j": "ch", "s": "ss"}
_BEHIND_H = "ㄶㅀㅎ"

_KEYS = dict(zip(
    "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎㅏㅐㅑㅒㅓㅔㅕㅖㅗㅛㅜㅠㅡㅣ",
    "rRseEfaqQtTdwWczxvgkoiOjpuPhynbml", strict=True,
))  # fmt: skip
_KEY_PAIRS = {
    "ㅘ": "hk", "ㅙ": "ho", "ㅚ": "hl", "ㅝ": "nj", "ㅞ": "np", "ㅟ": "nl", "ㅢ": "ml", "ㄳ": "rt",
    "ㄵ": "sw", "ㄶ": "sg", "ㄺ": "fr", "ㄻ": "fa", "ㄼ": "fq", "ㄽ": "ft", "ㄾ": "fx", "ㄿ": "fv",
    "ㅀ": "fg", "ㅄ": "qt",
}  # fmt: skip


def is_syllable(letter: str) -> bool:
    """Whether it is a whole Korean syllable."""
    return "가" <= letter <= "힣"


def _parts(syllable: str) -> tuple[int, int, int]:
    """Places of onset, vowel and coda (0: none)."""
    number = ord(syllable) - 0xAC00
    return number // 588, number // 28 % 21, number % 28


def on_english_keyboard(text: str) -> str:
    """Return what a Korean text becomes where the keyboard is left in English: 김치 is rlacl."""
    typed = []
    for letter in unicodedata.normalize("NFC", text):
        jamo = letter
        if is_syllable(letter):
            onset, vowel, coda = _parts(letter)
            jamo = _ONSETS[onset] + _VOWELS[vowel] + _CODAS[coda].strip()
        typed += [_KEY_PAIRS.get(each) or _KEYS.get(each, each) for each in jamo]
    return "".join(typed)


def with_one_jamo_wrong(text: str, rng: random.Random) -> str:
    """Return `text` with onset, vowel or coda of one syllable replaced by another: 김치 may become 긴치. A
    text without a syllable stays as it is."""
    places = [place for place, letter in enumerate(text) if is_syllable(letter)]
    if not places:
        return text
    place = rng.choice(places)
    onset, vowel, coda = _parts(text[place])
    match rng.choice(("onset", "vowel", "coda") if coda else ("onset", "vowel")):
        case "onset":
            onset = rng.choice([each for each in range(len(_ONSETS)) if each != onset])
        case "vowel":
            vowel = rng.choice([each for each in range(len(_VOWELS)) if each != vowel])
        case _:
            coda = rng.choice([each for each in map(_CODAS.index, _PLAIN_CODAS) if each != coda])
    return text[:place] + chr(0xAC00 + onset * 588 + vowel * 28 + coda) + text[place + 1 :]


def romanised(text: str) -> str:
    """Return a Korean text in the Revised Romanisation, as it is spoken within each word: 국물 is gungmul.
    Whatever is no syllable stays as it is."""
    return " ".join(map(_romanised_word, text.split(" ")))


def _romanised_word(word: str) -> str:
    out: list[str] = []
    carried = ""
    for place, letter in enumerate(word):
        if not is_syllable(letter):
            out.append(letter)
            carried = ""
            continue
        onset, vowel, coda = _parts(letter)
        following = word[place + 1 : place + 2]
        onset_sound = carried or _ONSET_SOUNDS[onset]
        coda_sound, carried = _CODA_SOUNDS[coda], ""
        if following and is_syllable(following):
            coda_sound, carried = _meeting(coda, _parts(following)[0])
        out += [onset_sound, _VOWEL_SOUNDS[vowel], coda_sound]
    return "".join(out).replace("-", "")


def _meeting(coda: int, onset: int) -> tuple[str, str]:
    """How a coda sounds, and the onset behind it."""
    ours, theirs, letter = _CODA_SOUNDS[coda], _ONSET_SOUNDS[onset], _ONSETS[onset]
    if letter == "ㅇ":
        return _CARRIED[coda], "-"
    if _CODAS[coda] in _BEHIND_H and theirs in _ASPIRATED:
        return {"ㄶ": "n", "ㅀ": "l", "ㅎ": "-"}[_CODAS[coda]], _ASPIRATED[theirs]
    if letter == "ㄹ":
        if ours in ("n", "l"):
            return "l", "l"
        return (_NASAL.get(ours, ours), "n") if coda else ("-", "r")
    if letter == "ㄴ" and ours == "l":
        return "l", "l"
    return (_NASAL.get(ours, ours), theirs) if letter in "ㄴㅁ" else (ours, theirs)
