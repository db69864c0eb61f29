"""GET /v1/slow, and the stages of searches and writes as /metrics counts them."""

from __future__ import annotations

from typing import Any

import pytest

from service.observing.stage_timing import STAGES
from tests.contract.openapi_document import check_schema
from tests.contract.test_http_metrics import value
from tests.http_app import HttpApp

EMBED_STAGES = ("embed_wait", "embed")


def slow(app: HttpApp, **query: int) -> list[dict[str, Any]]:
    answer = app.get("/v1/slow", params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    check_schema(document, {"$ref": "#/components/schemas/SlowSearches"})
    found: list[dict[str, Any]] = document["searches"]
    return found


def one(app: HttpApp, request_id: str, body: dict[str, Any], path: str = "/v1/search") -> dict[str, Any]:
    app.post(path, body, headers={"x-request-id": request_id})
    (found,) = [each for each in slow(app, limit=200) if each["request_id"] == request_id]
    return found


def test_a_search_is_told_with_its_stages_and_its_plan(app: HttpApp) -> None:
    told = one(app, "by-text", {"query": "비빔밥 한 그릇", "top_k": 3, "exclude_ids": [1, 2]})
    assert (told["collection"], told["query"], told["top_k"], told["excluded"]) == ("recipes", "text", 3, 2)
    assert told["error"] is None and not told["has_filter"]
    assert told["plan"] == [{"way": "delta", "ef": 0, "rows": 30}]
    stages = told["stages_ms"]
    assert all(stages[name] > 0 for name in ("admission", "embed", "search", "encode"))
    assert sum(stages.values()) <= told["took_ms"] * 1.05 + 0.1
    assert "비빔밥" not in app.get("/v1/slow").text


def test_each_kind_of_query_is_told(app: HttpApp) -> None:
    vector = [1.0] * 384
    kinds = {
        "v": {"vector": vector},
        "i": {"like_ids": [3]},
        "t": {"query": "국", "filter": {"category": "국"}},
    }
    told = {name: one(app, name, body) for name, body in kinds.items()}
    assert {name: each["query"] for name, each in told.items()} == {"v": "vector", "i": "items", "t": "text"}
    assert told["t"]["has_filter"] and told["v"]["stages_ms"]["embed"] == 0


def test_a_batch_and_a_picture_are_told_too(app: HttpApp) -> None:
    app.post(
        "/v1/search-batch", {"searches": [{"query": "a"}, {"query": "b"}]}, headers={"x-request-id": "two"}
    )
    assert [each["request_id"] for each in slow(app, limit=200)].count("two") == 2


@pytest.mark.long
def test_a_search_that_failed_is_told_with_its_error(app: HttpApp) -> None:
    told = one(app, "stale", {"query": "국", "min_seq": 10**9})
    assert (told["error"], told["plan"]) == ("SeqNotReached", [])


def test_the_slowest_come_first_and_bounded(app: HttpApp) -> None:
    for _ in range(120):
        assert app.post("/v1/search", {"query": "갈비탕"}).status_code == 200
    found = [each["took_ms"] for each in slow(app, limit=200)]
    assert len(found) == 50 and found == sorted(found, reverse=True)
    assert len(slow(app, limit=3)) == 3
    assert app.get("/v1/slow", params={"limit": 0}).status_code == 422


@pytest.mark.long
def test_stages_are_counted_once_a_request(app: HttpApp) -> None:
    def counts() -> dict[str, float]:
        return {stage: value(app, "uhok_stage_seconds_count", stage=stage) for stage in STAGES}

    before = counts()
    assert app.post("/v1/search", {"query": "처음 보는 글"}).status_code == 200
    assert app.post("/v1/search", {"query": "처음 보는 글"}).status_code == 200
    item = {"recipe_id": 900, "text": "새 글"}
    assert app.post("/v1/upsert", {"items": [item]}).status_code == 200
    grown = {stage: after - before[stage] for stage, after in counts().items()}
    assert grown == {
        **dict.fromkeys(("head", "body"), 0),  # no socket here: tests/contract/test_http_protocol.py
        **dict.fromkeys(("admission", "search_wait", "search", "encode"), 2),
        **dict.fromkeys(EMBED_STAGES, 1),
        "commit": 1,
    }
