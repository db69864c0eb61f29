"""Rate limits over the wire: what weighs how much, 429 with its fields, whose quota it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_http_metrics import value
from tests.contract.test_http_protocol import post, served
from tests.http_app import HttpApp, picture, running_app, seed

NUMBERS = count(1)
LIMITS = {"RATE_LIMIT_SEARCH": "100", "RATE_LIMIT_WRITE": "50", "RATE_LIMIT_WINDOW_S": "86400"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(
        tmp_path_factory.mktemp("limits"), {**LIMITS, "TRUSTED_PROXIES": "10.0.0.0/8"}
    ) as running:
        seed(running)
        yield running


def left(answer: httpx.Response) -> int:
    """The units that the answer says are left."""
    name, units, seconds = answer.headers["ratelimit"].split(";")
    assert name in ('"search"', '"write"') and 1 <= int(seconds.removeprefix("t=")) <= 86_400
    return int(units.removeprefix("r="))


def fresh(app: HttpApp) -> HttpApp:
    """A caller that has not asked yet."""
    return app.from_peer(f"192.0.2.{next(NUMBERS)}")


@pytest.mark.parametrize(
    ("path", "body", "units"),
    [
        ("/v1/search", {"collection": "recipes", "vector": [1.0] * 384, "top_k": 10}, 1.1),
        ("/v1/search", {"query": "갈비탕", "top_k": 10}, 11.1),
        ("/v1/search", {"image": picture(1), "top_k": 10}, 41.1),
        ("/v1/search", {"like_ids": [1, 2, 3, 4], "top_k": 10}, 1.1),
        ("/v1/search", {"like_ids": [1, 2, 3, 4], "recommend": "each", "top_k": 10}, 4.4),
        ("/v1/search", {"query": "갈비탕", "top_k": 10, "exact": True}, 21.1),
        ("/v1/search-batch", {"searches": [{"query": "국", "top_k": 10}] * 3}, 33.3),
        ("/v1/embed", {"text": "갈비탕"}, 11),
        ("/v1/embed-batch", {"texts": ["a", "b", "c"]}, 31),
        ("/v1/embed", {"image": picture(1), "collection": "products"}, 41),
        ("/v1/count", {"collection": "products", "filter": {"a": 1}}, 1 + 2.51),  # as of 100,000 items
        ("/v1/facets", {"collection": "products", "keys": ["a", "b", "c"]}, 1 + 10.01),
    ],
)
def test_each_kind_of_request_has_its_weight(
    app: HttpApp, path: str, body: dict[str, Any], units: float
) -> None:
    caller = fresh(app)
    answer = caller.post(path, body)
    assert answer.status_code == 200, answer.text
    assert left(answer) == int(100 - units)


def test_beyond_its_quota_a_caller_is_refused_until_it_is_told_to_come_again(app: HttpApp) -> None:
    caller, search = fresh(app), {"query": "갈비탕", "top_k": 10}
    before = value(app, "uhok_rate_limited_total", limit="search")
    answers = [caller.post("/v1/search", search) for _ in range(12)]
    assert [each.status_code for each in answers] == [200] * 9 + [429] * 3
    refused = answers[-1]
    problem = refused.json()
    assert (problem["code"], problem["status"]) == ("too_many_requests", 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 172_800
    assert refused.headers["ratelimit-policy"] == '"search";q=100;w=86400'
    assert left(refused) == 0 and "11.1" in problem["detail"]
    assert value(app, "uhok_rate_limited_total", limit="search") == before + 3
    assert caller.post("/v1/embed", {"text": "a"}).status_code == 429
    assert caller.post("/search_similar", files={"file": ("a.png", b"x")}).status_code == 429
    assert fresh(app).post("/v1/search", search).status_code == 200, "another caller"


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/embed-batch", "/v1/embeddings", "/search_similar"])
def test_what_is_refused_is_not_counted_and_told_once(app: HttpApp, path: str) -> None:
    caller, bodies = fresh(app), {"/v1/embed": {"text": "a"}, "/v1/embed-batch": {"texts": ["a"]}}
    body = bodies.get(path, {"model": "hashed-ngrams", "input": "a"})
    sent = {"files": {"file": ("a.png", b"x")}} if path == "/search_similar" else {"json": body}
    spent = caller.post("/v1/search", {"vector": [1.0] * 384, "top_k": 9000})  # 91 units
    assert left(spent) == 9
    refused = [caller.request("POST", path, **sent) for _ in range(3)]
    assert [each.status_code for each in refused] == [429] * 3
    assert [each.headers.get_list("ratelimit") for each in refused] == [
        [each.headers["ratelimit"]] for each in refused
    ]
    assert [left(each) for each in refused] == [9] * 3
    assert left(caller.get("/v1/model-info")) == 8


def test_what_weighs_more_once_it_was_looked_at_is_charged_once(tmp_path: Path) -> None:
    """A text in English letters that no model of the collection reads: names are searched, perhaps for
    Korean ones."""
    file = tmp_path / "collections.toml"
    file.write_text('[collections.products]\nmodality = "image"\ndim = 512\nlexical = ["name"]\n')
    with served(tmp_path / "data", {**LIMITS, "COLLECTIONS_FILE": str(file)}) as wire:
        search = post(b'{"query": "ajrmzjq", "collection": "products", "top_k": 10}')
        answers = [wire.ask(search) for _ in range(3)]
    assert [each.status for each in answers] == [200] * 3
    told = [each.headers["ratelimit"].split(";")[1] for each in answers]
    assert told == ["r=88", "r=77", "r=66"]  # of 100, 11.1 each


@pytest.mark.long
def test_a_write_by_filter_weighs_what_matches(tmp_path: Path) -> None:
    with running_app(tmp_path, {**LIMITS, "RATE_LIMIT_WRITE": "60", "BRAKE_PERCENT": "100"}) as app:
        seed(app)  # 41 items
        price = {"collection": "recipes", "filter": {"price": {"$lte": 12_000}}}
        told = app.post("/v1/deactivate", price)
        assert (told.json()["done"], left(told)) == (12, 7)
        refused = app.post("/v1/activate", price)
        assert (refused.status_code, left(refused)) == (429, 7)
        assert app.post("/v1/count", {"collection": "recipes"}).json()["count"] == 18, "nothing was done"
        assert app.post("/v1/activate", {**price, "dry_run": True}).json()["matched"] == 12
        assert left(app.post("/v1/activate", {"filter": {"price": 1}})) == 6, "a look is one, too"


def test_a_forwarded_address_is_a_caller_only_behind_a_trusted_proxy(app: HttpApp) -> None:
    search = {"image": picture(1), "top_k": 10}

    def ask(peer: str, told: str) -> int:
        return app.from_peer(peer).post("/v1/search", search, headers={"x-forwarded-for": told}).status_code

    assert [ask("10.0.0.1", f"203.0.113.{n}") for n in range(4)] == [200] * 4
    assert [ask("198.51.100.1", f"203.0.113.{n}") for n in range(4, 8)] == [200, 200, 429, 429]


def test_writes_have_a_quota_of_items(app: HttpApp) -> None:
    answer = app.post("/v1/delete", {"ids": [900, 901]})
    assert answer.headers["ratelimit"].startswith('"write";r=')
    refused = app.post("/v1/deactivate", {"ids": list(range(1, 31))})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert app.get("/v1/items/5").json()["active"], "nothing was done"
    assert app.get("/v1/audit").json()["entries"][0]["status"] == 429
    assert "ratelimit" not in app.get("/v1/collections").headers


def test_each_key_has_its_own_quota(tmp_path: Path) -> None:
    keys = {"SEARCH_API_KEY": "first-key,second-key", "WRITE_API_KEY": "", "KEYLESS_WRITES": ""}
    with running_app(tmp_path, {**LIMITS, **keys}) as running:
        body = {"collection": "recipes", "vector": [1.0] * 384, "top_k": 2000}  # 21 units
        for key in ("first-key", "second-key"):
            asked = [running.post("/v1/search", body, headers={"x-api-key": key}) for _ in range(5)]
            assert [each.status_code for each in asked] == [200] * 4 + [429]


def test_without_a_limit_nothing_is_counted_or_told(tmp_path: Path) -> None:
    with running_app(tmp_path) as running:
        answer = running.post("/v1/search", {"vector": [1.0] * 384})
        assert answer.status_code == 200 and "ratelimit" not in answer.headers


def test_lists_weigh_by_the_rows_that_they_read(app: HttpApp) -> None:
    caller, units = fresh(app), 0.0
    for parameters, weight in (
        ("limit=100", 5.0),
        ("limit=100&include=vector", 5 + 4.608),
        ("limit=1000", 41.0),
    ):
        answer = caller.get(f"/v1/items?collection=recipes&live=any&{parameters}")
        assert answer.status_code == 200, answer.text
        units += weight
        assert left(answer) == int(100 - units)
    hidden = fresh(app).post("/v1/count", {"collection": "recipes", "hidden": True})
    held = len(app.get("/v1/items?collection=recipes&live=any&limit=1000").json()["items"])
    assert 100 - 3.51 - held / 100 - 1 <= left(hidden) <= 100 - 1 - held / 100
