"""The serving form of the built-in models against torch, from the same weights. Minutes: marked slow."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.embedding.catalog.build import DOWNLOADS
from service.embedding.catalog.builtin import (
    BUILTIN,
    E5,
    EFFICIENTNET,
    EFFICIENTNET_PREPROCESS,
    EFFICIENTNET_VIEWS,
)
from service.embedding.catalog.cli import main as models
from service.embedding.catalog.loader import load_embedder
from service.embedding.content_view import views_of
from service.embedding.convert.e5_file import read_e5
from service.embedding.convert.projection import PROJECTION_FILE, VIEWS_PROJECTION_FILE, read_projection
from service.embedding.convert.torch_file import read_state_dict
from service.embedding.convert.unigram_tokenizer import unigram_tokenizer
from service.embedding.convert.wheels import weights_file
from service.embedding.preprocess import picture_input
from service.embedding.runtimes.colour_descriptor import describe
from service.errors import ModelUnavailable
from tests.fixtures.models import built_models, write_tiny_clip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("sentence_transformers") is None,
        reason="the torch extra is not installed: pip install '.[torch]'",
    ),
]
COSINE_MIN = 0.9999
PIECES = 20_000
TEXTS = [
    "김치찌개", "소고기 미역국: 소고기를 넣고 끓인 맑은 국물 소고기, 미역, 국간장, 마늘",
    "매운 국물이 있는 찌개", "a bowl of spicy soup", "떡뽁이", "2～3인분 순살 치킨 500g!!", "ㅋㅋㅋ",
    "🍜 라면", "된장찌개 " * 60,
]  # fmt: skip


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (a, b)
    )
    return (a * b).sum(axis=1)


@pytest.fixture(scope="module")
def e5_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """multilingual-e5-small as an ordinary sentence-transformers directory in safetensors."""
    return write_e5(tmp_path_factory.mktemp("e5") / "me5s")


@pytest.fixture(scope="module")
def small_e5_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same twelve layers over the first pieces of its vocabulary: a quarter of the bytes."""
    return write_e5(tmp_path_factory.mktemp("small") / "me5s-small", PIECES)


