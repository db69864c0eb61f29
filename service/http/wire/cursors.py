"""`next_cursor` on the wire: opaque, bound to its collection and query, refused when not made here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from index_store.request.confidence import Curve
from index_store.request.ranking import RankedPage
from index_store.request.recommendation import LikesPage
from index_store.types import Filter, Id, PageKey
from item_rules.ids import INT64_MAX, id_fault
from service.app.search import ParsedSearch
from service.errors import InvalidInput

_FORMAT = 2
_CHECK_BYTES = 6
_CHARS_MAX = 12_288
"""Of two ids of 255 control characters, which take six bytes each, 500 hits that were shown, and the rest."""
_LIKES_CHARS_MAX = 262_144
"""Of a hundred such ids: a page may end in a list of each liked item."""
_HASH_BYTES = 4
"""Of each hit that `RankedPage.shown` holds."""
_NUMBER_MAX = 1e100
"""Beyond every distance and score, and its square is a number still."""
_PICTURE_BYTES = 65_536
"""Bytes at each end of a picture that, with its length, identify it."""

Question: TypeAlias = Callable[[bytes], Sequence[bytes]]
"""Of a payload: all that the cursor's check covers, the payload and what was asked for."""


class Cursor(NamedTuple):
    """Where a page ended. rank: of its last item, from 1. is_by_words_alone: whether it was found by words
    and no vector. was_read: whether the text was read as another one. likes_digest: as `ParsedSearch` has
    it. now: of the first page."""

    page: PageKey
    rank: int
    is_by_words_alone: bool = False
    was_read: bool = False
    likes_digest: str = ""
    now: float = 0.0


def write_cursor(search: ParsedSearch, page: PageKey, rank: int) -> str:
    """rank: of the last item of the answer."""
    moment = page.seq if page.now is None else [page.seq, page.now]
    parts: list[Any] = [_FORMAT, page.generation, moment, page.distance, page.id, rank]
    if search.request.text is not None:
        is_by_words = search.request.text.mode == "lexical"
        parts += [page.text_weight, is_by_words, bool(search.asked), page.scoring]
    elif search.like_ids:
        last, ends = (-1, ()) if page.likes is None else page.likes
        parts += [search.likes_digest, last, ends]
    told: dict[str, Any] = {}
    if page.curve is not None:
        told["curve"] = [*page.curve]
    if search.request.ranking is not None and page.ranked is not None:
        shown = base64.b64encode(page.ranked.shown).decode()
        told["ranked"] = [search.request.ranking.now, page.ranked.start, shown]
    if told:
        parts.append(told)
    return written_text(orjson.dumps(parts), lambda payload: _question(search, payload))


def read_cursor(search: ParsedSearch, text: str) -> Cursor:
    """Raises InvalidInput for anything that `write_cursor` did not make for this question; how many items a
    page has and what is told of each may change."""
    try:
        chars_max = _CHARS_MAX if search.recommend == "mean" else _LIKES_CHARS_MAX
        payload = read_payload(text, lambda payload: _question(search, payload), chars_max)
        return _cursor_of(search, orjson.loads(payload))
    except (ValueError, TypeError, LookupError, OverflowError) as exc:
        raise InvalidInput(
            "cursor",
            "is not one that an answer to this question gave: collection, content, filter, exclude_ids, "
            "max_distance, min_confidence, exact, mode, hybrid, recommend, like_weights and what ranks it "
            "must be those of the page before",
            "invalid_cursor",
        ) from exc


def _cursor_of(search: ParsedSearch, parts: list[Any]) -> Cursor:
    """Of a payload. Whoever knows the format can write one, so no value goes on unchecked: an error in the
    index would be everyone's who is answered in the same call. Raises ValueError, TypeError, LookupError,
    OverflowError."""
    told = parts.pop() if isinstance(parts[-1], dict) else {}
    if len(parts) not in (6, 9, 10) or parts[0] != _FORMAT or not isinstance(parts[1], str):
        raise ValueError("another format")
    curve = Curve(*map(_number, told["curve"])) if "curve" in told else None
    if curve is not None and curve.slope <= 0:
        raise ValueError("no curve")
    seq, now = _moment(parts[2])
    distance, item_id = _point(search, parts[3:5])
    cursor = Cursor(PageKey(parts[1], seq, distance, item_id, curve=curve, now=now), _count(parts[5]))
    if search.like_ids:
        cursor = _with_likes(search, cursor, parts[6:] or ("", -1, ()))
    elif len(parts) > 6:
        weight, is_by_words_alone, was_read, *scoring = parts[6:]
        number = _count(*scoring) if scoring else 0  # releases before wrote none
        page = replace(cursor.page, text_weight=_number(weight), scoring=number)
        cursor = cursor._replace(
            page=page, is_by_words_alone=bool(is_by_words_alone), was_read=bool(was_read)
        )
    return _with_rank(search, cursor, told["ranked"]) if "ranked" in told else cursor


