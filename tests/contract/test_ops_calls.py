"""`python -m service promote`: a report that is still being made is waited for, and told."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.ops.calls import main

UNDER_WAY = {
    "code": "report_under_way",
    "detail": "The report is being made, 40 of 300 queries are compared.",
}
DONE = {"generations": [{"role": "current", "generation": "g000002", "embedding_version": "v2", "live": 30}]}


@pytest.fixture
def answers() -> list[tuple[int, dict[str, Any]]]:
    return []


@pytest.fixture
def url(answers: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """A service that gives these answers, one after the other."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, document = answers.pop(0)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_promotion_waits_for_its_report_and_says_so(
    url: str, answers: list[tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += [(503, UNDER_WAY), (503, UNDER_WAY), (200, DONE)]
    slept: list[float] = []
    assert main(["promote", "recipes", "--url", url], {}, slept.append) == 0
    told = capsys.readouterr()
    assert told.err.count("40 of 300 queries") == 2 and "current  g000002" in told.out
    assert len(slept) == 2


def test_what_is_refused_is_told_with_what_helps(
    url: str, answers: list[tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {
        "code": "promote_conflict",
        "detail": "a gate does not hold",
        "hint": "python -m service report x",
    }
    answers += [(409, refused)]
    assert main(["promote", "recipes", "--url", url], {}) == 1
    assert (
        "409 promote_conflict: a gate does not hold Try: python -m service report x"
        in capsys.readouterr().err
    )
