"""Searches over the wire that are answered, their recipes, why one is in an answer, all pages of a search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.contract.openapi_document import check_schema
from tests.http_app import HttpApp


def search(app: HttpApp, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/search", body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def explained(app: HttpApp, body: dict[str, Any]) -> dict[str, Any]:
    answer = app.post("/v1/explain", body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    check_schema(document, {"$ref": "#/components/schemas/Explanation"})
    return document


def ids(document: dict[str, Any]) -> list[int]:
    return [hit["recipe_id"] for hit in document["results"]]


def pages(app: HttpApp, **body: Any) -> Iterator[dict[str, Any]]:
    """Each page of a search, by the cursors of those before."""
    while True:
        page = search(app, **body)
        yield page
        if page["exhausted"]:
            assert "next_cursor" not in page
            return
        body["cursor"] = page["next_cursor"]
