"""Torch models to ONNX files: sentence-transformers as token ids to vectors, CLIP as its two towers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from service.embedding.convert.graph import save_model
from service.embedding.manifest import BadModelDirectory

_OPSET = 17
_END_OF_WORD = "</w>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class _Sentences(torch.nn.Module):  # type: ignore[misc]
    """The whole pipeline of a sentence-transformers model, pooling and all, ending in unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        found = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
        return torch.nn.functional.normalize(found["sentence_embedding"], dim=-1)


class _Tower(torch.nn.Module):  # type: ignore[misc]
    """One tower of a CLIP model, ending in unit vectors."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, given: Any) -> Any:
        return getattr(self.model, self.method)(given, normalize=True)


def write_sentences(model: Any, path: Path) -> None:
    """Write a SentenceTransformer to `path`: input_ids, attention_mask (n, tokens) to vectors (n, dim)."""
    ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    axes = {0: "batch", 1: "tokens"}
    _write(
        _Sentences(model), {"input_ids": ids, "attention_mask": mask}, path,
        {"input_ids": axes, "attention_mask": axes},
    )  # fmt: skip


def write_image_tower(model: Any, side: int, path: Path) -> None:
    """Write an open_clip model's pictures: pixels (n, 3, side, side) to vectors (n, dim)."""
    _write(_Tower(model, "encode_image"), {"pixels": torch.rand(2, 3, side, side)}, path, {})


def write_text_tower(model: Any, path: Path) -> None:
    """Write an open_clip model's texts: input_ids (n, context) to vectors (n, dim)."""
    ids = torch.zeros(2, int(model.context_length), dtype=torch.int64)
    ids[:, 1] = 1  # the end of a text is found by the largest id
    _write(_Tower(model, "encode_text"), {"input_ids": ids}, path, {})


def _write(
    module: torch.nn.Module, inputs: Mapping[str, Any], path: Path, axes: Mapping[str, dict[int, str]]
) -> None:
    # The fused inference path of attention can't be traced.
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    free = {name: axes.get(name, {0: "batch"}) for name in inputs}
    with tempfile.TemporaryDirectory(dir=path.parent) as work, torch.no_grad(), warnings.catch_warnings():
        whole = Path(work) / "model.onnx"
        warnings.simplefilter("ignore")  # of the tracer: the result is proved on samples
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(whole),
            input_names=list(inputs),
            output_names=["vectors"],
            dynamic_axes={**free, "vectors": {0: "batch"}},
            opset_version=_OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
        save_model(onnx.load(str(whole)), path)


def clip_tokenizer(source: Any) -> Tokenizer:
    """Return open_clip's byte-pair tokenizer as a `tokenizers` one, for texts that are cleaned already.

    Raises BadModelDirectory when the model reads by another tokenizer.
    """
    if type(source).__name__ != "SimpleTokenizer" or source.reduction_fn is not None:
        raise BadModelDirectory(
            "The model reads texts by a tokenizer that is not CLIP's; it is not exported."
        )
    start, end = (source.decoder[i] for i in (source.sot_token_id, source.eot_token_id))
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.get)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=source.encoder, merges=[m for m in merges if len(m) == 2], unk_token=end,
            continuing_subword_prefix="", end_of_word_suffix=_END_OF_WORD, fuse_unk=False,
        )
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, source.sot_token_id), (end, source.eot_token_id)],
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (start, end)])
    return tokenizer
