"""The fixed projection of EfficientNet's 1,280 features to 512 values: fitted once, shipped with the code."""

from __future__ import annotations

from importlib import resources

import numpy as np
import numpy.typing as npt

PROJECTION_FILE = "efficientnet_projection.npz"


def read_projection() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean (1280,) and basis (1280, 512), float32."""
    file = resources.files("service.embedding") / "data" / PROJECTION_FILE
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return arrays["mean"].astype(np.float32), arrays["basis"].astype(np.float32)
