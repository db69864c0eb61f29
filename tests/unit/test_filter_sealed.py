"""Filters over the mapped columns of a segment: nested keys, and keys that are too rare to have a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.filter.cache import FilterBitmaps, compiled_filter
from index_store.segment.metadata import SealedMetadata, write_metadata

ROWS: list[dict[str, Any] | None] = [
    {"price": 10, "nest": {"x": 5}},
    {"price": 20, "nest": {"x": "5", "y": None}},
    None,
    {"price": 10, "nest.x": 5, "nest": {"x": 6}},
    {"rare": {"z": [1, 2]}},
]


def sealed(directory: Path, columns_max: int) -> SealedMetadata:
    texts = [None if row is None else json.dumps(row) for row in ROWS]
    write_metadata(directory, texts, columns_max)
    return SealedMetadata.open(directory)


@pytest.mark.parametrize("columns_max", [256, 1])
@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ({"nest.x": 5}, [0, 3]),
        ({"nest.x": {"$ne": 5}}, [1, 2, 4]),
        ({"nest.y": None}, [1]),
        ({"rare.z": {"$gte": 2}}, [4]),
        ({"price": 10, "nest.x": {"$exists": True}}, [0, 3]),
    ],
)
def test_sealed_rows_are_filtered_by_nested_keys(
    tmp_path: Path, columns_max: int, condition: dict[str, Any], rows: list[int]
) -> None:
    masks = FilterBitmaps(sealed(tmp_path, columns_max), len(ROWS))
    bits = masks.bitmap(compiled_filter(condition))
    found = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: len(ROWS)]).tolist()
    assert found == rows


@pytest.mark.parametrize("columns_max", [256, 1])
def test_known_keys_of_sealed_rows(tmp_path: Path, columns_max: int) -> None:
    known = FilterBitmaps(sealed(tmp_path, columns_max), len(ROWS)).known_keys
    found = [known.has(key) for key in ("price", "nest.x", "rare.z", "prise", "nest.w", "price.x")]
    assert found == [True, True, True, False, False, False]
    assert [known.has("nest.w"), known.has("nest.y")] == [False, True]


def test_what_metadata_weighs_is_known_before_it_is_read(tmp_path: Path) -> None:
    metadata = sealed(tmp_path, 256)
    rows = np.array([0, 2, 4])
    assert metadata.bytes_of(rows) == sum(len(text) for text in metadata.texts(rows) if text)


def test_a_long_filter_has_a_short_name() -> None:
    names = [compiled_filter({"id": {"$in": list(range(count))}}).name for count in (50_000, 50_001)]
    assert len(set(names)) == 2 and max(map(len, names)) <= 128