def _with_likes(search: ParsedSearch, cursor: Cursor, parts: Sequence[Any]) -> Cursor:
    """Of a search by like_ids; the index checks that there is an end for each of them."""
    digest, last, ends = parts
    points = tuple(None if end is None else _point(search, end) for end in ends)
    likes = LikesPage(_count(last), points) if points else None
    return cursor._replace(page=replace(cursor.page, likes=likes), likes_digest=str(digest))


def _with_rank(search: ParsedSearch, cursor: Cursor, parts: Sequence[Any]) -> Cursor:
    now, start, shown = parts
    hashes = base64.b64decode(shown, validate=True)
    if len(hashes) % _HASH_BYTES:
        raise ValueError("no hashes")
    place = RankedPage(None if start is None else _point(search, start), hashes, cursor.rank)
    return cursor._replace(page=replace(cursor.page, ranked=place), now=_number(now))


def _moment(part: Any) -> tuple[int, float | None]:
    """The seq of the first page, and its time where items of the collection come and go by the clock."""
    seq, now = part if isinstance(part, list) else (part, None)
    return _count(seq), None if now is None else _number(now)


def _point(search: ParsedSearch, part: Sequence[Any]) -> tuple[float, Id]:
    """A distance, or minus a score, and an id."""
    distance, item_id = part
    if id_fault(item_id, search.collection.id_type) is not None:
        raise ValueError("no id of this collection")
    return _number(distance), item_id


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _NUMBER_MAX:
        raise ValueError("no number of an answer")
    return number


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= INT64_MAX:
        raise ValueError("no count")
    return value


def written_text(payload: bytes, question: Question) -> str:
    """Return a cursor of this payload, bound to its question."""
    return base64.urlsafe_b64encode(_check(question(payload)) + payload).decode().rstrip("=")


def read_payload(text: str, question: Question, chars_max: int = _CHARS_MAX) -> bytes:
    """Raises ValueError for what `written_text` did not make for this question."""
    if len(text) > chars_max:
        raise ValueError("too long")
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    check, payload = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    if check != _check(question(payload)):
        raise ValueError("of another question")
    return payload


def _check(parts: Sequence[bytes]) -> bytes:
    """Guards against mix-ups and bit rot, not against forgers: a forged page holds nothing secret."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=_CHECK_BYTES).digest()


def _question(search: ParsedSearch, payload: bytes) -> list[bytes]:
    """What a page belongs to: collection, content as it was asked for, and conditions."""
    request = search.request
    content = search.asked if search.asked and isinstance(search.content, str) else search.content
    parts = [payload, search.collection.name.encode()]
    if isinstance(content, str):
        parts.append(content.encode())
    elif content is not None:
        parts += [b"%d" % len(content), content[:_PICTURE_BYTES], content[-_PICTURE_BYTES:]]
    elif search.like_ids:
        parts.append(repr((search.like_ids, search.unlike_ids)).encode())
        if search.recommend != "mean" or search.like_weights:
            parts.append(repr((search.recommend, search.like_weights)).encode())
    else:
        parts.append(request.vector.tobytes())
    if len(request.exclude_ids):
        ids = request.exclude_ids
        parts.append(ids.tobytes() if isinstance(ids, np.ndarray) else repr(ids).encode())
    if request.filter is not None:
        parts.append(canonical_filter(request.filter))
    if request.exact or request.max_distance is not None:
        parts.append(repr((request.exact, request.max_distance)).encode())
    if request.confidence is not None and request.confidence.minimum:
        parts.append(b"%r" % request.confidence.minimum)
    if request.ranking is not None:
        parts.append(canonical_filter(asdict(replace(request.ranking, now=0.0))))
    if search.mode != "dense" and request.text is not None:
        parts.append(repr((search.mode, search.asked or request.text.text, request.text.alpha)).encode())
    return parts


def canonical_filter(condition: Filter) -> bytes:
    """Return one form of equal filters."""
    try:
        return orjson.dumps(condition, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(condition, sort_keys=True).encode()
