"""Log lines: an event with its fields.

The fields stand in the message too: a backend's usual format prints the message and nothing else.
"""

from __future__ import annotations

from logging import Logger
from typing import Any


def log_event(
    log: Logger, level: int, event: str, failure: BaseException | None = None, **fields: Any
) -> None:
    """Log `event name=value ...`, with the same fields as attributes of the record. failure: its traceback
    is logged with it."""
    if log.isEnabledFor(level):
        message = " ".join([event, *(f"{name}={_shown(value)}" for name, value in fields.items())])
        log.log(level, "%s", message, extra={"event": event, **fields}, exc_info=failure)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f'"{text}"' if " " in text else text
