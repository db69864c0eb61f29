"""Log lines that a newcomer reads first do not look like errors."""

from __future__ import annotations

import logging

from service.observing.request_log import configure_logging


def test_builds_of_faiss_that_are_not_there_are_no_news() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info")
        assert not logging.getLogger("faiss.loader").isEnabledFor(logging.INFO)
        assert logging.getLogger("service").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
