"""From somebody else's model directory to a manifest: its kind, and everything that shapes a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from tokenizers import Tokenizer

from service.embedding.manifest import (
    PICKLE_SUFFIXES,
    BadModelDirectory,
    FileMark,
    Manifest,
    Parts,
    marks_of,
)
from service.embedding.preprocess import Preprocess
from service.embedding.runtime_names import ONNX_TEXT, OPEN_CLIP, SENTENCE_TRANSFORMERS

OPEN_CLIP_CONFIG = "open_clip_config.json"
_ONNX_PLACES = ("model.onnx", "onnx/model.onnx")
_PADS = ("<pad>", "[PAD]")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person may decide about a directory. None: as the directory says.

    prefer_torch: run a directory that has both forms by torch.
    """

    query_prefix: str | None = None
    document_prefix: str | None = None
    tokens_max: int | None = None
    prefer_torch: bool = False


def describe_directory(
    directory: Path, *, name: str, revision: str, weights: str | None, wishes: Wishes
) -> Manifest:
    """Return the manifest for the model in `directory`; the caller writes it.

    weights: what names the weights in the fingerprint (hub id and revision), or None: their hashes.
    Raises BadModelDirectory for pickles and for what is no model of a known kind.
    """
    files = marks_of(directory)
    pickles = [f for f in files if Path(f).suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        raise BadModelDirectory(
            f"{directory / pickles[0]} is a pickle; only safetensors and ONNX are opened."
        )
    weights = weights or _weights_digest(files)
    label = f"{name.rpartition('/')[2].lower()[:40]}-{revision[:7]}-fp32"
    if (directory / OPEN_CLIP_CONFIG).is_file():
        runtime, modality = OPEN_CLIP, "image"
        parts = _clip_parts(directory, weights)
    else:
        runtime, modality = _text_runtime(directory, wishes), "text"
        parts = _text_parts(directory, weights, wishes, runtime)
    interface = _onnx_interface(directory) if runtime == ONNX_TEXT else {}
    return Manifest(name, revision, runtime, modality, parts["dim"], label, parts, interface, files)


def _weights_digest(files: Mapping[str, FileMark]) -> str:
    found = {n: m.sha256 for n, m in files.items() if n.endswith((".safetensors", ".onnx", ".onnx_data"))}
    if not found:
        raise BadModelDirectory("There is no .safetensors and no .onnx file among the model's files.")
    return " ".join(f"{n}:{digest}" for n, digest in sorted(found.items()))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise BadModelDirectory(f"{path} is missing.") from exc
    except ValueError as exc:
        raise BadModelDirectory(f"{path} is not JSON: {exc}.") from exc
    if not isinstance(found, dict):
        raise BadModelDirectory(f"{path} is not a JSON object.")
    return found


def _clip_parts(directory: Path, weights: str) -> Parts:
    config = _json(directory / OPEN_CLIP_CONFIG)
    model, prep = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    quick_gelu = bool(model.get("quick_gelu", False))
    if "openai" in f"{directory.name} {weights}".lower() and not quick_gelu:
        raise BadModelDirectory(
            f'{directory / OPEN_CLIP_CONFIG} lacks "quick_gelu": true, which the openai weights need.'
        )
    vision = model.get("vision_cfg", {})
    if prep.get("interpolation", "bicubic") != "bicubic" or prep.get("resize_mode", "shortest") != "shortest":
        raise BadModelDirectory(f"{directory / OPEN_CLIP_CONFIG} asks for a preprocessing that is not built.")
    mean, std = prep["mean"], prep["std"]
    how = Preprocess(int(vision["image_size"]), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return {
        "weights": weights,
        "quick_gelu": quick_gelu,
        "normalise": "l2",
        "preprocess": how.parts(),
        "dim": int(model["embed_dim"]),
        "precision": "fp32",
    }


def _text_runtime(directory: Path, wishes: Wishes) -> str:
    has_onnx = any((directory / place).is_file() for place in _ONNX_PLACES)
    if has_onnx and not wishes.prefer_torch:
        return ONNX_TEXT
    if (directory / "modules.json").is_file() and any(directory.glob("*.safetensors")):
        return SENTENCE_TRANSFORMERS
    raise BadModelDirectory(
        f"{directory} holds neither model.onnx with tokenizer.json, nor a sentence-transformers model in "
        f"safetensors, nor {OPEN_CLIP_CONFIG}."
    )


def _text_parts(directory: Path, weights: str, wishes: Wishes, runtime: str) -> Parts:
    config = _json(directory / "config.json")
    pooling = directory / "1_Pooling" / "config.json"
    is_mean = not pooling.is_file() or _is_mean(_json(pooling))
    if not is_mean and runtime == ONNX_TEXT:
        raise BadModelDirectory(
            f"{pooling} asks for another pooling than the mean.", hint="the same command with --torch"
        )
    parts: Parts = {
        "weights": weights,
        "pooling": "mean" if is_mean else "as-configured",
        "normalise": "l2",
        "prefixes": _prefixes(directory, wishes),
        "tokens_max": _tokens_max(directory, config, wishes),
        "dim": int(config["hidden_size"]),
        "precision": "fp32",
    }
    return parts


def _is_mean(pooling: dict[str, Any]) -> bool:
    """Old files hold a flag a mode, new ones name the mode."""
    return bool(pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode") == "mean"


def _prefixes(directory: Path, wishes: Wishes) -> dict[str, str]:
    path = directory / "config_sentence_transformers.json"
    prompts = _json(path).get("prompts", {}) if path.is_file() else {}
    query = prompts.get("query", "")
    document = prompts.get("document") or prompts.get("passage") or ""
    return {
        "query": query if wishes.query_prefix is None else wishes.query_prefix,
        "document": document if wishes.document_prefix is None else wishes.document_prefix,
    }


def _tokens_max(directory: Path, config: dict[str, Any], wishes: Wishes) -> int:
    path = directory / "sentence_bert_config.json"
    said = _json(path).get("max_seq_length") if path.is_file() else None
    most = int(said or config["max_position_embeddings"])
    return min(most, wishes.tokens_max) if wishes.tokens_max else most


def _onnx_interface(directory: Path) -> dict[str, Any]:
    """Return model_file, inputs, output and pad_id of the ONNX form: how to call it, not what it computes."""
    place = next(p for p in _ONNX_PLACES if (directory / p).is_file())
    session = onnxruntime.InferenceSession(str(directory / place), providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    pads = [i for i in (tokenizer.token_to_id(p) for p in _PADS) if i is not None]
    return {
        "model_file": place,
        "inputs": [i.name for i in session.get_inputs()],
        "output": "tokens" if len(output.shape) == 3 else "vectors",
        "pad_id": pads[0] if pads else 0,
    }
