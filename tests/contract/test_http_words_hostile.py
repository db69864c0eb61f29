"""Texts that nobody means well by, as names and as queries of searches by words."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator

import pytest

from tests.contract.searches import ids
from tests.contract.test_http_words import environ, fill, found
from tests.http_app import HttpApp, running_app

JSON = {"content-type": "application/json"}
NAMES = {
    1: "김\u200b치\u200d찌개\ufeff",
    2: "ㅋㅋㅋ ㅏㅏ ㄱ",
    3: "\u1100\u1161\u11a8\u1100 된장",
    4: "🍲👩‍👩‍👧 불고기 🇰🇷",
    5: "\u202eنودلز\u202c 라면",
    6: "e\u0301\u0301" * 400,
    7: "국" * 4000,
    8: unicodedata.normalize("NFD", "순두부 백반"),
    9: unicodedata.normalize("NFC", "순두부 백반"),
    10: "\x01\x7f\x85\u2028 냉면 \U0010ffff",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("hostile")
    with running_app(folder / "data", environ(folder)) as app:
        fill(app, NAMES)
        yield app


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
@pytest.mark.parametrize("number", NAMES)
def test_any_name_is_kept_as_it_was_and_found_by_itself(app: HttpApp, number: int, mode: str) -> None:
    document = found(app, NAMES[number][:1000], mode, top_k=len(NAMES), include=["metadata"])
    titles = {hit["recipe_id"]: hit["metadata"]["title"] for hit in document["results"]}
    assert titles.get(number) == NAMES[number]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_equal_texts_are_found_in_any_form(app: HttpApp, form: str) -> None:
    query = unicodedata.normalize(form, "순두부 백반")  # type: ignore[arg-type]
    assert set(ids(found(app, query, top_k=2))) == {8, 9}


@pytest.mark.parametrize(
    "text", ["국" * 3_500_000, "\ud800 국", "\udfff"], ids=["10 MB", "high surrogate", "low surrogate"]
)
def test_what_is_no_text_or_too_long_is_refused(app: HttpApp, text: str) -> None:
    item = {"recipe_id": 99, "text": "국", "metadata": {"title": text}}
    for path, body in (
        ("/v1/search", {"query": text, "mode": "lexical"}),
        ("/v1/search", {"query": text, "mode": "hybrid"}),
        ("/v1/upsert", {"items": [item]}),
    ):
        answer = app.request(
            "POST", path, content=json.dumps(body, ensure_ascii=text[0] != "국").encode(), headers=JSON
        )
        assert answer.status_code in (400, 413, 422), answer.text
    assert 99 not in ids(found(app, "국", top_k=50))
