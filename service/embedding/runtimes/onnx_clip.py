"""A CLIP text tower in the serving form: text.onnx and tokenizer.json, run without torch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
from tokenizers import Tokenizer

from service.embedding.manifest import Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Role
from service.embedding.runtimes.session import open_session

BATCH_ITEMS = 16


class OnnxClipTexts:
    """The text tower: a text's vector lies in the space of the pictures. Calls are safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        self._tokens_max: int = manifest.interface["tokens_max"]
        self._tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(self._tokens_max)
        self._tokenizer.enable_padding(length=self._tokens_max, pad_id=0)
        self._session = open_session(directory, manifest, "text_file", threads)
        self._info = info_of(manifest, "text", "onnxruntime", self._tokens_max)

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder. Queries and documents are embedded alike."""
        encoded = self._tokenizer.encode_batch([cleaned(text) for text in contents])
        vectors = np.empty((len(encoded), self._info.dim), np.float32)
        for start in range(0, len(encoded), BATCH_ITEMS):
            ids = np.array([e.ids for e in encoded[start : start + BATCH_ITEMS]], np.int64)
            vectors[start : start + BATCH_ITEMS] = self._session.run(None, {"input_ids": ids})[0]
        truncated = np.fromiter((bool(e.overflowing) for e in encoded), np.bool_, len(encoded))
        return Embedded(vectors, truncated, [sum(e.attention_mask) for e in encoded])

    def close(self) -> None:
        """Let go of weights and vocabulary: who else refers to this may stay for long."""
        for name in ("_session", "_tokenizer"):
            vars(self).pop(name, None)


def cleaned(text: str) -> str:
    """Return `text` as CLIP's tokenizer reads it: mended, entities resolved, one space, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
