"""A PostgreSQL database as one end of a move."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.types.numeric import Int8

from index_store.moving.storages import PAGE_ROWS, RowsOfSeq, StoredCollection, StoredGeneration
from index_store.postgres.connections import BoundedConnection, Connections, PostgresLimits
from index_store.postgres.generations import FIELDS, GenerationRecord, name_of, number_of
from index_store.postgres.opening import open_schema
from index_store.postgres.reading import bucket_sums, one_moment
from index_store.postgres.schema import rows_table
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.words import put_words
from index_store.postgres.writes.batches import COLLECTION_LOCK, read_newest, rows_of
from index_store.postgres.writes.steps import new_generation, read_contents, store_pointer
from index_store.postgres.writes.versions import changed_counts, put_versions, store_counts
from index_store.record import digest
from index_store.record.batches import TransactionRows
from index_store.types import DIGEST_BUCKETS, CollectionSpec, ItemDelete, WriteBatch


class DatabaseStorage:
    """Fits `MoveSource` and `MoveTarget`. For one thread; `close` after use."""

    def __init__(self, dsn: str, page_rows: int = PAGE_ROWS) -> None:
        """dsn: a URL or the key words of libpq; the first schema of its search_path holds the tables.
        page_rows: of one commit."""
        self._page_rows = page_rows
        self._limits = PostgresLimits()
        self._connections = Connections(dsn, self._limits)

    def close(self) -> None:
        """Close its connections."""
        self._connections.close()

    def source_id(self) -> str:
        """See `MoveSource`."""
        return self._connections.run(self._limits.write_s, lambda connection: open_schema(connection, []))

    def collections(self) -> list[StoredCollection]:
        """See `MoveSource`."""
        self.source_id()
        with self._connections.using(self._limits.read_s) as connection, one_moment(connection):
            known = connection.execute(
                "SELECT name, id_kind, metric FROM collection ORDER BY name"
            ).fetchall()
            found = [
                _read_collection(connection, CollectionSpec(name, id_kind, 0, metric))
                for name, id_kind, metric in known
            ]
        return [each for each in found if each.generations]

    def rows_beyond(self, collection: CollectionSpec, name: str, seq: int) -> RowsOfSeq:
        """See `MoveSource`."""
        number = number_of(name)
        with self._connections.using(self._limits.pass_s) as connection, one_moment(connection):
            rows = rows_of(
                connection.execute(
                    "SELECT id, seq, deleted, active, source_version, content_hash, metadata, share, "
                    f"vector IS NOT NULL, vector FROM {rows_table(number)} WHERE until IS NULL AND seq > %s "
                    f"AND seq <= (SELECT head FROM generation WHERE number = {number}) "
                    f"ORDER BY seq LIMIT {self._page_rows}".encode(),
                    (Int8(seq),),
                    binary=True,
                ).fetchall()
            )
            hashes = {row.id: row.content_hash for row in rows.values() if row.content_hash is not None}
            kept = read_contents(connection, number, list(hashes), collection.id_kind)
        contents = {key: each for key, each in kept.items() if each.content_hash == hashes[key]}
        return RowsOfSeq(list(rows.values()), contents)

    def begin(self, source_id: str, collection: CollectionSpec, generation: StoredGeneration) -> str:
        """See `MoveTarget`."""
        moving = f"moving {source_id}/{generation.name}"
        with self._connections.using(self._limits.pass_s) as connection:
            open_schema(connection, [collection])
            found = connection.execute(
                "SELECT number FROM generation WHERE collection = %s AND origin = %s",
                (collection.name, moving),
            ).fetchone()
            if found is not None:
                return name_of(found[0])
            made = new_generation(connection, collection, generation.embedding_version, generation.dim)
            connection.execute("UPDATE generation SET origin = %s WHERE number = %s", (moving, made.number))
            return made.name

    def seq_of(self, collection: CollectionSpec, name: str) -> int:
        """See `MoveTarget`."""
        with self._connections.using(self._limits.read_s) as connection:
            return _record(connection, collection, name).head

    def root_of(self, collection: CollectionSpec, name: str) -> str:
        """See `MoveTarget`."""
        with self._connections.using(self._limits.read_s) as connection:
            return _root(connection, _record(connection, collection, name))

    def put_rows(self, collection: CollectionSpec, name: str, rows: RowsOfSeq) -> None:
        """See `MoveTarget`."""
        ids = WriteBatch(deletes=[ItemDelete(row.id) for row in rows.rows])
        with self._connections.using(self._limits.pass_s) as connection, connection.transaction():
            connection.execute(COLLECTION_LOCK, (collection.name,))
            target = _record(connection, collection, name)
            before = rows_of(read_newest(connection, collection, target, [ids]).fetchall())
            work = TransactionRows(rows.rows[-1].seq, before, {}, {})
            work.changed.update({row.id: row for row in rows.rows})
            work.contents.update({row.id: rows.contents.get(row.id) for row in rows.rows})
            after = changed_counts(target, work, put_versions(connection, collection.id_kind, target, work))
            put_words(connection, target.number, collection, rows.rows)
            store_counts(connection, after, work)

    def give_roles(self, moved: StoredCollection, names: Mapping[str, str]) -> None:
        """See `MoveTarget`."""
        with self._connections.using(self._limits.write_s) as connection, connection.transaction():
            connection.execute(COLLECTION_LOCK, (moved.spec.name,))
            for generation in moved.generations:
                number = number_of(names[generation.name])
                connection.execute(
                    "UPDATE generation SET head = %s, origin = %s WHERE number = %s",
                    (Int8(generation.seq), generation.origin, number),
                )
                for cursor in generation.cursors.items():
                    connection.execute("INSERT INTO cursor VALUES(%s, %s, %s)", (number, *cursor))
            store_pointer(connection, moved.spec, moved.pointer.renamed(names))


def _read_collection(connection: BoundedConnection, spec: CollectionSpec) -> StoredCollection:
    record = read_collection(connection, spec)
    generations = []
    for each in record.in_order:
        cursors = connection.execute("SELECT source, value FROM cursor WHERE generation = %s", (each.number,))
        generations.append(
            StoredGeneration(
                each.name,
                each.embedding_version,
                each.dim,
                each.head,
                dict(cursors.fetchall()),
                each.origin,
                _root(connection, each),
            )
        )
    current = record.current
    return StoredCollection(spec if current is None else record.spec_of(current), record.pointer, generations)


def _record(connection: BoundedConnection, collection: CollectionSpec, name: str) -> GenerationRecord:
    found = connection.execute(
        f"SELECT {', '.join(FIELDS)} FROM generation WHERE number = %s AND collection = %s".encode(),
        (number_of(name), collection.name),
    ).fetchone()
    assert found is not None, name
    return GenerationRecord(*found)


def _root(connection: BoundedConnection, generation: GenerationRecord) -> str:
    return digest.root_of(bucket_sums(connection, generation, DIGEST_BUCKETS))
