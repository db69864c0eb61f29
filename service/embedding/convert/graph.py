"""A small builder for ONNX graphs: nodes in order, constants by value, names made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18  # BitwiseAnd; later ones bring nothing that is used here
IR_VERSION = 10
VALUES_SUFFIX = "_data"
_INSIDE_BYTES_MAX = 4096
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


class GraphBuilder:
    """Collects nodes and constants; `save` checks and writes the model. Used by one thread, once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def constant(self, values: npt.NDArray[Any]) -> str:
        """Return the name of an initializer with these values; small equal ones are stored once."""
        key = (values.dtype.str, values.shape, values.tobytes() if values.size < 64 else b"")
        if values.size < 64 and key in self._shared:
            return self._shared[key]
        self._count += 1
        name = f"c{self._count}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        if values.size < 64:
            self._shared[key] = name
        return name

    def ints(self, *values: int) -> str:
        """Add a constant of int64 values; return its name."""
        return self.constant(np.asarray(values, np.int64))

    def add(self, op: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        self._count += 1
        name = output or f"v{self._count}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attributes))
        return name

    def save(
        self,
        path: Path,
        inputs: dict[str, tuple[str, list[str | int]]],
        outputs: dict[str, tuple[str, list[str | int]]],
    ) -> None:
        """Write the model to `path`. inputs, outputs: name -> (dtype, shape with named free axes)."""

        def infos(parts: dict[str, tuple[str, list[str | int]]]) -> list[Any]:
            return [helper.make_tensor_value_info(n, _TYPES[t], shape) for n, (t, shape) in parts.items()]

        graph = helper.make_graph(self._nodes, self._name, infos(inputs), infos(outputs), self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "uhok-ml-inference"
        onnx.checker.check_model(model)
        save_model(model, path)


def save_model(model: Any, path: Path) -> None:
    """Write `model` to `path`, its large values to a file beside it: processes that map it share one copy."""
    onnx.save(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}{VALUES_SUFFIX}",
        size_threshold=_INSIDE_BYTES_MAX,
    )
