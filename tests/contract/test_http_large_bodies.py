"""Large bodies are decoded beside the event loop, on every route that reads JSON."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest

from tests.contract.openapi_document import DOCUMENT
from tests.http_app import HttpApp, as_base64, unit

READ_JSON = sorted(
    path
    for path, item in DOCUMENT["paths"].items()
    if "application/json" in item.get("post", {}).get("requestBody", {}).get("content", {})
)
HEADERS = {"content-type": "application/json"}


def calls_on_loop(app: HttpApp, path: str, content: bytes) -> tuple[set[str], Any]:
    """The functions that the event loop's thread called meanwhile, and the answer."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_name)

    async def profile(function: Any) -> None:
        sys.setprofile(function)

    app.loop.run(profile(note))
    try:
        answer = app.post(path, content=content, headers=HEADERS)
    finally:
        app.loop.run(profile(None))
    return called, answer


def test_the_contract_names_the_routes() -> None:
    assert len(READ_JSON) > 15
    assert {"/v1/search", "/v1/count", "/v1/delete", "/v1/upsert"} <= set(READ_JSON)


@pytest.mark.parametrize("path", READ_JSON)
def test_a_large_body_is_decoded_on_a_thread(app: HttpApp, path: str) -> None:
    path = path.replace("{collection}", "recipes").replace("{generation}", "v")
    body = b'{"odd": [%b1]}' % (b"[ ]," * 9_000)
    called, answer = calls_on_loop(app, path, body)
    assert answer.status_code == 422, answer.text
    assert "decode_json" not in called
    called, answer = calls_on_loop(app, path, b"{}")
    assert "decode_json" in called  # what is called there is seen


@pytest.mark.long
def test_answers_to_large_bodies_are_those_to_small_ones(app: HttpApp) -> None:
    vector, pad = as_base64(unit(np.random.default_rng(1), 384)), {"unknown": [[]] * 12_000}
    asked = {"collection": "recipes", "vector": vector, "top_k": 5}
    usual = app.post("/v1/search", asked).json()["results"]
    assert usual
    assert app.post("/v1/search", {**asked, **pad}).json()["results"] == usual
    assert (
        app.post("/v1/search-batch", {"searches": [{**asked, **pad}]}).json()["responses"][0]["results"]
        == usual
    )
    excluded = app.post("/v1/search", {**asked, "exclude_ids": list(range(10**6, 10**6 + 50_000))})
    assert excluded.json()["results"] == usual
    wrong = app.post("/v1/search", {**asked, "exclude_ids": [*range(50_000), "a"]})
    assert (wrong.status_code, wrong.json()["errors"][0]["loc"]) == (422, ["body", "exclude_ids"])
    held = {"$in": list(range(60_000))}
    assert app.post("/v1/count", {"filter": {"$not": {"n": held}}}).json()["count"] > 0
