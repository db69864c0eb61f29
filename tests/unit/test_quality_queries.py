"""The queries that bench_quality makes of real names: deterministic, and judged by what they were made of."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.quality_queries import DataSet, JudgedQuery, data_sets
from benchmarks.quality_spellings import on_english_keyboard, romanised, with_one_jamo_wrong
from service.words.keyboard import as_hangul

NAMES = (
    "외갓집[외갓집] 오모가리 묵은지 포기김치 500g X 5팩",
    "외갓집[외갓집] 오모가리 묵은지 포기김치 500g X 5팩",
    "종갓집[종갓집] 여수 돌산 갓김치 2kg (국산)",
    "김치명가[김치명가] 시원한 총각김치 3kg",
    "김치명가[김치명가] 담백한 김치 1kg",
    "바다[바다] 순살 고등어 10팩",
)


@pytest.mark.parametrize(
    ("korean", "latin"),
    [
        ("국물", "gungmul"),
        ("독립문", "dongnimmun"),
        ("신라", "silla"),
        ("같이", "gati"),
        ("떡볶이", "tteokbokki"),
        ("없다", "eopda"),
        ("앉아", "anja"),
        ("많다", "manta"),
        ("한우 2호", "hanu 2ho"),
    ],
)
def test_korean_is_romanised_as_it_is_spoken(korean: str, latin: str) -> None:
    assert romanised(korean) == latin


@pytest.mark.parametrize("text", ["김치찌개", "떡볶이 왕만두", "닭갈비 삶은 의자", "괜찮아 뷔페"])
def test_the_english_keyboard_is_read_back(text: str) -> None:
    assert as_hangul(on_english_keyboard(text)) == text


def test_one_syllable_differs_where_one_jamo_is_wrong() -> None:
    rng = random.Random(3)
    for _ in range(200):
        wrong = with_one_jamo_wrong("묵은지 김치", rng)
        assert sum(a != b for a, b in zip(wrong, "묵은지 김치", strict=True)) == 1
    assert with_one_jamo_wrong("abc 12", rng) == "abc 12"


def _products(folder: Path) -> DataSet:
    fillers = [f"상점[상점] {chr(0xAC00 + place)}{chr(0xB000 + place)}" for place in range(200)]
    rows = "".join(f'{place},"{name}"\n' for place, name in enumerate([*NAMES, *fillers]))
    head = "KOK_PRODUCT_ID,KOK_PRODUCT_NAME\n"
    (folder / "kok_products.csv").write_text(head + rows, "utf-8-sig")
    (products,) = data_sets(folder)
    return products


def test_queries_of_names_find_what_they_were_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = _products(tmp_path), _products(tmp_path)
    assert first == again
    assert "emoji_ko.jsonl: none" in capsys.readouterr().out
    by_kind: dict[str, list[JudgedQuery]] = defaultdict(list)
    for query in first.queries:
        by_kind[query.kind].append(query)
    assert set(by_kind) == {"words", "no_spaces", "jamo_wrong", "romanised", "head_noun"}
    for asked, joined in zip(by_kind["words"], by_kind["no_spaces"], strict=True):
        assert joined.text == asked.text.replace(" ", "") and joined.relevant == asked.relevant
        held = {place for place, one in enumerate(first.documents) if _holds(one.text, asked.text)}
        assert held == asked.relevant
    assert any(len(each.relevant) == 2 for each in by_kind["words"])  # the duplicates both count
    (kimchi,) = (each for each in by_kind["head_noun"] if each.text == "김치")
    assert kimchi.relevant == {0, 1, 2, 3, 4}


def _holds(name: str, words: str) -> bool:
    return set(words.split()) <= set(name.split())
