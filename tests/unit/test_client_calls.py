"""Attempts, hedges, settings, and what calls say on the wire: no network."""

from __future__ import annotations

import asyncio
import base64
import math
import re
import struct
from typing import Any

import orjson
import pytest

from tests.tidy.source import read
from vector_client.async_transport import first_answer
from vector_client.errors import (
    BadAnswer,
    Disconnected,
    NoAnswer,
    NotSent,
    SettingsWrong,
    TimedOut,
    Unavailable,
    VectorClientError,
)
from vector_client.protocol import items, operations, search
from vector_client.retries import Attempts, Limits, Timing
from vector_client.settings import NAMES, ClientSettings, MoveSettings
from vector_client.types import ByFilter, Keys, Query


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def attempts(self, jitter: float = 1.0, repeats: bool = True, **limits: Any) -> Attempts:
        return Attempts(Limits(**limits), Timing(lambda: self.now, lambda: jitter), repeats)


def test_one_deadline_over_all_attempts() -> None:
    time = Time()
    attempts = time.attempts(deadline_s=3.0, retries=5, attempt_s=2.0)
    assert attempts.next_s() == 2.0
    time.now = 2.0
    assert attempts.wait_s(TimedOut("late")) == pytest.approx(0.1)
    time.now = 2.1
    assert attempts.next_s() == pytest.approx(0.9)
    time.now = 3.0
    assert attempts.wait_s(TimedOut("late")) is None, "no wait outlasts the deadline"
    with pytest.raises(TimedOut, match=r"within 3\.0 s"):
        attempts.next_s()


def test_waits_double_with_jitter_and_end() -> None:
    attempts = Time().attempts(jitter=0.5, deadline_s=60, retries=4, backoff_s=1.0, backoff_s_max=3.0)
    waits = [attempts.wait_s(NoAnswer("gone")) for _ in range(5)]
    assert waits == [0.5, 1.0, 1.5, 1.5, None]


@pytest.mark.parametrize(
    ("asked", "waits"),
    [(1.5, 1.5), (0.0, 0.1), (None, 0.1), (9.0, None)],
    ids=["yes", "0", "none", "too late"],
)
def test_retry_after_is_kept_or_the_failure_is_told_at_once(asked: float | None, waits: float | None) -> None:
    attempts = Time().attempts(deadline_s=5.0)
    assert attempts.wait_s(Unavailable(503, "overloaded", "busy", retry_after_s=asked)) == waits


def test_a_long_retry_after_is_kept_where_the_deadline_allows_it() -> None:
    attempts = Time().attempts(deadline_s=60.0, backoff_s_max=1.0)
    assert attempts.wait_s(Unavailable(503, "overloaded", "busy", retry_after_s=30.0)) == 30.0


def test_a_broken_connection_is_replaced_once_for_free() -> None:
    attempts = Time().attempts(deadline_s=5.0, retries=0)
    assert attempts.wait_s(Disconnected("closed")) == 0.0
    assert attempts.wait_s(Disconnected("closed")) is None


def test_silence_of_a_write_is_final() -> None:
    assert Time().attempts(repeats=False).wait_s(TimedOut("late")) is None


def hedged(
    first: tuple[float, Any], second: tuple[float, Any], allowed: bool = True
) -> tuple[Any, list[str]]:
    """Race two scripted answers (after how many steps, what); return the winner and what happened."""
    told: list[str] = []
    scripts = iter([first, second])

    async def ask(_: float) -> Any:
        number = len([each for each in told if each.startswith("asked")])
        told.append(f"asked {number}")
        after_s, answer = next(scripts)
        try:
            await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            told.append(f"cancelled {number}")
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    return asyncio.run(first_answer(ask, 0.02, lambda: allowed)), told


def test_a_hedge_wins_and_the_slow_request_ends() -> None:
    assert hedged((60, "slow"), (0.0, "quick")) == ("quick", ["asked 0", "asked 1", "cancelled 0"])


def test_no_hedge_without_need_or_leave() -> None:
    assert hedged((0.0, "quick"), (0.0, "never")) == ("quick", ["asked 0"])
    assert hedged((0.05, "first"), (0.0, "never"), allowed=False) == ("first", ["asked 0"])


@pytest.mark.long
def test_a_failed_hedge_does_not_decide() -> None:
    answer, _ = hedged((0.2, "first"), (0.0, NoAnswer("gone")))
    assert answer == "first"
    with pytest.raises(NoAnswer):
        hedged((0.1, NoAnswer("gone")), (0.0, NoAnswer("gone")))


