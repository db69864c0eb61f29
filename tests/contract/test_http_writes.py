"""Writing over HTTP: durable, atomic, idempotent; what is wrong is named and changes nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.record import digest
from tests.http_app import HttpApp, as_base64, picture, picture_bytes, running_app, unit

RNG = np.random.default_rng(5)
V = [unit(RNG, 384) for _ in range(12)]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HttpApp]:
    with running_app(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def refusing_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """For requests that are refused, and so leave nothing behind."""
    with running_app(tmp_path_factory.mktemp("data")) as running:
        yield running


def ids(app: HttpApp, **more: Any) -> list[int]:
    answer = app.post("/v1/search", {"vector": as_base64(V[0]), "top_k": 100, **more})
    assert answer.status_code == 200, answer.text
    return [row["recipe_id"] for row in answer.json()["results"]]


def vector_item(id: int, vector: Any = None, **more: Any) -> dict[str, Any]:
    return {"recipe_id": id, "vector": as_base64(V[id % 12] if vector is None else vector), **more}


def upsert(app: HttpApp, *items: dict[str, Any], **more: Any) -> Any:
    query = "?partial=true" if more.pop("partial", False) else ""
    return app.post(f"/v1/upsert{query}", {"collection": "recipes", "items": list(items), **more})


def test_upsert_search_delete_and_repeat(app: HttpApp) -> None:
    stored = upsert(app, vector_item(1), vector_item(2), vector_item(3)).json()
    assert {key: stored[key] for key in ("upserted", "deleted", "stale_ignored", "rejected")} == {
        "upserted": 3, "deleted": 0, "stale_ignored": 0, "rejected": [],
    }  # fmt: skip
    assert stored["version"] and stored["seq"] >= 1
    assert sorted(ids(app)) == [1, 2, 3]
    again = upsert(app, vector_item(1), vector_item(2), vector_item(3)).json()
    assert again["seq"] >= stored["seq"] and sorted(ids(app)) == [1, 2, 3]
    gone = app.post("/v1/delete", {"ids": [2, 99]}).json()
    assert gone["deleted"] >= 1 and sorted(ids(app)) == [1, 3]
    assert app.post("/v1/delete", {"ids": [2]}).status_code == 200


def test_nothing_deleted_comes_back(app: HttpApp) -> None:
    upsert(app, vector_item(1, source_version=5))
    app.post("/v1/delete", {"ids": [1], "source_version": 7})
    late = upsert(app, vector_item(1, source_version=6)).json()
    assert late["stale_ignored"] == 1 and ids(app) == []
    older = upsert(app, vector_item(1, source_version=8)).json()
    assert older["stale_ignored"] == 0 and ids(app) == [1]
    assert upsert(app, vector_item(1, source_version=8)).json()["stale_ignored"] == 0


def test_delete_ids_ride_along_and_cursors_are_stored_with_the_rows(app: HttpApp) -> None:
    upsert(app, vector_item(1), vector_item(2))
    answer = upsert(
        app, vector_item(3), delete_ids=[1, {"id": 2, "source_version": 9}], source={"pg": "0/16B3748"}
    )
    assert answer.json()["deleted"] == 2 and ids(app) == [3]
    status = app.get("/v1/sync/status").json()["collections"]["recipes"]
    assert status["cursors"] == {"pg": "0/16B3748"} and status["seq"] == answer.json()["seq"]


def test_deactivated_items_are_never_found_and_keep_their_vector(app: HttpApp) -> None:
    upsert(app, vector_item(1), vector_item(2), vector_item(3, active=False))
    assert sorted(ids(app)) == [1, 2]
    app.post("/v1/deactivate", {"ids": [1]})
    assert ids(app) == [2]
    item = app.get("/v1/items/1?include=vector").json()
    assert (item["active"], item["live"]) == (False, False) and len(item["vector"]) == 384
    app.post("/v1/activate", {"ids": [1, 3]})
    assert sorted(ids(app)) == [1, 2, 3]


def test_metadata_alone_is_changed_and_vectors_stay(app: HttpApp) -> None:
    upsert(app, vector_item(1, metadata={"a": 1}))
    assert upsert(app, {"recipe_id": 1, "metadata": {"a": 2}}).status_code == 200
    item = app.get("/v1/items/1?include=vector").json()
    assert item["metadata"] == {"a": 2} and np.allclose(item["vector"], V[1])
    assert upsert(app, vector_item(1, vector=V[5])).status_code == 200
    assert app.get("/v1/items/1").json()["metadata"] == {"a": 2}


def test_what_is_said_of_an_unknown_id_is_reported_and_not_stored(app: HttpApp) -> None:
    upsert(app, vector_item(1), vector_item(2))
    app.post("/v1/delete", {"ids": [2]})
    route = "/v1/collections/recipes/digest"
    before = app.get(route).json()
    for path in ("/v1/activate", "/v1/deactivate"):
        answer = app.post(path, {"ids": [1, 2, 99, -5]}).json()
        assert (answer["upserted"], answer["unknown_ids"]) == (1, [2, 99, -5])
    said = upsert(
        app,
        {"recipe_id": 98, "metadata": {"a": 1}},
        {"recipe_id": 97, "active": False},
        {"recipe_id": 2, "active": True, "source_version": 9},
        {"recipe_id": 1, "active": True},
    ).json()
    assert (said["upserted"], said["unknown_ids"]) == (1, [98, 97, 2])
    after = app.get(route).json()
    assert (after["root"], after["items"]) == (before["root"], 1)
    for id in (2, 97, 98, 99):
        assert app.get(f"/v1/items/{id}").status_code == 404
    assert upsert(app, vector_item(99)).json()["unknown_ids"] == []
    assert sorted(ids(app)) == [1, 99]


def test_a_broken_picture_is_rejected_and_spoils_no_other(app: HttpApp) -> None:
    items = [
        {"product_id": "a", "image": picture(1)},
        {"product_id": "b", "image": base64.b64encode(b"no picture").decode()},
        {"product_id": "c", "image": base64.b64encode(picture_bytes(3, 256, "JPEG")[:900]).decode()},
        {"product_id": "d", "image_url": "https://img.example/d.png"},
        {"product_id": "e", "image": picture(5)},
    ]
    assert app.post("/v1/upsert", {"items": items}).status_code == 422
    answer = app.post("/v1/upsert?partial=true", {"items": items}).json()
    assert answer["upserted"] == 2
    assert [each["id"] for each in answer["rejected"]] == ["b", "c", "d"]
    assert answer["rejected"][2]["code"] == "image_url_refused"
    assert [each["loc"][2:] for each in answer["rejected"]] == [[1, "image"], [2, "image"], [3, "image_url"]]
    assert app.get("/v1/items/b?collection=products").status_code == 404


def test_vectors_of_another_version_are_409_and_change_nothing(app: HttpApp) -> None:
    upsert(app, vector_item(1))
    refused = upsert(app, vector_item(2), embedding_version="other.1")
    assert (refused.status_code, refused.json()["code"]) == (409, "embedding_version_mismatch")
    by_text = upsert(app, {"recipe_id": 2, "text": "국"}, embedding_version="other.1")
    assert by_text.status_code == 409 and ids(app) == [1]


@pytest.mark.parametrize(
    ("path", "body", "status", "loc"),
    [
        ("/v1/upsert", {"items": [], "more": 1}, 422, ["body", "more"]),
        ("/v1/upsert", {"items": {}}, 422, ["body", "items"]),
        ("/v1/upsert", {"collection": "nowhere", "items": []}, 404, None),
        ("/v1/upsert", {"items": [], "source": {"a": 1}}, 422, ["body", "source", "..."]),
        ("/v1/upsert", {"collection": "recipes", "delete_ids": ["1"]}, 422, ["body", "delete_ids", 0]),
        (
            "/v1/upsert",
            {"items": [{"recipe_id": n, "text": "국"} for n in range(5001)]},
            422,
            ["body", "items"],
        ),
        ("/v1/delete", {"ids": [2, "1"]}, 422, ["body", "ids", 1]),
        ("/v1/delete", {"ids": [1], "force": True}, 422, ["body", "force"]),
        ("/v1/delete", {}, 422, ["body", "ids"]),
        ("/v1/activate", {"ids": [1], "collection": "products"}, 422, ["body", "ids", 0]),
        ("/v1/deactivate", {"ids": [None]}, 422, ["body", "ids", 0]),
        ("/v1/promote", {"collection": "recipes", "x": 1}, 422, ["body", "x"]),
        ("/v1/rollback", {}, 422, ["body", "collection"]),
        ("/v1/abort", {"collection": "nowhere"}, 404, None),
    ],
)
def test_write_routes_refuse(
    refusing_app: HttpApp, path: str, body: dict[str, Any], status: int, loc: Any
) -> None:
    problem = refusing_app.post(path, body).json()
    assert problem["status"] == status, problem
    if loc is not None:
        assert problem["errors"][0]["loc"] == loc


@pytest.mark.long
def test_bodies_are_bounded_while_they_arrive(app: HttpApp) -> None:
    headers = {"content-type": "application/json"}

    async def endless(total: int) -> Any:
        yield b'{"x": "'
        for _ in range(total >> 20):
            yield b"a" * (1 << 20)

    for path, limit in (("/v1/search", 16 << 20), ("/v1/delete", 16 << 20), ("/v1/upsert", 64 << 20)):
        problem = app.post(path, content=endless(limit + (4 << 20)), headers=headers)
        assert (problem.status_code, problem.json()["code"]) == (413, "body_too_large"), path
    claimed = app.post("/v1/search", content=b"{}", headers={**headers, "content-length": str(1 << 40)})
    assert claimed.status_code == 413
    packed = app.post("/v1/upsert", content=b"{}", headers={**headers, "content-encoding": "br"})
    assert packed.status_code == 415 and packed.headers["accept-encoding"] == "gzip"
    deep = app.post("/v1/upsert", content=b'{"items":[' + b"[" * 1_000_000, headers=headers)
    assert (deep.status_code, deep.json()["code"]) == (400, "malformed_json")


@pytest.mark.long
def test_ids_of_paths_keep_their_type(app: HttpApp) -> None:
    upsert(app, vector_item(7))
    app.post(
        "/v1/upsert",
        {
            "items": [
                {"product_id": each, "image": picture(1)}
                for each in ("7", "007", "a/b/", "가", "a\nb\r", "\n", " ")
            ]
        },
    )
    assert app.get("/v1/items/7").json()["recipe_id"] == 7
    for text, path in (
        ("7", "7"),
        ("007", "007"),
        ("a/b/", "a%2Fb%2F"),
        ("가", "%EA%B0%80"),
        ("a\nb\r", "a%0Ab%0D"),
        ("\n", "%0A"),
        (" ", "%20"),
    ):
        assert app.get(f"/v1/items/{path}?collection=products").json()["product_id"] == text
    assert app.get("/v1/items/abc").json()["code"] == "invalid_id"
    assert app.get("/v1/items/8").json()["code"] == "unknown_item"
    assert app.get(f"/v1/items/{2**63}").status_code == 422


@pytest.mark.long
def test_min_seq_is_waited_for_and_then_refused(app: HttpApp) -> None:
    seq = upsert(app, vector_item(1)).json()["seq"]
    assert ids(app, min_seq=seq) == [1]
    late = app.post("/v1/search", {"vector": as_base64(V[0]), "min_seq": seq + 1000})
    assert (late.status_code, late.json()["code"]) == (503, "min_seq_timeout")
    assert int(late.headers["retry-after"]) >= 1


def test_generations_step_by_step(app: HttpApp) -> None:
    upsert(app, vector_item(1))
    current = app.get("/v1/collections/recipes/generations").json()["generations"]
    assert [each["role"] for each in current] == ["current"] and current[0]["live"] == 1
    for step in ("promote", "rollback", "abort"):
        problem = app.post(f"/v1/{step}", {"collection": "recipes"}).json()
        assert (problem["status"], problem["code"]) == (409, "promote_conflict")


def test_digest_follows_content(app: HttpApp) -> None:
    upsert(app, vector_item(1), vector_item(2))
    before = app.get("/v1/collections/recipes/digest").json()
    assert before["items"] == 2 and len(before["buckets"]) == 4096
    filled = [place for place, each in enumerate(before["buckets"]) if each != "0" * 16]
    rows = app.get(f"/v1/collections/recipes/digest?bucket={filled[0]}").json()["rows"]
    assert rows and rows[0]["id"] in (1, 2) and rows[0]["has_vector"] is True
    named = ",".join(map(str, filled))
    assert {
        row["id"] for row in app.get(f"/v1/collections/recipes/digest?bucket={named}").json()["rows"]
    } == {1, 2}
    app.post("/v1/deactivate", {"ids": [1]})
    changed = app.get("/v1/collections/recipes/digest").json()
    assert changed["root"] != before["root"]
    app.post("/v1/activate", {"ids": [1]})
    assert app.get("/v1/collections/recipes/digest").json()["root"] == before["root"]
    for wrong in ("4096", "1,4096", "1,", "-1", "x", ",".join(["1"] * 513)):
        assert app.get(f"/v1/collections/recipes/digest?bucket={wrong}").status_code == 422


@pytest.mark.long
def test_rows_are_listed_where_sums_differ(app: HttpApp) -> None:
    upsert(app, *(vector_item(number) for number in range(1, 7)))
    app.post("/v1/deactivate", {"ids": [4]})
    route = "/v1/collections/recipes/digest"
    buckets = app.get(f"{route}?bucket={','.join(str(digest.bucket_of(n)) for n in range(1, 7))}").json()
    held = {row["id"]: row for row in buckets["rows"]}
    for parts in (1, 64, 4096, 2**18):
        sums = np.zeros(parts, dtype="<u8")
        for number in (1, 3, 4, 5, 6):
            np.add.at(sums, [digest.crc_of(number) & (parts - 1)], np.uint64(int(held[number]["sum"], 16)))
        answer = app.post(route, {"sums": base64.b64encode(sums.tobytes()).decode()}).json()
        shares = np.frombuffer(base64.b64decode(answer["sums"]), dtype="<u8")
        flags = base64.b64decode(answer["flags"])
        assert answer["next"] is None and len(shares) == len(flags) == len(answer["ids"])
        assert 2 in answer["ids"] and len(answer["ids"]) == (6 if parts == 1 else 1)
        for item_id, share, flag in zip(answer["ids"], shares.tolist(), flags, strict=True):
            row = held[item_id]
            assert f"{share:016x}" == row["sum"]
            assert (bool(flag & 1), bool(flag & 2)) == (row["active"], row["has_vector"])
    nothing = {"sums": base64.b64encode(bytes(8 * 8)).decode()}
    wrong = ["", "AAAA", "x", base64.b64encode(bytes(24)).decode(), base64.b64encode(bytes(2**24)).decode()]
    for sums_text in wrong:
        assert app.post(route, {"sums": sums_text}).status_code in (413, 422)
    assert app.post(route, {**nothing, "first": -1}).status_code == 422
    assert app.post(route, {**nothing, "last": 1}).status_code == 422


@pytest.mark.long
def test_many_rows_that_differ_are_listed_in_turns(tmp_path: Path) -> None:
    with running_app(tmp_path, {"DIGEST_ROWS_MAX": "2"}) as app:
        upsert(app, *(vector_item(number) for number in range(1, 41)))
        sums = base64.b64encode(bytes(8 * 64)).decode()
        seen: list[int] = []
        following: int | None = 0
        while following is not None:
            before = following
            answer = app.post("/v1/collections/recipes/digest", {"sums": sums, "first": following}).json()
            assert {digest.crc_of(n) & 63 >= before for n in answer["ids"]} <= {True}
            assert len(answer["ids"]) < 20
            seen += answer["ids"]
            following = answer["next"]
        assert sorted(seen) == list(range(1, 41))


def test_a_model_that_can_not_load_leaves_vectors_served(tmp_path: Path) -> None:
    environ = {"TEXT_MODEL": str(tmp_path / "nothing-here")}
    with running_app(tmp_path / "data", environ) as app:
        ready = app.get("/readyz")
        assert ready.status_code == 503 and ready.json()["waiting_for"][0]["collection"] == "recipes"
        assert ready.json()["waiting_for"][0]["hint"].startswith("python -m service models")
        assert app.get("/livez").status_code == 200
        health = app.get("/health").json()
        assert health["model_available"] is False and health["ready"] is False
        assert upsert(app, vector_item(1)).status_code == 422  # no generation names its version yet
        assert upsert(app, vector_item(1), embedding_version="mine.1").status_code == 200
        assert ids(app) == [1] and ids(app, embedding_version="mine.1") == [1]
        for refused in (app.post("/v1/search", {"query": "국"}), upsert(app, {"recipe_id": 2, "text": "국"})):
            assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
            assert refused.json()["hint"].startswith("python -m service models")
            assert refused.headers["retry-after"]


@pytest.mark.long
def test_a_model_never_meets_another_models_vectors(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        version = upsert(app, vector_item(1)).json()["version"]
    with running_app(tmp_path, {"TEXT_MODEL": "builtin:placeholder"}) as app:
        answer = app.post("/v1/search", {"query": "국"})
        assert (answer.status_code, answer.json()["embedding_version"]) == (200, version)
        assert upsert(app, {"recipe_id": 2, "text": "국"}).json()["version"] == version
        assert app.post("/v1/embed", {"text": "국"}).json()["version"] == version
        assert set(ids(app)) == {1, 2}


def test_the_placeholder_serves_only_where_it_was_asked_for_and_says_so(tmp_path: Path) -> None:
    environ = {"TEXT_MODEL": str(tmp_path / "nothing-here"), "MODEL_FALLBACK": "placeholder"}
    with running_app(tmp_path / "data", environ) as app:
        assert upsert(app, {"recipe_id": 2, "text": "국"}).status_code == 200
        answer = app.post("/v1/search", {"query": "국"}).json()
        assert [row["recipe_id"] for row in answer["results"]] == [2]
        assert "placeholder" in answer["embedding_version"]
        assert app.get("/health").json()["model_available"] is False


def contents(app: HttpApp, collection: str) -> int:
    (current,) = app.get(f"/v1/collections/{collection}/generations").json()["generations"]
    kept: int = current["contents"]
    return kept


@pytest.mark.long
def test_texts_are_kept_and_pictures_bytes_only_where_that_was_asked_for(tmp_path: Path) -> None:
    shown = {"product_id": "p", "image": picture(1)}
    with running_app(tmp_path / "a") as app:
        assert upsert(app, {"recipe_id": 1, "text": "국"}, vector_item(2)).status_code == 200
        assert app.post("/v1/upsert", {"items": [shown]}).status_code == 200
        assert (contents(app, "recipes"), contents(app, "products")) == (1, 0)
        assert app.post("/v1/delete", {"collection": "recipes", "ids": [1]}).status_code == 200
        assert contents(app, "recipes") == 0
    file = tmp_path / "collections.toml"
    file.write_text(
        '[collections.recipes]\nid_field = "recipe_id"\nkeep_content = false\n'
        '[collections.products]\nid_field = "product_id"\nid_type = "string"\nmodality = "image"\n'
        "dim = 512\nkeep_content = true\n"
    )
    with running_app(tmp_path / "b", {"COLLECTIONS_FILE": str(file)}) as app:
        assert upsert(app, {"recipe_id": 1, "text": "국"}).status_code == 200
        assert app.post("/v1/upsert", {"items": [shown]}).status_code == 200
        assert (contents(app, "recipes"), contents(app, "products")) == (0, 1)
