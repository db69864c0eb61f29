"""Writes by filter over HTTP: all that pass and no other, braked, page by page, told where they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import WriteFailed
from index_store.types import Ack, CollectionSpec, ItemWrite, WriteBatch
from tests.http_app import HttpApp, as_base64, running_app, unit

V = [unit(np.random.default_rng(9), 384) for _ in range(4)]
UNBRAKED = {"BRAKE_PERCENT": "100"}


def put(app: HttpApp, ids: Sequence[int], **metadata: Any) -> None:
    items = [
        {"recipe_id": n, "vector": as_base64(V[n % 4]), "metadata": {"ten": n // 10, "n": n, **metadata}}
        for n in ids
    ]
    answer = app.post("/v1/upsert", {"collection": "recipes", "items": items})
    assert answer.status_code == 200, answer.text


def found(app: HttpApp) -> list[int]:
    answer = app.post("/v1/search", {"vector": as_base64(V[0]), "top_k": 1000}).json()
    return sorted(row["recipe_id"] for row in answer["results"])


def write(app: HttpApp, action: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = app.post(f"/v1/{action}", {"collection": "recipes", **body})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture(scope="module")
def one_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("changed"), {**UNBRAKED, "UPSERT_ITEMS_MAX": "40"}) as running:
        yield running


@pytest.fixture
def app(one_app: HttpApp) -> HttpApp:
    """Recipes 1 to 40, of which 11 and 12 are hidden."""
    one_app.post("/v1/delete", {"ids": list(range(1, 41))})
    put(one_app, range(1, 41))
    one_app.post("/v1/deactivate", {"ids": [11, 12]})
    return one_app


def test_each_action_changes_all_that_pass_and_no_other(app: HttpApp) -> None:
    tens = {"filter": {"ten": 1}}
    told = write(app, "deactivate", **tens)
    assert (told["matched"], told["done"], told["vanished"], told["passed_over"]) == (8, 8, 8, 0)
    rest = [n for n in range(1, 41) if n // 10 != 1]
    assert found(app) == rest
    told = write(app, "activate", **tens)
    assert (told["done"], told["reappeared"]) == (10, 10) and found(app) == list(range(1, 41))
    write(app, "deactivate", ids=[13])
    told = write(app, "delete", **tens)
    assert (told["done"], told["vanished"]) == (10, 9) and found(app) == rest
    assert app.post("/v1/count", {"hidden": True}).json()["hidden"] == 0, "hidden items were deleted as well"
    told = write(app, "metadata", filter={"n": {"$lt": 3}}, merge={"n": None, "sale": True})
    assert told["done"] == 2 and app.get("/v1/items/1").json()["metadata"] == {"ten": 0, "sale": True}
    told = write(app, "metadata", filter={"sale": True}, replace={"new": 1}, source_version=3)
    assert told["done"] == 2 and app.get("/v1/items/2").json()["metadata"] == {"new": 1}
    told = write(app, "metadata", filter={"new": 1}, merge={"late": 1}, source_version=2)
    assert (told["done"], told["stale_ignored"]) == (0, 2)
    nothing = write(app, "delete", filter={"nothing": 1})
    assert nothing["done"] == 0 and (nothing["seq"], nothing["version"]) == (told["seq"], told["version"])


def test_a_dry_run_changes_nothing(app: HttpApp) -> None:
    before = app.get("/v1/items?limit=1").json()["seq"]
    told = write(app, "delete", filter={"ten": {"$in": [1, 2]}}, dry_run=True)
    assert told == {
        "dry_run": True,
        "matched": 20,
        "items": 40,
        "sample_ids": list(range(10, 30)),
        "needs_confirm": False,
    }
    assert write(app, "deactivate", filter={"ten": 1}, dry_run=True)["matched"] == 8
    assert write(app, "activate", filter={"ten": 1}, dry_run=True)["sample_ids"] == [11, 12]
    assert app.get("/v1/items?limit=1").json()["seq"] == before


def test_one_item_is_merged_by_its_id(app: HttpApp) -> None:
    told = write(app, "metadata", ids=[5, 99], merge={"n": None, "nest": {"a": None}})
    assert (told["upserted"], told["unknown_ids"], told["rejected"]) == (1, [99], [])
    assert app.get("/v1/items/5").json()["metadata"] == {"ten": 0, "nest": {"a": None}}
    assert write(app, "metadata", ids=[5], replace={})["upserted"] == 1
    assert app.get("/v1/items/5").json()["metadata"] == {}


def test_what_a_merge_makes_too_large_is_rejected_alone(tmp_path: Path) -> None:
    with running_app(tmp_path, {**UNBRAKED, "METADATA_BYTES_MAX": "100"}) as app:
        put(app, range(1, 4))
        put(app, [2], text="x" * 60)
        told = write(app, "metadata", ids=[1, 2, 3], merge={"more": "y" * 40})
        (rejected,) = told["rejected"]
        assert (told["upserted"], rejected["id"], rejected["code"]) == (2, 2, "metadata_too_large")
        assert rejected["loc"] == ["body", "ids", 1]
        told = write(app, "metadata", filter={"ten": 0}, merge={"more": "z" * 40})
        assert (told["done"], told["rejected_count"], told["rejected"][0]["id"]) == (2, 1, 2)
        assert write(app, "metadata", 422, ids=[1], merge={"more": "y" * 200})["errors"][0]["loc"] == [
            "body",
            "merge",
        ]


def test_the_brake_asks_for_a_confirmation(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        put(app, range(1, 41))
        assert write(app, "delete", filter={"n": {"$lte": 10}})["done"] == 10, "so few may always go"
        told = write(app, "delete", 409, filter={"n": {"$gt": 25}})
        assert told["code"] == "brake_on" and "confirm 15" in told["detail"]
        assert write(app, "deactivate", 409, filter={"n": {"$gt": 25}}, confirm=14)["code"] == "brake_on"
        assert write(app, "metadata", 409, filter={}, all_items=True, merge={"a": 1})["code"] == "brake_on"
        assert found(app) == list(range(11, 41))
        assert write(app, "delete", filter={"n": {"$gt": 25}}, dry_run=True)["needs_confirm"] is True
        assert write(app, "delete", filter={"n": {"$gt": 25}}, confirm=15)["done"] == 15
        assert write(app, "delete", filter={}, all_items=True, confirm=15)["done"] == 15
        assert found(app) == []


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("delete", {}, "ids"),
        ("delete", {"ids": [1], "filter": {"n": 1}}, "ids"),
        ("delete", {"filter": {}}, "filter"),
        ("activate", {"filter": {}, "dry_run": True}, "filter"),
        ("delete", {"filter": {"n": 1}, "all_items": True}, "all_items"),
        ("delete", {"ids": [1], "all_items": True}, "all_items"),
        ("delete", {"ids": [1], "dry_run": True}, "dry_run"),
        ("deactivate", {"ids": [1], "confirm": 1}, "confirm"),
        ("deactivate", {"filter": {"n": 1}, "confirm": -1}, "confirm"),
        ("delete", {"filter": {"n": {"$near": 1}}}, "filter"),
        ("delete", {"filter": {"n": 1}, "merge": {}}, "merge"),
        ("metadata", {"ids": [1]}, "merge"),
        ("metadata", {"ids": [1], "merge": {}, "replace": {}}, "merge"),
        ("metadata", {"ids": [1], "merge": {"a": 2**70}}, "merge"),
        ("metadata", {"filter": {"n": 1}, "replace": {"a": 1}, "source_version": 2**70}, "source_version"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(app: HttpApp, action: str, body: Any, field: str) -> None:
    answer = write(app, action, 422, **body)
    assert field in answer["errors"][0]["loc"], answer
    assert len(found(app)) == 38


class InterruptedIndex(EmbeddedIndex):
    """Does something before each write by filter; `between` gets how many there were."""

    between: Callable[[InterruptedIndex, int], None]
    writes = 0

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        if batch.only_where is not None:
            self.writes += 1
            self.between(self, self.writes)
        return super().write(collection, batch)


def interrupted(between: Callable[[InterruptedIndex, int], None]) -> Callable[..., InterruptedIndex]:
    def make(data_dir: Path, specs: Sequence[CollectionSpec]) -> InterruptedIndex:
        index = InterruptedIndex(data_dir, specs)
        index.between = between  # type: ignore[method-assign]
        return index

    return make


def test_where_it_stops_in_the_middle_it_tells_how_far_it_came(tmp_path: Path) -> None:
    def fails_third(_: InterruptedIndex, number: int) -> None:
        if number == 3:
            raise WriteFailed("the disk is gone", "df -h")

    pages = {**UNBRAKED, "UPSERT_ITEMS_MAX": "7"}
    with running_app(tmp_path, pages, interrupted(fails_third)) as app:
        for start in range(1, 29, 7):
            put(app, range(start, start + 7))
        told = write(app, "delete", 503, filter={"n": {"$gte": 5}})
        assert (told["code"], told["done"], told["matched"], told["hint"]) == (
            "write_failed",
            14,
            24,
            "df -h",
        )
        assert found(app) == [1, 2, 3, 4, *range(19, 29)]
        assert write(app, "delete", filter={"n": {"$gte": 5}})["done"] == 10, "repeating it goes on"
        assert found(app) == [1, 2, 3, 4]


def test_an_item_that_passes_no_more_when_it_is_committed_is_left_alone(tmp_path: Path) -> None:
    def saves_some(index: InterruptedIndex, _: int) -> None:
        saved = [ItemWrite(n, merge={"keep": True}) for n in (3, 4)]
        EmbeddedIndex.write(index, "recipes", WriteBatch(saved))

    with running_app(tmp_path, UNBRAKED, interrupted(saves_some)) as app:
        put(app, range(1, 6))
        told = write(app, "delete", filter={"keep": {"$exists": False}})
        assert (told["matched"], told["done"], told["passed_over"]) == (5, 3, 2)
        assert found(app) == [3, 4]
