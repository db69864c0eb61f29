"""Two serving processes over one data directory are as correct as one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import Connection, ServiceProcess

DIM = 384
REQUESTS = 2000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    running = ServiceProcess(tmp_path / "data", {"WORKERS": "2", "LOG_LEVEL": "info"}).start()
    try:
        yield running
    finally:
        assert running.stop() == 0


def connections_to_both_workers(service: ServiceProcess) -> list[Connection]:
    """One keep-alive connection to each worker."""
    found: dict[int, Connection] = {}
    spare: list[Connection] = []
    for _ in range(200):
        connection = Connection(service.port)
        connection.ask("GET", "/livez")
        worker = _worker_of(service, connection)
        if worker in found:
            spare.append(connection)
        else:
            found[worker] = connection
        if len(found) == 2:
            break
    for connection in spare:
        connection.close()
    assert len(found) == 2, "the kernel gave every connection to one worker"
    return list(found.values())


def _worker_of(service: ServiceProcess, connection: Connection) -> int:
    """The process that holds the other end of the connection's socket."""
    local = connection.local_port()
    for pid in service.worker_ids():
        if local in _remote_ports(pid, service.port):
            return pid
    raise AssertionError("no worker holds the connection")


def _remote_ports(pid: int, port: int) -> set[int]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    remote = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local_port, remote_port = (int(end.split(":")[1], 16) for end in fields[1:3])
        if local_port == port and fields[9] in inodes:
            remote.add(remote_port)
    return remote


def vector_of(number: int) -> list[float]:
    vector = [0.001] * DIM
    vector[number % DIM] = 1.0 + number / 10_000
    return vector


def nearest(connection: Connection, number: int) -> list[int]:
    body = {"collection": "recipes", "vector": vector_of(number), "top_k": 20}
    status, answer = connection.post("/v1/search", body)
    assert status == 200, answer
    return [row["recipe_id"] for row in answer["results"]]


def write(connection: Connection, path: str, body: Any) -> Any:
    status, answer = connection.post(path, {"collection": "recipes", **body})
    assert status == 200, answer
    return answer


def test_what_one_worker_acknowledged_the_other_shows_in_the_next_request(service: ServiceProcess) -> None:
    workers = connections_to_both_workers(service)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    live: set[int] = set()
    stale = 0
    for step in range(REQUESTS // 2):
        writer, reader = workers if step % 2 else reversed(workers)
        number = rng.randrange(300)
        choice = rng.random()
        if number in live and choice < 0.4:
            write(writer, "/v1/delete", {"ids": [number]})
            live.discard(number)
        elif number in live and choice < 0.6:
            write(writer, "/v1/deactivate", {"ids": [number]})
            live.discard(number)
        else:
            write(writer, "/v1/upsert", {"items": [{"recipe_id": number, "vector": vector_of(number)}]})
            live.add(number)
        stale += (number in nearest(reader, number)) != (number in live)
    assert stale == 0
    for connection in workers:
        status, health = connection.ask("GET", "/health")
        assert status == 200 and health["ready"]


def test_metrics_are_summed_over_both_workers(service: ServiceProcess) -> None:
    workers = connections_to_both_workers(service)
    for connection in workers * 5:
        assert connection.post("/v1/search", {"query": "갈비탕"})[0] == 200
    for connection in workers:
        _, text = connection.ask("GET", "/metrics")
        wanted = 'uhok_http_requests_total{method="POST",route="/v1/search",status="200"}'
        counts = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)]
        assert counts == [10.0]


def test_a_killed_worker_is_replaced_and_nothing_is_lost(service: ServiceProcess) -> None:
    first, _ = connections_to_both_workers(service)
    write(first, "/v1/upsert", {"items": [{"recipe_id": 5, "vector": vector_of(5)}]})
    before = service.worker_ids()
    os.kill(before[0], signal.SIGKILL)
    first.close()
    give_up = time.monotonic() + 60
    while len(service.worker_ids()) < 2 or before[0] in service.worker_ids():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    for connection in connections_to_both_workers(service):
        assert nearest(connection, 5) == [5]
