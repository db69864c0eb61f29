"""An index in PostgreSQL is opened: its tables made or found, its collections declared."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors

from index_store import hints
from index_store.errors import StoreUnavailable, UnknownFormat
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.schema import TABLES, VERSION
from index_store.types import CollectionSpec

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('index_store'), hashtext(current_schema()))"
_EXISTS = (
    "SELECT count(*) FROM pg_class "
    "WHERE relname = 'index_schema' AND relnamespace = current_schema()::regnamespace"
)

_OF_ANOTHER = (
    errors.DuplicateTable,
    errors.DuplicateObject,
    errors.UndefinedColumn,
    errors.DatatypeMismatch,
    errors.WrongObjectType,
)
"""What another program's tables of the same names lead to."""


def open_schema(connection: BoundedConnection, specs: Sequence[CollectionSpec]) -> str:
    """Make what is missing of tables and collections and return the number of this index, which stays the
    same for good. Several processes may begin at once. Raises UnknownFormat, StoreUnavailable;
    psycopg.Error."""
    try:
        return _open_schema(connection, specs)
    except _OF_ANOTHER as exc:
        raise StoreUnavailable(
            f"the schema holds tables that are not of this index: {str(exc).splitlines()[0]}",
            "name a database or a search_path in INDEX_URL whose first schema is empty",
        ) from exc


def _open_schema(connection: BoundedConnection, specs: Sequence[CollectionSpec]) -> str:
    missing = [] if not has_schema(connection) else _undeclared(connection, specs)
    if missing or not has_schema(connection):
        with connection.transaction():
            connection.execute(_LOCK)
            if not has_schema(connection):
                _create(connection)
            for spec in _undeclared(connection, specs):
                connection.execute(
                    "INSERT INTO collection(name, id_kind, metric) VALUES(%s, %s, %s)",
                    (spec.name, spec.id_kind, spec.metric),
                )
    (store_id,) = _one(connection, "SELECT store_id FROM index_schema")
    return str(store_id)


def has_schema(connection: BoundedConnection) -> bool:
    """Whether the tables of an index are there. Raises UnknownFormat where they are another version's,
    StoreUnavailable; psycopg.Error."""
    schema, encoding = _one(connection, "SELECT current_schema(), getdatabaseencoding()")
    if encoding != "UTF8":  # texts of another could not hold all characters, nor be ordered by them
        raise StoreUnavailable(
            f"the database holds texts in {encoding}, not in UTF8",
            "name a database in INDEX_URL that was made with ENCODING 'UTF8'",
        )
    if schema is None:
        raise StoreUnavailable(
            "no schema of the search_path exists", "CREATE SCHEMA, or name one that exists in INDEX_URL"
        )
    if _one(connection, _EXISTS) == (0,):
        return False
    (version,) = _one(connection, "SELECT version FROM index_schema")
    if version != VERSION:
        raise UnknownFormat(
            f"the tables of the index are of version {version}, this program reads {VERSION}; "
            "nothing was changed",
            hints.OTHER_RELEASE,
        )
    return True


def _create(connection: BoundedConnection) -> None:
    for statement in TABLES:
        connection.execute(statement.encode())
    connection.execute(
        "INSERT INTO index_schema(version, store_id, generations_begun) "
        "VALUES(%s, replace(gen_random_uuid()::text, '-', ''), 0)",
        (VERSION,),
    )


def _undeclared(connection: BoundedConnection, specs: Sequence[CollectionSpec]) -> list[CollectionSpec]:
    """Return the collections without a row. Raises StoreUnavailable for one that was made otherwise."""
    known = {
        name: (id_kind, metric)
        for name, id_kind, metric in connection.execute("SELECT name, id_kind, metric FROM collection")
    }
    for spec in specs:
        made_with = known.get(spec.name, (spec.id_kind, spec.metric))
        for setting, made, wanted in zip(
            ("id_type", "metric"), made_with, (spec.id_kind, spec.metric), strict=True
        ):
            if made != wanted:
                raise StoreUnavailable(
                    f"collection {spec.name!r} was made with {setting} {made}, not {wanted} as configured",
                    f"set {setting} of collection {spec.name!r} back to {made} and restart",
                )
    return [spec for spec in specs if spec.name not in known]


def _one(connection: BoundedConnection, query: str) -> tuple[object, ...]:
    found = connection.execute(query.encode()).fetchone()
    assert found is not None, query
    return tuple(found)
