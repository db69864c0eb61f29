"""Filters over a delta mean the same whichever keys have a column, and what keys cost is bounded."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.delta.delta_columns import COLUMNS_MAX, DeltaColumns
from index_store.filter.cache import FilterMasks, compiled_filter
from index_store.segment.metadata import SealedMetadata, write_metadata
from item_rules.metadata import metadata_text
from tests.reference_filter import matches

KEYS = ("a", "b", "c", "d", "e", "색", 'q"', "n.x", "n")
VALUES: tuple[Any, ...] = (
    1,
    1.0,
    True,
    "1",
    None,
    "파랑",
    [1, "a"],
    [],
    {"x": 1},
    {"x": [2, {"y": "]"}]},
    [[1], {}],
)
CONDITIONS: tuple[dict[str, Any], ...] = (
    *({key: 1} for key in KEYS),
    *({key: {"$exists": False}} for key in ("a", "색", "missing")),
    {"n.x": {"$in": [1, 2]}},
    {"n.x.y": "]"},
    {"$or": [{"c": "파랑"}, {"e": {"$ne": None}}]},
)


def texts_of(rows: list[dict[str, Any] | None]) -> list[str | None]:
    return [None if row is None else metadata_text(row) for row in rows]


def drawn(draw: random.Random, count: int, odd_keys: int) -> list[dict[str, Any] | None]:
    """Rows with some of the keys, and a few keys that no other row is likely to have."""
    rows: list[dict[str, Any] | None] = []
    for _ in range(count):
        row = {key: draw.choice(VALUES) for key in draw.sample(KEYS, draw.randrange(len(KEYS)))}
        row |= {f"odd{draw.randrange(10**6)}": draw.randrange(9) for _ in range(odd_keys)}
        rows.append(row if draw.random() < 0.9 else None)
    return rows


@pytest.mark.parametrize("columns_max", [0, 3, COLUMNS_MAX])
@pytest.mark.parametrize("values_bytes_max", [1500, 1 << 20])
@pytest.mark.parametrize("counted_keys_max", [4, 1000])
def test_a_filter_holds_for_the_same_rows(
    columns_max: int, values_bytes_max: int, counted_keys_max: int
) -> None:
    draw = random.Random(columns_max + values_bytes_max + counted_keys_max)
    rows: list[dict[str, Any] | None] = []
    texts: list[str | None] = []
    columns = DeltaColumns(
        lambda start, stop: texts[start:stop],
        columns_max=columns_max,
        values_bytes_max=values_bytes_max,
        counted_keys_max=counted_keys_max,
    )
    masks = FilterMasks(columns)
    for count in (5, 30, 1, 40):
        rows += (more := drawn(draw, count, odd_keys=2))
        texts += texts_of(more)
        columns.append_texts(texts_of(more))
        odd = [key for row in more if row for key in row if key.startswith("odd")][:3]
        for condition in (*CONDITIONS, *({key: {"$gte": 0}} for key in odd)):
            found = masks.mask(compiled_filter(condition), len(rows)).tolist()
            assert found == [matches(condition, row or {}) for row in rows], condition
    known = [masks.known_keys.has(key) for key in (*KEYS, *odd, "missing", "a.b")]
    assert known == [True] * (len(KEYS) + len(odd)) + [False, False]


def test_texts_are_read_once_for_a_key_without_a_column() -> None:
    texts, reads = texts_of([{"a": n, "b": "x" * 100} for n in range(50)]), []

    def read(start: int, stop: int) -> list[str | None]:
        reads.append((start, stop))
        return texts[start:stop]

    columns = DeltaColumns(read, columns_max=0)
    columns.append_texts(texts)
    masks = FilterMasks(columns)
    for _ in range(3):
        assert masks.mask(compiled_filter({"a": {"$lt": 5}}), 50).sum() == 5
        assert masks.known_keys.has("a") and not masks.known_keys.has("c")
    assert reads == [(0, 50)]
    texts += texts_of([{"a": 1}])
    columns.append_texts(texts[50:])
    assert masks.mask(compiled_filter({"a": {"$lt": 5}}), 51).sum() == 6
    assert reads == [(0, 50), (50, 51)]


def test_common_keys_are_told_though_they_have_no_column() -> None:
    texts = texts_of(
        [{f"odd{n}": 1, f"odd{-n}": 2} for n in range(1, 200)] + [{"late": n % 3} for n in range(50)]
    )
    columns = DeltaColumns(lambda start, stop: texts[start:stop], columns_max=10, counted_keys_max=40)
    for text in texts:
        columns.append_texts([text])
    mask = np.ones(len(texts), dtype=np.bool_)
    mask[-10:] = False
    assert columns.used_keys(mask)["late"] == (40, 3)


@pytest.mark.parametrize(
    "rows",
    [
        [{f"k{n}_{i}": 1 for i in range(10)} for n in range(600)],
        [{"k": [[n], *[[[]]] * 50]} for n in range(300)],
        [{f"k{i}": f"{n} {i}" for i in range(40)} for n in range(400)],
    ],
    ids=["keys", "nested", "distinct"],
)
def test_what_keys_take_is_bounded(rows: list[dict[str, Any] | None]) -> None:
    """As it was: 29, 2.5 and 3.0 MB."""
    texts = texts_of(rows)
    columns = DeltaColumns(lambda start, stop: texts[start:stop], values_bytes_max=1 << 20)
    tracemalloc.start()
    for start in range(0, len(texts), 50):
        columns.append_texts(texts[start : start + 50])
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2 << 20


def test_values_of_a_segment_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | None] = [
        {"k": value} for value in (*VALUES, 'a"[{,]}', {"a": {"b": []}, "z": 1})
    ]
    write_metadata(tmp_path, texts_of(rows))
    for spacing in (None, (", ", ": ")):  # as releases before wrote it
        if spacing is not None:
            described = json.loads((tmp_path / "columns.json").read_text())
            text = json.dumps(json.loads((tmp_path / "column_values.utf8").read_text()), separators=spacing)
            (tmp_path / "column_values.utf8").write_text(text)
            described["columns"][0]["stop"] = len(text)
            (tmp_path / "columns.json").write_text(json.dumps(described))
        column = SealedMetadata.open(tmp_path).column("k")
        assert column is not None
        codes = column.codes.between(0, len(rows))
        assert repr([column.values[code] for code in codes]) == repr([row["k"] for row in rows if row])
