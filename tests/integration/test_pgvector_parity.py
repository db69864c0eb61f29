"""The cut-over promise: what pgvector answers today, the service answers after an import.

Real product and recipe rows where they are at hand, generated Korean ones else; the real text model where its
files are, hashed n-grams else, and for generated products. The test prints which.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import Service, as_text, insert, korean_names, run_feeder
from tests.integration.service_process import ROOT
from vector_client.types import Query

pytestmark = pytest.mark.timeout(900)  # the model reads up to 4,770 texts: minutes on a busy machine

DATA = ROOT.parent / "shared" / "data"
TOP = 25
QUERIES = 200
DISTANCE_ERROR_MAX = 1e-6

COLLECTIONS = """
[collections.kok]
id_field = "kok_product_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "{kok}"
[collections.kok.source.vectors]
table = '"KOK_VECTOR_TABLE"'
id = '"KOK_PRODUCT_ID"'
vector = '"VECTOR_NAME"'
[collections.kok.source.items]
table = "FCT_KOK_PRODUCT_INFO"
id = "KOK_PRODUCT_ID"
content = {{ title = "KOK_PRODUCT_NAME" }}

[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "{recipes}"
[collections.recipes.source.vectors]
table = '"RECIPE_VECTOR_TABLE"'
key = '"VECTOR_ID"'
id = '"RECIPE_ID"'
vector = '"VECTOR_NAME"'
[collections.recipes.source.items]
table = "FCT_RECIPE"
id = "RECIPE_ID"
content = {{ title = "COOKING_NAME" }}
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A deployed shop after its import. By collection: queries, (n, 384); ids."""

    service: Service
    postgres: PostgresServer
    database: str
    queries: dict[str, npt.NDArray[np.float32]]
    ids: dict[str, list[int]]


TABLES = {
    "kok": ('"KOK_VECTOR_TABLE"', '"KOK_PRODUCT_ID"'),
    "recipes": ('"RECIPE_VECTOR_TABLE"', '"RECIPE_ID"'),
}


def products() -> list[tuple[int, str]]:
    path = DATA / "kok_products.csv"
    if not path.exists():
        print("products: 4,156 generated Korean names (no real rows at hand)")
        return [(number * 7 + 1, name) for number, name in enumerate(korean_names(4156, seed=3))]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    name = next(column for column in rows[0] if "NAME" in column.upper() and "STORE" not in column.upper())
    print(f"products: {len(rows)} real rows, embedded by {name}")
    return list({int(row["KOK_PRODUCT_ID"]): row[name] for row in rows}.items())


def recipes() -> tuple[list[tuple[int, str]], list[str]]:
    path = DATA / "recipes.jsonl"
    if not path.exists():
        print("recipes: 614 generated Korean names")
        return list(enumerate(korean_names(614, seed=4), start=1)), korean_names(QUERIES, seed=5)
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    asked = (DATA / "recipe_queries.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["query"] for line in asked]
    print(f"recipes: {len(rows)} real rows, {len(texts)} real queries")
    step = max(1, len(texts) // QUERIES)
    return [(int(row["recipe_id"]), row["title"]) for row in rows], texts[::step][:QUERIES]


def models() -> dict[str, str]:
    """The model of each collection. What is held to pgvector's answers are vectors, whatever made them."""
    directory = Path(os.environ.get("MODELS_DIR") or ROOT / ".models")
    real = any(directory.glob("multilingual-e5-small*"))
    hashed = "builtin:hashed-ngrams"
    chosen = "builtin:multilingual-e5-small" if real else hashed
    found = {"kok": chosen if DATA.exists() else hashed, "recipes": chosen}
    print(f"models: {found}")
    return found


@pytest.fixture(scope="module")
def shop(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    service = Service(tmp_path_factory.mktemp("parity"), COLLECTIONS.format(**models()))
    service.process.start()
    database, items_database = postgres.create_database(), mariadb.create_database()
    try:
        rows = {"kok": products()}
        rows["recipes"], texts = recipes()
        with postgres.connect(database) as db:
            fill_vectors(db, service, rows)
        fill_items(mariadb, items_database, rows)
        environ = (
            service.environ() | postgres.environ("TGT", database) | mariadb.environ("SRC", items_database)
        )
        outcome = run_feeder(environ | {"SRC_DB_ENGINE": "mariadb", "FEEDER_PAGE_ROWS": "1000"}, "import")
        print(outcome.output, outcome.errors)
        assert outcome.code == 0
        queries = {name: embedded_queries(service, name, texts) for name in rows}
        ids = {name: [item_id for item_id, _ in found] for name, found in rows.items()}
        yield Shop(service, postgres, database, queries, ids)
    finally:
        service.close()
        postgres.drop_database(database)
        mariadb.drop_database(items_database)


def embedded_queries(service: Service, name: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    halves = (texts[:100], texts[100:])
    return np.concatenate(
        [service.client.embed_batch(half, name).vectors for half in halves], dtype=np.float32
    )


def fill_vectors(
    db: psycopg.Connection[Any], service: Service, rows: dict[str, list[tuple[int, str]]]
) -> None:
    db.execute('CREATE TABLE "KOK_VECTOR_TABLE" ("KOK_PRODUCT_ID" bigint, "VECTOR_NAME" vector(384))')
    db.execute(
        'CREATE TABLE "RECIPE_VECTOR_TABLE" ("VECTOR_ID" serial PRIMARY KEY, "RECIPE_ID" bigint,'
        ' "VECTOR_NAME" vector(384))'
    )
    for name, (table, column) in TABLES.items():
        texts = list(dict.fromkeys(text for _, text in rows[name]))  # generated names repeat
        vectors = dict(zip(texts, map(as_text, service.embed(name, texts)), strict=True))
        pairs = ((item_id, vectors[text]) for item_id, text in rows[name])
        insert(db, table, f'{column}, "VECTOR_NAME"', pairs)


def fill_items(mariadb: MariaDBServer, database: str, rows: dict[str, list[tuple[int, str]]]) -> None:
    with mariadb.connect(database) as db, db.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE FCT_KOK_PRODUCT_INFO (KOK_PRODUCT_ID bigint PRIMARY KEY, KOK_PRODUCT_NAME text)"
        )
        cursor.execute("CREATE TABLE FCT_RECIPE (RECIPE_ID bigint PRIMARY KEY, COOKING_NAME text)")
        cursor.executemany("INSERT INTO FCT_KOK_PRODUCT_INFO VALUES (%s, %s)", rows["kok"])
        cursor.executemany("INSERT INTO FCT_RECIPE VALUES (%s, %s)", rows["recipes"])


def by_pgvector(
    db: psycopg.Connection[Any], name: str, query: npt.NDArray[np.float32], is_excluding: bool
) -> list[tuple[int, float]]:
    """The deployed question, in a form that can carry any number of ids: they lie in a table."""
    table, column = TABLES[name]
    condition = f"WHERE {column} NOT IN (SELECT id FROM excluded)" if is_excluding else ""
    statement = (
        f'SELECT {column}, "VECTOR_NAME" <-> %s::vector AS distance FROM {table} {condition}'
        f" ORDER BY distance, {column} LIMIT {TOP}"
    )
    return [tuple(row) for row in db.execute(statement.encode(), (as_text(query),))]


def by_service(
    shop: Shop, name: str, query: npt.NDArray[np.float32], excluded: Sequence[int]
) -> list[tuple[int, float]]:
    found = shop.service.client.search(
        Query(vector=query.tobytes(), k=TOP, collection=name, exclude_ids=excluded)
    )
    return [(int(hit.id), hit.distance) for hit in found.hits]


def compare(shop: Shop, name: str, excluded: Sequence[int]) -> None:
    """Hold every query's answer against pgvector's: ids, order, distances. Generated names repeat, and
    pgvector's float32 sums can't tell their vectors apart: such rows may stand in any order."""
    farthest, in_order = 0.0, 0
    hidden = set(excluded)
    with shop.postgres.connect(shop.database) as db:
        db.execute("CREATE TEMP TABLE excluded (id bigint)")
        insert(db, "excluded", "id", ((item_id,) for item_id in excluded))
        for query in shop.queries[name]:
            expected = by_pgvector(db, name, query, bool(excluded))
            got = by_service(shop, name, query, excluded)
            assert len(expected) == TOP
            in_order += [item_id for item_id, _ in expected] == [item_id for item_id, _ in got]
            assert_same_but_for_ties(dict(expected), dict(got))
            assert hidden.isdisjoint(item_id for item_id, _ in got)
            farthest = max([farthest, *(abs(a[1] - b[1]) for a, b in zip(expected, got, strict=True))])
    seen = f"{in_order} of {QUERIES} in pgvector's order, distances within {farthest:.1e}"
    print(f"{name}, {len(excluded):,} excluded: {seen}")
    assert in_order == QUERIES or not DATA.exists()
    assert farthest <= DISTANCE_ERROR_MAX


def assert_same_but_for_ties(expected: dict[int, float], got: dict[int, float]) -> None:
    """Ids that only one side has are as far as the other's last, and so left out by a tie."""
    last = min(max(expected.values()), max(got.values()))
    for item_id in expected.keys() | got.keys():
        distances = [side[item_id] for side in (expected, got) if item_id in side]
        if len(distances) == 1:
            assert distances[0] >= last - DISTANCE_ERROR_MAX, item_id
        else:
            assert abs(distances[0] - distances[1]) <= DISTANCE_ERROR_MAX, item_id


@pytest.mark.parametrize("name", TABLES)
def test_the_top_25_are_pgvectors_own(shop: Shop, name: str) -> None:
    assert len(shop.queries[name]) == QUERIES
    compare(shop, name, [])


def test_the_top_25_are_pgvectors_own_without_1000_ids(shop: Shop) -> None:
    with shop.postgres.connect(shop.database) as db:
        nearest = [row[0] for query in shop.queries["kok"] for row in by_pgvector(db, "kok", query, False)]
    excluded = list(dict.fromkeys([*nearest, *shop.ids["kok"]]))[:1000]
    compare(shop, "kok", excluded)


def test_100000_excluded_ids_are_answered_where_sql_parameters_fail(shop: Shop) -> None:
    known = shop.ids["kok"][::3]
    excluded = [*known, *range(10**9, 10**9 + 100_000 - len(known))]
    assert len(excluded) == 100_000
    marks = ", ".join(["%s"] * len(excluded))
    statement = (
        f'SELECT "KOK_PRODUCT_ID" FROM "KOK_VECTOR_TABLE" WHERE "KOK_PRODUCT_ID" NOT IN ({marks})'
        f' ORDER BY "VECTOR_NAME" <-> %s::vector LIMIT {TOP}'
    )
    parameters = [*excluded, as_text(shop.queries["kok"][0])]
    with (
        shop.postgres.connect(shop.database) as db,
        pytest.raises(psycopg.OperationalError, match="65535") as failure,
    ):
        db.execute(statement.encode(), parameters)
    print(f"the deployed SQL form: {str(failure.value).strip()}")
    compare(shop, "kok", excluded)
