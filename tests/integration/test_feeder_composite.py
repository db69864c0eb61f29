"""Vector tables whose primary key has several columns: one of them is named, and its rows share it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.follower import FollowerHarness, on_pg
from tests.integration.product_shop import COLLECTIONS, ProductShop, Tier
from tests.integration.test_feeder_two_services import installed

COMPOSITE = (
    "ALTER TABLE product_vectors DROP CONSTRAINT product_vectors_pkey",
    "ALTER TABLE product_vectors ADD COLUMN site int",
    "UPDATE product_vectors SET site = product_vector_id % 4",
    "ALTER TABLE product_vectors ADD PRIMARY KEY (site, product_vector_id)",
)


@pytest.mark.parametrize("tier", ["log", "triggers"])
def test_each_row_of_a_shared_key_is_followed(products: ProductShop, tmp_path: Path, tier: Tier) -> None:
    with closing(FollowerHarness(products, tier, tmp_path)) as follower:
        file = tmp_path / "collections.toml"
        file.write_text(COLLECTIONS.replace('key = "product_vector_id"', 'key = "site"'), encoding="utf-8")
        on_pg(follower, *COMPOSITE)
        if tier == "triggers":
            installed(products, tmp_path)
        products.grant(tier)
        if tier == "log":
            on_pg(
                follower,
                "ALTER PUBLICATION vs_products_vectors SET TABLE product_vectors (site, product_vector_id)",
            )
        follower.again()
        assert follower.held() == products.expected()
        on_pg(follower, "UPDATE product_vectors SET note = 'x' WHERE product_id = 'p1'")
        follower.follow()
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p5'")  # of the same site
        follower.follow()
        assert "p5" not in follower.held() and "p1" in follower.held()
        on_pg(follower, "UPDATE product_vectors SET site = 99 WHERE product_id = 'p2'",
              "DELETE FROM product_vectors WHERE product_id = 'p6'")  # fmt: skip
        follower.follow()
        follower.again()
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id IN ('p2', 'p9')")
        follower.follow()
        assert not {"p2", "p6", "p9"} & follower.held().keys()
