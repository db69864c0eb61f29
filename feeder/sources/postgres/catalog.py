"""What PostgreSQL's catalog says about a table: types, uniqueness, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from feeder.errors import SettingsWrong
from feeder.table_mapping import Identifier

INTEGERS = frozenset({"int2", "int4", "int8"})
TABLE_KINDS = frozenset({"r", "p", "m"})

_RELATION = """
SELECT c.oid, c.relkind::text, current_database(), c.oid::regclass::text
FROM pg_class AS c WHERE c.oid = to_regclass(%s)
"""
_COLUMNS = """
SELECT a.attname, t.typname, a.atttypmod,
       EXISTS (SELECT FROM pg_index AS i
               WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL AND i.indisvalid
                     AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """modifier: a vector's declared dimension, -1 for any."""

    type: str
    modifier: int
    is_unique: bool


@dataclass(frozen=True, slots=True)
class TableInfo:
    """identity: database, name and oid; a table that was dropped and made again has another."""

    identity: str
    is_table: bool
    columns: Mapping[str, TableColumn]


def table_info(connection: psycopg.Connection[Any], table: Identifier, names: Sequence[str]) -> TableInfo:
    """Return the relation with all its columns. Raises SettingsWrong when it, or one of `names`, is not
    there."""
    quoted = sql.Identifier(*table).as_string(connection)
    found = connection.execute(_RELATION, (quoted,)).fetchone()
    if found is None:
        raise SettingsWrong(
            f"no table {quoted} in database {connection.info.dbname!r} for user {connection.info.user!r}",
            hint="Here names are taken as written, upper and lower case apart. May the user read it?",
        )
    oid, kind, database, printed = found
    rows = connection.execute(_COLUMNS, (oid,)).fetchall()
    columns = {name: TableColumn(type_name, modifier, unique) for name, type_name, modifier, unique in rows}
    missing = [name for name in names if name not in columns]
    if missing:
        raise SettingsWrong(f"{quoted} has no column {', '.join(missing)}; it has {', '.join(columns)}")
    return TableInfo(f"{database}/{printed}/{oid}", kind in TABLE_KINDS, columns)
