"""`python -m vector_client parity`: the report before a cut-over, on a real pgvector and a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.kitchen import Kitchen, open_kitchen
from tests.integration.service_process import ROOT


@pytest.fixture(scope="module")
def kitchen(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    with open_kitchen(tmp_path_factory.mktemp("kitchen"), postgres, mariadb) as opened:
        yield opened


def parity(kitchen: Kitchen, *options: str, dsn: str = "", url: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vector_client", "parity", "--dsn", dsn or kitchen.dsn(),
         "--url", url or kitchen.url, "-n", "30", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "ML_TIMEOUT": "30"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_equal_sides_are_equal(kitchen: Kitchen, tmp_path: Path) -> None:
    code, printed = parity(kitchen, "-k", "400")
    assert (code, printed.splitlines()[-1]) == (0, "equal (overlap >= 1, distances within 1e-05)"), printed
    queries = tmp_path / "queries.txt"
    queries.write_text("갈비탕\n\n냉면 500g\n", "utf-8")
    code, printed = parity(kitchen, "--queries", str(queries), "-k", "400", "--json")
    found = json.loads(printed)
    assert code == 0
    assert [row["query"] for row in found["queries"]] == ["갈비탕", "냉면 500g"]


def test_the_dsn_may_name_a_driver_as_sqlalchemy_does(kitchen: Kitchen) -> None:
    code, printed = parity(kitchen, "-k", "400", dsn=kitchen.dsn("asyncpg"))
    assert code == 0, printed


def test_what_differs_is_printed_and_fails(kitchen: Kitchen) -> None:
    kitchen.client.deactivate("recipes", [5])
    try:
        code, printed = parity(kitchen, "-k", "400")
        assert code == 1
        assert "only pgvector: [5]" in printed
        assert "DIFFERENT" in printed
        code, _ = parity(kitchen, "-k", "400", "--overlap-min", "0.99")
        assert code == 0, "the bounds are the user's"
    finally:
        kitchen.client.activate("recipes", [5])


def test_what_could_not_be_compared_is_no_agreement(kitchen: Kitchen, tmp_path: Path) -> None:
    code, printed = parity(kitchen, dsn="postgresql://nobody:x@127.0.0.1:1/x")
    assert (code, "not compared" in printed) == (2, True)
    code, printed = parity(kitchen, url="http://127.0.0.1:1")
    assert (code, "not compared: no answer" in printed) == (2, True), printed
    code, printed = parity(kitchen, "-k", "10001")
    assert (code, "top_k" in printed) == (2, True), printed
    code, printed = parity(kitchen, "--collection", "products")
    assert (code, "invalid_dimension" in printed) == (2, True), printed
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("\n", "utf-8")
    code, printed = parity(kitchen, "--queries", str(nothing))
    assert (code, "no query" in printed) == (2, True), "rows of the table are not what was asked for"
    code, printed = parity(kitchen, "--table", "nowhere")
    assert code == 2
    code, printed = parity(kitchen, url="nonsense")
    assert (code, "ML_INFERENCE_URL" in printed) == (2, True)


def test_nothing_is_written(kitchen: Kitchen) -> None:
    code, printed = parity(kitchen, "--table", '(DELETE FROM "RECIPE_VECTOR_TABLE" RETURNING *) AS gone')
    assert code == 2
    with kitchen.postgres.connect(kitchen.pg_database) as db:
        assert db.execute('SELECT count(*) FROM "RECIPE_VECTOR_TABLE"').fetchone() == (432,), printed
