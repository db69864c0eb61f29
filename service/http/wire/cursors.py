"""`next_cursor` on the wire: opaque, bound to its collection and query, refused when not made here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson

from index_store.types import PageKey
from service.app.search import Question
from service.errors import InvalidInput

_FORMAT = 2
_CHECK_BYTES = 6
_CHARS_MAX = 2048
_PICTURE_BYTES = 65_536
"""Bytes at each end of a picture that, with its length, identify it."""


class Cursor(NamedTuple):
    """Where a page ended. rank: of its last item, from 1."""

    page: PageKey
    rank: int


def write_cursor(question: Question, page: PageKey, rank: int) -> str:
    """rank: of the last item of the answer."""
    payload = orjson.dumps([_FORMAT, page.generation, page.seq, page.distance, page.id, rank])
    return base64.urlsafe_b64encode(_check(question, payload) + payload).decode().rstrip("=")


def read_cursor(question: Question, text: str) -> Cursor:
    """Raises InvalidInput for anything that `write_cursor` did not make for this question; how many items a
    page has and what is told of each may change."""
    try:
        if len(text) > _CHARS_MAX:
            raise ValueError("too long")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, payload = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        if check != _check(question, payload):
            raise ValueError("of another question")
        parts: list[Any] = orjson.loads(payload)
        if len(parts) != 6 or parts[0] != _FORMAT:
            raise ValueError("another format")
    except (ValueError, binascii.Error) as exc:
        raise InvalidInput(
            "cursor",
            "is not one that an answer to this question gave: collection, content, filter, exclude_ids, "
            "max_distance and exact must be those of the page before",
            "invalid_cursor",
        ) from exc
    page = PageKey(generation=str(parts[1]), seq=int(parts[2]), distance=float(parts[3]), id=parts[4])
    return Cursor(page, int(parts[5]))


def _check(question: Question, payload: bytes) -> bytes:
    """Guards against mix-ups and bit rot, not against forgers: a forged page holds nothing secret."""
    return hashlib.blake2b(
        b"\0".join([payload, *_told_apart_by(question)]), digest_size=_CHECK_BYTES
    ).digest()


def _told_apart_by(question: Question) -> Iterator[bytes]:
    """Yield every part of a query that its cursor is bound to."""
    yield question.collection.encode()
    if question.vector is not None:
        yield question.vector.tobytes()
    elif question.text is not None:
        yield question.text.encode()
    elif question.picture is not None:
        picture = question.picture
        yield b"%d" % len(picture)
        yield picture[:_PICTURE_BYTES]
        yield picture[-_PICTURE_BYTES:]
    else:
        yield repr((question.like_ids, question.unlike_ids)).encode()
    if len(question.exclude_ids):
        ids = question.exclude_ids
        yield ids.tobytes() if isinstance(ids, np.ndarray) else repr(ids).encode()
    if question.filter is not None:
        yield json.dumps(question.filter, sort_keys=True).encode()
    if question.exact or question.max_distance is not None:
        yield repr((question.exact, question.max_distance)).encode()
