"""Shops and followers for the tests of `feeder sync`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.follower import COUNT, FollowerHarness, following
from tests.integration.product_shop import ProductShop


@pytest.fixture
def products(postgres: PostgresServer, tmp_path: Path) -> Iterator[ProductShop]:
    shop = ProductShop(postgres, None, postgres.create_database(), "", tmp_path, 1)
    yield from filled(shop)


@pytest.fixture
def maria_products(postgres: PostgresServer, mariadb: MariaDBServer, tmp_path: Path) -> Iterator[ProductShop]:
    name = mariadb.create_database()
    yield from filled(ProductShop(postgres, mariadb, postgres.create_database(), name, tmp_path, 1))
    mariadb.drop_database(name)


def filled(shop: ProductShop) -> Iterator[ProductShop]:
    shop.create()
    shop.fill(COUNT)
    yield shop
    shop.drop()


@pytest.fixture(params=["log", "triggers"])
def follower(
    request: pytest.FixtureRequest, products: ProductShop, tmp_path: Path
) -> Iterator[FollowerHarness]:
    built = following(products, request.param, tmp_path)
    yield built
    built.close()


@pytest.fixture
def log_follower(products: ProductShop, tmp_path: Path) -> Iterator[FollowerHarness]:
    built = following(products, "log", tmp_path)
    yield built
    built.close()


@pytest.fixture(params=["log", "triggers"])
def maria_follower(
    request: pytest.FixtureRequest, maria_products: ProductShop, tmp_path: Path
) -> Iterator[FollowerHarness]:
    built = following(maria_products, request.param, tmp_path)
    yield built
    built.close()
