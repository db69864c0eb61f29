"""All compiled loops at once."""

from __future__ import annotations

from index_store.ann import kernels, scores


def warm() -> None:
    """Make, or read from disk, all that a search may call: seconds the first time on a machine."""
    kernels.warm()
    scores.warm()
