"""What the service says of a collection that it can't serve is what the feeder says, with all that helps."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from feeder.errors import ServiceDown
from feeder.sink.writer import Writer
from tests.waiting import STOP_LOOK_S
from vector_client.http import VectorClient
from vector_client.retries import Limits

REASON = "the store of 'products' is damaged: " + "x" * 300
HINT = "Run `python -m index_store restore /backups/20261127T000000Z-aa --to /data --collection products`"
BROKEN = {
    "embedding_version": "", "seq": None, "cursors": {}, "in_sync": None, "as_of_ms": None, "lag_ms": None,
    "quarantined": None, "problem": REASON, "hint": HINT,
}  # fmt: skip
SOUND = {**BROKEN, "embedding_version": "m.1", "seq": 3, "problem": None, "hint": None}
PROBLEM = {"status": 503, "code": "store_damaged", "detail": REASON[:300], "hint": HINT, "request_id": "r1"}


class Service:
    """Answers everything with one answer, as a service in that state does."""

    def __init__(self) -> None:
        self.status, self.body = 200, {}  # type: ignore[var-annotated]
        self.asked = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                data = json.dumps(service.body).encode()
                self.send_response(service.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(STOP_LOOK_S,), daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.client = VectorClient.to(url, limits=Limits(retries=3, backoff_s=0))


@pytest.fixture
def service() -> Iterator[Service]:
    built = Service()
    yield built
    built.client.close()
    built.server.shutdown()
    built.server.server_close()


def writer(service: Service) -> Writer:
    return Writer(service.client, "products", dim=4, batch_items=10, connections=1)


def test_of_one_collection_among_sound_ones(service: Service) -> None:
    service.body = {"store": "1f", "collections": {"products": BROKEN, "recipes": SOUND}}
    with pytest.raises(ServiceDown) as failure:
        writer(service).state()
    assert f"{REASON} {HINT}" in str(failure.value)
    assert service.client.status()["recipes"].problem == ""


def test_of_a_whole_answer(service: Service) -> None:
    service.status, service.body = 503, PROBLEM
    with pytest.raises(ServiceDown) as failure:
        writer(service).state()
    assert HINT in str(failure.value) and REASON[:300] in str(failure.value)
    assert service.asked == 1, "no retry mends it"
