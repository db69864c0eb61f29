"""From what is usual in a collection to a probability: the curve of a query, and the files that give one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from index_store.request.confidence import Background
from service.confidence.calibration import (
    BUILTIN,
    Calibration,
    Coefficients,
    calibration_of,
    query_features,
    read_calibration,
)
from service.errors import BadConfiguration

FULL = Background(rows=256, middle=0.8, spread=0.1, of_query=0.75, size=1000, share=0.5)
DENSE = Coefficients(score=5.0, background=-2.0, korean=0.5, length=1.0, size=-0.6, share=2.0, constant=-3.0)
OWN = Calibration("shop-model-", 0.5, 0.2, DENSE)
DOCUMENT: dict[str, Any] = {
    "embedding_version": "shop-model-1",
    "middle": 0.5,
    "spread": 0.2,
    "dense": {
        "score": 5.0,
        "background": 0.0,
        "korean": 0.0,
        "length": 0.0,
        "size": 0.0,
        "share": 0.0,
        "constant": -3.0,
    },
}


def test_log_odds_are_the_sum_of_what_is_known_of_hit_and_query() -> None:
    curve = OWN.curve("dense", "갈비 탕", FULL)
    assert curve is not None
    odds = 5.0 * (0.9 - 0.8) / 0.1 - 2.0 * (0.75 - 0.8) / 0.1 + 0.5 + math.log(3) - 3.0
    odds += -0.6 * math.log(1000) + 2.0 * 0.5
    assert curve.slope * 0.9 + curve.offset == pytest.approx(odds)


def test_the_same_similarity_means_less_where_all_are_alike() -> None:
    apart, alike = FULL, FULL._replace(middle=0.88)
    curves = [OWN.curve("dense", "갈비", each) for each in (apart, alike)]
    odds = [each.slope * 0.9 + each.offset for each in curves if each is not None]
    assert odds[0] > odds[1]


@pytest.mark.parametrize(("rows", "middle"), [(256, 0.8), (0, 0.5), (64, 0.575)])
def test_of_few_rows_what_the_model_usually_has_counts_as_well(rows: int, middle: float) -> None:
    curve = OWN.curve("dense", "", FULL._replace(rows=rows, of_query=middle, size=1, share=0.0))
    spread = 0.1 * rows / 256 + 0.2 * (1 - rows / 256)
    assert curve is not None and curve.slope == pytest.approx(5.0 / spread)
    assert curve.slope * middle + curve.offset == pytest.approx(-3.0)


def test_rows_that_are_all_the_same_give_a_finite_curve() -> None:
    curve = OWN.curve("dense", "갈비", FULL._replace(spread=0.0))
    assert curve is not None and math.isfinite(curve.slope) and math.isfinite(curve.offset)


def test_a_dense_answer_knows_words_where_they_are_known() -> None:
    worded = Coefficients(4.0, 0.0, 0.0, 0.0, 0.0, 3.0, -2.0)
    both = Calibration("shop-model-", 0.5, 0.2, DENSE, worded)
    curves = [both.curve("dense", "", FULL._replace(share=each)) for each in (None, 0.0, 1.0)]
    assert curves[0] == OWN.curve("dense", "", FULL._replace(share=None))
    odds = [0.8 * each.slope + each.offset for each in curves[1:] if each is not None]
    assert odds == pytest.approx([-2.0, 1.0])


def test_a_mode_that_was_not_fitted_has_no_curve() -> None:
    assert OWN.curve("hybrid", "갈비", FULL) is None


@pytest.mark.parametrize(
    ("text", "korean", "letters"),
    [("갈비", 1.0, 2), ("galbi tang", 0.0, 9), ("갈비 b", 1.0, 3), ("", 0.0, 1), ("\u200b \ud800", 0.0, 2)],
)
def test_of_a_text_its_script_and_its_length_count(text: str, korean: float, letters: int) -> None:
    _, has_hangul, length, *_ = query_features(text, FULL)
    assert (has_hangul, length) == (korean, math.log(letters))


def test_a_collection_s_own_numbers_come_first() -> None:
    builtin = BUILTIN[0].embedding_version
    mine = Calibration(builtin, 0.5, 0.2, DENSE)
    assert calibration_of(f"{builtin}fp32-1.t01234567", None) is BUILTIN[0]
    assert calibration_of(f"{builtin}fp32-1", mine) is mine
    assert calibration_of(f"{builtin}fp32-1", OWN) is BUILTIN[0]
    assert calibration_of("another-model", OWN) is None


def test_a_file_is_read_beside_the_collections_file(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(DOCUMENT))
    found = read_calibration("shop.json", tmp_path / "collections.toml")
    assert found.embedding_version == "shop-model-1" and found.dense.score == 5.0 and found.hybrid is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spread": 0}, "spread"),
        ({"embedding_version": ""}, "embedding_version"),
        ({"dense": {**DOCUMENT["dense"], "score": 0}}, "score"),
        ({"dense": {**DOCUMENT["dense"], "scores": 1}}, "scores"),
        ({"middle": "high"}, "middle"),
        ({"another": 1}, "another"),
    ],
)
def test_a_file_with_a_mistake_names_it(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(BadConfiguration, match=rf"shop\.json.*{word}"):
        read_calibration("shop.json", tmp_path / "collections.toml")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_bytes(b" " * (65 << 10))
    (tmp_path / "bytes.json").write_bytes(b"\xff{")
    for name in ("missing.json", "long.json", "bytes.json"):
        with pytest.raises(BadConfiguration, match=name):
            read_calibration(name, tmp_path / "collections.toml")
