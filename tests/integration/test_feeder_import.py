"""Imports of every deployed table shape, with the dirt they hold, into a real service process."""

from __future__ import annotations

import http.server
import io
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.integration.feeding import Shop, as_text, expected_root, insert, korean_names
from tests.waiting import STOP_LOOK_S
from vector_client.types import Query


def test_day_one_dirt_is_counted_named_and_left_out(shop: Shop) -> None:
    names = korean_names(300, seed=1)
    assert any(unicodedata.normalize("NFC", name) != name for name in names), "some names are NFD"
    vectors = shop.recipes(names)
    table = '"RECIPE_VECTOR_TABLE" ("RECIPE_ID", "VECTOR_NAME")'
    wins = as_text(vectors[1])
    shop.db.execute(f"INSERT INTO {table} VALUES (NULL, %s), (NULL, %s)".encode(), (wins, wins))
    shop.db.execute(f"INSERT INTO {table} VALUES (4, NULL), (901, NULL)".encode())
    shop.db.execute(f"INSERT INTO {table} VALUES (1, %s), (1, %s)".encode(), (as_text(vectors[2]), wins))
    shop.db.execute(f"INSERT INTO {table} VALUES (900, %s), (902, %s)".encode(), (wins, wins))
    shop.db.execute(f"INSERT INTO {table} VALUES (7, array_fill(0, ARRAY[384])::vector)".encode())
    shop.maria("INSERT INTO FCT_RECIPE VALUES (5000, '벡터 없는 요리')")
    dry = shop.feed("import", "recipes", "--dry-run")
    assert dry.code == 0
    assert shop.service.client.status()["recipes"].seq == 0, "a dry run writes nothing"
    done = shop.feed("import", "recipes", FEEDER_PAGE_ROWS="64", BATCH_SIZE="50")
    assert done.code == 0
    for name, count in {
        "rows": 309, "no_id": 2, "no_vector": 2, "duplicates": 3, "orphans": 2, "items": 301,
        "items_without_vector": 1, "zero_vector": 1, "inactive": 0,
    }.items():  # fmt: skip
        assert done.count(name) == count, name
    assert "900, 902" in done.output, "orphans are named"
    expected = dict(enumerate(vectors, start=1))
    expected[1] = vectors[1]
    version = shop.service.version("recipes")
    assert shop.root("recipes") == expected_root(((i, True, v) for i, v in expected.items()), version)
    found = shop.service.client.search(
        Query(vector=vectors[1].tobytes(), k=2, collection="recipes", with_metadata=True)
    )
    assert [hit.id for hit in found.hits] == [1, 2], "the last primary key of recipe 1 won, and ties go by id"
    assert found.hits[1].metadata == {"title": names[1]}


