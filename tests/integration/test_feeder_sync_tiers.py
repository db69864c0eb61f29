"""Each tier, on real databases and the real service: whatever writers do, the index ends up equal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from urllib.request import urlopen

import pytest

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import Service, expected_root, feeder_process, run_feeder
from tests.integration.product_shop import COLLECTIONS, ProductShop, Tier, Writers, with_environ
from tests.waiting import until

IDS = 300
WRITING_SECONDS = float(os.environ.get("FEEDER_WRITING_SECONDS", "2"))
COMBINATIONS = [(tier, items) for tier in ("log", "triggers", "poll") for items in ("postgresql", "mariadb")]
KILLED = COMBINATIONS if "FEEDER_KILLS" in os.environ else [
    ("log", "postgresql"), ("log", "mariadb"), ("triggers", "mariadb"), ("poll", "postgresql"),
]  # fmt: skip
"""Each tier and each database once; `make kills` kills in all combinations."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, COLLECTIONS)
    service.process.start()
    yield service
    service.close()


@pytest.fixture
def case(
    request: pytest.FixtureRequest, postgres: PostgresServer, mariadb: MariaDBServer, tmp_path: Path
) -> Iterator[tuple[Tier, ProductShop]]:
    tier, items = request.param
    shop = make_shop(postgres, mariadb if items == "mariadb" else None, tmp_path)
    yield tier, shop
    shop.drop()


def make_shop(postgres: PostgresServer, mariadb: MariaDBServer | None, folder: Path) -> ProductShop:
    seed = int(os.environ.get("SEED") or Random().randrange(10**6))
    print(f"SEED={seed}")
    maria_name = mariadb.create_database() if mariadb is not None else ""
    shop = ProductShop(postgres, mariadb, postgres.create_database(), maria_name, folder, seed)
    shop.create()
    shop.fill(IDS)
    return shop


def prepare(tier: Tier, shop: ProductShop, service: Service) -> dict[str, str]:
    """Import, and grant what the tier needs; return the feeder's environment."""
    environ = with_environ(shop.environ(tier), service.environ())
    if tier == "triggers":
        owner = with_environ(shop.environ(as_owner=True), service.environ())
        installed = run_feeder(owner, "install-triggers")
        assert installed.code == 0, installed.errors
    if tier != "poll":
        shop.grant("log" if tier == "log" else "triggers")
    until(lambda: service.version("products") != "", "the first generation")
    version = service.version("products")
    imported = run_feeder(environ, "import", "--trust-vectors", "--embedding-version", version)
    assert imported.code == 0, imported.errors
    return environ


def assert_equal(shop: ProductShop, service: Service, environ: dict[str, str]) -> None:
    """The feeder's own proof, and ours beside it."""
    version = service.version("products")

    def is_equal() -> bool:
        rows = [(item_id, active, as_array(data)) for item_id, (active, data) in shop.expected().items()]
        return service.client.digest("products").root == expected_root(rows, version)

    try:
        until(is_equal, "the index equals the source")
    except AssertionError:
        print(run_feeder(environ, "verify"))
        raise
    proof = run_feeder(environ, "verify")
    assert proof.code == 0, proof.output + proof.errors
    assert "products: equal as of" in proof.output


def as_array(data: bytes):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.frombuffer(data, dtype="<f4")


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler writes where each thread stands
        print(process.communicate(timeout=30)[1][-8000:])
        raise
    return errors


@pytest.mark.parametrize("case", COMBINATIONS, ids="-".join, indirect=True)
def test_writers_in_any_order_end_in_equality(case: tuple[Tier, ProductShop], service: Service) -> None:
    tier, shop = case
    environ = prepare(tier, shop, service)
    feeder = feeder_process(environ, "sync", "--log-json")
    try:
        with Writers(shop, IDS) as writers:
            time.sleep(WRITING_SECONDS)
            until(lambda: writers.commits > 20, "twenty commits")
        print(f"{writers.commits} commits, {writers.rollbacks} rollbacks")
        assert_equal(shop, service, environ)
        tiers = service.client.status()["products"].cursors["sync.tiers"]
        assert tiers == f"vectors={tier} items={tier}"
        reported = json.load(urlopen(f"{service.url}/v1/sync/status"))["collections"]["products"]
        assert reported["in_sync"] is not None and reported["as_of_ms"] > 0
    finally:
        print(end(feeder)[-3000:])
    assert feeder.returncode == 0


def tell(
    outcome: Callable[[str], None], shop: ProductShop, service: Service, what: str, environ: dict[str, str]
) -> None:
    """Wait for equality, and say at the end of the run whether it came."""
    try:
        assert_equal(shop, service, environ)
    except AssertionError:
        outcome(f"{what}: UNEQUAL, SEED={shop.seed}")
        raise
    outcome(f"{what}: equal, {service.client.digest('products').items} rows, SEED={shop.seed}")


@pytest.mark.parametrize("case", KILLED, ids="-".join, indirect=True)
def test_killed_feeders_lose_nothing(
    case: tuple[Tier, ProductShop], service: Service, outcome: Callable[[str], None]
) -> None:
    tier, shop = case
    environ = prepare(tier, shop, service)
    rng = Random(shop.seed)
    kills = int(os.environ.get("FEEDER_KILLS", "2"))
    busy = 0
    with Writers(shop, IDS) as writers:
        for _ in range(kills):
            before = seq(service)
            feeder = feeder_process(environ, "sync")
            if rng.random() < 0.75:
                until(lambda before=before: seq(service) > before, "at work")
            time.sleep(rng.random())
            end(feeder, signal.SIGKILL)
            busy += seq(service) > before
    feeder = feeder_process(environ, "sync", "--log-json")
    what = f"{tier}, items in {shop.items}: {kills} feeders killed, {busy} at work, {writers.commits} commits"
    try:
        tell(outcome, shop, service, what, environ)
    finally:
        print(end(feeder)[-3000:])


@pytest.mark.parametrize("case", KILLED, ids="-".join, indirect=True)
def test_a_killed_service_loses_nothing(
    case: tuple[Tier, ProductShop], service: Service, outcome: Callable[[str], None]
) -> None:
    tier, shop = case
    environ = prepare(tier, shop, service)
    feeder = feeder_process(environ, "sync", "--log-json")
    rng = Random(shop.seed)
    kills = int(os.environ.get("SERVICE_KILLS", "1"))
    busy = 0
    try:
        with Writers(shop, IDS) as writers:
            for _ in range(kills):
                before = seq(service)
                if rng.random() < 0.75:
                    until(lambda before=before: seq(service) > before, "written to")
                time.sleep(rng.random())
                busy += seq(service) > before
                service.process.kill()
                service.process.start()
        what = f"{tier}, items in {shop.items}: service killed {kills} times"
        what += f", {busy} of them while it was written to, {writers.commits} commits"
        tell(outcome, shop, service, what, environ)
    finally:
        print(end(feeder)[-3000:])


def seq(service: Service) -> int:
    return service.client.status()["products"].seq
