"""What an import must not take over, and what it tells the operator then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feeder.settings import Settings
from feeder.wiring_feeds import SourceBuilder
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import (
    COLLECTIONS,
    Service,
    Shop,
    as_text,
    expected_root,
    insert,
    korean_names,
)


@pytest.fixture(scope="module")
def refusing_shop(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """30 recipes, for imports that are refused, and so leave nothing behind."""
    names = postgres.create_database(), mariadb.create_database()
    service = Service(tmp_path_factory.mktemp("refusing"), COLLECTIONS)
    service.process.start()
    built = Shop(service, postgres, mariadb, names)
    built.recipes(korean_names(30, seed=11))
    yield built
    assert service.client.status()["recipes"].seq == 0, "something was written"
    built.close()
    postgres.drop_database(names[0])
    mariadb.drop_database(names[1])


def noisy(shop: Shop, every: int) -> None:
    """Overwrite every n-th vector by seeded noise, as the seed's placeholder did."""
    rng = np.random.default_rng(every)
    rows = shop.db.execute('SELECT "VECTOR_ID" FROM "RECIPE_VECTOR_TABLE" ORDER BY 1').fetchall()
    for (key,) in rows[::every]:
        noise = rng.standard_normal(384).astype(np.float32)
        text = as_text(noise / np.linalg.norm(noise))
        shop.db.execute(
            'UPDATE "RECIPE_VECTOR_TABLE" SET "VECTOR_NAME" = %s WHERE "VECTOR_ID" = %s', (text, key)
        )


@pytest.mark.parametrize(("every", "says"), [(1, "noise"), (20, "noise")])
def test_placeholder_noise_is_refused(shop: Shop, every: int, says: str) -> None:
    shop.recipes(korean_names(200, seed=6))
    noisy(shop, every)
    refused = shop.feed("import", "recipes")
    assert refused.code == 2
    assert says in refused.errors
    assert "--trust-vectors" in refused.errors
    assert shop.service.client.status()["recipes"].seq == 0, "nothing was written"


def test_vectors_of_another_model_are_refused(shop: Shop) -> None:
    """Same dimension, plausible cosines, another space: every vector is turned a little."""
    names = korean_names(200, seed=7)
    vectors = shop.recipes(names)
    rng = np.random.default_rng(8)
    turned = vectors + rng.standard_normal((1, 384)).astype(np.float32) * 0.02
    turned /= np.linalg.norm(turned, axis=1)[:, None]
    shop.db.execute('TRUNCATE "RECIPE_VECTOR_TABLE"')
    rows = ((number + 1, as_text(vector)) for number, vector in enumerate(turned))
    insert(shop.db, '"RECIPE_VECTOR_TABLE"', '"RECIPE_ID", "VECTOR_NAME"', rows)
    refused = shop.feed("import", "recipes")
    assert refused.code == 2
    assert "another model" in refused.errors
    version = shop.service.version("recipes")
    lone = shop.feed("import", "recipes", "--trust-vectors")
    assert lone.code == 1, "an operator who trusts must say under which version"
    other = shop.feed("import", "recipes", "--trust-vectors", "--embedding-version", "another.1")
    assert other.code == 2, "another version than the serving one never mixes in"
    assert shop.service.client.status()["recipes"].seq == 0
    trusted = shop.feed("import", "recipes", "--trust-vectors", "--embedding-version", version)
    assert trusted.code == 0
    assert "operator's word" in trusted.output
    assert shop.root("recipes") == expected_root(
        ((n, True, v) for n, v in enumerate(turned, start=1)), version
    )


def test_a_source_that_looks_wrong_is_not_taken_over_unseen(shop: Shop) -> None:
    vectors = shop.recipes(korean_names(100, seed=9))
    shop.maria("DELETE FROM FCT_RECIPE WHERE RECIPE_ID > 90")
    refused = shop.feed("import", "recipes")
    assert refused.code == 2
    assert "10 of 100 ids (10.0 %)" in refused.errors
    assert "91, 92" in refused.errors
    accepted = shop.feed("import", "recipes", "--accept-orphans")
    assert accepted.code == 0
    version = shop.service.version("recipes")
    assert shop.root("recipes") == expected_root(
        ((n, True, v) for n, v in enumerate(vectors[:90], start=1)), version
    )
    shop.maria("DELETE FROM FCT_RECIPE")
    empty = shop.feed("import", "recipes", "--accept-orphans")
    assert empty.code == 2, "an empty items table is the wrong database, whatever is accepted"
    assert "wrong database" in empty.errors


