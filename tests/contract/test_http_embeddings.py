"""POST /v1/embeddings as OpenAI's clients use it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.http_app import HttpApp, running_app

MODEL = "builtin:hashed-ngrams"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("embeddings")) as running:
        yield running


def asked(app: HttpApp, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/embeddings", {"model": MODEL, **body})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_vectors_are_those_of_embed_in_both_encodings(app: HttpApp) -> None:
    texts = ["갈비탕", "김치찌개"]
    wanted = app.post("/v1/embed-batch", {"texts": texts}).json()
    plain = asked(app, input=texts, user="kim")
    assert plain["object"] == "list" and plain["model"] == MODEL and plain["version"] == wanted["version"]
    assert [(each["object"], each["index"]) for each in plain["data"]] == [("embedding", 0), ("embedding", 1)]
    assert [each["embedding"] for each in plain["data"]] == wanted["embeddings"]
    packed = asked(app, input=texts, encoding_format="base64")
    vectors = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed["data"]]
    assert np.array_equal(np.stack(vectors), np.array(wanted["embeddings"], np.float32))
    one = asked(app, input="갈비탕", dimensions=384)
    assert one["data"][0]["embedding"] == wanted["embeddings"][0]
    assert one["usage"] == {"prompt_tokens": 0, "total_tokens": 0}, "hashed n-grams have no tokens"


def test_a_model_is_named_as_model_info_names_it(app: HttpApp) -> None:
    described = app.get("/v1/model-info").json()["collections"]["recipes"]
    for name in (described["model"], described["version"]):
        assert asked(app, input="갈비탕", model=name)["version"] == described["version"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"input": []}, ["input"]),
        ({"input": ""}, ["input", 0]),
        ({"input": ["a", " "]}, ["input", 1]),
        ({"input": [1, 2, 3]}, ["input", 0]),
        ({"input": [[1, 2]]}, ["input", 0]),
        ({"input": "a", "model": "text-embedding-3-small"}, ["model"]),
        ({"input": "a", "model": "builtin:descriptor"}, ["model"]),
        ({"input": "a", "dimensions": 256}, ["dimensions"]),
        ({"input": "a", "encoding_format": "int8"}, ["encoding_format"]),
        ({"input": ["a"] * 101}, ["input"]),
        ({}, ["input"]),
    ],
)
def test_what_is_wrong_is_a_problem_document_that_names_it(app: HttpApp, body: Any, loc: list[Any]) -> None:
    told = asked(app, 422, **body)
    assert told["type"].startswith("urn:problem:") and told["errors"][0]["loc"] == ["body", *loc]
