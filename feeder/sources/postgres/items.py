"""Items out of a PostgreSQL table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from feeder.changes import Directory, ItemRow
from feeder.errors import SettingsWrong
from feeder.sources.port import Throttling
from feeder.sources.postgres.catalog import INTEGERS, table_info
from feeder.sources.rows import IdCodec, columns_of, directory_of, item_rows
from feeder.sources.session import PostgresSession
from feeder.table_mapping import ItemTable
from item_rules.ids import IdKind
from vector_client.types import Id


class PostgresItems:
    """One items table. Fits sources.port.ItemSource."""

    def __init__(self, session: PostgresSession, table: ItemTable, id_kind: IdKind) -> None:
        self._session = session
        self._table = table
        self._codec = IdCodec(id_kind, column_is_int=False)

    def open(self) -> None:
        """Connect and look at the columns. Raises SettingsWrong where one is missing, SourceDown."""
        table = self._table
        names = [table.id, *columns_of(table)]
        info = self._session.execute(lambda connection: table_info(connection, table.table, names))
        is_int = info.columns[table.id].type in INTEGERS
        self._codec = IdCodec(self._codec.kind, is_int)

    def directory(self, throttle: Throttling | None = None) -> Directory:
        """Return every id with its activity, from one statement."""
        statement = sql.SQL("SELECT {}, {} FROM {}").format(
            self._id(), self._active(self._table.active), sql.Identifier(*self._table.table)
        )
        return directory_of(self._codec, self._rows(statement), throttle)

    def fetch(self, ids: Sequence[Id]) -> Mapping[Id, Sequence[ItemRow]]:
        """Return the rows of each id that exists."""
        table = self._table
        wanted = [value for value in map(self._codec.to_column, ids) if value is not None]
        active = self._active(
            table.active.replace("%", "%%")
        )  # with parameters, psycopg takes % for a placeholder
        columns = sql.SQL(", ").join([self._id(), active, *map(sql.Identifier, columns_of(table))])
        id_column = sql.Identifier(table.id) if self._codec.column_is_int else self._id()
        statement = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%s)").format(
            columns, sql.Identifier(*table.table), id_column
        )
        return item_rows(table, self._codec, self._rows(statement, (wanted,)))

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _id(self) -> sql.Composable:
        """Integers as they are; anything else (varchar, uuid) as the text that the collection holds."""
        column = sql.Identifier(self._table.id)
        return column if self._codec.column_is_int else sql.SQL("{}::text").format(column)

    def _active(self, condition: str) -> sql.Composable:
        """The condition is the operator's own SQL, from the configuration file."""
        return sql.SQL("({}) IS TRUE").format(sql.SQL(condition))  # type: ignore[arg-type, unused-ignore]

    def _rows(self, statement: sql.Composed, parameters: tuple[Any, ...] | None = None) -> list[Any]:
        def read(connection: psycopg.Connection[Any]) -> list[Any]:
            with connection.cursor(binary=True) as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall()

        try:
            return self._session.execute(read)
        except psycopg.Error as exc:
            raise SettingsWrong(f"{'.'.join(self._table.table)}: {exc}") from exc
