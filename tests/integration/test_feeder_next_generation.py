"""Vectors of the next model in a column beside those of the present one: filled, followed, promoted, rolled
back and promoted again, and both generations equal to their own column at every stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder.wiring_feeds import name_of_slot
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import Service, Shop, as_text, expected_root, feeder_process, run_until
from tests.waiting import until
from vector_client.types import Query

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.recipes.source]
{versions}
[collections.recipes.source.vectors]
table = '"RECIPE_VECTOR_TABLE"'
key = '"VECTOR_ID"'
id = '"RECIPE_ID"'
vector = '"VECTOR_NAME"'
[collections.recipes.source.items]
database = "mariadb"
table = "FCT_RECIPE"
id = "RECIPE_ID"
active = "ON_SALE = 1"
content = {{ title = "COOKING_NAME" }}
metadata = {{ title = "COOKING_NAME" }}
"""
COUNT = 120
BRAKE = {"FEEDER_BRAKE_PERCENT": "50"}


class Kitchen:
    """Recipes: names and activity in MariaDB, vectors of two models in PostgreSQL."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.client = shop.service.client
        self.versions: dict[str, str] = {}
        shop.environ |= BRAKE
        shop.db.execute(
            'CREATE TABLE "RECIPE_VECTOR_TABLE" ("VECTOR_ID" bigint PRIMARY KEY, "RECIPE_ID" bigint,'
            ' "VECTOR_NAME" vector(384), "NEXT_VECTOR" vector(384))'
        )
        shop.maria(
            "CREATE TABLE FCT_RECIPE (RECIPE_ID bigint PRIMARY KEY, COOKING_NAME varchar(200),"
            " ON_SALE tinyint)"
        )

    def map_columns(self, following: str = "") -> None:
        """Say in COLLECTIONS_FILE which column is of which model."""
        versions = f'embedding_version = "{self.versions["old"]}"\n{following}' if self.versions else ""
        self.shop.service.collections.write_text(COLLECTIONS.format(versions=versions), encoding="utf-8")

    def cook(self, numbers: Sequence[int], edition: int = 0, columns: Sequence[str] = ("old",)) -> None:
        """Write recipes into MariaDB and their vectors into the columns of these models."""
        names = {number: f"요리 {number} 제{edition}판" for number in numbers}
        self.shop.maria(
            "REPLACE INTO FCT_RECIPE VALUES (%s, %s, %s)",
            [(number, name, int(number % 10 != 0)) for number, name in names.items()],
        )
        for number in numbers:
            self.shop.db.execute(
                'INSERT INTO "RECIPE_VECTOR_TABLE" VALUES (%s, %s) ON CONFLICT DO NOTHING', (number, number)
            )
        for column in columns:
            self.embed(names, column)

    def embed(self, names: dict[int, str], model: str) -> None:
        """Fill a column as a shop's batch job does."""
        version = self.versions.get(model)
        column = {"old": "VECTOR_NAME", "new": "NEXT_VECTOR"}[model]
        statement = f'UPDATE "RECIPE_VECTOR_TABLE" SET "{column}" = %s WHERE "RECIPE_ID" = %s'
        for start in range(0, len(names), 100):
            some = dict(list(names.items())[start : start + 100])
            found = self.client.embed_batch(list(some.values()), "recipes", "document", version).vectors
            for number, vector in zip(some, found, strict=True):
                text = as_text(np.array(vector, dtype=np.float32))
                self.shop.db.execute(statement.encode(), (text, number))

    def embed_all(self, model: str) -> None:
        self.embed(self.titles(), model)

    def titles(self) -> dict[int, str]:
        with self.shop.items.cursor() as cursor:
            cursor.execute("SELECT RECIPE_ID, COOKING_NAME FROM FCT_RECIPE")
            return dict(cursor.fetchall())

    def root_of(self, model: str) -> str:
        """The digest of a generation that equals its column."""
        with self.shop.items.cursor() as cursor:
            cursor.execute("SELECT RECIPE_ID, ON_SALE FROM FCT_RECIPE")
            on_sale = {number: bool(flag) for number, flag in cursor.fetchall()}
        column = {"old": "VECTOR_NAME", "new": "NEXT_VECTOR"}[model]
        rows = self.shop.db.execute(
            f'SELECT "RECIPE_ID", "{column}"::real[] FROM "RECIPE_VECTOR_TABLE"'
            f' WHERE "{column}" IS NOT NULL'.encode()
        ).fetchall()
        held = [(n, on_sale[n], np.array(v, dtype=np.float32)) for n, v in rows if n in on_sale]
        return expected_root(held, self.versions[model])

    def is_equal(self) -> bool:
        return all(
            self.client.digest("recipes", version).root == self.root_of(model)
            for model, version in self.versions.items()
        )

    def assert_equal(self) -> None:
        try:
            until(self.is_equal, "both generations equal their columns")
        finally:
            proof = self.shop.feed("verify")
        assert proof.code == 0, proof.output + proof.errors
        assert proof.output.count(": equal as of") == 2
        assert f"of {self.versions['old']}" in proof.output and f"of {self.versions['new']}" in proof.output

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return self.send(path, {"collection": "recipes", **body})

    def send(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.shop.service.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    def begin_next(self) -> None:
        """What `python -m service rebuild` does: a generation and its model, nothing to embed by itself."""
        code, answer = self.post("/v1/rebuild", model="builtin:placeholder")
        assert code == 202, answer
        self.versions["new"] = answer["embedding_version"]
        job = answer["job"]["id"]
        until(lambda: self.client.job(job).state == "ready", "the job is ready")
        assert self.client.job(job).fields["missing"] > 0, "nothing of it can be embedded here"

    def promote(self) -> None:
        """The report of the rebuild was made while the generation was empty."""
        code, report = self.send("/v1/collections/recipes/generations/next/report", {})
        assert code == 200, report
        code, answer = self.post("/v1/promote")
        assert code == 200, answer

    def live(self, version: str) -> int:
        found = self.client.generations("recipes")
        return next(each.live for each in found if each.embedding_version == version)

    def cursors(self, version: str) -> dict[str, str]:
        found = self.client.generations("recipes")
        return dict(next(each.cursors for each in found if each.embedding_version == version))

    def slot(self, reader: str) -> str:
        return name_of_slot("recipes", "vectors", reader + self.client.status()["recipes"].store)

    def shown(self, number: int) -> bool:
        return self.client.is_live("recipes", number)

    def disturb(self, turn: int) -> None:
        """New, changed, deactivated and deleted recipes, some in one column alone."""
        first = 1000 * turn
        self.cook([first + 1, first + 2], columns=("old", "new"))
        self.cook([first + 3], columns=("old",))
        self.cook([first + 4], columns=("new",))
        self.cook([turn + 11, turn + 12], edition=turn, columns=("old", "new"))
        self.shop.maria(f"UPDATE FCT_RECIPE SET ON_SALE = 1 - ON_SALE WHERE RECIPE_ID IN ({turn}, {turn}0)")
        self.shop.maria(f"DELETE FROM FCT_RECIPE WHERE RECIPE_ID = {turn + 30}")
        table = '"RECIPE_VECTOR_TABLE"'
        for statement in (
            f'DELETE FROM {table} WHERE "RECIPE_ID" = {turn + 40}',
            f'UPDATE {table} SET "VECTOR_NAME" = NULL WHERE "RECIPE_ID" = {turn + 50}',
            f'UPDATE {table} SET "NEXT_VECTOR" = NULL WHERE "RECIPE_ID" = {turn + 60}',
        ):
            self.shop.db.execute(statement.encode())


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


@pytest.fixture
def kitchen(postgres: PostgresServer, mariadb: MariaDBServer, tmp_path: Path) -> Iterator[Kitchen]:
    service = Service(tmp_path, COLLECTIONS.format(versions=""))
    service.process.start()
    names = postgres.create_database(), mariadb.create_database()
    shop = Shop(service, postgres, mariadb, names)
    shop.environ |= {"FEEDER_STATE_DIR": str(tmp_path / "state")}
    yield Kitchen(shop)
    shop.close()
    mariadb.drop_database(names[1])
    postgres.drop_database(names[0])


def test_two_models_side_by_side_from_import_to_the_second_promotion(kitchen: Kitchen) -> None:
    feed = kitchen.shop.feed
    kitchen.cook(range(1, COUNT + 1))
    assert feed("install-triggers", "recipes", FEEDER_TIER="triggers").code == 0
    assert feed("import", "recipes").code == 0
    kitchen.versions["old"] = kitchen.shop.service.version("recipes")
    kitchen.begin_next()
    kitchen.embed_all("new")
    new = kitchen.versions["new"]
    kitchen.map_columns(f"""next = {{ embedding_version = "{new}", vector = '"NEXT_VECTOR"' }}""")

    following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
    try:
        kitchen.disturb(1)
        filled = feed("import", "recipes.next", FEEDER_PAGE_ROWS="20")
        assert filled.code == 0 and f"imported as {new}" in filled.output and "space probe" in filled.output
        kitchen.disturb(2)
        kitchen.assert_equal()

        assert kitchen.post("/v1/promote")[0] == 409, "some have a vector in the old column alone"
        assert kitchen.post("/v1/promote", force=True)[0] == 200
        kitchen.disturb(3)
        kitchen.assert_equal()
        assert not kitchen.shown(3) and kitchen.shown(4), "3 was taken off sale"

        killed(following)
        kitchen.disturb(4)
        assert kitchen.post("/v1/rollback", force=True)[0] == 200
        following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
        kitchen.assert_equal()

        kitchen.disturb(5)
        os.killpg(kitchen.shop.service.process.process.pid, signal.SIGKILL)
        kitchen.shop.service.process.process.wait()
        kitchen.shop.maria("UPDATE FCT_RECIPE SET ON_SALE = 0 WHERE RECIPE_ID = 6")
        kitchen.shop.service.process.start()
        kitchen.assert_equal()
        assert kitchen.post("/v1/rollback", force=True)[0] == 200
        kitchen.assert_equal()

        before = {version: kitchen.live(version) for version in kitchen.versions.values()}
        kitchen.shop.maria("DELETE FROM FCT_RECIPE WHERE RECIPE_ID <= 100")
        until(lambda: all(kitchen.cursors(each).get("sync.brake") for each in before), "both brakes hold")
        assert {version: kitchen.live(version) for version in before} == before
    finally:
        following.terminate()
        print(following.communicate(timeout=30)[1][-6000:])
    assert feed("reconcile", "--force").code == 0
    kitchen.assert_equal()


def test_a_column_of_another_model_is_refused_and_a_killed_import_goes_on(kitchen: Kitchen) -> None:
    """The next model's vectors in a table of their own, noticed by PostgreSQL's log."""
    feed, db = kitchen.shop.feed, kitchen.shop.db
    kitchen.cook(range(1, COUNT + 1))
    assert feed("import", "recipes").code == 0
    kitchen.versions["old"] = kitchen.shop.service.version("recipes")
    kitchen.begin_next()
    new = kitchen.versions["new"]
    db.execute("CREATE TABLE recipe_vectors_2 (nr bigint PRIMARY KEY, recipe bigint, v vector(384))")
    rows = 'SELECT "VECTOR_ID", "RECIPE_ID", "VECTOR_NAME" FROM "RECIPE_VECTOR_TABLE"'
    db.execute(f"INSERT INTO recipe_vectors_2 {rows}".encode())
    for name, table in (
        ("vs_recipes_vectors", '"RECIPE_VECTOR_TABLE"'),
        ("vs_recipes_next_vectors", "recipe_vectors_2"),
    ):
        db.execute(f"CREATE PUBLICATION {name} FOR TABLE {table}".encode())
    own = 'table = "recipe_vectors_2", key = "nr", id = "recipe", vector = "v"'

    kitchen.map_columns(f'next = {{ embedding_version = "nobody.1", {own} }}')
    wrong = feed("import", "recipes.next")
    assert wrong.code == 2 and "nobody.1" in wrong.errors and f"{new} (next)" in wrong.errors
    kitchen.map_columns(f'next = {{ embedding_version = "{new}", {own} }}')
    wrong = feed("import", "recipes.next")
    assert wrong.code == 2 and "median cosine" in wrong.errors, "they are of the old model"
    assert kitchen.live(new) == 0 and kitchen.live(kitchen.versions["old"]) == COUNT - COUNT // 10

    kitchen.embed_all("new")
    db.execute(
        'UPDATE recipe_vectors_2 SET v = "NEXT_VECTOR" FROM "RECIPE_VECTOR_TABLE" WHERE nr = "VECTOR_ID"'
    )
    slowly = {"FEEDER_PAGE_ROWS": "2", "FEEDER_CONNECTIONS": "1"}
    cut = feeder_process(kitchen.shop.environ | slowly, "import", "recipes.next")
    run_until(cut, lambda: kitchen.live(new) > 2)
    killed(cut)
    assert 0 < kitchen.live(new) < COUNT - COUNT // 10
    again = feed("import", "recipes.next")
    assert again.code == 0 and "resumed behind key" in again.output
    following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
    try:
        until(lambda: "sync.report" in kitchen.cursors(new), "it is followed")
        assert kitchen.cursors(new)["sync.tiers"].startswith("vectors=log")
        db.execute("DELETE FROM recipe_vectors_2 WHERE nr = 7")
        db.execute('UPDATE "RECIPE_VECTOR_TABLE" SET "NEXT_VECTOR" = NULL WHERE "VECTOR_ID" = 7')
        kitchen.assert_equal()
        assert {slot for (slot,) in db.execute("SELECT slot_name FROM pg_replication_slots").fetchall()} > {
            kitchen.slot("n")
        }
        kitchen.map_columns()
    finally:
        following.terminate()
        following.communicate(timeout=30)
    following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
    try:
        until(
            lambda: (
                not db.execute(
                    "SELECT FROM pg_replication_slots WHERE slot_name = %s", (kitchen.slot("n"),)
                ).fetchall()
            ),
            "the slot that nobody reads is dropped",
        )
    finally:
        following.terminate()
        following.communicate(timeout=30)


def test_the_service_embeds_the_content_of_what_came_as_vectors(kitchen: Kitchen) -> None:
    """No column of the new model: `source.next` names the version alone."""
    feed = kitchen.shop.feed
    kitchen.cook(range(1, 41))
    assert feed("install-triggers", "recipes").code == 0
    assert feed("import", "recipes").code == 0
    kitchen.versions["old"] = kitchen.shop.service.version("recipes")
    kitchen.begin_next()
    new = kitchen.versions["new"]
    kitchen.map_columns(f'next = {{ embedding_version = "{new}" }}')
    following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
    try:
        until(lambda: kitchen.live(new) == 36, "all on sale are embedded")
        kitchen.promote()
        kitchen.cook([3, 50], edition=2)
        kitchen.shop.maria("UPDATE FCT_RECIPE SET ON_SALE = 0 WHERE RECIPE_ID = 4")
        kitchen.shop.maria("DELETE FROM FCT_RECIPE WHERE RECIPE_ID = 5")
        until(lambda: kitchen.live(new) == 34 and kitchen.live(kitchen.versions["old"]) == 34, "both follow")
        old = kitchen.versions["old"]
        until(lambda: kitchen.client.digest("recipes", old).root == kitchen.root_of("old"), "the old column")
        proof = feed("verify")
        assert proof.code == 0 and proof.output.count(": equal as of") == 2
        found = kitchen.client.search(Query(text="요리 3 제2판", k=1, collection="recipes"))
        assert [hit.id for hit in found.hits] == [3] and found.embedding_version == new
        assert kitchen.post("/v1/rollback")[0] == 200
    finally:
        following.terminate()
        print(following.communicate(timeout=30)[1][-4000:])


def test_content_that_was_never_kept_is_sent_for_the_next_generation(kitchen: Kitchen) -> None:
    """A collection that the service embeds, without `keep_content`: a rebuild alone can embed nothing."""
    text = COLLECTIONS.format(versions="")
    start, end = text.index("[collections.recipes.source]"), text.index("[collections.recipes.source.items]")
    text = text[:start] + "keep_content = false\n" + text[end:]
    kitchen.shop.service.collections.write_text(text, encoding="utf-8")
    kitchen.shop.service.process.stop()
    kitchen.shop.service.process.start()
    kitchen.cook(range(1, 41), columns=())
    feed = kitchen.shop.feed
    assert feed("reconcile", "recipes.next").code == 2, "there is no next generation yet"
    assert feed("reconcile", "recipes").code == 0
    kitchen.begin_next()
    new = kitchen.versions["new"]
    following = feeder_process(kitchen.shop.environ, "sync", "--log-json")
    try:
        assert kitchen.live(new) == 0
        sent = feed("reconcile", "recipes.next")
        assert sent.code == 0 and "recipes.next: equal as of" in sent.output, (
            "beside a sync of the same collection"
        )
        assert kitchen.live(new) == 36
        kitchen.promote()
    finally:
        following.terminate()
        following.communicate(timeout=30)
    assert feed("verify", "recipes").code == 0
