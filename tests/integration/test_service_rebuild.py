"""A model change on a service under load: several workers, kill -9 at any step, and the command line."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import command_of
from index_store.maintenance.check import check
from service.observing.processes import process_tree
from tests.integration.service_process import BROKEN, ROOT, Connection, ServiceProcess

ITEMS = 600
WAIT_S_MAX = 100
OLD, NEW = "builtin:hashed-ngrams", "builtin:placeholder"
SEED = 20_261_128


def text_of(number: int, version: int) -> str:
    """By both models only an equal text is found at 0: numbers that change places give other n-grams."""
    return f"상품{number} 판본{version}호"


class Shop:
    """What a caller knows to be stored: the version of each recipe's text, and who is inactive or deleted."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._lock = threading.Lock()
        self.versions: dict[int, int] = {}
        self.hidden: set[int] = set()
        self.unsure: set[int] = set()
        self.failures: list[str] = []

    def fill(self) -> None:
        connection = Connection(self._service.port)
        for start in range(0, ITEMS, 300):
            items = [{"recipe_id": n, "text": text_of(n, 0)} for n in range(start, start + 300)]
            assert connection.post("/v1/upsert", {"items": items})[0] == 200
        self.versions = dict.fromkeys(range(ITEMS), 0)

    def write(self, chance: random.Random, connection: Connection) -> None:
        """One change of one recipe; what is not acknowledged may or may not be stored."""
        number = chance.randrange(ITEMS)
        with self._lock:
            if number in self.unsure:
                return
            self.unsure.add(number)
            version = self.versions.get(number, 0) + 1
        kind = chance.choice(("text", "text", "text", "deactivate", "delete"))
        if kind == "text":
            item = {"recipe_id": number, "text": text_of(number, version), "active": True}
            path, body = "/v1/upsert", {"items": [item]}
        else:
            path, body = f"/v1/{kind}", {"collection": "recipes", "ids": [number]}
        status, answer = connection.post(path, body)
        if status != 200:
            self.failures.append(f"{path}: {status} {answer}")
            return
        with self._lock:
            self.unsure.discard(number)
            if kind == "text":
                self.versions[number] = version
                self.hidden.discard(number)
            else:
                self.hidden.add(number)

    def look(self, chance: random.Random, connection: Connection) -> None:
        """One search for a text that is stored: it is found, or hidden, and nothing hidden is shown."""
        number = chance.randrange(ITEMS)
        with self._lock:
            version, before = self.versions[number], number in self.unsure
            is_hidden = number in self.hidden
            surely_hidden = self.hidden - self.unsure
        query = {"query": text_of(number, version), "top_k": 5}
        status, answer = connection.post("/v1/search", query)
        if status != 200:
            self.failures.append(f"search: {status} {answer}")
            return
        ids = [hit["recipe_id"] for hit in answer["results"]]
        with self._lock:
            was_touched = before or number in self.unsure or self.versions[number] != version
            was_touched |= is_hidden != (number in self.hidden)
            shown = surely_hidden & self.hidden & set(ids) - self.unsure
        if not was_touched and not is_hidden and (not ids or ids[0] != number):
            self.failures.append(f"{number} not found first under {answer['embedding_version']}: {ids}")
        if shown:
            self.failures.append(f"hidden ones shown: {shown}")

    def repeat_unsure(self) -> None:
        """What a caller does whose write was not acknowledged: it may be in one generation and not in another
        until it is repeated."""
        connection = Connection(self._service.port)
        for number in sorted(self.unsure):
            version = self.versions[number] + 2
            item = {"recipe_id": number, "text": text_of(number, version), "active": True}
            status, answer = connection.post("/v1/upsert", {"items": [item]})
            assert status == 200, answer
            self.versions[number] = version
            self.hidden.discard(number)
        self.unsure.clear()

    def differences(self, version: str) -> list[str]:
        """What the serving generation holds otherwise than was acknowledged."""
        connection, found = Connection(self._service.port), []
        asked = [number for number in range(ITEMS) if number not in self.unsure]
        for start in range(0, len(asked), 100):
            some = asked[start : start + 100]
            queries = [{"query": text_of(number, self.versions[number]), "top_k": 1} for number in some]
            body = {"searches": [{**query, "embedding_version": version} for query in queries]}
            status, answer = connection.post("/v1/search-batch", body)
            assert status == 200, answer
            for number, told in zip(some, answer["responses"], strict=True):
                ids = [hit["recipe_id"] for hit in told["results"] if hit["distance"] < 1e-3]
                if ids != ([] if number in self.hidden else [number]):
                    found.append(f"{number}: {ids}, hidden: {number in self.hidden}")
        return found


