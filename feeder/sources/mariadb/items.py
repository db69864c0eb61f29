"""Items out of a MariaDB (or MySQL) table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pymysql
import pymysql.cursors

from feeder.changes import Directory, ItemRow
from feeder.errors import SettingsWrong
from feeder.sources.port import Throttling
from feeder.sources.rows import IdCodec, columns_of, directory_of, item_rows
from feeder.sources.session import MariaSession
from feeder.table_mapping import ItemTable
from item_rules.ids import IdKind
from vector_client.types import Id

T = TypeVar("T")

FETCH_ROWS = 5_000
INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_COLUMNS = """
SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = COALESCE(%s, DATABASE()) AND TABLE_NAME = %s
"""


class MariaDBItems:
    """One items table. Fits sources.port.ItemSource."""

    def __init__(self, session: MariaSession, table: ItemTable, id_kind: IdKind) -> None:
        self._session = session
        self._table = table
        self._codec = IdCodec(id_kind, column_is_int=False)

    def open(self) -> None:
        """Connect and look at the columns. Raises SettingsWrong where one is missing, SourceDown."""
        *schema, name = self._table.table
        rows = self._rows(_COLUMNS, (schema[0] if schema else None, name))
        types = {str(column): str(kind).lower() for column, kind in rows}
        if not types:
            raise SettingsWrong(f"no table {self._quoted_table()} that this user may read")
        missing = [column for column in (self._table.id, *columns_of(self._table)) if column not in types]
        if missing:
            raise SettingsWrong(
                f"{self._quoted_table()} has no column {', '.join(missing)}; it has {', '.join(types)}"
            )
        self._codec = IdCodec(self._codec.kind, types[self._table.id] in INTEGERS)

    def directory(self, throttle: Throttling | None = None) -> Directory:
        """One unbuffered pass: a consistent picture, and exact text ids where a GROUP BY or a key page would
        follow the column's collation (which may hold "a" and "A" for one)."""
        statement = (
            f"SELECT {_quoted(self._table.id)}, ({self._table.active}) IS TRUE FROM {self._quoted_table()}"
        )

        def read(connection: pymysql.Connection[Any]) -> Directory:
            with connection.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute(statement)
                return directory_of(self._codec, cursor, throttle)

        return self._translated(read)

    def fetch(self, ids: Sequence[Id]) -> Mapping[Id, Sequence[ItemRow]]:
        """Return the rows of each id that exists; of text ids exactly those asked for."""
        wanted = [value for value in map(self._codec.to_column, ids) if value is not None]
        active = f"({self._table.active}) IS TRUE".replace("%", "%%")  # the driver formats the statement
        names = map(_quoted, columns_of(self._table))
        columns = ", ".join([_quoted(self._table.id), active, *names])
        rows: list[Any] = []
        for start in range(0, len(wanted), FETCH_ROWS):
            statement = f"SELECT {columns} FROM {self._quoted_table()} WHERE {_quoted(self._table.id)} IN %s"
            rows += self._rows(statement, (wanted[start : start + FETCH_ROWS],))
        found = item_rows(self._table, self._codec, rows)
        # A case-blind collation answers with ids that were not asked for.
        asked = set(ids)
        return {item_id: rows for item_id, rows in found.items() if item_id in asked}

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _quoted_table(self) -> str:
        return ".".join(map(_quoted, self._table.table))

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        def read(connection: pymysql.Connection[Any]) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())

        return self._translated(read)

    def _translated(self, read: Callable[[pymysql.Connection[Any]], T]) -> T:
        try:
            return self._session.execute(read)
        except pymysql.MySQLError as exc:
            raise SettingsWrong(f"{self._quoted_table()}: {exc.args[-1] if exc.args else exc}") from exc


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
