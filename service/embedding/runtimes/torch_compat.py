"""torchvision made importable beside a torch build that lacks its compiled operators.

The wheels of torchvision on the public index are built for CUDA; beside a CPU build of torch their extension
doesn't load, and importing torchvision fails over two operators that nothing here uses. Declaring them is
enough. Where torchvision is healthy this does nothing.
"""

from __future__ import annotations

import importlib
import sys

_MISSING = "operator torchvision::"
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def make_torchvision_importable() -> bool:
    """Import torchvision, declaring operators it misses. Returns whether that was needed.

    To be called before transformers or open_clip: both import torchvision when it is installed.
    """
    import torch

    declared = False
    for name, schema in _SCHEMAS.items():
        if _is_importable(name):
            return declared
        torch.library.define(f"torchvision::{name}", schema)
        declared = True
    importlib.import_module("torchvision")
    return declared


def _is_importable(operator: str) -> bool:
    """Try the import. False only when exactly this operator is missing; any other failure is raised."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as exc:
        if f"{_MISSING}{operator} " not in str(exc):
            raise
        for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[module]  # half loaded
        return False
    return True
