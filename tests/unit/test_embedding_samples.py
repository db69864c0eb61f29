"""Stored samples: a model that computes something else than its reference did is not served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.embedding.catalog.cli import main as models
from service.embedding.catalog.loader import load_embedder
from service.embedding.catalog.reference_vectors import (
    ask,
    check_samples,
    read_samples,
    write_samples,
)
from service.embedding.manifest import marks_of, read_manifest, write_manifest
from service.embedding.runtimes.placeholder import descriptor
from service.errors import ModelUnavailable
from tests.fixtures.models import write_tiny_onnx_text


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = write_tiny_onnx_text(tmp_path / "tiny")
    assert models(["adopt", str(path)], tmp_path) == 0
    embedder = load_embedder(str(path), "text", models_dir=tmp_path, dim=8, threads=1)
    write_samples(path, ask(embedder, None, 0.9999))
    assert models(["adopt", str(path)], tmp_path) == 0
    return path


def test_a_model_that_agrees_is_served(directory: Path, tmp_path: Path) -> None:
    embedder = load_embedder(str(directory), "text", models_dir=tmp_path, dim=8, threads=1)
    samples = read_samples(directory)
    assert samples is not None and len(samples.texts) >= 6
    assert check_samples(samples, "text", embedder) > 0.99999


@pytest.mark.parametrize("wrong", [0.02, float("nan")])
def test_a_model_that_disagrees_is_refused_with_the_figure(
    directory: Path, tmp_path: Path, wrong: float
) -> None:
    content = json.loads((directory / "samples.json").read_text("utf-8"))
    vector = np.asarray(content["text_vectors"][1])
    vector[0] += wrong + abs(vector).max() * 0.1
    content["text_vectors"][1] = vector.tolist()
    (directory / "samples.json").write_text(json.dumps(content), "utf-8")
    manifest = read_manifest(directory)
    object.__setattr__(manifest, "files", marks_of(directory))
    write_manifest(directory, manifest)
    with pytest.raises(ModelUnavailable) as caught:
        load_embedder(str(directory), "text", models_dir=tmp_path, dim=8, threads=1)
    assert "text sample 1 agrees to cosine" in caught.value.reason
    assert caught.value.hint


def test_samples_that_are_no_samples_are_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "samples.json").write_text("[1]")
    manifest = read_manifest(directory)
    object.__setattr__(manifest, "files", marks_of(directory))
    write_manifest(directory, manifest)
    with pytest.raises(ModelUnavailable):
        load_embedder(str(directory), "text", models_dir=tmp_path, dim=8, threads=1)


def test_samples_of_pictures_agree_with_themselves() -> None:
    samples = ask(None, descriptor(), 0.9999)
    assert len(samples.pictures) >= 3 and not samples.texts
    assert check_samples(samples, "image", descriptor()) > 0.99999
