"""A deactivated product is in no answer from the moment its change was acknowledged, whatever is killed.

Rebuild, promote and rollback can join: give `EVENTS` another function of (shop, service, feeders).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.integration.databases import PostgresServer
from tests.integration.feeding import Service, feeder_process, run_feeder
from tests.integration.product_shop import COLLECTIONS, DIM, ProductShop, with_environ
from tests.waiting import PATIENCE_S, until
from vector_client.errors import NoAnswer, Unavailable
from vector_client.types import Query

IDS = 120
ROUNDS = int(os.environ.get("NEVER_SHOWN_ROUNDS", "12"))


class Feeders:
    """One feeder process at a time."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._process: subprocess.Popen[str] = feeder_process(environ, "sync")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        self._process = feeder_process(self._environ, "sync")

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=30)


def kill_the_feeder(_service: Service, feeders: Feeders) -> None:
    feeders.kill()


def kill_the_service(service: Service, _feeders: Feeders) -> None:
    service.process.kill()
    service.process.start()


def nothing(_service: Service, _feeders: Feeders) -> None:
    """Most of the time nothing happens."""


EVENTS: tuple[Callable[[Service, Feeders], None], ...] = (nothing, kill_the_feeder, kill_the_service)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    built = Service(tmp_path, COLLECTIONS)
    built.process.start()
    yield built
    built.close()


@pytest.fixture
def shop(postgres: PostgresServer, tmp_path: Path) -> Iterator[ProductShop]:
    seed = int(os.environ.get("SEED") or Random().randrange(10**6))
    print(f"SEED={seed}")
    built = ProductShop(postgres, None, postgres.create_database(), "", tmp_path, seed)
    built.create()
    built.fill(IDS)
    yield built
    built.drop()


def shown(service: Service) -> set[str] | None:
    """Return every id that search can give, None while nobody answers."""
    query = Query(vector=np.ones(DIM, dtype="<f4").tobytes(), k=10_000, collection="products")
    with suppress(NoAnswer, Unavailable):
        return {str(hit.id) for hit in service.client.search(query).hits}
    return None


def test_what_was_acknowledged_as_inactive_is_never_shown(shop: ProductShop, service: Service) -> None:
    rng = Random(shop.seed)
    until(lambda: service.version("products") != "", "the first generation")
    owner = with_environ(shop.environ(as_owner=True), service.environ())
    assert run_feeder(owner, "install-triggers").code == 0
    shop.grant("triggers")
    environ = with_environ(shop.environ("triggers"), service.environ())
    version = service.version("products")
    assert run_feeder(environ, "import", "--trust-vectors", "--embedding-version", version).code == 0
    inactive = {f"p{number}" for number in range(IDS) if number % 7 == 0}
    answers = 0
    with closing(Feeders(environ)) as feeders, closing(shop.pg()) as db:
        until(lambda: "sync.tiers" in service.client.status()["products"].cursors, "following")
        for _ in range(ROUNDS):
            ids = rng.sample([f"p{number}" for number in range(IDS)], 5)
            back, away = [i for i in ids if i in inactive], [i for i in ids if i not in inactive]
            inactive -= set(back)  # from here on they may be shown
            db.execute("UPDATE product SET is_active = true WHERE id = ANY(%s)", (back,))
            db.execute("UPDATE product SET is_active = false WHERE id = ANY(%s)", (away,))
            rng.choice(EVENTS)(service, feeders)
            until(lambda: is_acknowledged(db), "acknowledged")
            inactive |= set(away)
            ends, wanted = time.monotonic() + 0.3, answers + 2
            while time.monotonic() < ends or answers < wanted:
                assert time.monotonic() < ends + PATIENCE_S, "no answer"
                found = shown(service)
                if found is not None:
                    answers += 1
                    assert not found & inactive
    found = shown(service)
    assert found == {f"p{number}" for number in range(IDS)} - inactive
    assert answers >= 2 * ROUNDS


def is_acknowledged(db: psycopg.Connection[Any]) -> bool:
    return db.execute("SELECT NOT EXISTS (SELECT FROM vs_dirty)").fetchone() == (True,)
