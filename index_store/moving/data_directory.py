"""A data directory as one end of a move. No other process may serve it meanwhile, or what it writes counts
only if it is there when both sides are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from index_store.catalog.data_directory import collection_directories
from index_store.catalog.identity import ORIGIN_KEY
from index_store.catalog.pointer import POINTER_FILE, read_pointer, write_pointer
from index_store.catalog.store_id import store_id
from index_store.contents.table import read_contents
from index_store.diagnosis import unreadable, what_helps
from index_store.errors import StoreDamaged, WriteFailed
from index_store.moving.storages import PAGE_ROWS, RowsOfSeq, StoredCollection, StoredGeneration
from index_store.record import digest
from index_store.record.batches import TransactionRows
from index_store.record.rows import Row
from index_store.storage.schema import (
    COLUMNS,
    LEXICAL_KEY,
    SQLITE_ERRORS,
    STORE_FILE,
    Connection,
    connect_reading,
    connect_sqlite,
    create_store,
    from_columns,
    prepare,
    read_lexical_fields,
)
from index_store.storage.sealed_directory import new_directory, publish
from index_store.storage.transaction import read_rows, write_changes
from index_store.types import CollectionSpec

_MOVED_FROM = "moved_from"


class DirectoryStorage:
    """Fits `MoveSource` and `MoveTarget`. For one thread."""

    def __init__(self, data_dir: Path, page_rows: int = PAGE_ROWS) -> None:
        """page_rows: of one commit."""
        self._data_dir = data_dir
        self._page_rows = page_rows

    def source_id(self) -> str:
        """See `MoveSource`."""
        return store_id(self._data_dir)

    def collections(self) -> list[StoredCollection]:
        """See `MoveSource`."""
        return [
            found
            for directory in collection_directories(self._data_dir)
            if (directory / POINTER_FILE).exists() or not _is_half_there(directory)
            if (found := _read_collection(directory)) is not None
        ]

    def rows_beyond(self, collection: CollectionSpec, name: str, seq: int) -> RowsOfSeq:
        """See `MoveSource`."""
        path = self._store_of(collection, name)
        with _opened(path, connect_reading) as connection:
            found = connection.execute(
                f"SELECT {COLUMNS} FROM item WHERE seq>? ORDER BY seq LIMIT {self._page_rows}", (seq,)
            ).fetchall()
            rows: list[Row] = []
            for row, is_sound in map(from_columns, found):
                if not is_sound:
                    raise StoreDamaged(
                        f"{path}: the row of {row.id!r} is damaged",
                        "write that item again, or restore a backup; then run the same move again",
                    )
                rows.append(row)
            kept = read_contents(connection, [row.id for row in rows if row.content_hash is not None])
        hashes = {row.id: row.content_hash for row in rows}
        return RowsOfSeq(rows, {key: each for key, each in kept.items() if each.content_hash == hashes[key]})

    def begin(self, source_id: str, collection: CollectionSpec, generation: StoredGeneration) -> str:
        """See `MoveTarget`. The generation keeps its name."""
        directory = self._data_dir / "collections" / collection.name
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / generation.name).exists():
            self._require_same_move(source_id, collection, generation)
            return generation.name
        unpublished = new_directory(directory, generation.name)
        create_store(unpublished, collection, generation.embedding_version)
        with _opened(unpublished / STORE_FILE, connect_sqlite) as connection:
            prepare(connection)
            connection.execute(
                "INSERT INTO meta(key, value) VALUES(?, ?)", (_MOVED_FROM, f"{source_id}/{generation.name}")
            )
        publish(unpublished, directory / generation.name)
        return generation.name

    def _require_same_move(
        self, source_id: str, collection: CollectionSpec, generation: StoredGeneration
    ) -> None:
        path = self._store_of(collection, generation.name)
        with _opened(path, connect_reading) as connection:
            found = connection.execute("SELECT value FROM meta WHERE key=?", (_MOVED_FROM,)).fetchone()
        if found != (f"{source_id}/{generation.name}",):
            raise WriteFailed(
                f"{path} is not what an earlier move of this index left", "move into an empty directory"
            )

    def seq_of(self, collection: CollectionSpec, name: str) -> int:
        """See `MoveTarget`."""
        with _opened(self._store_of(collection, name), connect_reading) as connection:
            (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
        return int(seq)

    def root_of(self, collection: CollectionSpec, name: str) -> str:
        """See `MoveTarget`."""
        with _opened(self._store_of(collection, name), connect_reading) as connection:
            return _root(connection)

    def put_rows(self, collection: CollectionSpec, name: str, rows: RowsOfSeq) -> None:
        """See `MoveTarget`."""
        with self._transaction(collection, name) as connection:
            before, damaged = read_rows(connection, [row.id for row in rows.rows])
            work = TransactionRows(rows.rows[-1].seq, before, damaged, {})
            work.changed.update({row.id: row for row in rows.rows})
            work.contents.update({row.id: rows.contents.get(row.id) for row in rows.rows})
            write_changes(connection, work)

    def give_roles(self, moved: StoredCollection, names: Mapping[str, str]) -> None:
        """See `MoveTarget`."""
        for generation in moved.generations:
            with self._transaction(moved.spec, names[generation.name]) as connection:
                fields = json.dumps(list(moved.spec.lexical_fields), ensure_ascii=False)
                facts = {"seq": generation.seq, ORIGIN_KEY: generation.origin, LEXICAL_KEY: fields}
                connection.executemany(
                    "INSERT INTO meta(key, value) VALUES(?, ?) "
                    "ON CONFLICT(key) DO UPDATE SET value=excluded.value",
                    list(facts.items()),
                )
                connection.execute("DELETE FROM meta WHERE key=?", (_MOVED_FROM,))
                connection.executemany(
                    "INSERT OR REPLACE INTO cursor(source, value) VALUES(?, ?)",
                    list(generation.cursors.items()),
                )
        directory = self._data_dir / "collections" / moved.spec.name
        pointer = moved.pointer.renamed(names)
        newest = max(int(name[1:]) for name in pointer.names)
        write_pointer(directory, replace(pointer, counter=max(pointer.counter, newest)))

    @contextmanager
    def _transaction(self, collection: CollectionSpec, name: str) -> Iterator[Connection]:
        with _opened(self._store_of(collection, name), connect_sqlite) as connection:
            prepare(connection)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _store_of(self, collection: CollectionSpec, name: str) -> Path:
        return self._data_dir / "collections" / collection.name / name / STORE_FILE


def _is_half_there(directory: Path) -> bool:
    """Whether a move was killed before it could give roles to what lies here."""
    for path in directory.glob(f"*/{STORE_FILE}"):
        with _opened(path, connect_reading) as connection:
            if connection.execute("SELECT 1 FROM meta WHERE key=?", (_MOVED_FROM,)).fetchone():
                return True
    return False


def _read_collection(directory: Path) -> StoredCollection | None:
    """None for a directory without any generation that has a role."""
    pointer = read_pointer(directory)
    spec: CollectionSpec | None = None
    generations = []
    for member in pointer.members:
        with _opened(directory / member.name / STORE_FILE, connect_reading) as connection:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            root = _root(connection)
            cursors = dict(connection.execute("SELECT source, value FROM cursor").fetchall())
            fields = read_lexical_fields(connection)
        found = StoredGeneration(
            member.name,
            member.embedding_version,
            int(meta["dim"]),
            int(meta["seq"]),
            cursors,
            str(meta.get(ORIGIN_KEY) or ""),
            root,
        )
        generations.append(found)
        spec = spec or CollectionSpec(directory.name, meta["id_kind"], found.dim, meta["metric"], fields)
    return None if spec is None else StoredCollection(spec, pointer, generations)


def _root(connection: Connection) -> str:
    sums = connection.execute("SELECT bucket, sum FROM digest").fetchall()
    return digest.root_of(digest.buckets_from(sums))


@contextmanager
def _opened(path: Path, connect: Any) -> Iterator[Connection]:
    """Raises StoreUnavailable, StoreDamaged; WriteFailed where a write failed."""
    try:
        connection = connect(path)
        try:
            yield connection
        finally:
            connection.close()
    except SQLITE_ERRORS as exc:
        if connect is connect_reading:
            raise unreadable(path, exc) from exc
        raise WriteFailed(f"{path} can't be written: {exc}", what_helps(exc, path)) from exc