def test_the_environment_is_read_as_a_whole() -> None:
    settings = MoveSettings.from_env(
        {"ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_INFERENCE_URL": "http://ml:8080",
         "ML_TIMEOUT": "1.5", "ML_RETRIES": "1", "ML_ROLLOUT_PERCENT": "10", "SEARCH_API_KEY": "new, old"}
    )  # fmt: skip
    assert (settings.mode, settings.fallback_mode, settings.rollout_percent) == ("remote_store", "db", 10)
    assert settings.client.limits.deadline_s == 1.5
    assert settings.client.limits.retries == 1
    assert settings.client.keys.search == "new"


def test_without_a_word_the_backend_stays_as_it_is() -> None:
    settings = MoveSettings.from_env({})
    assert (settings.mode, settings.fallback_mode) == ("db", None)
    assert settings.client.limits.deadline_s == 3.0
    assert settings.client.limits.retries == 2


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsWrong) as failure:
        MoveSettings.from_env(
            {"ML_MODE": "remote", "ML_TIMEOUT": "soon", "ML_RETRIES": "-1", "ML_INFERENCE_URL": "ml:8080",
             "ML_ROLLOUT_PERCENT": "10"}
        )  # fmt: skip
    for name in ("ML_MODE", "ML_TIMEOUT", "ML_RETRIES", "ML_INFERENCE_URL", "ML_FALLBACK_MODE"):
        assert name in str(failure.value)
    with pytest.raises(SettingsWrong, match="ML_TIMEOUT"):
        ClientSettings.from_env({"ML_TIMEOUT": "nan"})


def test_a_slip_of_the_pen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    MoveSettings.from_env(
        {"ML_ROLLOUT_PERCNT": "10", "ML_MODELL_CACHE": "/x", "ML_TIMEOUT": "2", "PATH": "/bin"}
    )
    assert [record.getMessage() for record in caplog.records] == [
        "unknown_variable variable=ML_ROLLOUT_PERCNT meant=ML_ROLLOUT_PERCENT"
    ]


def test_every_variable_that_is_read_is_known_and_in_the_readme() -> None:
    readme = read("vector_client/README.md")
    named = set(re.findall(r'"(ML_[A-Z0-9_]+)"', read("vector_client/settings.py")))
    assert named == NAMES
    short = {"ML_STEP_BACK_WINDOW_S": "_WINDOW_S", "ML_STEP_BACK_REST_S": "_REST_S"}
    assert not {name for name in NAMES if f"`{short.get(name, name)}`" not in readme}


def test_vectors_go_as_float32_in_base64() -> None:
    for vector in ([1.0, -0.5], struct.pack("<2f", 1.0, -0.5)):
        body = orjson.loads(search.search(Query(vector=vector), Keys()).body or b"")
        assert struct.unpack("<2f", base64.b64decode(body["vector"])) == (1.0, -0.5)


def test_an_answer_by_words_alone_has_no_distances() -> None:
    answer = {"results": [{"recipe_id": 7, "score": 0.4}], "mode": "lexical", "embedding_version": "v"}
    call = search.search(Query(text="a", more={"mode": "lexical"}), Keys())
    found = call.read({**answer, "seq": 1, "exhausted": True})
    (hit,) = found.hits
    assert (hit.id, hit.score) == (7, 0.4) and math.isnan(hit.distance)


def test_fields_that_this_package_does_not_know_are_passed_on() -> None:
    call = search.search(Query(text="a", include=["score"], more={"mode": "hybrid"}), Keys())
    assert orjson.loads(call.body or b"") == {
        "query": "a",
        "top_k": 25,
        "include": ["score"],
        "mode": "hybrid",
    }
    answer = b'{"results":[{"product_id":"007","distance":0.5,"score":0.9}],"embedding_version":"m",' \
        b'"seq":1,"exhausted":true,"warnings":["w"]}'  # fmt: skip
    found = call.answer(200, {}, answer)
    assert (found.hits[0].id, found.hits[0].score) == ("007", 0.9)
    assert found.more == {"warnings": ["w"]}


