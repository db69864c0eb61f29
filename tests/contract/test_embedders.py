"""Every embedder behaves alike: one body over the real models, those without a model, and torch."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from service.embedding.catalog.cli import main as models
from service.embedding.catalog.loader import load_embedder, version_of
from service.embedding.port import ImageEmbedder, TextEmbedder
from service.embedding.text import normalise_text
from tests.fixtures.models import (
    MODELS_DIR,
    built_models,
    made_int8,
    write_tiny_clip,
    write_tiny_onnx_text,
)

TEXTS = [
    "김치찌개",
    "소고기 미역국: 맑은 국물",
    "a pot of soup",
    "떡볶이 " * 12,
    "2～3인분 🍲",
    "ㅋ",
    "100% 순살!",
]
TEXT_REFS = {
    "multilingual-e5-small": ("builtin:multilingual-e5-small", 384),
    "hashed-ngrams": ("builtin:hashed-ngrams", 384),
    "placeholder": ("builtin:placeholder", 384),
    "directory-onnx": ("onnx", 8),
    "clip-text-tower": ("clip", 512),
    "clip-text-tower-exported": ("clip-exported", 512),
    "multilingual-e5-small-int8": ("builtin:multilingual-e5-small+int8", 384),
}
CLIPS = ("clip", "clip-exported")
IMAGE_REFS = {
    "efficientnet-lite0": ("builtin:efficientnet-lite0", 512),
    "efficientnet-lite0-views": ("builtin:efficientnet-lite0-views", 512),
    "descriptor": ("builtin:descriptor", 512),
    "placeholder": ("builtin:placeholder", 512),
    "clip": ("clip", 512),
    "clip-exported": ("clip-exported", 512),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {"onnx": write_tiny_onnx_text(root / "onnx")}
    if importlib.util.find_spec("open_clip") is not None:
        found["clip"] = write_tiny_clip(root / "clip")
        found["clip-exported"] = write_tiny_clip(root / "exported" / "clip")
    for name, directory in found.items():
        assert models(["adopt", str(directory)], root) == 0
        if name == "clip-exported":
            assert models(["export", str(directory)], root) == 0
    return found


def quick_and_slow(names: Iterable[str]) -> list[ParameterSet]:
    """Models that take seconds to load or need torch are left to `make test`."""
    quick = {"hashed-ngrams", "placeholder", "descriptor", "efficientnet-lite0", "efficientnet-lite0-views"}
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def resolve(ref: str, request: pytest.FixtureRequest) -> str:
    if ref.startswith("builtin:"):
        built_models()
        return ref if "+int8" not in ref else made_int8(ref)
    directories = request.getfixturevalue("directories")
    if ref not in directories:
        pytest.skip("open_clip is not installed: pip install '.[torch]'")
    return str(directories[ref])


@pytest.fixture(scope="module", params=quick_and_slow(TEXT_REFS))
def text_model(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[str, TextEmbedder]]:
    ref, dim = TEXT_REFS[request.param]
    ref = resolve(ref, request)
    embedder = load_embedder(ref, "text", models_dir=MODELS_DIR, dim=dim, threads=1)
    yield ref, embedder
    embedder.close()


@pytest.fixture(scope="module", params=quick_and_slow(IMAGE_REFS))
def image_model(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[str, ImageEmbedder]]:
    ref, dim = IMAGE_REFS[request.param]
    ref = resolve(ref, request)
    embedder = load_embedder(ref, "image", models_dir=MODELS_DIR, dim=dim, threads=1)
    yield ref, embedder
    embedder.close()


def pictures() -> list[np.ndarray]:
    """Ten of many sizes, seed 11: noise with blocks of colour, such on white ground, and white alone."""
    rng = np.random.default_rng(11)
    sizes = [(224, 224), (90, 300), (300, 90), (1, 1), (8, 1000), (500, 400), (224, 225)]
    found = []
    for height, width in sizes:
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        picture[: height // 2] = rng.integers(0, 256, 3, np.uint8)
        found.append(picture)
    for height, width in ((300, 400), (40, 40)):
        found.insert(1, np.full((height, width, 3), 255, np.uint8))
        found[1][height // 4 : height // 2, width // 2 : width // 2 + 16] = found[0][: height // 4, :16]
    return [*found, np.full((90, 60, 3), 255, np.uint8)]


def assert_unit(vectors: np.ndarray, count: int, dim: int) -> None:
    assert vectors.shape == (count, dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-5)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64) * b).sum(axis=1)


class TestTexts:
    def test_gives_unit_vectors_in_order(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        found = embedder.embed(TEXTS, "document")
        assert_unit(found.vectors, len(TEXTS), embedder.info.dim)
        backwards = embedder.embed(TEXTS[::-1], "document").vectors[::-1]
        assert cosines(found.vectors, backwards).min() > 0.9999

    def test_a_vector_does_not_depend_on_its_batch(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        together = embedder.embed(TEXTS * 9, "query").vectors
        alone = np.concatenate([embedder.embed([t], "query").vectors for t in TEXTS])
        assert cosines(together[: len(TEXTS)], alone).min() > 0.9999

    def test_nothing_gives_nothing(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        found = embedder.embed([], "query")
        assert found.vectors.shape == (0, embedder.info.dim)
        assert found.truncated.shape == (0,)

    def test_says_when_a_text_is_longer_than_it_reads(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        found = embedder.embed(["가 나 다 " * 700, "가"], "document")
        assert_unit(found.vectors, 2, embedder.info.dim)
        assert found.truncated.tolist() == [embedder.info.tokens_max is not None, False]
        if found.tokens is not None:
            assert found.tokens[0] == embedder.info.tokens_max and 1 <= found.tokens[1] < 12
        else:
            assert embedder.info.tokens_max is None

    def test_decomposed_hangul_is_the_same_text(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        forms = [normalise_text(unicodedata.normalize(f, " 된장찌개 두부 ")) for f in ("NFC", "NFD")]
        found = embedder.embed(forms, "query").vectors
        assert cosines(found[:1], found[1:])[0] > 0.999999

    def test_threads_do_not_mix_their_texts(self, text_model: tuple[str, TextEmbedder]) -> None:
        _, embedder = text_model
        expected = embedder.embed(TEXTS, "query").vectors
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda t: embedder.embed([t], "query").vectors[0], TEXTS * 4))
        assert cosines(np.stack(found), np.tile(expected, (4, 1))).min() > 0.9999

    def test_its_version_is_known_without_loading(self, text_model: tuple[str, TextEmbedder]) -> None:
        ref, embedder = text_model
        info = embedder.info
        version = version_of(ref, MODELS_DIR, modality="text", dim=info.dim)
        assert version == info.embedding_version
        assert info.is_placeholder == (ref == "builtin:placeholder")


class TestPictures:
    @pytest.mark.long
    def test_gives_unit_vectors_in_order(self, image_model: tuple[str, ImageEmbedder]) -> None:
        _, embedder = image_model
        found = embedder.embed(pictures(), "document").vectors
        assert_unit(found, len(pictures()), embedder.info.dim)
        backwards = embedder.embed(pictures()[::-1], "document").vectors[::-1]
        assert cosines(found, backwards).min() > 0.9999

    @pytest.mark.long
    def test_a_vector_does_not_depend_on_its_batch(self, image_model: tuple[str, ImageEmbedder]) -> None:
        _, embedder = image_model
        together = embedder.embed(pictures() * 4, "document").vectors
        alone = np.concatenate([embedder.embed([p], "document").vectors for p in pictures()])
        assert cosines(together[: len(alone)], alone).min() > 0.9999

    def test_tells_pictures_apart(self, image_model: tuple[str, ImageEmbedder]) -> None:
        _, embedder = image_model
        found = embedder.embed([pictures()[0], pictures()[7]], "document").vectors
        assert cosines(found[:1], found[1:])[0] < 0.99

    def test_nothing_gives_nothing(self, image_model: tuple[str, ImageEmbedder]) -> None:
        _, embedder = image_model
        assert embedder.embed([], "document").vectors.shape == (0, embedder.info.dim)

    @pytest.mark.long
    def test_threads_do_not_mix_their_pictures(self, image_model: tuple[str, ImageEmbedder]) -> None:
        _, embedder = image_model
        expected = embedder.embed(pictures(), "document").vectors
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda p: embedder.embed([p], "document").vectors[0], pictures() * 2))
        assert cosines(np.stack(found), np.tile(expected, (2, 1))).min() > 0.9999

    def test_its_version_is_known_without_loading(self, image_model: tuple[str, ImageEmbedder]) -> None:
        ref, embedder = image_model
        info = embedder.info
        version = version_of(ref, MODELS_DIR, modality="image", dim=info.dim)
        assert version == info.embedding_version
        assert info.is_placeholder == (ref == "builtin:placeholder")


@pytest.mark.slow
def test_no_two_models_share_a_version(directories: dict[str, Path]) -> None:
    versions = [
        version_of(str(directories.get(ref, ref)), MODELS_DIR, modality=modality, dim=dim)
        for modality, refs in (("text", TEXT_REFS), ("image", IMAGE_REFS))
        for ref, dim in refs.values()
        if (not ref.startswith("clip") or modality == "image") and (ref not in CLIPS or ref in directories)
    ]
    # an exported model is the model it came from, and so are the two directories of the same weights
    assert len(set(versions)) == len(versions) - ("clip" in directories)


@pytest.mark.slow
def test_a_clip_tower_that_runs_by_torch_holds_its_own_weights_only(request: pytest.FixtureRequest) -> None:
    ref = resolve("clip", request)
    held: list[set[str]] = []
    for modality in ("image", "text"):
        embedder: Any = load_embedder(
            ref, modality, models_dir=MODELS_DIR, dim=512, threads=1, runtime="torch"
        )
        held.append({name.partition(".")[0] for name, _ in embedder.model.named_parameters()})
    images, texts = held
    assert images & texts <= {"logit_scale"}
    assert "visual" in images and "transformer" in texts


@pytest.mark.slow
def test_the_text_tower_shares_the_version_of_its_pictures(request: pytest.FixtureRequest) -> None:
    ref = resolve("clip", request)
    both = {version_of(ref, MODELS_DIR, modality=modality, dim=512) for modality in ("text", "image")}
    assert len(both) == 1
