"""One request of several: what refuses it is its own."""

from __future__ import annotations

from collections.abc import Callable

from index_store.answers.validation import check_dim, checked_request, is_by_words_alone
from index_store.errors import IndexStoreError, PageExpired, VersionMismatch
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


def check_served(
    request: SearchRequest, spec: CollectionSpec, generation: str, embedding_version: str
) -> None:
    """Refuse what the generation that serves can't answer. spec: with its dim. Raises VersionMismatch,
    PageExpired, and only then, for who named neither, InvalidVector: a vector of the former generation may
    have another dim."""
    wanted, after = request.embedding_version, request.after
    if wanted is not None and wanted != embedding_version:
        raise VersionMismatch(spec.name, embedding_version, wanted)
    if after is not None and after.generation != generation:
        raise PageExpired("the generation of this page serves no more; search again", "cursor")
    if len(request.vector) != spec.dim and not is_by_words_alone(request):
        check_dim(request.vector, spec.dim, "vector")
