"""SIGTERM while many callers search and write: what was accepted is answered, and it ends soon."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.types import CollectionSpec
from tests.http_app import as_base64, unit
from tests.integration.service_process import Connection, ServiceProcess
from tests.waiting import until

SEARCHERS, WRITERS = 8, 4
DRAIN_S_MAX = 30.0
"""DRAIN_S, and what a worker may take beyond it to close its files."""
DIM = 384
LOST = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
"""A connection was closed while a request was on its way to it; HTTP has no cure (docs/decisions/0098)."""


@dataclass(slots=True)
class Callers:
    """Each asks as soon as it has its answer, over one kept connection, and goes when it is refused."""

    port: int
    stopped_at: float = float("inf")
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    lost: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def search(self, number: int) -> None:
        vector = as_base64(unit(np.random.default_rng(number), DIM))
        self._ask("/v1/search", lambda _: {"collection": "recipes", "vector": vector}, lambda _: None)

    def write(self, number: int) -> None:
        def items(turn: int) -> dict[str, object]:
            return {"items": [{"recipe_id": self._id(number, turn), "text": f"국 {number} {turn}"}]}

        self._ask("/v1/upsert", items, lambda turn: self.acknowledged.append(self._id(number, turn)))

    @staticmethod
    def _id(number: int, turn: int) -> int:
        return number * 1_000_000 + turn

    def _ask(self, path: str, body: Callable[[int], object], done: Callable[[int], None]) -> None:
        connection, turn = Connection(self.port, timeout_s=60), 0
        while True:
            turn += 1
            sent_at = time.monotonic()
            try:
                status, answer = connection.post(path, body(turn))
            except ConnectionRefusedError:
                return
            except LOST as exc:
                with self._lock:
                    self.lost += 1
                    if sent_at < self.stopped_at:  # on a connection that the service had, before it was told
                        self.wrong.append(f"{path}: {exc!r}, sent {self.stopped_at - sent_at:.4f} s before")
                connection.close()
                continue
            except Exception as exc:
                self.wrong.append(f"{path}: {exc!r}")
                return
            with self._lock:
                self.answered += 1
                done(turn)
                if status != 200:
                    self.wrong.append(f"{path}: {status} {answer}")


@pytest.fixture(params=["1", "2"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceProcess]:
    running = ServiceProcess(tmp_path / "data", {"WORKERS": request.param}).start()
    yield running
    running.stop()


def test_no_accepted_request_fails_when_a_loaded_service_stops(
    service: ServiceProcess, tmp_path: Path, outcome: Callable[[str], None]
) -> None:
    callers = Callers(service.port)
    threads = [threading.Thread(target=callers.search, args=(n,)) for n in range(SEARCHERS)]
    threads += [threading.Thread(target=callers.write, args=(n,)) for n in range(1, WRITERS + 1)]
    for thread in threads:
        thread.start()
    until(lambda: callers.answered > 200 and len(callers.acknowledged) > 20, "load")
    callers.stopped_at = began = time.monotonic()
    service.process.terminate()
    assert service.process.wait(timeout=60) == 0
    took_s = time.monotonic() - began
    for thread in threads:
        thread.join(timeout=60)
    assert callers.wrong == []
    outcome(
        f"stop under load, {service.environ['WORKERS']} workers: {took_s:.2f} s, {callers.answered} answered"
        f", {callers.lost} lost on their way to a connection that had been closed"
    )
    assert took_s <= DRAIN_S_MAX
    data = tmp_path / "data"
    assert check(data) == []
    index = EmbeddedIndex(data, [CollectionSpec("recipes", "int64", DIM, "l2")])
    index.open()
    assert None not in index.get("recipes", callers.acknowledged)
    index.close()
