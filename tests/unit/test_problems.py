"""Problem documents: what helps is told whole, however long the sentence before it."""

from __future__ import annotations

import orjson

from index_store.errors import StoreDamaged, Unavailable
from service.errors import ModelUnavailable
from service.http.wire.problems import problem_of

LONG = "x" * 400


def test_the_hint_is_never_cut_off() -> None:
    hint = f"python -m service models fetch {LONG}"
    for error in (ModelUnavailable(LONG, hint), StoreDamaged(LONG, hint=hint), Unavailable(LONG, hint=hint)):
        document = orjson.loads(problem_of(error).to_json("/v1/search", "r1"))
        assert document["hint"] == hint
        assert len(document["detail"]) == 300 and hint not in document["detail"]


def test_no_hint_no_field() -> None:
    assert "hint" not in orjson.loads(problem_of(ModelUnavailable("loading")).to_json("/", "r"))


def test_a_damaged_store_has_a_code_of_its_own() -> None:
    assert (problem_of(StoreDamaged("a", "b")).status, problem_of(StoreDamaged("a", "b")).code) == (
        503,
        "store_damaged",
    )
    assert problem_of(Unavailable("a", "b")).code == "store_unavailable"
