"""`next_cursor` on the wire: opaque, tied to its collection, and refused when it was not made here."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import orjson

from index_store.types import PageKey
from service.collections import Collection
from service.errors import InvalidInput

_FORMAT = 1
_CHECK_BYTES = 6
_CHARS_MAX = 2048


def write_cursor(collection: Collection, key: PageKey) -> str:
    """Return the cursor that continues behind `key`; it is bound to the collection by a check value."""
    payload = orjson.dumps([_FORMAT, key.generation, key.seq, key.distance, key.id])
    return base64.urlsafe_b64encode(_check(collection, payload) + payload).decode().rstrip("=")


def read_cursor(collection: Collection, text: str) -> PageKey:
    """Raises InvalidInput for anything that `write_cursor` did not make for this collection."""
    try:
        if len(text) > _CHARS_MAX:
            raise ValueError("too long")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, payload = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        if check != _check(collection, payload):
            raise ValueError("not of this collection")
        parts: list[Any] = orjson.loads(payload)
        if len(parts) != 5 or parts[0] != _FORMAT:
            raise ValueError("another format")
    except (ValueError, binascii.Error) as exc:
        raise InvalidInput("cursor", "is not one of this collection's", "invalid_cursor") from exc
    return PageKey(generation=str(parts[1]), seq=int(parts[2]), distance=float(parts[3]), id=parts[4])


def _check(collection: Collection, payload: bytes) -> bytes:
    """Guards against mix-ups and bit rot, not against forgers: a forged page holds nothing secret."""
    return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, person=_person(collection)).digest()


def _person(collection: Collection) -> bytes:
    return hashlib.blake2b(collection.name.encode(), digest_size=16).digest()
