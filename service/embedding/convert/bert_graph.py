"""multilingual-e5-small as one ONNX graph: token ids in, unit sentence vectors out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from service.embedding.convert.e5_file import Q4, E5Weights
from service.embedding.convert.graph import GraphBuilder

MICROSOFT = "com.microsoft"  # fused operators of ONNX Runtime: attention and bias + gelu in one pass


def write_bert(weights: E5Weights, path: Path) -> None:
    """Write the encoder with mean pooling and L2 normalisation to `path`.

    Inputs `input_ids`, `attention_mask`: (batch, tokens) int64. Output `vectors`: (batch, hidden) float32.
    The word matrix stays in its 4-bit form and is unpacked row by row, exactly: the file is 139 MB, not 470.
    """
    graph = GraphBuilder("multilingual-e5-small")
    hidden = _embed(graph, weights)
    mask = graph.add("Cast", "attention_mask", to=6)
    for layer in range(weights.layers):
        hidden = _layer(graph, weights, f"l{layer}.", hidden, mask)
    _pool(graph, hidden)
    shape: list[str | int] = ["batch", "tokens"]
    graph.save(
        path,
        {"input_ids": ("int64", shape), "attention_mask": ("int64", shape)},
        {"vectors": ("float32", ["batch", weights.hidden])},
    )


def _embed(graph: GraphBuilder, weights: E5Weights) -> str:
    words = _unpacked_rows(graph, weights.packed["emb.word"], weights.hidden)
    token_type = weights.dense["emb.type"].reshape(-1, weights.hidden)[0]
    places = weights.dense["emb.pos"].reshape(-1, weights.hidden) + token_type
    tokens = graph.add("Gather", graph.add("Shape", "input_ids"), graph.ints(1), axis=0)
    here = graph.add("Slice", graph.constant(places), graph.ints(0), tokens, graph.ints(0))
    return _norm(graph, weights, "emb.ln", graph.add("Add", words, here))


def _unpacked_rows(graph: GraphBuilder, matrix: Q4, hidden: int) -> str:
    rows, blocks, half = matrix.nibbles.shape
    packed = graph.add("Gather", graph.constant(matrix.nibbles.reshape(rows, -1)), "input_ids", axis=0)
    packed = graph.add("Reshape", packed, graph.ints(0, 0, blocks, half))
    low = graph.add("BitwiseAnd", packed, graph.constant(np.asarray(15, np.uint8)))
    high = graph.add("BitShift", packed, graph.constant(np.asarray(4, np.uint8)), direction="RIGHT")
    nibbles = graph.add("Cast", graph.add("Concat", low, high, axis=3), to=1)
    centred = graph.add("Sub", nibbles, graph.constant(np.asarray(8, np.float32)))
    scales = graph.add("Gather", graph.constant(matrix.scales), "input_ids", axis=0)
    scales = graph.add("Unsqueeze", graph.add("Cast", scales, to=1), graph.ints(3))
    return graph.add("Reshape", graph.add("Mul", centred, scales), graph.ints(0, 0, hidden))


def _layer(graph: GraphBuilder, weights: E5Weights, layer: str, hidden: str, mask: str) -> str:
    packed, dense = weights.packed, weights.dense
    names = ["q", "k", "v"]
    qkv = np.concatenate([packed[f"{layer}{n}.w"].values() for n in names]).T
    bias = np.concatenate([dense[f"{layer}{n}.b"] for n in names])
    attended = graph.add(
        "Attention", hidden, graph.constant(qkv), graph.constant(bias), mask,
        domain=MICROSOFT, num_heads=weights.heads, scale=1 / math.sqrt(weights.hidden / weights.heads),
    )  # fmt: skip
    mixed = _linear(graph, weights, f"{layer}ao", attended)
    hidden = _norm(graph, weights, f"{layer}aln", graph.add("Add", hidden, mixed))
    wide = graph.add("MatMul", hidden, graph.constant(packed[f"{layer}fi.w"].values().T))
    wide = graph.add("BiasGelu", wide, graph.constant(dense[f"{layer}fi.b"]), domain=MICROSOFT)
    narrow = _linear(graph, weights, f"{layer}fo", wide)
    return _norm(graph, weights, f"{layer}oln", graph.add("Add", hidden, narrow))


def _linear(graph: GraphBuilder, weights: E5Weights, name: str, hidden: str) -> str:
    product = graph.add("MatMul", hidden, graph.constant(weights.packed[f"{name}.w"].values().T))
    return graph.add("Add", product, graph.constant(weights.dense[f"{name}.b"]))


def _norm(graph: GraphBuilder, weights: E5Weights, name: str, hidden: str) -> str:
    scale, bias = weights.dense[f"{name}.w"], weights.dense[f"{name}.b"]
    return graph.add(
        "LayerNormalization", hidden, graph.constant(scale), graph.constant(bias), epsilon=weights.epsilon
    )


def _pool(graph: GraphBuilder, hidden: str) -> None:
    mask = graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=1), graph.ints(2))
    total = graph.add("ReduceSum", graph.add("Mul", hidden, mask), graph.ints(1), keepdims=0)
    mean = graph.add("Div", total, graph.add("ReduceSum", mask, graph.ints(1), keepdims=0))
    length = graph.add("ReduceL2", mean, graph.ints(1), keepdims=1)
    graph.add("Div", mean, length, output="vectors")
