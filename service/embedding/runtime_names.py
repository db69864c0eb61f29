"""The names of the ways to run a model, as manifests record them."""

from __future__ import annotations

ONNX_TEXT = "onnx-text"
ONNX_IMAGE = "onnx-image"
ONNX_VIEWS = "onnx-views"
SENTENCE_TRANSFORMERS = "sentence-transformers"
OPEN_CLIP = "open-clip"
ONNX_CLIP = "onnx-clip"
