"""A backend's world: recipes in pgvector and in a running service, their titles in MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import as_text, insert, korean_names
from tests.integration.service_process import ServiceProcess
from vector_client.http import VectorClient
from vector_client.recommend.port import Neighbours
from vector_client.retries import Limits
from vector_client.types import Item

RECIPES = 400
TWINS = (11, 12)
"""Two ids with one vector: ties go by id."""


@dataclass(frozen=True, slots=True)
class Kitchen:
    service: ServiceProcess
    client: VectorClient
    postgres: PostgresServer
    mariadb: MariaDBServer
    pg_database: str
    maria_database: str
    vectors: npt.NDArray[np.float32]
    """(RECIPES, 384); row n is the recipe with id n + 1."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def dsn(self, driver: str = "") -> str:
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        server = self.postgres
        return f"{scheme}://postgres:{server.password}@127.0.0.1:{server.port}/{self.pg_database}"

    def maria_url(self, driver: str) -> str:
        server = self.mariadb
        return f"mysql+{driver}://root:{server.password}@127.0.0.1:{server.port}/{self.maria_database}?charset=utf8mb4"

    def maria_arguments(self) -> dict[str, Any]:
        server = self.mariadb
        return {"host": "127.0.0.1", "port": server.port, "user": "root", "password": server.password,
                "db": self.maria_database, "charset": "utf8mb4"}  # fmt: skip

    def encode(self, text: str) -> Sequence[float]:
        """The backend's own model: the same as the service's."""
        return self.client.embed(text).vectors[0]

    def nearest(self, text: str, k: int, exclude_ids: Sequence[int] = ()) -> Neighbours:
        """Return the true answer, in float64."""
        query = np.array(self.encode(text), dtype=np.float32).astype(np.float64)
        distances = np.sqrt(((self.vectors.astype(np.float64) - query) ** 2).sum(axis=1))
        left_out = set(exclude_ids)
        rows = [(n + 1, float(d)) for n, d in enumerate(distances) if n + 1 not in left_out]
        return sorted(rows, key=lambda row: (row[1], row[0]))[:k]

    def check(self, found: Neighbours, text: str, k: int, exclude_ids: Sequence[int] = ()) -> None:
        """Assert that an answer is the true one, distances to 1e-6. pgvector adds in float32: among rows
        that are nearer to each other than that it may choose another order."""
        everything = self.nearest(text, RECIPES, exclude_ids)
        truth = dict(everything)
        ids = [item_id for item_id, _ in found]
        assert len(set(ids)) == len(ids) == min(k, len(everything))
        for (item_id, distance), (_, expected) in zip(found, everything, strict=False):
            assert abs(distance - truth[item_id]) < 1e-6
            assert abs(distance - expected) < 1e-6


@contextmanager
def open_kitchen(folder: Path, postgres: PostgresServer, mariadb: MariaDBServer) -> Iterator[Kitchen]:
    service = ServiceProcess(folder / "data").start()
    pg_database, maria_database = postgres.create_database(), mariadb.create_database()
    client = VectorClient.to(f"http://127.0.0.1:{service.port}", limits=Limits(deadline_s=60))
    try:
        names = korean_names(RECIPES, seed=5)
        rows: list[Sequence[float]] = []
        for start in range(0, RECIPES, 100):
            rows += client.embed_batch(names[start : start + 100], "recipes", role="document").vectors
        vectors = np.array(rows, dtype=np.float32)
        vectors[TWINS[1] - 1] = vectors[TWINS[0] - 1]
        client.upsert("recipes", [Item(n + 1, row.astype("<f4").tobytes()) for n, row in enumerate(vectors)])
        _fill_postgres(postgres, pg_database, vectors)
        _fill_mariadb(mariadb, maria_database, names)
        yield Kitchen(service, client, postgres, mariadb, pg_database, maria_database, vectors)
    finally:
        client.close()
        service.stop()
        postgres.drop_database(pg_database)
        mariadb.drop_database(maria_database)


def _fill_postgres(postgres: PostgresServer, name: str, vectors: npt.NDArray[np.float32]) -> None:
    with postgres.connect(name) as db:
        db.execute(
            'CREATE TABLE "RECIPE_VECTOR_TABLE" ("VECTOR_ID" SERIAL PRIMARY KEY, '
            '"RECIPE_ID" BIGINT, "VECTOR_NAME" vector(384))'
        )
        good: list[Sequence[Any]] = [(n + 1, as_text(row)) for n, row in enumerate(vectors)]
        near = as_text(vectors[0])
        # As deployed: rows without id, without vector, and some ids several times.
        dirty: list[Sequence[Any]] = [(None, near), (7000, None), *[(1, near)] * 30]
        insert(db, '"RECIPE_VECTOR_TABLE"', '"RECIPE_ID", "VECTOR_NAME"', good + dirty)
        db.execute("CREATE TABLE names (id varchar(255), v vector(384))")
        hostile = ["007", "7", 'a "quote"', "comma, and {brace}", "back\\slash", "NULL", "한글", ""]
        insert(db, "names", "id, v", [(text, as_text(vectors[n])) for n, text in enumerate(hostile)])


def _fill_mariadb(mariadb: MariaDBServer, name: str, names: Sequence[str]) -> None:
    with mariadb.connect(name) as db:
        cursor = db.cursor()
        cursor.execute(
            "CREATE TABLE FCT_RECIPE (RECIPE_ID BIGINT PRIMARY KEY, RECIPE_TITLE VARCHAR(255), "
            "COOKING_NAME VARCHAR(255))"
        )
        rows = [(n + 1, f"title {n + 1}", text) for n, text in enumerate(names) if (n + 1) % 10]
        cursor.executemany("INSERT INTO FCT_RECIPE VALUES (%s, %s, %s)", rows)
