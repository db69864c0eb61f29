"""Model directories and references: whole, altered, missing, pickled, of the wrong kind."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app.generations.origin import Origin
from service.app.generations.serving import matching_origin
from service.embedding.catalog.builtin import BUILTIN
from service.embedding.catalog.cli import main as models
from service.embedding.catalog.known_versions import versions_here
from service.embedding.catalog.loader import load_embedder, version_of
from service.embedding.manifest import (
    BadModelDirectory,
    publish,
    read_manifest,
    verify,
    version_string,
)
from service.embedding.runtimes.placeholder import hashed_ngrams, placeholder_images, placeholder_texts
from service.embedding.text import normalise_text
from service.errors import ModelUnavailable
from tests.fixtures.models import write_tiny_onnx_text

HUB = "some/model@" + "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = write_tiny_onnx_text(tmp_path / "tiny")
    assert models(["adopt", str(path)], tmp_path) == 0
    return path


def refusal(ref: str, models_dir: Path, dim: int = 8) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        load_embedder(ref, "text", models_dir=models_dir, dim=dim, threads=1)
    assert caught.value.hint.startswith("python -m service models")
    return caught.value


def test_a_whole_directory_opens(directory: Path, tmp_path: Path) -> None:
    embedder = load_embedder(str(directory), "text", models_dir=tmp_path, dim=8, threads=1)
    queries = embedder.embed(["가나"], "query").vectors
    documents = embedder.embed(["가나"], "document").vectors
    assert not np.allclose(queries, documents), "the prefixes of the directory's prompts were not used"


def test_a_closed_model_holds_no_memory_though_somebody_refers_to_it(directory: Path, tmp_path: Path) -> None:
    """A service freezes what its garbage collector knows at the start: cycles of then are never collected."""
    embedder: Any = load_embedder(str(directory), "text", models_dir=tmp_path, dim=8, threads=1)
    session, tokenizer = weakref.ref(embedder._session), weakref.ref(embedder._tokenizer)
    embedder.close()
    embedder.close()
    assert session() is None and tokenizer() is None
    assert embedder.info.dim == 8


def test_one_flipped_bit_in_any_file_is_found(directory: Path, tmp_path: Path) -> None:
    for name in verify(directory).files:
        path = directory / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert name in refusal(str(directory), tmp_path).reason
        path.write_bytes(whole)
    verify(directory)


def test_a_missing_file_is_named(directory: Path, tmp_path: Path) -> None:
    (directory / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal(str(directory), tmp_path).reason


def test_a_truncated_file_is_named(directory: Path, tmp_path: Path) -> None:
    path = directory / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    assert "model.onnx was altered" in refusal(str(directory), tmp_path).reason


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "sub/weights.PKL"])
def test_a_pickle_in_the_directory_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "pickle" in refusal(str(directory), tmp_path).reason
    assert models(["adopt", str(directory)], tmp_path) == 1


def test_a_file_that_nobody_listed_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "modeling_extra.py").write_text("raise SystemExit")
    assert "modeling_extra.py is not in the manifest" in refusal(str(directory), tmp_path).reason


def test_an_edited_manifest_is_refused(directory: Path, tmp_path: Path) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    content["parts"]["prefixes"]["query"] = "changed: "
    path.write_text(json.dumps(content), "utf-8")
    assert "altered" in refusal(str(directory), tmp_path).reason


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 2}', "\x00"])
def test_a_broken_manifest_is_refused(directory: Path, content: str) -> None:
    (directory / "manifest.json").write_text(content)
    with pytest.raises(BadModelDirectory):
        read_manifest(directory)


def test_a_manifest_can_not_reach_outside(directory: Path, tmp_path: Path) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    content["files"]["../outside.json"] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(content), "utf-8")
    assert "outside" in refusal(str(directory), tmp_path).reason


def test_a_directory_without_manifest_says_how_to_get_one(tmp_path: Path) -> None:
    path = write_tiny_onnx_text(tmp_path / "tiny")
    assert f"adopt {path}" in refusal(str(path), tmp_path).hint


@pytest.mark.parametrize(
    ("ref", "mend"),
    [
        ("builtin:multilingual-e5-small", "build multilingual-e5-small"),
        (HUB, f"fetch {HUB}"),
        ("open_clip:ViT-B-32/openai", "fetch open_clip:ViT-B-32/openai"),
        ("./nowhere", "adopt nowhere"),
    ],
)
def test_missing_files_are_said_at_once_with_the_command(tmp_path: Path, ref: str, mend: str) -> None:
    assert refusal(ref, tmp_path).hint.endswith(mend)


def test_an_open_clip_name_takes_the_one_revision_that_was_fetched(tmp_path: Path) -> None:
    ref = "open_clip:ViT-B-32/openai"
    first = tmp_path / f"timm--vit_base_patch32_clip_224.openai@{'a' * 12}"
    write_tiny_onnx_text(first)  # no CLIP, but enough to see that it is found
    assert models(["adopt", str(first)], tmp_path) == 0
    assert version_of(ref, tmp_path, modality="image", dim=8) == verify(first).embedding_version
    first.with_name(first.name.replace("a" * 12, "b" * 12)).mkdir()
    assert "several revisions" in refusal(ref, tmp_path).reason


@pytest.mark.parametrize("ref", ["builtin:gpt", "gpt", "org/model", "org/model@main", "", "a b@" + "0" * 40])
def test_what_is_no_reference_is_refused(tmp_path: Path, ref: str) -> None:
    refusal(ref, tmp_path)


def test_a_wrong_dim_or_modality_is_refused(directory: Path, tmp_path: Path) -> None:
    assert "dim 384" in refusal(str(directory), tmp_path, dim=384).reason
    for ref, dim in [("builtin:hashed-ngrams", 384), (str(directory), 8), ("builtin:descriptor", 100)]:
        with pytest.raises(ModelUnavailable):
            load_embedder(ref, "image", models_dir=tmp_path, dim=dim, threads=1)
    assert "no text" in refusal("builtin:descriptor", tmp_path, dim=512).reason


def test_a_builtin_has_its_version_before_it_is_built(tmp_path: Path) -> None:
    version = version_of("builtin:efficientnet-lite0", tmp_path, modality="image", dim=512)
    assert version.startswith("effnet0-")
    with pytest.raises(ModelUnavailable):
        version_of(HUB, tmp_path, modality="text", dim=384)


def test_whatever_shapes_a_vector_changes_the_version(tmp_path: Path) -> None:
    seen = set()
    for wishes in ([], ["--tokens-max", "12"], ["--query-prefix", "q"], ["--document-prefix", ""]):
        path = write_tiny_onnx_text(tmp_path / f"m{len(seen)}")
        assert models(["adopt", str(path), *wishes], tmp_path) == 0
        seen.add(verify(path).embedding_version.rpartition("-")[2])
    assert len(seen) == 4


def test_a_version_depends_on_content_not_on_order() -> None:
    assert version_string("m", {"a": 1, "b": [2]}) == version_string("m", {"b": [2], "a": 1})
    assert version_string("m", {"a": 1}) != version_string("m", {"a": 2})


def test_verify_and_list_name_the_bad_one(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert models(["verify"], tmp_path) == 0
    (directory / "config.json").write_text("{}")
    assert models(["verify"], tmp_path) == 1
    assert models(["list"], tmp_path) == 0
    said = capsys.readouterr().out
    assert "ok   tiny" in said
    assert "BAD" in said
    assert "config.json" in said
    assert "builtin:efficientnet-lite0\timage\t512\tnot built" in said


def test_build_of_an_unknown_name_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(["build", "nonsense"], tmp_path) == 1
    assert "nonsense" in capsys.readouterr().err


def test_adopting_nothing_known_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert models(["adopt", str(tmp_path / "empty")], tmp_path) == 1
    assert models(["adopt", str(tmp_path / "none")], tmp_path) == 1
    assert "error:" in capsys.readouterr().err


def test_what_helps_stands_apart_from_what_is_wrong(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = directory / "stray.txt"
    stray.write_text("?")
    with pytest.raises(BadModelDirectory) as caught:
        verify(directory)
    assert (str(caught.value), caught.value.hint) == (f"{stray} is not in the manifest.", f"remove {stray}")
    assert refusal(str(directory), tmp_path).reason == str(caught.value)
    capsys.readouterr()
    assert models(["export", str(directory)], tmp_path) == 1
    told = capsys.readouterr().err
    assert f"error: {stray} is not in the manifest. (help: remove {stray})\n" == told


def test_hashed_ngrams_know_likeness() -> None:
    texts = ["김치찌개", "돼지고기 김치찌개", "초코 케이크"]
    vectors = hashed_ngrams(384).embed(texts, "query").vectors
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.4 > 0.25 > alike[0, 2]


def test_placeholders_are_the_same_in_every_process() -> None:
    text = placeholder_texts(384).embed(["김치찌개"], "query").vectors[0]
    picture = placeholder_images(512).embed([np.zeros((2, 3, 3), np.uint8)], "document").vectors[0]
    # noted from another process: Python's own hash() would change from run to run
    np.testing.assert_allclose(text[:3], [-0.00819033, 0.00533488, 0.02994347], atol=1e-7)
    np.testing.assert_allclose(picture[:3], [0.03276132, 0.01865825, -0.01212171], atol=1e-7)
    other = placeholder_images(512).embed([np.zeros((3, 2, 3), np.uint8)], "document").vectors[0]
    assert abs(float(picture @ other)) < 0.3


def test_one_form_of_a_text() -> None:
    assert normalise_text("  \u1100\u1161\u11a8 탕\n") == "각 탕"
    assert normalise_text("\u3000탕\u00a0") == "탕"


def test_what_can_not_be_exported_is_an_error(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ref, said in (
        (str(directory), "serves without torch as it is"),
        (f"{directory}+int8", "no matrix that is worth 8 bits"),
        (str(tmp_path / "nowhere"), "manifest.json"),
        ("nonsense", "names no model"),
    ):
        assert models(["export", ref], tmp_path) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob(".export.*")) and not list(tmp_path.glob("*+*"))


def test_an_8_bit_form_that_is_not_there_is_said_with_the_command(directory: Path, tmp_path: Path) -> None:
    assert refusal(f"{directory}+int8", tmp_path).hint.endswith(f"export {directory}+int8")


def test_everybody_may_read_a_published_model(directory: Path, tmp_path: Path) -> None:
    (directory / "config.json").chmod(0o600)
    directory.chmod(0o700)
    publish(directory, tmp_path / "final", read_manifest(directory))
    for path in [tmp_path / "final", *(tmp_path / "final").rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_a_built_in_name_stands_for_one_space() -> None:
    """Collections note the name of what made them: other vectors need another name (docs/decisions/0118)."""
    assert {name: model.embedding_version for name, model in BUILTIN.items()} == {
        "multilingual-e5-small": "me5s-q4-fp32-d10e6525f741",
        "efficientnet-lite0": "effnet0-pca-fp32-8a65970c3dc6",
        "efficientnet-lite0-views": "effnet0-views-fp32-81f430767fb6",
    }


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite0-views"])
def test_what_made_a_collection_of_before_is_found_by_its_version(tmp_path: Path, name: str) -> None:
    version = BUILTIN[name].embedding_version
    assert matching_origin(version, versions_here(tmp_path, "image", 512), []) == Origin(f"builtin:{name}")
