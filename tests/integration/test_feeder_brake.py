"""The brake as an operator meets it: a mass delete that `sync` follows, a restart, and the way on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.databases import PostgresServer
from tests.integration.feeding import Service, feeder_process, run_feeder
from tests.integration.product_shop import COLLECTIONS, ProductShop
from tests.integration.test_feeder_sync_tiers import assert_equal, end, make_shop, prepare
from tests.waiting import until

LOST, SHOP = (
    "DELETE FROM product WHERE id IN (SELECT id FROM product WHERE is_active ORDER BY id LIMIT 57)",
    300,
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, COLLECTIONS)
    service.process.start()
    yield service
    service.close()


@pytest.fixture
def shop(postgres: PostgresServer, tmp_path: Path) -> Iterator[ProductShop]:
    shop = make_shop(postgres, None, tmp_path)
    yield shop
    shop.drop()


@pytest.mark.parametrize("tier", ["triggers", "log"])
def test_a_followed_mass_delete_is_held_until_it_is_forced(
    shop: ProductShop, service: Service, tier: str
) -> None:
    environ = prepare(tier, shop, service) | {"FEEDER_BRAKE_PERCENT": "5"}  # type: ignore[arg-type]
    feeder = feeder_process(environ, "sync", "--log-json")
    until(lambda: "sync.report" in cursors(service), "the first comparison")
    shop.item("DELETE FROM product WHERE id = 'p1'")
    until(lambda: service.client.digest("products").items == SHOP - 1, "one is followed")
    shop.item(LOST)
    until(lambda: bool(cursors(service).get("sync.brake")), "the brake")
    errors = end(feeder)
    said = [json.loads(line) for line in errors.splitlines()]
    assert any(line["event"] == "sync_interrupted" and line["kind"] == "BrakeOn" for line in said)
    assert service.client.digest("products").items == SHOP - 1

    again = feeder_process(environ, "sync")  # a restart does not forget
    shop.item("UPDATE product SET is_active = false WHERE id = 'p2'")
    with closing(again.stderr) as lines:
        assert lines is not None
        assert any("BrakeOn" in line for line in lines)
        again.terminate()
    again.wait(30)
    assert service.client.digest("products").items == SHOP - 1
    assert "would vanish" in run_feeder(environ, "status").output
    refused = run_feeder(environ, "reconcile")
    assert refused.code == 2 and "reconcile --force" in refused.errors

    forced = run_feeder(environ, "reconcile", "--force")
    assert forced.code == 0, forced.errors
    assert cursors(service)["sync.brake"] == ""
    last = feeder_process(environ, "sync")
    shop.item("DELETE FROM product WHERE id = 'p3'")
    try:
        assert_equal(shop, service, environ)
    finally:
        end(last)


def test_an_import_of_a_list_that_is_switched_off_is_held(shop: ProductShop, service: Service) -> None:
    environ = prepare("poll", shop, service) | {"FEEDER_BRAKE_PERCENT": "5"}
    shop.item("UPDATE product SET is_active = false")
    version = service.version("products")
    again = ("import", "--restart", "--trust-vectors", "--embedding-version", version)
    refused = run_feeder(environ, *again)
    assert refused.code == 2 and "would vanish" in refused.errors
    assert run_feeder(environ, *again, "--force").code == 0


def cursors(service: Service) -> dict[str, str]:
    return dict(service.client.status()["products"].cursors)
