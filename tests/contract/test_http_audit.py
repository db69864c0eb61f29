"""GET /v1/audit over the wire: who did what, and nothing of what was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.openapi_document import check_schema
from tests.http_app import HttpApp, picture, running_app

KEYS = {
    "WRITE_API_KEY": "feeder-2026:0123456789abcdef,plain-write-key",
    "ADMIN_API_KEY": "ops:fedcba9876543210",
    "TRUSTED_PROXIES": "10.0.0.0/8",
}
FEEDER = {"x-api-key": "0123456789abcdef"}
OPS = {"authorization": "Bearer fedcba9876543210"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "data"


@pytest.fixture(scope="module")
def app(data: Path) -> Iterator[HttpApp]:
    with running_app(data, KEYS) as running:
        yield running


def audit(app: HttpApp, limit: int = 100) -> list[dict[str, Any]]:
    answer = app.get("/v1/audit", params={"limit": limit}, headers=OPS)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    check_schema(document, {"$ref": "#/components/schemas/Audit"})
    assert (document["state"], document["lost"]) == ("ok", 0)
    found: list[dict[str, Any]] = document["entries"]
    return found


def test_writes_and_operations_are_told_with_who_and_how_many(app: HttpApp) -> None:
    items = [{"recipe_id": number, "text": f"갈비탕 {number}"} for number in range(1, 4)]
    via = {"x-forwarded-for": "203.0.113.7", "x-request-id": "from-the-feeder"}
    proxied = app.from_peer("10.0.0.5")
    assert proxied.post("/v1/upsert", {"items": items}, headers={**FEEDER, **via}).status_code == 200
    wrong = [{"recipe_id": 4, "text": "국"}, {"recipe_id": 5, "image": picture(1)}]
    assert app.post("/v1/upsert?partial=true", {"items": wrong}, headers=FEEDER).status_code == 200
    app.post("/v1/delete", {"ids": [1, 77]}, headers={"x-api-key": "plain-write-key"})
    app.post("/v1/promote", {"collection": "recipes"}, headers=OPS)
    app.post("/v1/promote", {"collection": "recipes"}, headers=FEEDER)
    app.post("/v1/delete", {"ids": [1]})
    app.post("/v1/search", {"query": "갈비탕"})
    app.get("/v1/collections", headers=OPS)
    first, second, third, promote, refused, keyless = reversed(audit(app))
    assert (first["key"], first["address"], first["request_id"]) == (
        "feeder-2026",
        "203.0.113.7",
        "from-the-feeder",
    )
    assert (first["route"], first["collection"], first["status"]) == ("/v1/upsert", "recipes", 200)
    assert first["counts"] == {"items": 3, "upserted": 3} and first["code"] == ""
    assert second["counts"] == {"items": 2, "upserted": 1, "rejected": 1}
    assert (third["key"], third["counts"]) == ("write-2", {"deletes": 2, "deleted": 1})
    assert (promote["key"], promote["role"], promote["details"]) == ("ops", "admin", {"forced": False})
    assert (promote["status"], promote["code"]) == (409, "promote_conflict")
    assert (refused["key"], refused["status"], refused["code"]) == (None, 403, "key_refused")
    assert (keyless["status"], keyless["code"], keyless["collection"]) == (401, "key_missing", None)


@pytest.mark.long
def test_nothing_of_keys_items_or_queries_is_kept(app: HttpApp, data: Path) -> None:
    item = {"product_id": "secret-id", "image": picture(2), "metadata": {"name": "secret-name"}}
    assert app.post("/v1/upsert", {"items": [item]}, headers=FEEDER).status_code == 200
    assert app.post(
        "/v1/deactivate", {"collection": "products", "ids": ["secret-id"]}, headers=FEEDER
    ).is_success
    assert app.post("/v1/explain", {"id": 2, "query": "secret-query"}, headers=OPS).status_code == 200
    newest = audit(app, limit=2)
    assert [each["route"] for each in newest] == ["/v1/deactivate", "/v1/upsert"]
    (path,) = (data / "audit").iterdir()
    kept = path.read_text("utf-8")
    for secret in ("0123456789abcdef", "fedcba", "plain-write-key", "secret", "갈비탕", picture(2)[:40]):
        assert secret not in kept
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(app: HttpApp) -> None:
    assert len(audit(app, limit=1)) == 1
    for limit in (0, 1001):
        assert app.get("/v1/audit", params={"limit": limit}, headers=OPS).status_code == 422


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with running_app(tmp_path, {"AUDIT_FILES": "0"}) as running:
        assert running.post("/v1/delete", {"ids": [1]}).status_code == 200
        assert running.get("/v1/audit").json() == {"state": "off", "lost": 0, "entries": []}
    assert not (tmp_path / "audit").exists()
