"""`next_cursor` of a list of items: where it ended, bound to what was asked."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import orjson

from index_store.types import Filter, Id
from item_rules.ids import id_fault
from service.collections import Collection
from service.errors import InvalidInput
from service.http.wire.cursors import canonical_filter

_FORMAT = 1
_CHECK_BYTES = 6
_CHARS_MAX = 4096
"""Of an id of 255 control characters, which take six bytes each, and the rest."""


def write_item_cursor(
    collection: Collection, condition: Filter | None, is_live: bool | None, after: Id
) -> str:
    """after: the last id that was looked at."""
    payload = orjson.dumps([_FORMAT, after])
    return (
        base64.urlsafe_b64encode(_check(collection, condition, is_live, payload) + payload)
        .decode()
        .rstrip("=")
    )


def read_item_cursor(collection: Collection, condition: Filter | None, is_live: bool | None, text: str) -> Id:
    """Return the id to go on after. Raises InvalidInput for what was not made for this question; how many
    items a page has and what is told of each may change."""
    try:
        if len(text) > _CHARS_MAX:
            raise ValueError("too long")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, payload = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        if check != _check(collection, condition, is_live, payload):
            raise ValueError("of another question")
        parts: list[Any] = orjson.loads(payload)
        if len(parts) != 2 or parts[0] != _FORMAT or id_fault(parts[1], collection.id_type) is not None:
            raise ValueError("no id of this collection")
    except (ValueError, binascii.Error) as exc:
        raise InvalidInput(
            "cursor",
            "is not one that a list of this collection with this filter gave",
            "invalid_cursor",
        ) from exc
    after: Id = parts[1]
    return after


def _check(collection: Collection, condition: Filter | None, is_live: bool | None, payload: bytes) -> bytes:
    asked = b"" if condition is None else canonical_filter(condition)
    parts = [b"items", collection.name.encode(), asked, repr(is_live).encode(), payload]
    return hashlib.blake2b(b"\0".join(parts), digest_size=_CHECK_BYTES).digest()
