"""Two serving processes over one data directory are as correct as one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
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
    give_up = time.monotonic() + 60  # a worker that replaces another is a process before it serves
    while len(found) < 2 and time.monotonic() < give_up:
        connection = Connection(service.port)
        connection.ask("GET", "/livez")
        worker = _worker_of(service, connection)
        if worker in found:
            spare.append(connection)
            time.sleep(0.01)
        else:
            found[worker] = connection
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


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def is_refused(port: int) -> bool:
    """Whether a new connection is refused; one that is taken must be answered."""
    try:
        connection = Connection(port, timeout_s=20)
        assert connection.ask("GET", "/livez")[0] == 200
        connection.close()
    except ConnectionRefusedError:
        return True
    return False


def begun_upsert(port: int) -> tuple[socket.socket, bytes]:
    """A write of which the last bytes are still to be sent."""
    body = json.dumps({"collection": "recipes", "items": [{"recipe_id": 1, "vector": vector_of(1)}]}).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /v1/upsert HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"  # noqa: E501
    sock.sendall(head.encode() + body[:-5])
    return sock, body[-5:]


def answer_to(sock: socket.socket) -> bytes:
    with sock, sock.makefile("rb") as stream:
        return stream.readline()


def test_workers_end_by_themselves_when_their_parent_is_killed(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "data", {"WORKERS": "2"}).start()
    workers = service.worker_ids()
    try:
        assert len(workers) == 2
        sock, rest = begun_upsert(service.port)
        idle = Connection(service.port)
        assert idle.ask("GET", "/livez")[0] == 200
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        until(lambda: is_refused(service.port))
        sock.sendall(rest)  # what was accepted is answered
        assert answer_to(sock).startswith(b"HTTP/1.1 200 ")
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
    again = ServiceProcess(tmp_path / "data", {"WORKERS": "2"}, service.port).start()
    try:
        assert nearest(Connection(again.port), 1) == [1]
    finally:
        assert again.stop() == 0


def test_a_stop_refuses_new_connections_at_once_and_finishes_what_it_accepted(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "data", {"WORKERS": "2"}).start()
    try:
        sock, rest = begun_upsert(service.port)
        service.process.terminate()
        until(lambda: is_refused(service.port))
        assert service.process.poll() is None, "it ended without the answer that it owes"
        sock.sendall(rest)
        assert answer_to(sock).startswith(b"HTTP/1.1 200 ")
    finally:
        assert service.stop() == 0
