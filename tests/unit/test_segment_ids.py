"""Ids to rows and back, for both kinds of id, many at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_store.segment.ids import StringIds, open_ids, write_ids


def test_int64_ids_round_trip(tmp_path: Path) -> None:
    ids = np.random.default_rng(3).permutation(5000) * 3 - 7000
    write_ids(tmp_path, ids, "int64")
    mapped = open_ids(tmp_path, "int64")
    assert mapped.ids_of(np.arange(5000)).tolist() == ids.tolist()
    assert mapped.rows_of(ids[::-1].copy()).tolist() == list(range(4999, -1, -1))
    assert mapped.rows_of([1, -(2**63), 2**63 - 1, int(ids[7])]).tolist() == [-1, -1, -1, 7]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True), st.lists(st.text(max_size=12), max_size=20))
def test_string_ids_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], more: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("ids")
    write_ids(directory, ids, "string")
    mapped = open_ids(directory, "string")
    assert mapped.ids_of(np.arange(len(ids))).tolist() == ids
    expected = {name: row for row, name in enumerate(ids)}
    assert mapped.rows_of([*ids, *more]).tolist() == [expected.get(name, -1) for name in [*ids, *more]]


def test_equal_hashes_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    write_ids(tmp_path, ["7"], "string")
    key = np.load(tmp_path / "id_keys.npy")
    blob, offsets = np.frombuffer(b"007707", np.uint8), np.array([0, 3, 4, 6])
    same = StringIds(blob, offsets, np.repeat(key, 3), np.array([2, 0, 1]))  # every row under one hash
    assert same.rows_of(["7"]).tolist() == [1]
    other = StringIds(blob, offsets, np.repeat(key, 2), np.array([2, 0]))
    assert other.rows_of(["7"]).tolist() == [-1]


@pytest.mark.parametrize(("kind", "ids"), [("int64", [1, 2, 1]), ("string", ["a", "b", "a"])])
def test_a_repeated_id_is_refused(tmp_path: Path, kind: str, ids: list[int] | list[str]) -> None:
    with pytest.raises(ValueError, match="twice"):
        write_ids(tmp_path, ids, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_no_ids_at_all(tmp_path: Path, kind: str) -> None:
    write_ids(tmp_path, [], kind)  # type: ignore[arg-type]
    assert open_ids(tmp_path, kind).rows_of([5] if kind == "int64" else ["a"]).tolist() == [-1]  # type: ignore[arg-type]