def test_repeated_ids_without_a_key_keep_one_row_each(shop: Shop) -> None:
    """HOMESHOPPING: one product, several titles; nothing but the product id to page by."""
    titles = korean_names(120, seed=2)
    vectors = shop.service.embed("homeshopping", titles)
    products = [100 + number // 4 for number in range(120)]
    shop.db.execute(
        'CREATE TABLE "HOMESHOPPING_VECTOR_TABLE" ("PRODUCT_ID" bigint, "VECTOR_NAME" vector(384))'
    )
    insert(
        shop.db, '"HOMESHOPPING_VECTOR_TABLE"', '"PRODUCT_ID", "VECTOR_NAME"',
        ((product, as_text(vector)) for product, vector in zip(products, vectors, strict=True)),
    )  # fmt: skip
    shop.maria(
        "CREATE TABLE FCT_HOMESHOPPING_LIST (LIVE_ID int PRIMARY KEY, PRODUCT_ID bigint,"
        " PRODUCT_NAME varchar(200), SCHEDULED_OR_CANCELLED tinyint)"
    )
    # Product 100 is cancelled everywhere, 101 in all broadcasts but one.
    rows = [(n, products[n], titles[n], 0 if products[n] == 100 or n in (4, 5, 6) else 1) for n in range(120)]
    shop.maria("INSERT INTO FCT_HOMESHOPPING_LIST VALUES (%s, %s, %s, %s)", rows)
    done = shop.feed("import", "homeshopping", FEEDER_PAGE_ROWS="7")
    assert done.code == 0
    assert (done.count("duplicates"), done.count("ids"), done.count("inactive")) == (90, 30, 1)
    assert done.count("shared_keys") == 90 and "several rows share a key" in done.output
    version = shop.service.version("homeshopping")
    last = dict(zip(products, vectors, strict=True))
    expected = expected_root(((i, i != 100, v) for i, v in last.items()), version)
    assert shop.root("homeshopping") == expected


def test_a_table_that_is_its_own_items_table(shop: Shop) -> None:
    """MATERIAL: ids, names and vectors in one table; the column takes vectors of any dimension."""
    names = korean_names(60, seed=3)
    vectors = shop.service.embed("material", names)
    shop.db.execute(
        'CREATE TABLE "MATERIAL_VECTOR_TABLE" ("MATERIAL_ID" int PRIMARY KEY, "MATERIAL_NAME" text,'
        ' "VECTOR_NAME" vector)'
    )
    rows = ((n, name, as_text(v)) for n, (name, v) in enumerate(zip(names, vectors, strict=True)))
    insert(shop.db, '"MATERIAL_VECTOR_TABLE"', '"MATERIAL_ID", "MATERIAL_NAME", "VECTOR_NAME"', rows)
    shop.db.execute("""INSERT INTO "MATERIAL_VECTOR_TABLE" VALUES (77, '소금', '[1,2,3]')""")
    done = shop.feed("import", "material", FEEDER_PAGE_ROWS="16")
    assert done.code == 0
    assert (done.count("wrong_dimension"), done.count("stored")) == (1, 60)
    version = shop.service.version("material")
    assert shop.root("material") == expected_root(((n, True, v) for n, v in enumerate(vectors)), version)


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (96, 96), tuple(rng.integers(0, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = (int(value) for value in rng.integers(5, 60, 3))
        draw.ellipse((x, y, x + size, y + size), fill=tuple(rng.integers(0, 255, 3).tolist()))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pictures() -> Iterator[str]:
    """Host and port of a picture server: /<n>.png; /slow and everything else is missing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".png")
            body = picture(int(name)) if name.isdecimal() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(STOP_LOOK_S,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def make_products(
    shop: Shop, host: str, kind: str = "vector"
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    rows = {f"{number:03}": picture(number) for number in range(80)}
    vectors = {
        product: np.array(shop.service.client.embed_image(data, "products").vectors[0], dtype=np.float32)
        for product, data in rows.items()
    }
    shop.db.execute(
        "CREATE TABLE product_vectors (product_vector_id serial PRIMARY KEY, product_id varchar(255) UNIQUE,"
        f" vector {kind}(512), created_at timestamptz DEFAULT now())".encode()
    )
    insert(shop.db, "product_vectors", "product_id, vector", ((p, as_text(v)) for p, v in vectors.items()))
    shop.db.execute("CREATE TABLE product (id varchar(255), image_url text, name text, is_active boolean)")
    insert(
        shop.db, "product", "id, image_url, name, is_active",
        ((p, f"http://{host}/{int(p)}.png", f"상품 {p}", int(p) % 5 > 0) for p in vectors),
    )  # fmt: skip
    return vectors


def test_products_are_proven_by_their_pictures(shop: Shop, pictures: str) -> None:
    vectors = make_products(shop, pictures)
    refused = shop.feed("import", "products")
    assert refused.code == 2
    assert "FEEDER_IMAGE_HOSTS" in refused.errors, "unreachable pictures prove nothing, and the mend is named"
    private = shop.feed("import", "products", FEEDER_IMAGE_HOSTS=pictures)
    assert private.code == 2, "a listed host in a private range needs its network listed too"
    done = shop.feed(
        "import",
        "products",
        FEEDER_IMAGE_HOSTS=pictures,
        FEEDER_IMAGE_NETWORKS="127.0.0.0/8",
        FEEDER_PAGE_ROWS="9",
    )
    assert done.code == 0
    assert (done.count("stored"), done.count("inactive")) == (80, 16)
    version = shop.service.version("products")
    rows = ((p, int(p) % 5 > 0, v) for p, v in vectors.items())
    assert shop.root("products") == expected_root(rows, version)
    found = shop.service.client.search(
        Query(vector=vectors["007"].tobytes(), k=80, collection="products", with_metadata=True)
    )
    assert found.hits[0].id == "007"
    assert found.hits[0].metadata == {"image_url": f"http://{pictures}/7.png", "name": "상품 007"}
    assert len(found.hits) == 64, "inactive products are stored and never shown"


def test_half_precision_is_renormalised_and_said(shop: Shop, pictures: str) -> None:
    vectors = make_products(shop, pictures, kind="halfvec")
    done = shop.feed("import", "products", FEEDER_IMAGE_HOSTS=pictures, FEEDER_IMAGE_NETWORKS="127.0.0.0/8")
    assert done.code == 0
    assert "renormalised" in done.output
    found = shop.service.client.search(
        Query(vector=vectors["001"].tobytes(), k=1, collection="products", with_metadata=True)
    )
    (hit,) = found.hits
    assert hit.id == "001"
    assert hit.distance < 2e-3
    assert hit.metadata is not None
    assert hit.metadata["renormalised"] is True
