"""A shop as the feeder meets it: product vectors in PostgreSQL, products in PostgreSQL or MariaDB, rights as
docs/FEEDER.md grants them, and writers that do what a shop does."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psycopg
import pymysql

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import as_text
from tests.integration.service_process import ROOT
from tests.waiting import until

Tier = Literal["log", "triggers", "poll"]
Engine = Literal["postgresql", "mariadb"]

DIM = 512
PASSWORD = "change-me"  # docs/FEEDER.md's own
COLLECTIONS = """
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
table = "product"
id = "id"
active = "is_active"
metadata = { name = "name" }
"""
VECTORS = """
CREATE TABLE product_vectors (
  product_vector_id serial PRIMARY KEY, product_id varchar(255), vector vector(512), note text)
"""
PRODUCT = "CREATE TABLE product (id varchar(255) PRIMARY KEY, name varchar(100), is_active boolean)"


def granted(title: str) -> list[str]:
    """Return the statements that docs/FEEDER.md gives under a title."""
    text = (ROOT / "docs" / "FEEDER.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- grants: {title} -->\n```sql\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/FEEDER.md has no grants for {title}"
    return [line for line in found[1].splitlines() if line.strip()]


def vector_for(rng: random.Random) -> str:
    values = np.random.default_rng(rng.getrandbits(32)).standard_normal(DIM).astype(np.float32)
    return as_text(values / np.linalg.norm(values))


@dataclass
class ProductShop:
    """One database of each kind. `items`: where the products are."""

    postgres: PostgresServer
    mariadb: MariaDBServer | None
    pg_name: str
    maria_name: str
    folder: Path
    seed: int
    errors: list[BaseException] = field(default_factory=list)

    @property
    def items(self) -> Engine:
        return "postgresql" if self.mariadb is None else "mariadb"

    def create(self) -> None:
        with closing(self.pg()) as db:
            db.execute(f"ALTER DATABASE {self.pg_name} SET synchronous_commit = on")
            db.execute(VECTORS)
            db.execute(PRODUCT)
            db.execute("DROP ROLE IF EXISTS feeder")
            for statement in granted("postgresql read"):
                db.execute(statement.encode())
        if self.mariadb is not None:
            with closing(self.maria()) as maria:
                self._run(maria, PRODUCT)
                self._run(maria, "DROP USER IF EXISTS feeder@'%'")
                for statement in granted("mariadb read"):
                    self._run(maria, statement.replace("shop.", f"{self.maria_name}."))

    def grant(self, what: Literal["log", "triggers"]) -> None:
        with closing(self.pg()) as db:
            for statement in granted(f"postgresql {what}"):
                db.execute(statement.encode())
        if self.mariadb is not None:
            with closing(self.maria()) as maria:
                for statement in granted(f"mariadb {what}"):
                    self._run(maria, statement.replace("shop.", f"{self.maria_name}."))

    def _has_dropped_slots(self, db: psycopg.Connection[Any]) -> bool:
        """Drop the slots that nobody reads any more; return whether that is all of them."""
        query = "SELECT slot_name FROM pg_replication_slots WHERE database = %s"
        for (slot,) in db.execute(query, (self.pg_name,)).fetchall():
            with suppress(psycopg.errors.ObjectInUse):
                db.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        return not db.execute(query, (self.pg_name,)).fetchall()

    @contextmanager
    def streaming(self, slot: str) -> Iterator[None]:
        """Meanwhile another connection reads the slot, as a replica does."""
        server = self.postgres
        address = f"host=127.0.0.1 port={server.port} user=postgres password={server.password}"
        address += f" dbname={self.pg_name} replication=database"
        replica = psycopg.pq.PGconn.connect(address.encode())
        statement = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names 'none')"
        answer = replica.exec_(statement.encode())
        assert answer.status == psycopg.pq.ExecStatus.COPY_BOTH, answer.error_message
        backend = replica.backend_pid
        try:
            yield
        finally:
            replica.finish()
            with closing(self.pg()) as db:
                query = "SELECT FROM pg_stat_activity WHERE pid = %s"
                until(lambda: db.execute(query, (backend,)).fetchone() is None, "the end of the reader")

    def drop(self) -> None:
        with closing(self.postgres.connect()) as db:
            db.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s",
                (self.pg_name,),
            )
            until(lambda: self._has_dropped_slots(db), "the end of the slots' readers", 0.1)
        self.postgres.drop_database(self.pg_name)
        with closing(self.postgres.connect()) as db:
            db.execute("DROP ROLE IF EXISTS feeder")

    def environ(self, tier: str = "auto", *, as_owner: bool = False) -> dict[str, str]:
        """Return what points a feeder at this shop."""
        pg = self.postgres.environ("TGT", self.pg_name)
        if self.mariadb is None:
            src = self.postgres.environ("SRC", self.pg_name)
        else:
            src = self.mariadb.environ("SRC", self.maria_name) | {"SRC_DB_ENGINE": "mariadb"}
        found = pg | src | {
            "FEEDER_TIER": tier, "FEEDER_STATE_DIR": str(self.folder / "state"), "FEEDER_POLL_S": "1",
            "FEEDER_BRAKE_PERCENT": "100",  # writers here delete more than any shop does
        }  # fmt: skip
        if not as_owner:
            found |= {f"{side}_DB_{name}": value for side in ("SRC", "TGT")
                      for name, value in (("USER", "feeder"), ("PASS", PASSWORD))}  # fmt: skip
        return found

    def pg(self) -> psycopg.Connection[Any]:
        return self.postgres.connect(self.pg_name)

    def maria(self) -> pymysql.Connection[Any]:
        assert self.mariadb is not None
        return self.mariadb.connect(self.maria_name)

    def fill(self, count: int) -> None:
        rng = random.Random(self.seed)
        with closing(self.pg()) as db, db.transaction():
            for number in range(count):
                db.execute(
                    "INSERT INTO product_vectors(product_id, vector) VALUES (%s, %s::vector)",
                    (f"p{number}", vector_for(rng)),
                )
        self.on_items(
            lambda run: [
                run("INSERT INTO product VALUES (%s, %s, %s)", (f"p{n}", f"상품 {n}", n % 7 != 0))
                for n in range(count)
            ]
        )

    def on_items(self, work: Callable[[Callable[[str, Sequence[Any]], None]], object]) -> None:
        """Run statements on the items table in one transaction."""
        if self.mariadb is None:
            with closing(self.pg()) as db, db.transaction():
                work(lambda statement, values: void(db.execute(statement.encode(), values)))
        else:
            with closing(self.maria()) as maria:
                maria.begin()
                with maria.cursor() as cursor:
                    work(lambda statement, values: void(cursor.execute(statement, values)))
                maria.commit()

    def item(self, statement: str, *values: Any) -> None:
        self.on_items(lambda run: run(statement, values))

    def expected(self) -> dict[str, tuple[bool, bytes]]:
        """Return what the index must hold: by id, active and the vector; the last row of an id wins."""
        with closing(self.pg()) as db:
            rows = db.execute(
                "SELECT product_id, vector::real[] FROM product_vectors"
                " WHERE product_id IS NOT NULL AND vector IS NOT NULL ORDER BY product_vector_id"
            ).fetchall()
            products = [] if self.mariadb else db.execute("SELECT id, is_active FROM product").fetchall()
        if self.mariadb is not None:
            with closing(self.maria()) as maria, maria.cursor() as cursor:
                cursor.execute("SELECT id, is_active FROM product")
                products = list(cursor.fetchall())
        active = {item_id: bool(flag) for item_id, flag in products}
        return {
            item_id: (active[item_id], np.array(values, dtype="<f4").tobytes())
            for item_id, values in rows
            if item_id in active
        }

    @staticmethod
    def _run(maria: pymysql.Connection[Any], statement: str) -> None:
        with maria.cursor() as cursor:
            cursor.execute(statement)


def void(_: object) -> None:
    return None


class Writers:
    """Eight of them, each in transactions of 0 to 400 ms: inserts, new vectors, other columns, ids that move
    from row to row, deactivations, reactivations, hard deletes, ids used again, and rollbacks."""

    def __init__(self, shop: ProductShop, ids: int, writers: int = 8) -> None:
        self._shop = shop
        self._ids = ids
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(shop.seed * 100 + n,)) for n in range(writers)
        ]
        self.commits = 0
        self.rollbacks = 0

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._shop.errors:
            raise self._shop.errors[0]

    def _work(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            with closing(self._shop.pg()) as pg:
                pg.autocommit = False
                maria = self._shop.maria() if self._shop.mariadb is not None else None
                if maria is not None:
                    maria.autocommit(False)
                while not self._stop.is_set():
                    self._transaction(rng, pg, maria)
                if maria is not None:
                    maria.close()
        except BaseException as exc:
            self._shop.errors.append(exc)

    def _transaction(self, rng: random.Random, pg: Any, maria: Any) -> None:
        """One transaction on one side; a deadlock or lock timeout is a rollback like any other."""
        on_items = rng.random() < 0.5
        connection = maria if on_items and maria is not None else pg
        try:
            with connection.cursor() as cursor:
                for _ in range(rng.randint(1, 4)):
                    statement, values = self._item(rng) if on_items else self._vector(rng)
                    cursor.execute(statement, values)
                    self._stop.wait(rng.random() * 0.1)
            if rng.random() < 0.2:
                connection.rollback()
                self.rollbacks += 1
            else:
                connection.commit()
                self.commits += 1
        except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation, pymysql.MySQLError):
            connection.rollback()
            self.rollbacks += 1

    def _id(self, rng: random.Random) -> str:
        return f"p{rng.randrange(self._ids)}"

    def _vector(self, rng: random.Random) -> tuple[str, Sequence[Any]]:
        kind, item_id = rng.random(), self._id(rng)
        if kind < 0.35:
            return "INSERT INTO product_vectors(product_id, vector) VALUES (%s, %s)", (
                item_id,
                vector_for(rng),
            )
        if kind < 0.5:
            return "UPDATE product_vectors SET vector = %s WHERE product_id = %s", (vector_for(rng), item_id)
        if kind < 0.7:
            return "UPDATE product_vectors SET note = %s WHERE product_id = %s", (str(kind), item_id)
        if kind < 0.8:
            return (
                "UPDATE product_vectors SET product_id = %s WHERE product_vector_id ="
                " (SELECT max(product_vector_id) FROM product_vectors WHERE product_id = %s)",
                (self._id(rng), item_id),
            )
        if kind < 0.83:
            return "UPDATE product_vectors SET product_id = NULL WHERE product_id = %s", (item_id,)
        if kind < 0.86:
            return "UPDATE product_vectors SET vector = NULL WHERE product_id = %s", (item_id,)
        return "DELETE FROM product_vectors WHERE product_id = %s", (item_id,)

    def _item(self, rng: random.Random) -> tuple[str, Sequence[Any]]:
        kind, item_id = rng.random(), self._id(rng)
        if kind < 0.3:
            return "UPDATE product SET is_active = false WHERE id = %s", (item_id,)
        if kind < 0.6:
            return "UPDATE product SET is_active = true WHERE id = %s", (item_id,)
        if kind < 0.75:
            return "DELETE FROM product WHERE id = %s", (item_id,)
        if kind < 0.8:
            return "UPDATE product SET name = %s WHERE id = %s", (f"이름 {kind}", item_id)
        return "INSERT INTO product VALUES (%s, %s, true)", (item_id, "새 상품")


def with_environ(*parts: Mapping[str, str]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for part in parts:
        merged |= part
    return merged
