"""A real service process and a real feeder process, for tests that look at what a shop's operator gets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import psycopg

from index_store.record.digest import BUCKETS, ShareHasher, bucket_of, root_of
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.service_process import ROOT, ServiceProcess
from tests.waiting import PATIENCE_S, until
from vector_client.http import VectorClient
from vector_client.retries import Limits
from vector_client.types import Id


class Service:
    """A service process over a directory of its own, and a client for it."""

    def __init__(self, folder: Path, collections: str) -> None:
        self.collections = folder / "collections.toml"
        self.collections.write_text(collections, encoding="utf-8")
        environ = {"COLLECTIONS_FILE": str(self.collections), "MAINTENANCE": "off"}  # nothing is large here
        if "MODELS_DIR" in os.environ:
            environ["MODELS_DIR"] = os.environ["MODELS_DIR"]
        self.process = ServiceProcess(folder / "data", environ)
        self.url = f"http://127.0.0.1:{self.process.port}"
        self.client = VectorClient.to(self.url, limits=Limits(deadline_s=60, retries=0))

    def environ(self) -> dict[str, str]:
        """Return what points a feeder at this service."""
        return {"COLLECTIONS_FILE": str(self.collections), "ML_INFERENCE_URL": self.url}

    def close(self) -> None:
        self.client.close()
        self.process.stop()

    def embed(self, collection: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the service's own document vectors, as (n, dim) float32."""
        rows: list[Sequence[float]] = []
        for start in range(0, len(texts), 100):
            rows += self.client.embed_batch(texts[start : start + 100], collection, role="document").vectors
        return np.array(rows, dtype=np.float32)

    def version(self, collection: str) -> str:
        return self.client.status()[collection].version or ""


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    output: str
    errors: str

    def count(self, name: str) -> int:
        """Return a number out of the printed table."""
        found = re.search(rf"^  {name} +([\d,]+)", self.output, re.MULTILINE)
        assert found, f"no {name!r} in {self.output!r}"
        return int(found[1].replace(",", ""))


def feeder_process(environ: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "feeder", *arguments], cwd=ROOT,
        env=kept | dict(environ), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_feeder(environ: Mapping[str, str], *arguments: str) -> Outcome:
    with feeder_process(environ, *arguments) as process:
        output, errors = process.communicate(timeout=240)
        return Outcome(process.returncode, output, errors)


START_CPU_S = 0.2
"""Less than a feeder takes to load its modules."""
STEP_CPU_S = 0.03
STEP_S_MAX = 0.25
"""Of a feeder that is let run in steps: some pages, on a machine of any speed."""


def run_until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Let a feeder run in short steps until something holds, and leave it stopped: looking takes long on a
    busy machine, and it would be through meanwhile."""
    used = psutil.Process(process.pid).cpu_times
    until(lambda: process.poll() is not None or used().user > START_CPU_S, "the start")
    give_up = time.monotonic() + 2 * PATIENCE_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up, "it got nowhere"
        process.send_signal(signal.SIGCONT)
        enough, ends = used().user + STEP_CPU_S, time.monotonic() + STEP_S_MAX
        while used().user < enough and time.monotonic() < ends:
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)


def expected_root(rows: Iterable[tuple[Id, bool, npt.NDArray[np.float32]]], version: str) -> str:
    """Return the digest that a service holding exactly these items must give."""
    hasher = ShareHasher(version)
    buckets = np.zeros(BUCKETS, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for item_id, active, vector in rows:
            share = hasher.share(item_id, active, vector.astype("<f4").tobytes(), None)
            buckets[bucket_of(item_id)] += np.uint64(share)
    return root_of(buckets)


def as_text(vector: npt.NDArray[np.float32]) -> str:
    """Return pgvector's text form, exact to the last bit of a float32."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def insert(db: psycopg.Connection[Any], table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    with db.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def korean_names(count: int, seed: int) -> list[str]:
    """Return product-like Korean names, some of them repeated, some in decomposed Hangul (NFD)."""
    rng = np.random.default_rng(seed)
    kinds = "매운 담백한 구수한 얼큰한 달콤한 시원한 고소한 국내산 유기농 냉동 즉석 수제"
    dishes = "갈비탕 김치찌개 된장국 비빔밥 잡채 불고기 떡볶이 순대 만두 칼국수 냉면 삼계탕 파전 김밥"
    names = []
    for number in range(count):
        name = f"{rng.choice(kinds.split())} {rng.choice(dishes.split())} {rng.integers(1, 12) * 100}g"
        names.append(unicodedata.normalize("NFD", name) if number % 10 == 3 else name)
    return names


COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.recipes.source.vectors]
table = '"RECIPE_VECTOR_TABLE"'
key = '"VECTOR_ID"'
id = '"RECIPE_ID"'
vector = '"VECTOR_NAME"'
[collections.recipes.source.items]
database = "mariadb"
table = "FCT_RECIPE"
id = "RECIPE_ID"
content = { title = "COOKING_NAME" }
metadata = { title = "COOKING_NAME" }

[collections.homeshopping]
id_field = "product_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.homeshopping.source.vectors]
table = '"HOMESHOPPING_VECTOR_TABLE"'
id = '"PRODUCT_ID"'
vector = '"VECTOR_NAME"'
[collections.homeshopping.source.items]
database = "mariadb"
table = "FCT_HOMESHOPPING_LIST"
id = "PRODUCT_ID"
active = "SCHEDULED_OR_CANCELLED = 1"
content = { title = "PRODUCT_NAME" }

[collections.material]
id_field = "material_id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.material.source.vectors]
table = 'public."MATERIAL_VECTOR_TABLE"'
id = '"MATERIAL_ID"'
vector = '"VECTOR_NAME"'
[collections.material.source.items]
database = "src"
table = "MATERIAL_VECTOR_TABLE"
id = "MATERIAL_ID"
content = { title = "MATERIAL_NAME" }

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
metric = "l2"
model = "builtin:descriptor"
[collections.products.source.vectors]
table = "product_vectors"
key = "product_vector_id"
id = "product_id"
vector = "vector"
[collections.products.source.items]
database = "src"
table = "product"
id = "id"
active = "is_active"
content = { image_url = "image_url" }
metadata = { image_url = "image_url", name = "name" }
"""


class Shop:
    """The databases of a shop, a service, and what the feeder must bring from one to the other."""

    def __init__(
        self,
        service: Service,
        postgres: PostgresServer,
        mariadb: MariaDBServer,
        names: tuple[str, str],
    ) -> None:
        self.service = service
        self.postgres = postgres
        self.database, self.items_database = names
        self.db = postgres.connect(self.database)
        self.items = mariadb.connect(self.items_database)
        self.environ = {
            **service.environ(),
            **postgres.environ("TGT", self.database),
            **postgres.environ("SRC", self.database),
            "MARIADB_SERVICE_URL": f"mysql+asyncmy://root:{mariadb.password}@127.0.0.1:{mariadb.port}/{names[1]}",
        }

    def feed(self, *arguments: str, **environ: str) -> Outcome:
        outcome = run_feeder(self.environ | environ, *arguments)
        print(outcome.output, outcome.errors)
        return outcome

    def root(self, collection: str) -> str:
        return self.service.client.digest(collection).root

    def maria(self, statement: str, rows: list[tuple[Any, ...]] | None = None) -> None:
        with self.items.cursor() as cursor:
            if rows is None:
                cursor.execute(statement)
            else:
                cursor.executemany(statement, rows)

    def recipes(self, names: list[str]) -> npt.NDArray[np.float32]:
        """Recipe n + 1 has names[n], its vector and a MariaDB row; the vectors come back."""
        vectors = self.service.embed("recipes", names)
        self.db.execute(
            'CREATE TABLE "RECIPE_VECTOR_TABLE" ("VECTOR_ID" serial PRIMARY KEY, "RECIPE_ID" bigint,'
            ' "VECTOR_NAME" vector(384))'
        )
        rows = ((number + 1, as_text(vector)) for number, vector in enumerate(vectors))
        insert(self.db, '"RECIPE_VECTOR_TABLE"', '"RECIPE_ID", "VECTOR_NAME"', rows)
        self.maria("CREATE TABLE FCT_RECIPE (RECIPE_ID bigint PRIMARY KEY, COOKING_NAME varchar(200))")
        self.maria("INSERT INTO FCT_RECIPE VALUES (%s, %s)", list(enumerate(names, start=1)))
        return vectors

    def close(self) -> None:
        self.db.close()
        self.items.close()
        self.service.close()
