"""One request of several: what refuses it is its own."""

from __future__ import annotations

from collections.abc import Callable

from index_store.engine.validation import checked_request
from index_store.errors import IndexStoreError
from index_store.types import CollectionSpec, SearchOutcome, SearchRequest, SearchResult


def outcome_of(
    request: SearchRequest, spec: CollectionSpec, answer: Callable[[SearchRequest], SearchResult]
) -> SearchOutcome:
    """Return what `answer` makes of the request once it is checked, or the error that refuses it. Requests of
    one call come from several callers: none of them pays for another."""
    try:
        is_checked = request.checked_for == spec.name
        return answer(request if is_checked else checked_request(request, spec))
    except IndexStoreError as exc:
        return exc
