"""EfficientNet-lite0 as one ONNX graph: pictures, or their views, in, unit 512-value vectors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.embedding.convert.graph import GraphBuilder
from service.embedding.convert.torch_file import Tensors

EPSILON = 1e-3
SIDE = 224
HALVING_BLOCKS = frozenset({1, 3, 5, 11})  # stride 2; the kernel sizes stand in the weights
BLOCKS = 16


def write_efficientnet(
    tensors: Tensors, path: Path, mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> None:
    """Write the picture encoder to `path`: root of the pooled features, minus `mean`, times `basis`.

    Input `pixels`: (batch, 3, 224, 224) float32. Output `vectors`: (batch, columns of basis), unit length.
    """
    graph = GraphBuilder("efficientnet-lite0")
    _add_unit(graph, _projected(graph, _roots(graph, tensors), mean, basis))
    _save(graph, path, basis.shape[1])


def write_efficientnet_views(
    tensors: Tensors, path: Path, mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> None:
    """Write the encoder of pictures in views to `path`: roots of the pooled features, averaged over the views
    of a picture, and beside them its descriptor; minus `mean`, times `basis`.

    Inputs, float32: `pixels` (views, 3, 224, 224); `shares` (pictures, views), what a view counts in a
    picture; `descriptors` (pictures, rows of basis - features). Output `vectors`: (pictures, columns of
    basis), of unit length.
    """
    graph = GraphBuilder("efficientnet-lite0-views")
    count = tensors["_conv_head.weight"].shape[0]
    seen = graph.add("MatMul", "shares", _roots(graph, tensors))
    features = _projected(graph, seen, mean[:count], basis[:count])
    descriptors = _projected(graph, "descriptors", mean[count:], basis[count:])
    _add_unit(graph, graph.add("Add", features, descriptors))
    graph.save(
        path,
        {
            "pixels": ("float32", ["views", 3, SIDE, SIDE]),
            "shares": ("float32", ["pictures", "views"]),
            "descriptors": ("float32", ["pictures", len(basis) - count]),
        },
        {"vectors": ("float32", ["pictures", basis.shape[1]])},
    )


def write_features(tensors: Tensors, path: Path) -> None:
    """Write the encoder up to the pooled features (1280 values), for fitting a projection."""
    graph = GraphBuilder("efficientnet-lite0-features")
    graph.add("Identity", _features(graph, tensors), output="vectors")
    _save(graph, path, tensors["_conv_head.weight"].shape[0])


def _save(graph: GraphBuilder, path: Path, dim: int) -> None:
    graph.save(
        path,
        {"pixels": ("float32", ["batch", 3, SIDE, SIDE])},
        {"vectors": ("float32", ["batch", dim])},
    )


def _roots(graph: GraphBuilder, tensors: Tensors) -> str:
    """The features are never negative (ReLU6); their roots keep one strong feature from drowning the rest."""
    return graph.add("Sqrt", _features(graph, tensors))


def _projected(
    graph: GraphBuilder, x: str, mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> str:
    return graph.add("MatMul", graph.add("Sub", x, graph.constant(mean)), graph.constant(basis))


def _add_unit(graph: GraphBuilder, vectors: str) -> None:
    length = graph.add("ReduceL2", vectors, graph.ints(1), keepdims=1)
    graph.add("Div", vectors, length, output="vectors")


def _features(graph: GraphBuilder, tensors: Tensors) -> str:
    x, side = _conv(graph, tensors, "pixels", "_conv_stem", "_bn0", SIDE, stride=2, relu=True)
    for number in range(BLOCKS):
        x, side = _block(graph, tensors, x, number, side)
    x, _ = _conv(graph, tensors, x, "_conv_head", "_bn1", side, stride=1, relu=True)
    return graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)


def _block(graph: GraphBuilder, tensors: Tensors, x: str, number: int, side: int) -> tuple[str, int]:
    name = f"_blocks.{number}."
    stride = 2 if number in HALVING_BLOCKS else 1
    start = x
    if f"{name}_expand_conv.weight" in tensors:
        x, side = _conv(graph, tensors, x, f"{name}_expand_conv", f"{name}_bn0", side, stride=1, relu=True)
    x, side = _conv(graph, tensors, x, f"{name}_depthwise_conv", f"{name}_bn1", side, stride, relu=True)
    x, side = _conv(graph, tensors, x, f"{name}_project_conv", f"{name}_bn2", side, stride=1, relu=False)
    first = f"{name}_expand_conv.weight" if number else f"{name}_depthwise_conv.weight"
    channels_in = tensors[first].shape[1 if number else 0]
    if stride == 1 and channels_in == tensors[f"{name}_project_conv.weight"].shape[0]:
        x = graph.add("Add", x, start)
    return x, side


def _conv(
    graph: GraphBuilder, tensors: Tensors, x: str, conv: str, norm: str, side: int, stride: int, relu: bool
) -> tuple[str, int]:
    """Add a convolution with its batch norm folded in; returns the output and its side length."""
    kernel = tensors[f"{conv}.weight"]
    factor = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + EPSILON)
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * factor
    size = kernel.shape[2]
    after = -(-side // stride)
    # TensorFlow's "same": the odd pixel of padding goes to the right and below.
    padding = max((after - 1) * stride + size - side, 0)
    before = padding // 2
    pads = [before, before, padding - before, padding - before]
    y = graph.add(
        "Conv", x, graph.constant((kernel * factor[:, None, None, None]).astype(np.float32)),
        graph.constant(bias.astype(np.float32)),
        kernel_shape=[size, size], strides=[stride, stride], pads=pads,
        group=kernel.shape[0] if "depthwise" in conv else 1,
    )  # fmt: skip
    if relu:
        y = graph.add(
            "Clip", y, graph.constant(np.asarray(0, np.float32)), graph.constant(np.asarray(6, np.float32))
        )
    return y, after
