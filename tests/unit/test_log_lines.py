"""One form of log lines for every program, whatever stands in a field."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from log_lines.json_lines import JsonLines


def line_of(**extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "service.a", "levelname": "INFO", "msg": "said", "created": 0.5})
    vars(record).update(extra)
    text = JsonLines().format(record)
    assert "\n" not in text
    text.encode()
    found: dict[str, object] = json.loads(text)
    return found


def test_a_line_holds_time_level_logger_event_and_fields() -> None:
    assert line_of(rows=3, name_ko="갈비탕") == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "service.a",
        "event": "said",
        "rows": 3,
        "name_ko": "갈비탕",
    }


def test_the_servers_start_is_not_logged_as_an_error() -> None:
    assert line_of(name="uvicorn.error")["logger"] == "uvicorn"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**70, 2**70),
        ("half a character: \udc80", "half a character: \udc80"),
        (float("nan"), None),
        ({1: 2}, {"1": 2}),
        (Path("a/b"), "a/b"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_no_field_is_too_strange_for_a_line(value: object, shown: object) -> None:
    assert line_of(value=value)["value"] == shown


def test_an_error_brings_its_traceback() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        assert str(line_of(exc_info=sys.exc_info())["traceback"]).endswith("ValueError: wrong\n")
