"""All compiled loops at once."""

from __future__ import annotations

from index_store.ann import exact_kernels, kernels


def warm() -> None:
    """Make, or read from disk, all that a search may call: seconds the first time on a machine."""
    kernels.warm()
    exact_kernels.warm()