def test_a_reader_with_select_alone_is_enough_and_odd_names_are_quoted(shop: Shop, tmp_path: Path) -> None:
    vectors = shop.recipes(korean_names(50, seed=10))
    shop.db.execute('ALTER TABLE "RECIPE_VECTOR_TABLE" RENAME TO "odd ""name; DROP TABLE x --"')
    shop.db.execute('ALTER TABLE "odd ""name; DROP TABLE x --" RENAME COLUMN "VECTOR_NAME" TO "se lect"')
    shop.db.execute("CREATE ROLE feeder_reader LOGIN PASSWORD 'only-reads'")
    try:
        shop.db.execute('GRANT SELECT ON "odd ""name; DROP TABLE x --" TO feeder_reader')
        text = shop.service.collections.read_text(encoding="utf-8")
        text = text.replace("""'"RECIPE_VECTOR_TABLE"'""", """'"odd ""name; DROP TABLE x --"'""")
        text = text.replace(
            """id = '"RECIPE_ID"'\nvector = '"VECTOR_NAME"'""", """id = '"RECIPE_ID"'\nvector = '"se lect"'"""
        )
        file = tmp_path / "odd.toml"
        file.write_text(text, encoding="utf-8")
        reader = {"TGT_DB_USER": "feeder_reader", "TGT_DB_PASS": "only-reads", "COLLECTIONS_FILE": str(file)}
        done = shop.feed("import", "recipes", **reader)
        assert done.code == 0
        version = shop.service.version("recipes")
        assert shop.root("recipes") == expected_root(
            ((n, True, v) for n, v in enumerate(vectors, start=1)), version
        )
        wrong = shop.feed("import", "recipes", **reader | {"TGT_DB_PASS": "guess"})
        assert wrong.code == 1, "a refused login is not a database that is down"
        assert "guess" not in wrong.errors + wrong.output
    finally:
        shop.db.execute("DROP OWNED BY feeder_reader")
        shop.db.execute("DROP ROLE feeder_reader")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"TGT_DB_PORT": "1"}, 3, "does not answer"),
        ({"TGT_DB_NAME": "nowhere"}, 1, "nowhere"),
        ({"MARIADB_SERVICE_URL": "mysql://u:p@127.0.0.1:1/x"}, 3, "does not answer"),
        ({"ML_INFERENCE_URL": "http://127.0.0.1:1"}, 4, "no answer"),
        ({"BATCH_SIZE": "0"}, 1, "BATCH_SIZE"),
    ],
)
def test_exit_codes_tell_cron_what_to_do(
    refusing_shop: Shop, change: dict[str, str], code: int, says: str
) -> None:
    outcome = refusing_shop.feed("import", "recipes", **{"FEEDER_RETRIES": "0", **change})
    assert (outcome.code, says in outcome.errors) == (code, True)
    assert "Traceback" not in outcome.errors


def test_wrong_tables_are_named(refusing_shop: Shop, tmp_path: Path) -> None:
    text = refusing_shop.service.collections.read_text(encoding="utf-8")
    for old, new, says in (
        ("""'"VECTOR_ID"'""", """'"VECTOR_KEY"'""", "no column VECTOR_KEY; it has VECTOR_ID"),
        ("""'"RECIPE_VECTOR_TABLE"'""", "'recipe_vector_table'", "names are taken as written"),
        ("dim = 384", "dim = 383", "has dimension 384, the collection is configured with 383"),
        ('table = "FCT_RECIPE"', 'table = "FCT_RECIPES"', "FCT_RECIPES"),
    ):
        file = tmp_path / "wrong.toml"
        file.write_text(text.replace(old, new), encoding="utf-8")
        outcome = refusing_shop.feed("import", "recipes", COLLECTIONS_FILE=str(file))
        assert (outcome.code, says in outcome.errors) == (1, True), outcome.errors


def test_json_lines_for_machines(shop: Shop) -> None:
    shop.recipes(korean_names(30, seed=13))
    outcome = shop.feed("import", "recipes", "--log-json")
    events = [json.loads(line) for line in (outcome.output + outcome.errors).splitlines()]
    summary = next(event for event in events if event["event"] == "import_summary")
    assert (summary["stored"], summary["collection"]) == (30, "recipes")
    refused = shop.feed(
        "import", "recipes", "--log-json", ML_INFERENCE_URL="http://127.0.0.1:1", FEEDER_RETRIES="0"
    )
    stopped = [json.loads(line) for line in refused.errors.splitlines()][-1]
    assert (stopped["event"], stopped["exit_code"]) == ("feeder_stopped", 4)


def test_an_import_beside_another_feeder_writes_nothing(shop: Shop) -> None:
    shop.recipes(korean_names(30, 5))
    settings = Settings.from_environ(shop.environ)
    store = shop.service.client.status()["recipes"].store
    lease = SourceBuilder(settings, settings.collections["recipes"], store).lease()
    lease.hold()
    try:
        assert shop.feed("import", "recipes").code == 5
        assert shop.feed("import", "recipes", "--dry-run").code == 0, "looking is free"
    finally:
        lease.release()
    assert shop.feed("import", "recipes").code == 0
