"""The keys of the metadata that a collection names say when its items are shown; no write is needed then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.collections import read_collections
from service.errors import BadConfiguration
from service.settings import Settings
from tests.http_app import HttpApp, running_app, with_collections

COLLECTIONS = """
[collections.sales]
id_field = "sale_id"
modality = "text"
lexical = ["title"]
active_from = "sale_start"
active_until = "sale_end"
utc_offset = "+09:00"
"""
HOUR = 3600
FOREVER, OVER, LATER, SOON_OVER, ODD = 1, 2, 3, 4, 5


def local(seconds: float) -> str:
    """As a column of a shop in Seoul has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds + 9 * HOUR))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("sales")
    with running_app(folder / "data", with_collections(folder, COLLECTIONS)) as app:
        now = time.time()
        bounds: dict[int, dict[str, Any]] = {
            FOREVER: {},
            OVER: {"sale_end": local(now - 2 * HOUR)},
            LATER: {"sale_start": local(now + 2 * HOUR), "sale_end": None},
            SOON_OVER: {"sale_start": int(1000 * (now - HOUR)), "sale_end": local(now + HOUR)},
        }
        items = [
            {"sale_id": each, "text": "김치찌개 특가", "metadata": {"title": "김치찌개", **bound}}
            for each, bound in bounds.items()
        ]
        assert app.post("/v1/upsert", {"collection": "sales", "items": items}).status_code == 200
        yield app


def ids(app: HttpApp, **more: Any) -> set[int]:
    answer = app.post("/v1/search", {"collection": "sales", "query": "김치찌개", **more})
    assert answer.status_code == 200, answer.text
    return {row["sale_id"] for row in answer.json()["results"]}


def test_what_is_over_or_yet_to_come_is_in_no_answer(app: HttpApp) -> None:
    shown = {FOREVER, SOON_OVER}
    for mode in ("dense", "lexical", "hybrid"):
        assert ids(app, mode=mode) == shown
        first = app.post(
            "/v1/search", {"collection": "sales", "query": "김치찌개", "mode": mode, "top_k": 1}
        ).json()
        assert first["results"][0]["sale_id"] == FOREVER
        assert ids(app, mode=mode, cursor=first["next_cursor"]) == {SOON_OVER}
    assert app.post("/v1/count", {"collection": "sales"}).json()["count"] == 2
    facets = app.post("/v1/facets", {"collection": "sales", "keys": ["title"]}).json()
    assert facets["facets"][0]["count"] == 2
    for live, expected in (("true", shown), ("false", {OVER, LATER}), ("any", {OVER, LATER} | shown)):
        listed = app.get("/v1/items", params={"collection": "sales", "live": live}).json()
        assert {each["sale_id"] for each in listed["items"]} == expected
        assert all(each["active"] and each["live"] == (each["sale_id"] in shown) for each in listed["items"])


@pytest.mark.parametrize(("item", "reason"), [(OVER, "ended"), (LATER, "not_yet_active")])
def test_explain_says_why(app: HttpApp, item: int, reason: str) -> None:
    told = app.post("/v1/explain", {"collection": "sales", "query": "김치찌개", "id": item}).json()
    assert (told["reason"], told["item"]["state"], told["in_answer"]) == (reason, reason, False)


def test_another_end_is_a_write_like_any_other(app: HttpApp) -> None:
    for end, is_shown in ((local(time.time() - 1), False), (None, True)):
        patch = {"collection": "sales", "ids": [FOREVER], "merge": {"sale_end": end}}
        assert app.post("/v1/metadata", patch).status_code == 200
        assert (FOREVER in ids(app)) == is_shown


@pytest.mark.parametrize("value", ["soon", True, {"at": 1}, "2026-02-30T00:00:00"])
def test_a_time_that_cannot_be_read_is_refused(app: HttpApp, value: Any) -> None:
    item = {"sale_id": ODD, "text": "두부", "metadata": {"sale_end": value}}
    refused = app.post("/v1/upsert", {"collection": "sales", "items": [item]})
    assert refused.status_code == 422 and refused.json()["errors"][0]["loc"] == [
        "body",
        "items",
        0,
        "metadata",
    ]
    assert "sale_end must be a date and time" in refused.text
    patch = {"collection": "sales", "ids": [FOREVER], "merge": {"sale_start": value}}
    refused = app.post("/v1/metadata", patch)
    assert refused.status_code == 422 and refused.json()["errors"][0]["loc"] == ["body", "merge"]


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        ('active_from = ""', "active_from must name a key"),
        ('active_from = "a"\nactive_until = "a"', "must be two keys"),
        ('active_until = "a"\nutc_offset = "KST"', "utc_offset must be like +09:00"),
        ('utc_offset = "+09:00"', "utc_offset needs active_from or active_until"),
        ("active_until = 5", "active_until must be a str"),
    ],
)
def test_mistakes_of_the_file_are_told(tmp_path: Path, lines: str, mistake: str) -> None:
    environ = with_collections(tmp_path, f"[collections.sales]\n{lines}\n")
    with pytest.raises(BadConfiguration) as told:
        read_collections(Settings.from_environ(environ))
    assert mistake in str(told.value)
