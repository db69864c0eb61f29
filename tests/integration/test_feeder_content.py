"""Collections without a vector table, on real databases and the real service: texts out of MariaDB, pictures
of a web server by addresses out of PostgreSQL."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import Outcome, Service, feeder_process, run_feeder
from tests.waiting import STOP_LOOK_S, until
from vector_client.types import Query

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "builtin:hashed-ngrams"
text_template = "{title}: {description} {ingredients}"
[collections.recipes.source.items]
database = "mariadb"
table = "FCT_RECIPE"
id = "RECIPE_ID"
active = "SHOWN = 1"
content = { title = "RECIPE_TITLE", description = "COOKING_NAME", ingredients = "INGREDIENTS" }

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
metric = "l2"
model = "builtin:descriptor"
[collections.products.source.items]
database = "src"
table = "product"
id = "id"
active = "is_active"
content = { image_url = "image_url" }
metadata = { name = "name" }
"""


class Web:
    """A web server with pictures by path; `asked` counts."""

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                data = web.pictures.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(STOP_LOOK_S,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"


def jpeg(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((96, 96)).save(out, "JPEG")
    return out.getvalue()


class ContentShop:
    def __init__(self, service: Service, pg: psycopg.Connection[Any], maria: Any, web: Web) -> None:
        self.service, self.pg, self.maria, self.web = service, pg, maria, web
        self.environ: dict[str, str] = {}

    def recipe(self, statement: str, *values: Any) -> None:
        with self.maria.cursor() as cursor:
            cursor.execute(statement, values)

    def feed(self, *arguments: str) -> Outcome:
        outcome = run_feeder(self.environ, *arguments)
        print(outcome.output, outcome.errors)
        return outcome

    def hits(self, text: str) -> list[int | str]:
        return [
            hit.id for hit in self.service.client.search(Query(text=text, k=3, collection="recipes")).hits
        ]

    def cursor(self, name: str) -> str:
        return self.service.client.status()["products"].cursors.get(name, "")

    def like(self, data: bytes) -> list[int | str]:
        return [
            hit.id for hit in self.service.client.search(Query(image=data, k=30, collection="products")).hits
        ]


@pytest.fixture
def shop(
    postgres: PostgresServer, mariadb: MariaDBServer, pg_database: str, maria_database: str, tmp_path: Path
) -> Iterator[ContentShop]:
    service, web = Service(tmp_path, COLLECTIONS), Web()
    service.process.start()
    with closing(postgres.connect(pg_database)) as pg, closing(mariadb.connect(maria_database)) as maria:
        shop = ContentShop(service, pg, maria, web)
        pg.execute("CREATE TABLE product (id text PRIMARY KEY, name text, is_active boolean, image_url text)")
        for number in range(12):
            web.pictures[f"/{number}.jpg"] = jpeg(number)
            address = web.url(f"/{number}.jpg")
            pg.execute("INSERT INTO product VALUES (%s, %s, true, %s)", (f"p{number}", "상품", address))
        shop.recipe(
            "CREATE TABLE FCT_RECIPE (RECIPE_ID bigint PRIMARY KEY, RECIPE_TITLE varchar(200),"
            " COOKING_NAME varchar(200), INGREDIENTS text, SHOWN int)"
        )
        for number, title in enumerate(("김치찌개", "된장국", "비빔밥", "잡채"), start=1):
            values = (number, title, f"{title} 만들기", '["두부", "대파"]')
            shop.recipe("INSERT INTO FCT_RECIPE VALUES (%s, %s, %s, %s, 1)", *values)
        shop.environ = {
            **service.environ(), **postgres.environ("SRC", pg_database),
            "MARIADB_SERVICE_URL":
                f"mysql://root:{mariadb.password}@127.0.0.1:{mariadb.port}/{maria_database}",
            "FEEDER_IMAGE_HOSTS": web.host, "FEEDER_IMAGE_NETWORKS": "127.0.0.0/8",
            "FEEDER_STATE_DIR": str(tmp_path / "state"), "FEEDER_TIER": "poll", "FEEDER_POLL_S": "1",
            "FEEDER_BRAKE_PERCENT": "50",
        }  # fmt: skip
        until(lambda: service.version("products") != "", "the first generation")
        yield shop
    service.close()
    web.server.shutdown()


def test_content_is_embedded_proved_and_quarantined(shop: ContentShop) -> None:
    shop.web.pictures["/3.jpg"] = b"no picture at all"
    del shop.web.pictures["/4.jpg"]
    first = shop.feed("reconcile")
    assert first.code == 0 and "products: equal except 2 quarantined as of" in first.output
    assert "p3: " in first.output and "The host answered 404" in first.output
    assert shop.hits("김치찌개 두부")[0] == 1 and shop.like(jpeg(5))[0] == "p5"
    assert shop.service.client.digest("products").items == 10, "never a fake vector"
    listed = shop.feed("status")
    assert "p3: " in listed.output and "The host answered 404" in listed.output
    assert shop.feed("import").code == 0
    asked = len(shop.web.asked)
    proof = shop.feed("verify")
    assert proof.code == 0 and "recipes: equal as of" in proof.output
    assert len(shop.web.asked) == asked, "nothing is fetched twice"


def test_following_embeds_what_changed_and_nothing_else(shop: ContentShop) -> None:
    late = shop.web.pictures.pop("/9.jpg")
    assert shop.feed("reconcile").code == 0
    shop.web.asked.clear()
    shop.recipe(
        "UPDATE FCT_RECIPE SET RECIPE_TITLE = '떡볶이', COOKING_NAME = '매운 떡볶이' WHERE RECIPE_ID = 2"
    )
    shop.recipe("UPDATE FCT_RECIPE SET SHOWN = 0 WHERE RECIPE_ID = 1")
    shop.web.pictures["/new.jpg"] = jpeg(99)
    shop.pg.execute("UPDATE product SET image_url = %s WHERE id = 'p7'", (shop.web.url("/new.jpg"),))
    shop.pg.execute("UPDATE product SET is_active = false WHERE id = 'p1'")
    shop.pg.execute("DELETE FROM product WHERE id = 'p2'")
    with feeder_process(shop.environ, "sync") as feeder:
        try:
            until(lambda: shop.hits("떡볶이")[0] == 2 and 1 not in shop.hits("김치찌개"), "texts")
            until(lambda: shop.like(jpeg(99))[0] == "p7", "pictures")
            until(lambda: not {"p1", "p2"} & set(shop.like(jpeg(1))), "what is gone")
            until(lambda: '"ids": ["p9"]' in shop.cursor("sync.quarantine"), "what is set aside is told")
            shop.web.pictures["/9.jpg"] = late
            shop.service.client.upsert("products", [], cursors={"sync.retry": "now"})
            until(lambda: "p9" in shop.like(late), "tried again before its pause is over")
            until(lambda: shop.cursor("sync.quarantine") == "", "nothing is set aside any more")
            second = shop.feed("reconcile")
            assert second.code == 5, "one feeder a collection, without pgvector too"
        finally:
            feeder.terminate()
            print(feeder.communicate(timeout=30)[1][-2000:])
    assert set(shop.web.asked) == {"/new.jpg", "/9.jpg"}
    assert shop.feed("verify").code == 0
