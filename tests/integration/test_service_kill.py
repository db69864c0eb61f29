"""kill -9 of the service under concurrent HTTP upserters: what was acknowledged is there after a restart."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.listings import ItemsRequest
from index_store.types import CollectionSpec, ItemWrite, SearchRequest, WriteBatch
from tests.integration.service_process import BROKEN, Connection, ServiceProcess, listed_ids
from tests.waiting import until

CLIENTS = 32
KILLS = int(os.environ.get("SERVICE_KILLS", "8"))
WRITES = 50
"""Acknowledged in each round before its kill."""
IDS_A_CLIENT = 25
DIM = 8
ROWS = 6000
"""Of the test of a delete by filter: half of them go, 200 a commit."""
SPEC = CollectionSpec("things", "int64", DIM, "l2")
COLLECTIONS = """
[collections.things]
id_field = "id"
dim = 8
model = "none"
"""


class Upserter(threading.Thread):
    """Writes its own ids in turn; acknowledged: id -> newest source_version that got a 200, or a delete's."""

    def __init__(self, port: int, number: int, first: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._ids = [number * IDS_A_CLIENT + place for place in range(IDS_A_CLIENT)]
        self._first = first
        self.acknowledged: dict[int, tuple[int, bool]] = {}
        self.tried: list[tuple[int, int]] = []

    def run(self) -> None:
        connection = Connection(self._port)
        try:
            for step in range(10**6):
                id, version = self._ids[step % IDS_A_CLIENT], self._first + step
                is_delete = version % 7 == 0
                self.tried.append((id, version))
                if is_delete:
                    body = {"collection": "things", "ids": [id], "source_version": version}
                    status, _ = connection.post("/v1/delete", body)
                else:
                    item = {"id": id, "vector": [1.0 + version] * DIM, "source_version": version}
                    body = {"collection": "things", "items": [item], "embedding_version": "v1"}
                    status, _ = connection.post("/v1/upsert", body)
                if status == 200:
                    self.acknowledged[id] = (version, is_delete)
        except BROKEN:
            return  # killed


def run_rounds(tmp_path: Path, rounds: int) -> int:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    file = tmp_path / "collections.toml"
    file.write_text(COLLECTIONS)
    service = ServiceProcess(tmp_path / "data", {"COLLECTIONS_FILE": str(file)})
    expected: dict[int, tuple[int, bool]] = {}
    first, total = 1, 0
    tried: dict[int, set[int]] = {}
    try:
        for _ in range(rounds):
            service.start(until_ready=False)
            _wait_until_open(service)
            _check(service, expected, tried)
            clients = [Upserter(service.port, number, first) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            until(partial(_have_written, clients), f"{WRITES} writes")
            time.sleep(rng.uniform(0.0, 0.4))
            service.kill()
            for client in clients:
                client.join(timeout=60)
                expected.update(client.acknowledged)
                for id, version in client.tried:
                    tried.setdefault(id, set()).add(version)
                total += len(client.acknowledged)
            first += 1_000_000
        service.start(until_ready=False)
        _wait_until_open(service)
        _check(service, expected, tried)
    finally:
        service.kill()
    return total


def _have_written(clients: Sequence[Upserter]) -> bool:
    return sum(len(client.acknowledged) for client in clients) > WRITES


def _wait_until_open(service: ServiceProcess) -> None:
    """A collection without a model is never `ready`; it is open once it answers."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            status, _ = Connection(service.port).ask("GET", "/v1/collections")
        except BROKEN:
            status = 0
        if status == 200:
            return
        assert service.process.poll() is None, service.log.read_text()
        time.sleep(0.02)
    raise AssertionError(service.log.read_text())


def _check(
    service: ServiceProcess, expected: dict[int, tuple[int, bool]], tried: dict[int, set[int]]
) -> None:
    """An acknowledged write is there, unless a later one, whose answer was lost, took its place."""
    connection = Connection(service.port)
    gone = set()
    for id, (version, is_delete) in expected.items():
        later = {each for each in tried[id] if each > version}
        status, item = connection.ask("GET", f"/v1/items/{id}?collection=things&include=vector")
        if status == 404:
            assert is_delete or any(each % 7 == 0 for each in later), (id, version, later)
            gone.add(id)
            continue
        found = item["source_version"]
        assert found in later or (found == version and not is_delete), (id, version, found, later)
        assert item["vector"] == pytest.approx([1.0 + found] * DIM)
    status, answer = connection.post(
        "/v1/search", {"collection": "things", "vector": [1.0] * DIM, "top_k": 10_000}
    )
    assert status == 200
    live = {row["id"] for row in answer["results"]}
    assert live >= set(expected) - gone and not live & gone
    assert listed_ids(connection, "things") == sorted(live)
    connection.close()


def test_no_acknowledged_write_is_lost_by_kills(tmp_path: Path, outcome: Callable[[str], None]) -> None:
    total = run_rounds(tmp_path, KILLS)
    outcome(f"service: {KILLS} kills among {total} acknowledged writes, none lost")
    assert total > KILLS * WRITES


def test_a_kill_in_the_middle_of_a_delete_by_filter_leaves_whole_pages(tmp_path: Path) -> None:
    """What is gone is gone everywhere: from the store, from lists and from searches."""
    file, data_dir = tmp_path / "collections.toml", tmp_path / "data"
    file.write_text(COLLECTIONS)
    _fill(data_dir)
    settings = {"COLLECTIONS_FILE": str(file), "BRAKE_PERCENT": "100", "UPSERT_ITEMS_MAX": "200"}
    service = ServiceProcess(data_dir, settings)
    delete = {"collection": "things", "filter": {"kind": 1}}
    try:
        service.start(until_ready=False)
        _wait_until_open(service)
        connection = Connection(service.port)
        arguments = (service.port, "/v1/delete", delete)
        deleter = threading.Thread(target=_post_until_killed, args=arguments, daemon=True)
        deleter.start()
        count = {"collection": "things"}
        until(lambda: connection.post("/v1/count", count)[1]["count"] < ROWS, "a page")
    finally:
        service.kill()
    deleter.join(timeout=60)
    index = EmbeddedIndex(data_dir, [SPEC])
    index.open()
    left = index.item_source().list_ids("things", ItemsRequest(rows_max=2 * ROWS)).ids
    assert set(range(0, ROWS, 2)) <= set(left) and (ROWS - len(left)) % 200 == 0 and len(left) < ROWS
    (found,) = index.search("things", [SearchRequest(np.ones(DIM, np.float32), ROWS)])
    assert sorted(hit.id for hit in found.hits) == left
    index.close()


def _fill(data_dir: Path) -> None:
    index = EmbeddedIndex(data_dir, [SPEC])
    index.open()
    index.advance("things", "begin", "v1")
    vectors = np.arange(1, ROWS + 1, dtype=np.float32)[:, None] * np.ones(DIM, np.float32)
    items = [ItemWrite(n, vectors[n], metadata={"kind": n % 2}) for n in range(ROWS)]
    index.write("things", WriteBatch(items, (), "v1"))
    index.close()


def _post_until_killed(port: int, path: str, body: object) -> None:
    connection = Connection(port)
    try:
        connection.post(path, body)
    except BROKEN:
        return