def write_e5(path: Path, pieces: int | None = None) -> Path:
    """pieces: how many of the vocabulary's first; None for all."""
    from service.embedding.runtimes.torch_compat import make_torchvision_importable

    make_torchvision_importable()
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    source = read_e5(weights_file(BUILTIN[E5].source, built_models() / DOWNLOADS))
    unigram = source.unigram
    unigram = replace(unigram, pieces=unigram.pieces[:pieces], scores=unigram.scores[:pieces])
    config = BertConfig(
        vocab_size=pieces or source.vocabulary, hidden_size=source.hidden, num_hidden_layers=source.layers,
        num_attention_heads=source.heads, intermediate_size=1536, max_position_embeddings=source.positions,
        type_vocab_size=2, layer_norm_eps=source.epsilon,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    state = {name: torch.from_numpy(values.copy()) for name, values in bert_names(source).items()}
    words = "embeddings.word_embeddings.weight"
    state[words] = state[words][:pieces].contiguous()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name or "token_type_ids" in name for name in missing)
    model.save_pretrained(path, safe_serialization=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram_tokenizer(unigram), model_max_length=512,
        bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    write_sentence_transformer(path, source.hidden)
    return path


def bert_names(source: Any) -> dict[str, np.ndarray]:
    """The encoder's values under the names that transformers gives them."""
    hidden = source.hidden
    found = {
        "embeddings.word_embeddings.weight": source.packed["emb.word"].values(),
        "embeddings.position_embeddings.weight": source.dense["emb.pos"].reshape(-1, hidden),
        "embeddings.token_type_embeddings.weight": source.dense["emb.type"].reshape(-1, hidden),
        "embeddings.LayerNorm.weight": source.dense["emb.ln.w"],
        "embeddings.LayerNorm.bias": source.dense["emb.ln.b"],
    }
    places = {
        "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
        "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense",
    }  # fmt: skip
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(source.layers):
        for short, place in places.items():
            found[f"encoder.layer.{layer}.{place}.weight"] = source.packed[f"l{layer}.{short}.w"].values()
            found[f"encoder.layer.{layer}.{place}.bias"] = source.dense[f"l{layer}.{short}.b"]
        for short, place in norms.items():
            found[f"encoder.layer.{layer}.{place}.weight"] = source.dense[f"l{layer}.{short}.w"]
            found[f"encoder.layer.{layer}.{place}.bias"] = source.dense[f"l{layer}.{short}.b"]
    return found


def write_sentence_transformer(path: Path, hidden: int) -> None:
    def write(name: str, content: object) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content), "utf-8")

    write("modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ])  # fmt: skip
    write("1_Pooling/config.json", {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True})
    write("sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write("config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": "passage: "}})


def test_text_vectors_equal_sentence_transformers(e5_directory: Path) -> None:
    assert models(["adopt", str(e5_directory)], e5_directory.parent) == 0
    torch_model = load_embedder(str(e5_directory), "text", models_dir=e5_directory.parent, dim=384, threads=2)
    assert torch_model.info.runtime.startswith("torch")
    serving = load_embedder(f"builtin:{E5}", "text", models_dir=built_models(), dim=384, threads=2)
    for role in ("query", "document"):
        reference = torch_model.embed(TEXTS, role)
        found = serving.embed(TEXTS, role)
        assert cosines(found.vectors, reference.vectors).min() >= COSINE_MIN
        np.testing.assert_array_equal(found.truncated, reference.truncated)


def test_an_exported_model_is_the_model_it_came_from(small_e5_directory: Path) -> None:
    """The same version and the same vectors, without torch."""
    root = small_e5_directory.parent
    assert models(["adopt", str(small_e5_directory)], root) == 0
    assert models(["export", str(small_e5_directory)], root) == 0
    torch_model, served = (
        load_embedder(str(small_e5_directory), "text", models_dir=root, dim=384, threads=2, runtime=runtime)
        for runtime in ("torch", "onnx")
    )
    assert served.info.runtime == "onnxruntime" and torch_model.info.runtime.startswith("torch")
    assert served.info.embedding_version == torch_model.info.embedding_version
    for role in ("query", "document"):
        reference = torch_model.embed(TEXTS, role)
        found = served.embed(TEXTS, role)
        assert cosines(found.vectors, reference.vectors).min() >= COSINE_MIN
        np.testing.assert_array_equal(found.truncated, reference.truncated)
    assert models(["adopt", str(small_e5_directory), "--query-prefix", "ask: "], root) == 0
    with pytest.raises(ModelUnavailable, match="another model"):
        load_embedder(str(small_e5_directory), "text", models_dir=root, dim=384, threads=2)
    assert models(["adopt", str(small_e5_directory)], root) == 0
    assert models(["export", f"{small_e5_directory}+int8"], root) == 0
    small = load_embedder(f"{small_e5_directory}+int8", "text", models_dir=root, dim=384, threads=2)
    assert small.info.embedding_version != served.info.embedding_version
    assert cosines(small.embed(TEXTS, "query").vectors, served.embed(TEXTS, "query").vectors).min() > 0.999
    shutil.rmtree(root / f"{small_e5_directory.name}+onnx")


def test_a_model_in_torch_is_cut_and_marked_where_the_other_is(small_e5_directory: Path) -> None:
    assert models(["adopt", str(small_e5_directory), "--tokens-max", "16"], small_e5_directory.parent) == 0
    model = load_embedder(
        str(small_e5_directory), "text", models_dir=small_e5_directory.parent, dim=384, threads=2
    )
    assert model.info.tokens_max == 16
    assert model.embed(["김치", "된장찌개 " * 40], "query").truncated.tolist() == [False, True]


def test_korean_dishes_are_near_their_kind() -> None:
    serving = load_embedder(f"builtin:{E5}", "text", models_dir=built_models(), dim=384, threads=2)

    def near(query: str, *dishes: str) -> str:
        vectors = serving.embed(dishes, "document").vectors
        return dishes[int(np.argmax(vectors @ serving.embed([query], "query").vectors[0]))]

    assert near("소갈비 맑은 국물", "갈비탕", "떡볶이", "초코 케이크") == "갈비탕"
    assert near("떡뽁이", "떡볶이", "된장찌개", "갈비탕") == "떡볶이"
    assert near("kimchi stew", "김치찌개", "초코 케이크", "새우튀김") == "김치찌개"
    assert near("생일에 먹는 달콤한 빵", "초코 케이크", "갈비탕", "오징어볶음") == "초코 케이크"


def torch_features(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """The pooled features of pictures, (n, 1280), by torch and torchvision, which read what we read."""
    from service.embedding.runtimes.torch_compat import make_torchvision_importable

    make_torchvision_importable()
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms

    weights = read_state_dict(weights_file(BUILTIN[EFFICIENTNET].source, built_models() / DOWNLOADS))
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = model.state_dict()
    assert len(state) == len(weights)
    for name, values in zip(state, weights.values(), strict=True):  # both list the layers as they run
        assert state[name].shape == values.shape, name
        state[name] = torch.from_numpy(values.copy())
    model.load_state_dict(state)
    model.eval()
    how = EFFICIENTNET_PREPROCESS
    prepare = transforms.Compose([
        transforms.Resize(how.side, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(how.side),
        transforms.ToTensor(), transforms.Normalize(how.mean, how.std),
    ])  # fmt: skip
    inputs = torch.stack([prepare(Image.fromarray(p)) for p in pixels])
    ours = np.stack([picture_input(p, how) for p in pixels])
    np.testing.assert_allclose(ours, inputs.numpy(), atol=1e-5)
    with torch.inference_mode():
        features: np.ndarray = model.forward_features(inputs).mean((2, 3)).numpy()
    return features


def served_pictures(name: str, pixels: Sequence[np.ndarray]) -> np.ndarray:
    serving = load_embedder(f"builtin:{name}", "image", models_dir=built_models(), dim=512, threads=2)
    return serving.embed(pixels, "document").vectors


def test_picture_vectors_equal_torch() -> None:
    pixels = noisy_pictures()
    mean, basis = read_projection(PROJECTION_FILE)
    reference = (np.sqrt(torch_features(pixels)) - mean) @ basis
    assert cosines(served_pictures(EFFICIENTNET, pixels), reference).min() >= COSINE_MIN


def test_picture_vectors_in_views_equal_torch() -> None:
    pixels = noisy_pictures()
    for place, (height, width) in enumerate([(500, 900), (300, 300)]):
        ground = np.full((height, width, 3), 255, np.uint8)
        ground[40:104, 60:140] = pixels[-1]
        pixels.insert(2 * place, ground)
    views = [views_of(each, EFFICIENTNET_PREPROCESS.side) for each in pixels]
    counts = [len(each) for each in views]
    assert set(counts) == {1, 2}
    roots = np.sqrt(torch_features([view for each in views for view in each]))
    seen = [some.mean(axis=0) for some in np.split(roots, np.cumsum(counts)[:-1])]
    descriptors = [describe(each[-1]) for each in views]
    mean, basis = read_projection(VIEWS_PROJECTION_FILE)
    reference = (np.concatenate([np.stack(seen), np.stack(descriptors)], axis=1) - mean) @ basis
    assert cosines(served_pictures(EFFICIENTNET_VIEWS, pixels), reference).min() >= COSINE_MIN


def noisy_pictures() -> list[np.ndarray]:
    """Coarse coloured noise in several shapes, seed 5."""
    from PIL import Image

    rng = np.random.default_rng(5)
    found = []
    for height, width in [(224, 224), (448, 600), (333, 250), (900, 448), (64, 80)]:
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        found.append(np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)))
    return found


def test_clip_equals_open_clip_with_its_own_preprocessing(tmp_path: Path) -> None:
    directory = write_tiny_clip(tmp_path / "clip")
    assert models(["adopt", str(directory)], tmp_path) == 0
    serving = load_embedder(str(directory), "image", models_dir=tmp_path, dim=512, threads=2)
    import open_clip
    import torch
    from PIL import Image

    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    model.eval()
    pixels = noisy_pictures()
    with torch.inference_mode():
        reference = model.encode_image(torch.stack([prepare(Image.fromarray(p)) for p in pixels]))
    assert cosines(serving.embed(pixels, "document").vectors, reference.numpy()).min() >= COSINE_MIN


def test_clip_of_full_size_loads() -> None:
    """ViT-B-32 with random weights: the shapes, the 512 values and QuickGELU of the production model."""
    from service.embedding.runtimes.torch_compat import make_torchvision_importable

    make_torchvision_importable()
    import open_clip
    import torch

    model = open_clip.create_model("ViT-B-32", pretrained=None, force_quick_gelu=True)
    model.eval()
    assert any(type(m).__name__ == "QuickGELU" for m in model.modules())
    with torch.inference_mode():
        assert model.encode_image(torch.zeros(1, 3, 224, 224)).shape == (1, 512)
