"""What an operator reads: `feeder status`, and the lines that say how changes are followed."""

from __future__ import annotations

import json
import logging

import pytest

from feeder.follow.tiers import TierLog
from feeder.load.import_cursor import ImportCursor
from feeder.sink.brake import BrakeWindow
from feeder.status import as_json, as_text, followed_apart, status_of
from feeder.telemetry.reporting import by_reason
from vector_client.types import CollectionState, Generation

NOW_S = 1_800_000_000.0


def window() -> str:
    found = BrakeWindow(3600, lambda: NOW_S)
    found.note_vanished(12)
    return found.as_cursor()


CURSORS = {
    "sync.tiers": "vectors=log items=triggers",
    "sync.report": '{"equal": true, "as_of_ms": 1799999990000, "lag_ms": 41.5, "quarantined": 1}',
    "sync.brake": '{"why": "570 of 3,000 items would vanish", "hint": "run reconcile",'
    ' "since_ms": 1799999995000}',
    "sync.vanished": window(),
    "sync.vectors": '{"server": "x", "lsn": "0/1"}',
    "import": ImportCursor("t", 9, "m.1", 3000, done=True).to_json(),
}


def test_a_generation_that_is_followed_apart_is_told_apart() -> None:
    generations = [
        Generation("g1", "current", "m.1", 9, 9, 7, CURSORS),
        Generation("g2", "next", "m.2", 9, 4, 3, {"import": ImportCursor("t", 9, "m.2", 40).to_json()}),
        Generation("g3", "former", "m.0", 9, 4, 3),
    ]
    state = CollectionState("products", "m.1", 7, CURSORS, "1f", generations=generations)
    ((role, other),) = followed_apart(state)
    text = as_text(status_of(other, {}, 3600, lambda: NOW_S, role))
    assert text.startswith("products (next): holds m.2\n")
    assert "import       40 rows, not finished: run `import` again" in text
    assert json.loads(as_json(status_of(other, {}, 3600, lambda: NOW_S, role)))["role"] == "next"


def test_people_get_sentences_and_programs_all_of_it() -> None:
    status = status_of(
        CollectionState("products", "m.1", 7, CURSORS, "1f"), {"p3": "a zero"}, 3600, lambda: NOW_S
    )
    text = as_text(status)
    for line in (
        "products: serves m.1",
        "followed     vectors by log, items by triggers",
        "compared     equal as of 2027-01-15T07:59:50+00:00",
        "last change  there after 42 ms",
        "brake        HOLDS since 2027-01-15T07:59:55+00:00: 570 of 3,000 items would vanish",
        "             run reconcile",
        "vanished     12 items lately",
        "import       3,000 rows, finished",
        "quarantined  1",
        "p3: a zero",
    ):
        assert line in text
    assert "{" not in text and "lsn" not in text
    body = json.loads(as_json(status))
    assert body["tiers"] == {"vectors": "log", "items": "triggers"} and body["cursors"] == CURSORS
    assert body["vanished"] == 12 and body["brake_since_ms"] == 1799999995000
    assert body["quarantined"] == {"p3": "a zero"} and body["store"] == "1f"


def test_a_collection_that_cannot_be_served_says_why_and_what_helps() -> None:
    state = CollectionState(
        "x", None, 0, problem="page 7 is damaged. python -m index_store restore --to /data"
    )
    assert "problem      page 7 is damaged. python -m index_store restore --to /data" in as_text(
        status_of(state, {}, 3600, lambda: NOW_S)
    )


def test_a_new_collection_says_so() -> None:
    text = as_text(status_of(CollectionState("new", None, 0), {}, 3600, lambda: NOW_S))
    assert "serves nothing yet" in text and "followed     never" in text and "brake        off" in text


@pytest.mark.parametrize("name", list(CURSORS))
@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"'])
def test_what_another_program_wrote_says_nothing(name: str, text: str) -> None:
    as_text(status_of(CollectionState("x", "m.1", 1, {**CURSORS, name: text}), {}, 3600, lambda: NOW_S))


def test_many_quarantined_are_not_all_printed() -> None:
    quarantined = dict.fromkeys(range(500), "no picture")
    status = status_of(CollectionState("x", "m.1", 1), quarantined, 3600, lambda: NOW_S)
    assert len(as_text(status).splitlines()) < 40 and "480 more" in as_text(status)
    assert len(json.loads(as_json(status))["quarantined"]) == 500


def test_the_tier_and_its_freshness_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tiers = TierLog("products", 50, 200, 300)
    for _ in range(3):  # a database that is down and comes back is no news
        tiers.log_tier("vectors", "log")
        tiers.log_tier("items", "poll")
    tiers.log_tier("items", "triggers")
    said = [(r.levelname, r.side, r.tier, r.freshness) for r in caplog.records]  # type: ignore[attr-defined]
    assert [each[:3] for each in said] == [
        ("INFO", "vectors", "log"), ("WARNING", "items", "poll"), ("INFO", "items", "triggers"),
    ]  # fmt: skip
    assert "50 ms" in said[0][3] and "300 s" in said[1][3] and "install-triggers" in said[1][3]


def test_reasons_are_counted_without_the_address() -> None:
    assert by_reason(
        {1: "https://img.example/1: gone", 2: "https://img.example/22: gone", 3: "no vector"}
    ) == [
        ("gone", [1, 2]),
        ("no vector", [3]),
    ]
