"""The fixed projections of EfficientNet's features to 512 values: fitted once, shipped with the code."""

from __future__ import annotations

from importlib import resources

import numpy as np
import numpy.typing as npt

PROJECTION_FILE = "efficientnet_projection.npz"
"""Of the 1,280 features of one view."""
VIEWS_PROJECTION_FILE = "efficientnet_views_projection.npz"
"""Of the features of up to two views, and the 512 values of the descriptor after them."""


def read_projection(name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean (n,) and basis (n, 512), float32. name: of one of the files above."""
    file = resources.files("service.embedding") / "data" / name
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return arrays["mean"].astype(np.float32), arrays["basis"].astype(np.float32)
