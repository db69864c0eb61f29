"""Cursors that nobody here wrote, though their check is right: refused at the door, whatever they hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import orjson
import pytest

from index_store.request.confidence import Curve
from index_store.request.ranking import Boost, GroupBy, RankedPage, Ranking
from index_store.request.recommendation import LikesPage
from index_store.types import PageKey, SearchRequest, TextQuery
from service.app.search import ParsedSearch
from service.collections import read_collections
from service.errors import InvalidInput
from service.http.wire.cursors import _question, read_cursor, read_payload, write_cursor, written_text
from service.http.wire.items.item_cursor import read_item_cursor
from service.settings import Settings
from tests.http_app import NO_MODEL_FILES

COLLECTION = next(
    each
    for each in read_collections(Settings.from_environ(NO_MODEL_FILES)).collections
    if each.name == "recipes"
)
GENERATION: Any = "g000001"
ODD: list[Any] = [None, "x", [], {}, [1, 2], 1e300, -1e300, -1, 1.5, "AAA="]


def asked(*, is_liked: bool = False) -> ParsedSearch:
    ranking = None if is_liked else Ranking([Boost(1.0, {})], GroupBy("seller", 1), diversity=0.5)
    text = None if is_liked else TextQuery("국")
    request = SearchRequest(np.ones(384, np.float32), 10, ranking=ranking, text=text)
    like_ids = [1, 2] if is_liked else ()
    return ParsedSearch(
        COLLECTION,
        request,
        content=None if is_liked else "국",
        like_ids=like_ids,
        recommend="each" if is_liked else "mean",
        mode="dense" if is_liked else "hybrid",
    )


def page(
    *,
    generation: Any = GENERATION,
    seq: Any = 7,
    distance: Any = 0.5,
    item_id: Any = 3,
    weight: Any = 0.2,
    likes: Any = None,
    curve: Any = None,
    ranked: Any = None,
    now: Any = 1.7e9,
    scoring: Any = 0,
) -> PageKey:
    return PageKey(generation, seq, distance, item_id, weight, likes, curve, ranked, now, scoring)


RANKED = RankedPage((0.25, 9), b"abcd" * 3, 10)
CURVE = Curve(4.0, -2.0)
LIKES = LikesPage(1, ((0.5, 3), None))


def test_what_was_written_is_read() -> None:
    whole = page(ranked=RANKED, curve=CURVE, scoring=103)
    assert read_cursor(asked(), write_cursor(asked(), whole, 10)).page == whole
    liked = page(likes=LIKES, weight=0.0)
    assert read_cursor(asked(is_liked=True), write_cursor(asked(is_liked=True), liked, 10)).page == liked


@pytest.mark.parametrize(
    "forged",
    [
        *({"generation": each} for each in ODD if not isinstance(each, str)),
        *({"seq": each} for each in ODD),
        *({"distance": each} for each in ODD if each not in (-1, 1.5)),
        *({"item_id": each} for each in ODD if each != -1),
        *({"weight": each} for each in ODD if each not in (-1, 1.5)),
        *({"now": each} for each in ODD if each not in (None, -1, 1.5)),
        *({"scoring": each} for each in ODD),
        *({"curve": Curve(each, 0.0)} for each in (0, -1.0, 1e300)),
        *({"ranked": RankedPage(each, b"", 1)} for each in ODD if each not in (None, [1, 2])),
        {"ranked": RankedPage((0.5, "x"), b"", 1)},
        {"ranked": RankedPage(None, b"abc", 1)},
    ],
)
def test_values_that_no_answer_has_are_refused(forged: dict[str, Any]) -> None:
    text = write_cursor(asked(), page(**{"ranked": RANKED, "curve": CURVE} | forged), 10)
    with pytest.raises(InvalidInput) as refused:
        read_cursor(asked(), text)
    assert refused.value.code == "invalid_cursor" and refused.value.loc == ("cursor",)


def test_a_page_by_words_of_a_release_that_wrote_no_scoring_is_told_from_all_that_do() -> None:
    search = asked()
    text = write_cursor(search, page(scoring=103), 10)
    payload = read_payload(text, partial(_question, search))
    parts = orjson.loads(payload)
    assert parts.pop(9) == 103
    before = read_cursor(search, written_text(orjson.dumps(parts), partial(_question, search)))
    assert before.page == page(scoring=0)


@pytest.mark.parametrize("end", [each for each in ODD if each not in (None, [1, 2])])
def test_ends_that_no_list_has_are_refused(end: Any) -> None:
    search = asked(is_liked=True)
    text = write_cursor(search, page(likes=LikesPage(1, (end, None))), 10)
    with pytest.raises(InvalidInput):
        read_cursor(search, text)
    for last in ("x", None, [], 1e300):
        with pytest.raises(InvalidInput):
            read_cursor(search, write_cursor(search, page(likes=LikesPage(last, LIKES.ends)), 10))  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", [b"5", b"{}", b"[]", b"null", b"[2]", b'"x"', b"[", b"[2,3]"])
def test_a_list_of_items_refuses_them_too(payload: bytes) -> None:
    text = written_text(payload, lambda given: [b"items", b"recipes", b"", b"None", given])
    with pytest.raises(InvalidInput):
        read_item_cursor(COLLECTION, None, None, text)


def test_the_check_alone_is_not_trusted() -> None:
    good = orjson.dumps([1, 3])
    with pytest.raises(InvalidInput):
        read_item_cursor(COLLECTION, None, None, written_text(good, lambda given: [b"other", given]))
