"""An ONNX graph with its large matrices in 8 bits: blocks of 32 weights with a scale each.

The products run in integers, with each block of the activations scaled for itself, so a text's vector does
not depend on what else is in its batch. The runtime's own dynamic quantisation scales a whole batch at once:
as fast, but its vectors lie at cosine .995 of the exact ones and of themselves in another batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from service.embedding.convert.graph import save_model

BLOCK = 32
_MICROSOFT = "com.microsoft"
_IN_INTEGERS = 4  # accuracy_level
_ROWS_MIN = 64


def write_int8(source: Path, target: Path) -> int:
    """Write the model at `source` with 8-bit matrices to `target`; return how many there were."""
    model = onnx.load(str(source))
    graph = model.graph
    values = {each.name: each for each in graph.initializer}
    nodes: list[Any] = []
    made: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and _fits(values.get(node.input[1])):
            nodes.append(_product(node.input[0], node.output[0], values[node.input[1]], made))
        elif node.op_type == "Attention" and node.domain == _MICROSOFT and _fits(values.get(node.input[1])):
            nodes.extend(_attention(node, values[node.input[1]], made))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    kept += [each for parts in made.values() for each in parts if each.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    if not any(opset.domain == _MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    save_model(model, target)
    return sum(len(parts) == 2 for parts in made.values())


def _fits(initializer: Any) -> bool:
    if initializer is None or initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) != 2:
        return False
    rows, columns = initializer.dims
    return bool(rows % BLOCK == 0 and rows >= _ROWS_MIN and columns >= _ROWS_MIN)


def _product(given: str, output: str, weights: Any, made: dict[str, list[Any]]) -> Any:
    rows, columns = weights.dims
    names = [f"{weights.name}_int8", f"{weights.name}_scales"]
    if weights.name not in made:
        packed, scales = packed_blocks(numpy_helper.to_array(weights))
        made[weights.name] = [
            numpy_helper.from_array(packed, names[0]),
            numpy_helper.from_array(scales, names[1]),
        ]
    return helper.make_node(
        "MatMulNBits", [given, *names], [output], domain=_MICROSOFT,
        K=rows, N=columns, bits=8, block_size=BLOCK, accuracy_level=_IN_INTEGERS,
    )  # fmt: skip


def _attention(node: Any, weights: Any, made: dict[str, list[Any]]) -> list[Any]:
    """The fused operator holds its matrix; taken apart, the product can be one of integers."""
    output, hidden = node.output[0], weights.dims[0]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    parts = [f"{output}_{name}" for name in "qkv"]
    splits = f"{output}_splits"
    made[splits] = [numpy_helper.from_array(np.full(3, hidden, np.int64), splits)]
    return [
        _product(node.input[0], f"{output}_qkv", weights, made),
        helper.make_node("Split", [f"{output}_qkv", splits], parts, axis=2),
        helper.make_node(
            "MultiHeadAttention", [*parts, node.input[2], node.input[3]], [output], domain=_MICROSOFT,
            num_heads=attributes["num_heads"], scale=attributes["scale"],
        ),
    ]  # fmt: skip


def packed_blocks(
    matrix: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return (columns, blocks, BLOCK) bytes around 128 and (columns * blocks,) scales of (rows, columns)."""
    rows, columns = matrix.shape
    blocks = np.ascontiguousarray(matrix.T).reshape(columns, rows // BLOCK, BLOCK)
    scales = np.abs(blocks).max(axis=-1) / np.float32(127)
    scales[scales == 0] = 1
    packed = (np.rint(blocks / scales[..., None]) + 128).astype(np.uint8)
    return packed, scales.astype(np.float32).reshape(-1)
