"""The mapped form of a model: a cache that is made when missing, checked when there, and never needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.embedding.convert.graph import GraphBuilder
from service.embedding.convert.int8_graph import packed_blocks, write_int8
from service.embedding.manifest import Manifest, marks_of, write_manifest
from service.embedding.runtimes.session import FOLDER, open_session

SIZE = 96
GIVEN = np.random.default_rng(2).standard_normal((3, SIZE)).astype(np.float32)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "one"
    path.mkdir(parents=True)
    graph = GraphBuilder("product")
    weights = np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32)
    graph.add("Relu", graph.add("MatMul", "given", graph.constant(weights)), output="found")
    graph.save(
        path / "model.onnx",
        {"given": ("float32", ["batch", SIZE])},
        {"found": ("float32", ["batch", SIZE])},
    )
    return path


def manifest_of(directory: Path) -> Manifest:
    return Manifest(
        "one", "r", "onnx-text", "text", SIZE, "one", {}, {"model_file": "model.onnx"}, marks_of(directory)
    )


def answer(directory: Path) -> np.ndarray:
    session = open_session(directory, manifest_of(directory), "model_file", 1)
    return np.asarray(session.run(None, {"given": GIVEN})[0])


def prepared(directory: Path) -> list[Path]:
    return [path for path in (directory.parent / FOLDER).iterdir() if path.is_dir()]


def test_it_is_made_once_and_computes_the_same(directory: Path) -> None:
    first = answer(directory)
    (place,) = prepared(directory)
    made_at = place.stat().st_mtime_ns
    np.testing.assert_array_equal(answer(directory), first)
    assert prepared(directory) == [place] and place.stat().st_mtime_ns == made_at


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx_data", "marks.json"])
def test_a_damaged_one_is_made_again(directory: Path, name: str) -> None:
    first = answer(directory)
    (place,) = prepared(directory)
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(answer(directory), first)
    assert (place / name).read_bytes() == whole


def test_other_weights_have_another_one_and_few_are_kept(directory: Path) -> None:
    for turn in range(6):
        (directory / "note.txt").write_text(str(turn))
        answer(directory)
    assert len(prepared(directory)) == 4


def test_without_a_place_for_it_the_model_is_served_all_the_same(directory: Path) -> None:
    (directory.parent / FOLDER).write_text("no folder")
    assert answer(directory).shape == (3, SIZE)


def test_8_bit_products_are_near_and_do_not_depend_on_the_batch(directory: Path) -> None:
    exact = answer(directory)
    small = directory.with_name("small")
    small.mkdir()
    assert write_int8(directory / "model.onnx", small / "model.onnx") == 1
    write_manifest(small, manifest_of(small))
    session = open_session(small, manifest_of(small), "model_file", 1)
    for _ in range(2):  # the second is opened from what the first left
        (found,) = session.run(None, {"given": GIVEN})
        cosine = (found * exact).sum() / np.linalg.norm(found) / np.linalg.norm(exact)
        assert cosine > 0.999
        (alone,) = session.run(None, {"given": GIVEN[:1]})
        np.testing.assert_allclose(alone, found[:1], rtol=1e-4, atol=1e-4)
        session = open_session(small, manifest_of(small), "model_file", 1)


def test_blocks_hold_their_weights_to_half_a_step() -> None:
    weights = np.random.default_rng(3).standard_normal((64, 5)).astype(np.float32)
    packed, scales = packed_blocks(weights)
    back = (packed.astype(np.float32) - 128) * scales.reshape(5, 2, 1)
    errors = np.abs(back.reshape(5, 64).T - weights)
    assert errors.max() <= scales.max() / 2 + 1e-6