def test_a_query_may_want_likely_hits_only() -> None:
    call = search.search(Query(text="a", include=["confidence"], min_confidence=0.5), Keys())
    body = orjson.loads(call.body or b"")
    assert (body["min_confidence"], body["include"]) == (0.5, ["confidence"])
    about = {"embedding_version": "v", "seq": 1, "exhausted": True}
    found = call.read({"results": [{"confidence": 0.7, "recipe_id": 7, "distance": 0.5}], **about})
    assert (found.hits[0].id, found.hits[0].confidence, found.no_good_match) == (7, 0.7, False)
    nothing = call.read({"results": [], "no_good_match": True, **about})
    assert nothing.no_good_match and not nothing.hits and not nothing.more


def test_only_who_says_so_changes_every_item() -> None:
    """A filter may be empty by accident; the service refuses it then."""
    body = items.change_by_filter(ByFilter("recipes", "delete", {}), Keys()).body
    assert body is not None and "all_items" not in orjson.loads(body)
    body = items.change_by_filter(ByFilter("recipes", "delete", {}, all_items=True), Keys()).body
    assert body is not None and orjson.loads(body)["all_items"] is True


@pytest.mark.parametrize("status", [200, 301, 307, 404, 431, 500, 503])
@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"{", b'{"results": 3}', b'"x"', b"null", b"\xff"])
def test_any_answer_is_an_answer_or_one_typed_error(status: int, data: bytes) -> None:
    calls = [
        search.search(Query(text="a"), Keys()), search.search_batch([Query(text="a")], Keys()),
        search.embed("a", None, "query", Keys()), search.search_similar(b"x", 3, Keys()),
        items.item(5, None, False, Keys()), items.items(items.Listing("recipes"), Keys()),
        items.change_metadata("recipes", [1], {"a": None}, Keys(), merges=True),
        items.change_by_filter(ByFilter("recipes", "delete", {}), Keys()),
        items.count("recipes", None, Keys()), items.facets("recipes", None, None, 3, Keys()),
        items.change_ids("delete", "recipes", [1], Keys()), operations.status(Keys()),
        operations.generations("recipes", Keys()), operations.jobs(Keys()), operations.job("1", Keys()),
        operations.digest("recipes", Keys()), operations.digest_rows("recipes", [1], Keys()),
        operations.differing("recipes", bytes(8), 0, Keys()),
    ]  # fmt: skip
    for call in calls:
        try:
            answer = call.answer(status, {}, data)
        except VectorClientError:
            continue
        assert (status, data, answer) == (200, b"[]", []), f"{call.path} took it for an answer"
    with pytest.raises((BadAnswer, VectorClientError)):
        operations.health().answer(status, {}, data)


def test_a_recommendation_says_how() -> None:
    query = Query(
        like_ids=[1, 2], unlike_ids=[3], recommend="each", like_weights=[2.0, 1.0], k=5, seen_key="s"
    )
    sent = orjson.loads(search.search(query, Keys()).body or b"")
    assert sent == {
        "like_ids": [1, 2],
        "unlike_ids": [3],
        "recommend": "each",
        "like_weights": [2.0, 1.0],
        "seen_key": "s",
        "top_k": 5,
    }
    row = {"recipe_id": 7, "distance": 0.5, "why": {"like_id": 2}}
    answer = {"results": [row], "embedding_version": "v", "seq": 1, "exhausted": True}
    assert search.search(query, Keys()).read(answer).hits[0].why == {"like_id": 2}


def test_what_ranks_a_search_is_sent_as_it_is_and_a_score_comes_back() -> None:
    boost = ({"weight": 0.1, "decay": {"key": "price", "origin": 9900, "scale": 3000}},)
    query = Query(
        text="갈비",
        boost=boost,
        group_by={"key": "seller", "max": 2},
        collapse={"distance": 0.1},
        diversity=0.3,
        pool=100,
    )
    call = search.search(query, Keys())
    assert orjson.loads(call.body or b"") == {
        "query": "갈비",
        "top_k": 25,
        "boost": list(boost),
        "group_by": {"key": "seller", "max": 2},
        "collapse": {"distance": 0.1},
        "diversity": 0.3,
        "pool": 100,
    }
    row = {"product_id": 7, "distance": 0.4, "score": 1.1}
    found = call.read({"results": [row], "embedding_version": "v", "seq": 3, "exhausted": True})
    assert (found.hits[0].id, found.hits[0].distance, found.hits[0].score) == (7, 0.4, 1.1)
    with pytest.raises(NotSent):
        search.search(Query(text="갈비", boost=[{"weight": math.nan, "if": {}}]), Keys())
