"""`next_cursor` of a list of items: where it ended, bound to what was asked."""

from __future__ import annotations

from typing import Any

import orjson

from index_store.types import Filter, Id
from item_rules.ids import id_fault
from service.collections import Collection
from service.errors import InvalidInput
from service.http.wire.cursors import canonical_filter, read_payload, written_text

_FORMAT = 1


def write_item_cursor(
    collection: Collection, condition: Filter | None, is_live: bool | None, after: Id
) -> str:
    """after: the last id that was looked at."""
    return written_text(
        orjson.dumps([_FORMAT, after]), lambda payload: _question(collection, condition, is_live, payload)
    )


def read_item_cursor(collection: Collection, condition: Filter | None, is_live: bool | None, text: str) -> Id:
    """Return the id to go on after. Raises InvalidInput for what was not made for this question; how many
    items a page has and what is told of each may change."""
    try:
        payload = read_payload(text, lambda given: _question(collection, condition, is_live, given))
        parts: list[Any] = orjson.loads(payload)
        if len(parts) != 2 or parts[0] != _FORMAT or id_fault(parts[1], collection.id_type) is not None:
            raise ValueError("no id of this collection")
    except (ValueError, TypeError, LookupError) as exc:
        raise InvalidInput(
            "cursor",
            "is not one that a list of this collection with this filter gave",
            "invalid_cursor",
        ) from exc
    after: Id = parts[1]
    return after


def _question(
    collection: Collection, condition: Filter | None, is_live: bool | None, payload: bytes
) -> list[bytes]:
    passes = b"" if condition is None else canonical_filter(condition)
    return [b"items", collection.name.encode(), passes, repr(is_live).encode(), payload]