class Load:
    """Threads that write and search until they are stopped; a service that is down is waited for."""

    def __init__(self, shop: Shop, service: ServiceProcess, threads: int = 3) -> None:
        self._shop = shop
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        chance = random.Random(SEED + number)
        connection = Connection(self._service.port)
        while not self._stop.is_set():
            try:
                self._shop.write(chance, connection)
                self._shop.look(chance, connection)
            except BROKEN:  # killed under us
                time.sleep(0.05)
                connection = Connection(self._service.port)
            time.sleep(0.005)


@pytest.fixture(params=["1", "2"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    environ = {"TEXT_MODEL": NEW, "WORKERS": request.param, "REBUILD_SEARCH_MS_MAX": "2000"}
    first = ServiceProcess(tmp_path / "data", {"TEXT_MODEL": OLD}).start()
    try:
        Shop(first).fill()
    finally:
        assert first.stop() == 0
    service = ServiceProcess(tmp_path / "data", environ, first.port).start()
    yield service
    assert service.stop() == 0
    assert check(tmp_path / "data") == []


def shop_of(service: ServiceProcess) -> Shop:
    shop = Shop(service)
    shop.versions = dict.fromkeys(range(ITEMS), 0)
    return shop


def until(found: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            if answer := found():
                return answer
        except BROKEN:
            pass
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.1)


def ended(service: ServiceProcess, job: str) -> None:
    """Wait until the job is ready; any other end is told at once."""
    told: dict[str, Any] = {}

    def is_over() -> bool:
        told.update(Connection(service.port).ask("GET", f"/v1/jobs/{job}")[1])
        return told["state"] not in ("queued", "running")

    try:
        until(is_over)
    finally:
        assert told.get("state") == "ready", (told, service.log.read_text()[-3000:])


def command(service: ServiceProcess, *words: str) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{service.port}"
    return subprocess.run(
        [sys.executable, "-m", "service", *words, "--url", url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )


def taken(service: ServiceProcess, step: str) -> dict[str, Any]:
    """Take a step beside writes; one that is refused because they are under way is asked for again."""
    told: dict[str, Any] = {}

    def is_taken() -> bool:
        status, answer = Connection(service.port).post(f"/v1/{step}", {"collection": "recipes"})
        told.update(answer)
        assert status == 200 or answer["code"] == "promote_conflict", answer
        return bool(status == 200)

    until(is_taken)
    return told


def generations(service: ServiceProcess) -> dict[str, dict[str, Any]]:
    _, told = Connection(service.port).ask("GET", "/v1/collections/recipes/generations")
    return {each["role"]: each for each in told["generations"]}


def both_equal(service: ServiceProcess, shop: Shop) -> None:
    """The current generation is what was acknowledged, and the other ones wait for nothing."""
    until(lambda: all(each["awaiting"] == 0 for each in generations(service).values()))
    told = generations(service)
    assert len({each["live"] for each in told.values()}) == 1, told
    assert shop.differences(told["current"]["embedding_version"]) == []


def answered_at_once(service: ServiceProcess, version: str) -> None:
    """By every worker, each of which gets some of the connections, right after a step."""
    for number in range(12):
        connection = Connection(service.port)
        status, answer = connection.post("/v1/search", {"query": text_of(number, 9), "top_k": 1})
        assert (status, answer["embedding_version"]) == (200, version)
        connection.close()


def same_report_from_every_worker(service: ServiceProcess) -> None:
    """It was made by one of them; the command shows it and its exit code says that the gates hold."""
    path = "/v1/collections/recipes/generations/next/report"
    told = [Connection(service.port).ask("GET", path) for _ in range(8)]
    assert {status for status, _ in told} == {200}, told
    assert len({report["timing"]["made_at"] for _, report in told}) == 1
    shown = command(service, "report", "recipes")
    assert shown.returncode == 0 and "holds  known_item_loss_max" in shown.stdout, shown


def test_rebuild_promote_and_roll_back_under_load(service: ServiceProcess) -> None:
    shop = shop_of(service)
    dry = command(service, "rebuild", "recipes", "--dry-run")
    assert dry.returncode == 0 and "600 of 600 items" in dry.stdout and "It fits." in dry.stdout, dry
    with Load(shop, service):
        done = command(service, "rebuild", "recipes")
        assert done.returncode == 0 and "ready" in done.stdout, done
        same_report_from_every_worker(service)
        for step in ("promote", "rollback", "rollback"):
            told = taken(service, step)
            answered_at_once(service, told["generations"][0]["embedding_version"])
            time.sleep(0.5)  # of writes and searches under it
    assert shop.failures == []
    both_equal(service, shop)
    assert command(service, "rollback", "recipes").returncode == 0
    both_equal(service, shop)
    assert "ready" in command(service, "jobs").stdout
    refused = command(service, "promote", "recipes")
    assert refused.returncode == 1 and "promote_conflict" in refused.stderr


def test_killed_at_every_step_the_job_resumes(service: ServiceProcess) -> None:
    """kill -9 of everything, again and again: old or new, never between, and the job goes on by itself."""
    chance = random.Random(SEED)
    shop = shop_of(service)
    with Load(shop, service):
        status, answer = Connection(service.port).post("/v1/rebuild", {"collection": "recipes"})
        assert status == 202, answer
        job = answer["job"]["id"]
        for _ in range(4):
            time.sleep(chance.uniform(0.1, 2.5))
            service.kill()
            service.start()
        ended(service, job)
    assert [each for each in shop.failures if "'starting'" not in each] == []
    shop.repeat_unsure()
    both_equal(service, shop)
    assert command(service, "promote", "recipes").returncode == 0
    service.kill()
    service.start()
    both_equal(service, shop)
    assert command(service, "rollback", "recipes").returncode == 0
    both_equal(service, shop)


def test_a_killed_process_hands_its_job_on(service: ServiceProcess) -> None:
    """Each worker of several, and twice the process that does the job."""
    workers = service.worker_ids()
    shop = shop_of(service)
    status, answer = Connection(service.port).post("/v1/rebuild", {"collection": "recipes"})
    assert status == 202, answer
    job = f"/v1/jobs/{answer['job']['id']}"
    for worker in workers if len(workers) > 1 else ():
        time.sleep(1)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(service.worker_ids()) == len(workers))
    killed: set[int] = set()

    def is_killed_twice_or_done() -> bool:
        for process in set(job_processes(service)) - killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            killed.add(process)
        return len(killed) >= 2 or Connection(service.port).ask("GET", job)[1]["state"] == "ready"

    until(is_killed_twice_or_done)
    ended(service, answer["job"]["id"])
    until(lambda: not job_processes(service))
    assert command(service, "promote", "recipes").returncode == 0
    both_equal(service, shop)


def job_processes(service: ServiceProcess) -> list[int]:
    """The processes that do jobs, below the workers."""
    return [each for each in process_tree(service.process.pid) if b"do-jobs" in command_of(each)]
