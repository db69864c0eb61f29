"""A generation that this worker can't open is no generation that is gone."""

from __future__ import annotations

from index_store.errors import StoreUnavailable
from index_store.types import CollectionStatus


def require_all_open(status: CollectionStatus) -> CollectionStatus:
    """Return `status` for who decides by what is absent from it. Raises StoreUnavailable where a generation
    is absent only because it can't be opened here at the moment."""
    for each in status.unopened:
        raise StoreUnavailable(each.reason, each.hint)
    return status
