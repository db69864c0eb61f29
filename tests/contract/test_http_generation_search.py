"""A search put to a named generation, to be held beside the one that serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.test_http_rebuild import ended, rebuild
from tests.http_app import DISHES, running_app

pytestmark = pytest.mark.long

CHANGED = {"TEXT_MODEL": "builtin:placeholder"}


def test_one_search_is_answered_from_a_named_generation(seeded: Path) -> None:
    with running_app(seeded, CHANGED) as app:
        ended(app, rebuild(app))
        path = "/v1/collections/recipes/generations/{}/search"
        asked = {"query": f"{DISHES[0]} 10", "top_k": 5, "include": ["score", "rank", "metadata"]}
        serving = app.post("/v1/search", {**asked, "collection": "recipes"}).json()
        same, other = app.post(path.format("current"), asked), app.post(path.format("next"), asked)
        assert same.json()["results"] == serving["results"]
        assert other.json()["embedding_version"] != serving["embedding_version"]
        assert [hit["rank"] for hit in other.json()["results"]] == [1, 2, 3, 4, 5]
        assert other.json()["results"] != serving["results"] and "next_cursor" not in other.json()
        like = {"like_ids": [other.json()["results"][0]["recipe_id"]], "top_k": 100}
        assert like["like_ids"][0] not in [
            hit["recipe_id"] for hit in app.post(path.format("next"), like).json()["results"]
        ]
        vector = app.post("/v1/embed", {"text": "국"}).json()["embedding"]
        for wrong, field in (
            ({"query": "국", "cursor": "WzEs"}, "cursor"),
            ({"query": "국", "min_seq": 1}, "min_seq"),
            ({"query": "국", "collection": "products"}, "collection"),
            ({"vector": vector}, "vector"),
        ):
            refused = app.post(path.format("next"), wrong)
            assert (refused.status_code, refused.json()["errors"][0]["loc"][:2]) == (422, ["body", field])
        assert app.post(path.format("former"), asked).json()["code"] == "unknown_generation"
