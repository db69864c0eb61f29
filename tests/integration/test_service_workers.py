"""Two serving processes over one data directory are as correct as one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import Connection, ServiceProcess, listed_ids
from tests.metrics_document import documented
from tests.waiting import until

DIM = 384
REQUESTS = 2000
LISTEN = "0A"
"""As /proc/net/tcp says it."""


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
    return {remote for state, remote in _sockets(pid, port) if state != LISTEN}


def is_listening(pid: int, port: int) -> bool:
    return any(state == LISTEN for state, _ in _sockets(pid, port))


def _sockets(pid: int, port: int) -> list[tuple[str, int]]:
    """State and remote port of each socket on `port` that the process holds."""
    inodes = set()
    with contextlib.suppress(OSError):  # the process has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                inodes |= {target[8:-1]} if target.startswith("socket:[") else set()
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local_port, remote_port = (int(end.split(":")[1], 16) for end in fields[1:3])
        if local_port == port and fields[9] in inodes:
            found.append((fields[3], remote_port))
    return found


def vector_of(number: int) -> list[float]:
    vector = [0.001] * DIM
    vector[number % DIM] = 1.0 + number / 10_000
    return vector


def nearest(connection: Connection, number: int) -> list[int]:
    return found_by(connection, {"collection": "recipes", "vector": vector_of(number), "top_k": 20})


def found_by(connection: Connection, body: dict[str, Any]) -> list[int]:
    status, answer = connection.post("/v1/search", body)
    assert status == 200, answer
    return [row["recipe_id"] for row in answer["results"]]


def write(connection: Connection, path: str, body: Any) -> Any:
    status, answer = connection.post(path, {"collection": "recipes", **body})
    assert status == 200, answer
    return answer


def listed(reader: Connection) -> list[int]:
    """Every live recipe, page by page; a count tells as many."""
    found: list[int] = listed_ids(reader, "recipes", "recipe_id", live="true")
    status, counted = reader.post("/v1/count", {"collection": "recipes"})
    assert (status, counted["count"]) == (200, len(found))
    return found


def test_what_one_worker_acknowledged_the_other_shows_in_the_next_request(service: ServiceProcess) -> None:
    workers = connections_to_both_workers(service)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    live: set[int] = set()
    inactive: set[int] = set()
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
            inactive.add(number)
        else:
            item = {"recipe_id": number, "vector": vector_of(number), "metadata": {"last": number % 10}}
            write(writer, "/v1/upsert", {"items": [item]})
            live.add(number)
            inactive.discard(number)
        stale += (number in nearest(reader, number)) != (number in live)
        if step % 40 == 0:
            assert listed(reader) == sorted(live)
    assert stale == 0
    hidden = {number for number in live if number % 10 == 3}
    body = {"filter": {"last": 3}, "confirm": 300}
    assert write(workers[0], "/v1/deactivate", body)["done"] == len(hidden)
    assert not any(number in nearest(workers[1], number) for number in hidden)
    assert listed(workers[1]) == sorted(live - hidden)
    shown = hidden | {number for number in inactive if number % 10 == 3}
    assert write(workers[1], "/v1/activate", body)["done"] == len(shown)
    assert listed(workers[0]) == sorted(live | shown)
    scrolled: list[int] = []
    for page in range(6):  # each by the other worker
        body = {"collection": "recipes", "vector": vector_of(0), "top_k": 3, "seen_key": "a session"}
        scrolled += found_by(workers[page % 2], body)
    assert scrolled == found_by(workers[0], {**body, "top_k": 18, "seen_reset": True})
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
    exposed = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    assert exposed <= set(documented("service")) and "_created" not in text
    assert {"uhok_stage_seconds", "uhok_workers", "uhok_collection_items"} < exposed
    told_once = [line for line in text.splitlines() if line.startswith("uhok_collection_seq{")]
    assert len(told_once) == len(set(told_once)) == 2, "what workers share is told once"


def is_replaced(service: ServiceProcess, worker: int) -> bool:
    now = service.worker_ids()
    return len(now) == 2 and worker not in now


def test_a_killed_worker_is_replaced_and_nothing_is_lost(service: ServiceProcess) -> None:
    first, _ = connections_to_both_workers(service)
    write(first, "/v1/upsert", {"items": [{"recipe_id": 5, "vector": vector_of(5)}]})
    before = service.worker_ids()
    os.kill(before[0], signal.SIGKILL)
    first.close()
    until(lambda: is_replaced(service, before[0]), "another worker")
    for connection in connections_to_both_workers(service):
        assert nearest(connection, 5) == [5]


def test_a_worker_that_dies_while_it_is_asked_is_replaced_at_once(service: ServiceProcess) -> None:
    victim = service.worker_ids()[0]
    os.kill(victim, signal.SIGSTOP)
    time.sleep(1.5)  # the parent asks twice a second, and has no answer now
    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: victim not in service.worker_ids() and len(service.worker_ids()) == 2)
    assert time.monotonic() - killed_at < 30, "half of what a worker may take to answer"


def test_a_killed_worker_leaves_its_counts_and_takes_its_gauges(service: ServiceProcess) -> None:
    victim, other = connections_to_both_workers(service)
    pid = _worker_of(service, victim)
    assert victim.post("/v1/search", {"query": "갈비탕"})[0] == 200
    head = b"POST /v1/upsert HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    victim.send(head + b"content-length: 9\r\n\r\n{")

    def told(name: str) -> float:
        _, text = other.ask("GET", "/metrics")
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))

    until(lambda: told("uhok_http_requests_in_flight") == 2)
    os.kill(pid, signal.SIGKILL)
    victim.close()
    until(lambda: told("uhok_worker_starts_total") == 3)
    until(lambda: told("uhok_workers") == 2)
    assert told("uhok_workers_configured") == 2
    assert told("uhok_http_requests_in_flight") == 1, "of this request alone"
    _, text = other.ask("GET", "/metrics")
    wanted = 'uhok_http_requests_total{method="POST",route="/v1/search",status="200"} 1.0'
    assert wanted in text.splitlines()


def until_refused(service: ServiceProcess, workers: list[int]) -> None:
    """Wait until no process listens. None is tried before: it might arrive as the port closes."""
    until(lambda: not any(is_listening(pid, service.port) for pid in [service.process.pid, *workers]))
    with pytest.raises(ConnectionRefusedError):
        Connection(service.port).ask("GET", "/livez")


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
        until_refused(service, workers)
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
        workers = service.worker_ids()
        sock, rest = begun_upsert(service.port)
        service.process.terminate()
        until_refused(service, workers)
        assert service.process.poll() is None, "it ended without the answer that it owes"
        sock.sendall(rest)
        assert answer_to(sock).startswith(b"HTTP/1.1 200 ")
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_connections_that_wait_to_be_accepted_are_answered_before_a_stop(
    tmp_path: Path, workers: str
) -> None:
    service = ServiceProcess(tmp_path / "data", {"WORKERS": workers}).start()
    serving = service.worker_ids()
    try:
        for worker in serving:
            os.kill(worker, signal.SIGSTOP)
        begun = [begun_upsert(service.port) for _ in range(20)]
        for sock, rest in begun[::2]:
            sock.sendall(rest)
        if workers != "1":
            time.sleep(1.5)  # the parent asks twice a second, and has no answer now
        service.process.terminate()
        if workers != "1":  # the parent tells its workers, and then gives up the port
            until(lambda: not is_listening(service.process.pid, service.port))
        for worker in serving:
            os.kill(worker, signal.SIGCONT)
        for sock, rest in begun[1::2]:
            sock.sendall(rest)
        assert {answer_to(sock)[:13] for sock, _ in begun} == {b"HTTP/1.1 200 "}
    finally:
        for worker in serving:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        assert service.stop() == 0
