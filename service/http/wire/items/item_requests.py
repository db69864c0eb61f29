"""The shapes of requests about many items. Unknown fields are refused: a misspelt filter would be none."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from service.http.wire.schemas import IdIn

FACET_KEYS_MAX = 20

FilterIn: TypeAlias = dict[str, Any]
Key: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class CountIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/count. hidden: count those that no search shows as well."""

    collection: str | None = None
    filter: FilterIn | None = None
    hidden: bool = False


class FacetsIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/facets. keys: None for the most common ones. top: values of each. ranges: of numbers, about
    so many."""

    collection: str | None = None
    filter: FilterIn | None = None
    keys: Annotated[list[Key], msgspec.Meta(min_length=1, max_length=FACET_KEYS_MAX)] | None = None
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    ranges: Annotated[int, msgspec.Meta(ge=0, le=100)] = 10


class ItemsChangeIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/delete, /v1/activate, /v1/deactivate: ids, or a filter. all_items: an empty filter is meant.
    dry_run: only tell what would be changed. confirm: so many items may match."""

    collection: str | None = None
    ids: list[IdIn] | None = None
    filter: FilterIn | None = None
    source_version: int | None = None
    all_items: bool = False
    dry_run: bool = False
    confirm: Annotated[int, msgspec.Meta(ge=0)] | None = None


class MetadataIn(ItemsChangeIn, forbid_unknown_fields=True):
    """POST /v1/metadata: also one of replace and merge."""

    replace: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
