"""How every program of the project logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What `logging` and uvicorn put into a record; the rest was given as `extra`."""

_LOGGER_NAMES = {"uvicorn.error": "uvicorn"}
"""uvicorn writes all its lines under that name: a start is no error."""


class JsonLines(logging.Formatter):
    """One line a record: `time` (UTC), `level`, `logger`, `event`, and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end. What JSON has no form for is written as `str()` shows it."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": _LOGGER_NAMES.get(record.name, record.name),
            "event": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # an integer beyond 64 bits, or half a character
            text = json.dumps(line, default=str, ensure_ascii=False)
            return text.encode(errors="backslashreplace").decode()


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller gave as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in OWN_FIELDS}
