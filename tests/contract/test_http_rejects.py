"""One bad item of a write is named by its place and its field, and with `partial` it spoils no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.http_app import HttpApp, as_base64, picture, running_app, unit

RNG = np.random.default_rng(5)
V = [unit(RNG, 384) for _ in range(12)]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HttpApp]:
    with running_app(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def kept_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def emptied_app(kept_app: HttpApp) -> Iterator[HttpApp]:
    """One that many tests share, each of which finds it empty."""
    yield kept_app
    kept_app.post("/v1/delete", {"collection": "recipes", "ids": ids(kept_app)})


def ids(app: HttpApp, **more: Any) -> list[int]:
    answer = app.post("/v1/search", {"vector": as_base64(V[0]), "top_k": 100, **more})
    assert answer.status_code == 200, answer.text
    return [row["recipe_id"] for row in answer.json()["results"]]


def vector_item(id: int, vector: Any = None, **more: Any) -> dict[str, Any]:
    return {"recipe_id": id, "vector": as_base64(V[id % 12] if vector is None else vector), **more}


def upsert(app: HttpApp, *items: dict[str, Any], **more: Any) -> Any:
    query = "?partial=true" if more.pop("partial", False) else ""
    return app.post(f"/v1/upsert{query}", {"collection": "recipes", "items": list(items), **more})


BAD_ITEMS: list[tuple[str, dict[str, Any], str, list[Any]]] = [
    ("short vector", {"recipe_id": 9, "vector": [1.0]}, "invalid_dimension", ["vector"]),
    ("zero vector", {"recipe_id": 9, "vector": [0.0] * 384}, "invalid_vector", ["vector"]),
    ("too large", {"recipe_id": 9, "vector": [1e39] * 384}, "invalid_vector", ["vector"]),
    ("too short to have a direction", {"recipe_id": 9, "vector": [1e-14] * 384}, "invalid_vector", ["vector"]),  # noqa: E501
    ("too long for squares", {"recipe_id": 9, "vector": [1e13] * 384}, "invalid_vector", ["vector"]),
    ("a number too large for JSON's readers", {"recipe_id": 9, "vector": [10**400]}, "invalid_request", ["vector", 0]),  # noqa: E501
    ("a text among the numbers", {"recipe_id": 9, "vector": [1.0, "x"]}, "invalid_request", ["vector", 1]),
    ("id field of every collection", {"id": "9", "vector": as_base64(V[0])}, "invalid_id", ["id"]),
    ("id beyond every number", {"recipe_id": 2**70, "text": "국"}, "invalid_id", ["recipe_id"]),
    ("NaN", {"recipe_id": 9, "vector": as_base64(V[0] * np.float32("nan"))}, "invalid_vector", ["vector"]),
    ("infinity", {"recipe_id": 9, "vector": as_base64(V[0] * np.float32("inf"))}, "invalid_vector", ["vector"]),  # noqa: E501
    ("no base64", {"recipe_id": 9, "vector": "!"}, "invalid_request", ["vector"]),
    ("id as text", {"recipe_id": "9", "vector": as_base64(V[0])}, "invalid_id", ["recipe_id"]),
    ("id too large", {"recipe_id": 2**63, "vector": as_base64(V[0])}, "invalid_id", ["recipe_id"]),
    ("id as number with point", {"recipe_id": 9.5, "vector": as_base64(V[0])}, "invalid_request", ["recipe_id"]),  # noqa: E501
    ("id missing", {"vector": as_base64(V[0])}, "invalid_request", ["recipe_id"]),
    ("two ids", {"recipe_id": 9, "id": 9, "vector": as_base64(V[0])}, "invalid_request", ["recipe_id"]),
    ("no content", {"recipe_id": 9}, "invalid_request", ["vector"]),
    ("two contents", {"recipe_id": 9, "vector": as_base64(V[0]), "text": "국"}, "invalid_request", ["vector"]),  # noqa: E501
    ("blank text", {"recipe_id": 9, "text": "  "}, "invalid_request", ["text"]),
    ("picture in a text collection", {"recipe_id": 9, "image": picture(1)}, "invalid_request", ["image"]),
    ("unknown field", {"recipe_id": 9, "txet": "국"}, "invalid_request", ["txet"]),
    ("active as text", {"recipe_id": 9, "text": "국", "active": "yes"}, "invalid_request", ["active"]),
    ("source_version too large", {"recipe_id": 9, "text": "국", "source_version": 2**63}, "invalid_request", ["source_version"]),  # noqa: E501
    ("metadata as list", {"recipe_id": 9, "text": "국", "metadata": [1]}, "invalid_request", ["metadata"]),
    ("metadata too large", {"recipe_id": 9, "text": "국", "metadata": {"a": "b" * 70_000}}, "invalid_request", ["metadata"]),  # noqa: E501
    ("metadata too deep", {"recipe_id": 9, "text": "국", "metadata": {"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "invalid_request", ["metadata"]),  # noqa: E501
    ("metadata beyond 64 bits", {"recipe_id": 9, "text": "국", "metadata": {"a": 2**70}}, "invalid_request", ["metadata"]),  # noqa: E501
    ("not an object", 5, "invalid_request", []),  # type: ignore[list-item]
]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "code", "loc"), [each[1:] for each in BAD_ITEMS], ids=[each[0] for each in BAD_ITEMS]
)
def test_one_bad_item_is_named_and_stores_nothing_unless_partial(
    emptied_app: HttpApp, item: Any, code: str, loc: list[Any]
) -> None:
    app = emptied_app
    upsert(app, vector_item(1))
    refused = upsert(app, vector_item(7), item, vector_item(8))
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "batch_rejected")
    assert problem["errors"][0]["loc"] == ["body", "items", 1, *loc]
    assert problem["errors"][0]["msg"].startswith(code)
    assert ids(app) == [1]
    partly = upsert(app, vector_item(7), item, vector_item(8), partial=True).json()
    assert partly["upserted"] == 2 and [each["code"] for each in partly["rejected"]] == [code]
    assert partly["rejected"][0]["loc"] == ["body", "items", 1, *loc]
    assert sorted(ids(app)) == [1, 7, 8]


def test_one_bad_delete_is_named_and_spoils_no_other(app: HttpApp) -> None:
    upsert(app, vector_item(1), vector_item(2), vector_item(3))
    deletes: list[Any] = [
        1,
        "2",
        None,
        {"id": 2, "source_version": 2**70},
        {"id": "x"},
        {"of": 1},
        2**70,
        {"id": 3},
    ]
    refused = upsert(app, vector_item(7), delete_ids=deletes)
    assert (refused.status_code, refused.json()["code"]) == (422, "batch_rejected")
    assert sorted(ids(app)) == [1, 2, 3]
    partly = upsert(app, vector_item(7), {"recipe_id": 8}, delete_ids=deletes, partial=True).json()
    assert (partly["upserted"], partly["deleted"]) == (1, 2) and sorted(ids(app)) == [2, 7]
    assert [each["loc"] for each in partly["rejected"]] == [
        ["body", "items", 1, "vector"],
        ["body", "delete_ids", 1],
        ["body", "delete_ids", 2],
        ["body", "delete_ids", 3, "source_version"],
        ["body", "delete_ids", 4, "id"],
        ["body", "delete_ids", 5, "of"],
        ["body", "delete_ids", 6],
    ]  # fmt: skip
    assert [each["loc"] for each in refused.json()["errors"]] == [
        each["loc"] for each in partly["rejected"][1:]
    ]


def test_the_first_item_may_be_one_that_can_not_be_read(app: HttpApp) -> None:
    for first in ([1], 1, None, "[" * 9, {}):
        body = {"items": [first, {"product_id": "b", "image": picture(1)}]}
        answer = app.post("/v1/upsert?partial=true", body)
        assert answer.status_code == 200, answer.text
        assert [each["loc"][:3] for each in answer.json()["rejected"]] == [["body", "items", 0]]


@pytest.mark.long
def test_metadata_may_be_as_large_as_the_setting_says(tmp_path: Path) -> None:
    with running_app(tmp_path, {"METADATA_BYTES_MAX": "200000"}) as app:
        fits, over = {"a": "가" * 66_000}, {"a": "가" * 67_000}
        partly = upsert(
            app, vector_item(1, metadata=fits), vector_item(2, metadata=over), partial=True
        ).json()
        assert partly["upserted"] == 1
        assert [each["loc"] for each in partly["rejected"]] == [["body", "items", 1, "metadata"]]
        assert "200000" in partly["rejected"][0]["detail"]
        assert app.get("/v1/items/1").json()["metadata"] == fits
    with running_app(tmp_path, {"METADATA_BYTES_MAX": "100"}) as app:
        assert app.get("/v1/items/1").json()["metadata"] == fits, "what is stored stays"
        assert upsert(app, vector_item(3, metadata={"a": "b" * 100})).status_code == 422
