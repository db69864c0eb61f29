"""The other keyboard, synonyms, and what texts are found by."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_store.lexical.analysis import CHARS_MAX, document_text, letter_grams, normalise, sound_grams
from index_store.lexical.scores import query_grams
from service.errors import BadConfiguration
from service.words.interpreter import READ_CHARS_MAX, Interpreter
from service.words.keyboard import as_hangul, as_latin
from service.words.synonyms import BUILTIN, Synonyms, read_synonyms

SYLLABLES = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=8)


def sounds(text: str) -> set[int]:
    return set(sound_grams([normalise(text)]).grams.tolist())


@settings(deadline=None)
@given(SYLLABLES)
def test_what_the_keys_of_a_korean_word_write_is_read_back(word: str) -> None:
    typed = as_latin(word + "ㅋ")
    assert typed is not None and as_hangul(typed[:-1]) == word


@pytest.mark.parametrize("text", ["kimchi", "", "12", "hello world", "é", "김치"])
def test_other_text_is_no_korean_on_the_wrong_keyboard(text: str) -> None:
    assert as_hangul(text) is None


@pytest.mark.parametrize(
    ("korean", "latin"),
    [
        ("김치찌개", "kimchi jjigae"),
        ("김치찌개", "Gimchi-Jigae"),
        ("국물", "gungmul"),
        ("닭갈비", "dakgalbi"),
        ("한라봉", "hallabong"),
        ("독립", "dongnip"),
        ("좋은", "joeun"),
        ("밖에", "bakke"),
        ("비빔밥", "bibimbap"),
    ],
)
def test_a_word_and_its_romanisation_sound_alike(korean: str, latin: str) -> None:
    assert sounds(korean) == sounds(latin)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_one_form(text: str) -> None:
    plain = normalise(text)
    assert normalise(plain) == plain
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))
    for grams_of in (letter_grams, sound_grams):
        assert len(grams_of([plain]).grams) <= 6 * len(plain) + 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_texts_read_together_have_the_grams_that_each_has_alone(texts: Sequence[str]) -> None:
    plain = [normalise(text) for text in texts]
    for grams_of in (letter_grams, sound_grams):
        together = grams_of(plain)
        for place, text in enumerate(plain):
            mine = sorted(together.grams[together.documents == place].tolist())
            assert mine == sorted(grams_of([text]).grams.tolist())


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("김\u200b치", "김치"),
        (unicodedata.normalize("NFD", "김치찌개"), "김치찌개"),
        ("ｋｉｍｃｈｉ", "kimchi"),
        ("\uffa1\uffc2", "가"),
        ("김치!! (500G)", "김치 500g"),
    ],
)
def test_spellings_of_one_text_are_one(text: str, plain: str) -> None:
    assert normalise(text) == plain


@pytest.mark.parametrize(
    "piece", ["\u0301", "\u0316\u0301", "ㄱ", "\u1112\u1161", "\u202e", "\u200b", "🍲", "김", "ﷺ"]
)
def test_ten_megabytes_of_anything_are_bounded(piece: str) -> None:
    plain = normalise(piece * (10_000_000 // len(piece)))
    assert len(plain) <= 2 * CHARS_MAX
    letter_grams([plain])
    sound_grams([plain])


def test_only_texts_and_numbers_of_the_fields_are_read() -> None:
    metadata = '{"title": "김치", "tags": ["찌개", 7, null, ["x"], true], "price": 1000, "nest": {"a": "b"}}'
    assert document_text(metadata, ("title", "tags", "nest", "none")) == "김치\t찌개\t7"
    assert document_text(None, ("title",)) == ""
    assert len(letter_grams([document_text(metadata, ("title", "tags"))]).grams) == 6  # no pair spans two


def test_rules_replace_the_longest_they_know(tmp_path: Path) -> None:
    rules = "# mine\nkimchi stew, kimchi soup => 김치찌개\nkimchi => 김치\n노트북, laptop, 랩탑\n"
    (tmp_path / "words.txt").write_text(rules, "utf-8")
    synonyms = read_synonyms("words.txt", tmp_path / "collections.toml")
    assert synonyms.reading("Spicy KIMCHI  stew, kimchi") == "Spicy 김치찌개 김치"
    assert synonyms.reading("랩탑 가방") == "노트북 가방"
    assert synonyms.reading("김치") is None


@pytest.mark.parametrize(
    "line", ["=> 김치", "kimchi =>", "kimchi", "a,,b => c", "a => b, c", "a b c d e f g h i => j"]
)
def test_a_rule_that_says_nothing_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "words.txt").write_text(f"a => b\n{line}\n", "utf-8")
    with pytest.raises(BadConfiguration, match="line 2"):
        read_synonyms("words.txt", tmp_path / "x")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="can't be read"):
        read_synonyms("nothing.txt", tmp_path / "x")


def test_the_rules_that_come_along_can_be_read() -> None:
    rules = read_synonyms(BUILTIN, None)
    assert rules.reading("spicy grilled pork belly") == "매운 삼겹살구이"


class Occurring:
    """Knows which words occur. Fits WordSource."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def word_shares(self, collection: str, texts: Sequence[str]) -> list[float]:
        del collection
        return [float(text in self._words) for text in texts]


def test_the_other_keyboard_is_believed_where_its_words_occur() -> None:
    rules = {"a": Synonyms({"kimchi": "김치"})}
    for words, text, meaning in [
        (("김치",), "rlacl", "김치"),
        ((), "rlacl", "rlacl"),
        (("새려", "tofu"), "tofu", "tofu"),
        (("김치",), "ㅏㅑㅡ초ㅑ", "김치"),
    ]:
        assert Interpreter(Occurring(*words), rules).meaning("a", text) == meaning
    assert Interpreter(Occurring(), {}).meaning("a", "rlacl", is_certain=True) == "김치"
    assert not Interpreter(Occurring(), rules).may_mean_other("a", "김치 찌개")


def test_a_long_text_means_what_it_says() -> None:
    interpreter = Interpreter(Occurring(), {"a": Synonyms({"kimchi": "김치"})})
    for text in ("kimchi " * 40, "rlacl" * 60, "ㅋ" * 300):
        assert len(text) > READ_CHARS_MAX
        assert not interpreter.may_mean_other("a", text)
        assert interpreter.meaning("a", text, is_certain=True) == text


def test_a_query_is_known_by_what_is_looked_at() -> None:
    first = query_grams("김치찌개 " * 100 + "국")
    assert query_grams("김치찌개 " * 100 + "탕") is first
    assert query_grams("김치찌개 국") is not first
    assert "letters" in first.grams and "letters" not in query_grams("kimchi").grams
