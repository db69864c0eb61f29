"""The test databases are what the other tests believe them to be."""

from __future__ import annotations

from tests.integration.databases import MariaDBServer, PostgresServer

RECIPE = "갈비탕 한 그릇 🍲"


def test_postgres_has_pgvector_logical_wal_and_utf8(postgres: PostgresServer, pg_database: str) -> None:
    with postgres.connect(pg_database) as db:
        assert db.execute("SHOW wal_level").fetchone() == ("logical",)
        assert db.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        db.execute('CREATE TABLE "T" (id int, v vector(3), h halfvec(3), name text)')
        db.execute("INSERT INTO \"T\" VALUES (1, '[1,2,3]', '[1,2,3]', %s)", (RECIPE,))
        row = db.execute("SELECT v <-> '[1,2,5]', name FROM \"T\"").fetchone()
        assert row == (2.0, RECIPE)
        db.execute("SELECT pg_create_logical_replication_slot('probe', 'pgoutput')")
        db.execute("SELECT pg_drop_replication_slot('probe')")


def test_mariadb_has_row_binlog_and_utf8mb4(mariadb: MariaDBServer, maria_database: str) -> None:
    with mariadb.connect(maria_database) as db:
        cursor = db.cursor()
        names = ("binlog_format", "binlog_row_image", "binlog_row_metadata", "character_set_server")
        cursor.execute("SELECT " + ", ".join(f"@@{name}" for name in names))
        assert cursor.fetchone() == ("ROW", "FULL", "FULL", "utf8mb4")
        cursor.execute("CREATE TABLE t (id int primary key, name varchar(50))")
        cursor.execute("INSERT INTO t VALUES (%s, %s)", (1, RECIPE))
        cursor.execute("SELECT name FROM t")
        assert cursor.fetchone() == (RECIPE,)


def test_a_server_keeps_its_data_over_a_restart(postgres: PostgresServer, pg_database: str) -> None:
    with postgres.connect(pg_database) as db:
        db.execute("CREATE TABLE kept (id int)")
    postgres.stop()
    postgres.start()
    with postgres.connect(pg_database) as db:
        assert db.execute("SELECT count(*) FROM kept").fetchone() == (0,)
