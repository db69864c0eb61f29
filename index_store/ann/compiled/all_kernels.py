"""All compiled loops at once."""

from __future__ import annotations

from index_store.ann.compiled import diverse_kernels, exact_kernels, kernels, posting_kernels


def warm_kernels() -> None:
    """Compile what is not in the cache yet, so that no search waits for it (see `kernels.warm`)."""
    for each in (kernels, exact_kernels, posting_kernels, diverse_kernels):
        each.warm()
