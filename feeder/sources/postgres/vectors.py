"""Vectors out of a pgvector table, as COPY BINARY pages over its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from feeder.changes import Key, Survey, VectorPage
from feeder.errors import SettingsWrong, SourceDown
from feeder.sources.port import VectorShape
from feeder.sources.postgres.binary_copy import BinaryRows, CopyFormatError, FixedField, parse
from feeder.sources.postgres.catalog import INTEGERS, TableColumn, TableInfo, table_info
from feeder.sources.session import PostgresSession
from feeder.table_mapping import VectorTable
from item_rules.ids import IdKind
from vector_client.types import Id

KEYS_NAMED = 5
BAD_BITS = {"no_key": 1, "no_id": 2, "no_vector": 4, "wrong_dimension": 8}


@dataclass(frozen=True, slots=True)
class _Plan:
    """How this table's columns are asked for, once it has been looked at."""

    source: sql.Composable
    key: sql.Composable
    id: sql.Composable
    vector: sql.Composable
    key_is_int: bool
    id_is_int: bool
    dim_is_fixed: bool
    tie_break: sql.Composable | None
    vector_field: FixedField


class PgVectorSource:
    """One pgvector table. Fits sources.port.VectorSource."""

    def __init__(self, session: PostgresSession, table: VectorTable, id_kind: IdKind, dim: int) -> None:
        self._session = session
        self._table = table
        self._id_kind = id_kind
        self._dim = dim
        self._plan: _Plan | None = None

    def open(self) -> VectorShape:
        """Look at the table and plan the statements. Raises SettingsWrong where a column does not fit,
        SourceDown."""
        table = self._table
        names = (table.key, table.id, table.vector)
        info = self._session.execute(lambda connection: table_info(connection, table.table, names))
        kind = self._vector_kind(info.columns[table.vector])
        self._plan = self._planned(info, kind)
        return VectorShape(info.identity, kind, info.columns[table.key].is_unique)

    def survey(self) -> Survey:
        """Return every row's key and id in one pass, without vectors. Raises SourceDown, SettingsWrong."""
        plan = self._opened()
        wrong_dim = (
            sql.SQL("false")
            if plan.dim_is_fixed
            else sql.SQL("vector_dims({}) <> {}").format(plan.vector, sql.Literal(self._dim))
        )
        bits = sql.SQL(
            "(({key} IS NULL)::int + 2 * ({id} IS NULL)::int"
            " + CASE WHEN {vector} IS NULL THEN 4 WHEN {wrong_dim} THEN 8 ELSE 0 END)::int2"
        ).format(key=plan.key, id=plan.id, vector=plan.vector, wrong_dim=wrong_dim)
        fixed, texts = _split(plan, "COALESCE({}, 0)::int8", "COALESCE({}::text, '')")
        fixed.insert(0, (bits, FixedField("int16")))
        columns = sql.SQL(", ").join([part for part, _ in fixed] + texts)
        statement = sql.SQL("SELECT {} FROM {}").format(columns, plan.source)
        rows = self._copy(statement, [field for _, field in fixed], len(texts))
        return self._surveyed(plan, rows)

    def page(self, after: Key | None, rows: int) -> VectorPage:
        """Return rows behind the key `after`; where keys repeat, all rows of the last key."""
        plan = self._opened()
        behind = sql.SQL("") if after is None else sql.SQL("AND {} > {}").format(plan.key, sql.Literal(after))
        limit = sql.SQL("FETCH FIRST {} ROWS {}").format(
            sql.Literal(rows), sql.SQL("ONLY" if plan.tie_break is None else "WITH TIES")
        )
        return self._read(plan, behind, limit)

    def rows_at(self, keys: Sequence[Key]) -> VectorPage:
        """`keys` holds one or more."""
        plan = self._opened()
        wanted = sql.SQL(", ").join(list(map(sql.Literal, keys)))
        return self._read(plan, sql.SQL("AND {} IN ({})").format(plan.key, wanted), sql.SQL(""))

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _opened(self) -> _Plan:
        assert self._plan is not None, "open() comes first"
        return self._plan

    def _vector_kind(self, column: TableColumn) -> Literal["vector", "halfvec"]:
        name = f"{'.'.join(self._table.table)}.{self._table.vector}"
        if column.type not in ("vector", "halfvec"):
            raise SettingsWrong(f"{name} is of type {column.type}, not vector or halfvec")
        if column.modifier not in (-1, self._dim):
            raise SettingsWrong(
                f"{name} has dimension {column.modifier}, the collection is configured with {self._dim}",
                hint="Set dim in COLLECTIONS_FILE to the table's, for the service too, or another table.",
            )
        return cast(Literal["vector", "halfvec"], column.type)

    def _planned(self, info: TableInfo, kind: Literal["vector", "halfvec"]) -> _Plan:
        table = self._table
        id_column, key_column = info.columns[table.id], info.columns[table.key]
        if self._id_kind == "int64" and id_column.type not in INTEGERS:
            raise SettingsWrong(
                f"{'.'.join(table.table)}.{table.id} is of type {id_column.type}; a collection with"
                ' id_type = "int64" needs an integer column'
            )
        ties = sql.SQL("s.ctid") if info.is_table else sql.SQL("1")
        return _Plan(
            source=sql.SQL("{} AS s").format(sql.Identifier(*table.table)),
            key=sql.Identifier("s", table.key),
            id=sql.Identifier("s", table.id),
            vector=sql.Identifier("s", table.vector),
            key_is_int=key_column.type in INTEGERS,
            id_is_int=self._id_kind == "int64",
            dim_is_fixed=info.columns[table.vector].modifier == self._dim,
            tie_break=None if key_column.is_unique else ties,
            vector_field=FixedField(kind, self._dim),
        )

    def _surveyed(self, plan: _Plan, rows: BinaryRows) -> Survey:
        bits = rows.fixed[0]
        ints, texts = iter(rows.fixed[1:]), iter(rows.texts)
        good = bits == 0
        keys: Any = next(ints) if plan.key_is_int else next(texts)
        ids: Any = next(ints) if plan.id_is_int else next(texts)
        bad, bad_keys = {}, {}
        for name, bit in BAD_BITS.items():
            positions = np.flatnonzero(bits & bit)
            bad[name] = len(positions)
            bad_keys[name] = (
                [] if name == "no_key" else [_plain(keys[position]) for position in positions[:KEYS_NAMED]]
            )
        return Survey(rows.count, _kept(keys, good), _kept(ids, good), bad, bad_keys)

    def _read(self, plan: _Plan, condition: sql.Composable, limit: sql.Composable) -> VectorPage:
        """Ask for fixed columns first, texts behind them; rows without key, id or vector stay out, since a
        fixed record has no room for NULL."""
        fixed, texts = _split(plan, "{}::int8", "{}::text")
        fixed.append((plan.vector, plan.vector_field))
        dimension = (
            sql.SQL("")
            if plan.dim_is_fixed
            else sql.SQL("AND vector_dims({}) = {}").format(plan.vector, sql.Literal(self._dim))
        )
        statement = sql.SQL(
            "SELECT {columns}{extra} FROM {source}"
            " WHERE {key} IS NOT NULL AND {id} IS NOT NULL AND {vector} IS NOT NULL {dimension} {condition}"
            " ORDER BY {key} {limit}"
        ).format(
            columns=_named([part for part, _ in fixed] + texts),
            extra=sql.SQL("")
            if plan.tie_break is None
            else sql.SQL(", {} AS o1, {} AS o2").format(plan.key, plan.tie_break),
            source=plan.source, key=plan.key, id=plan.id, vector=plan.vector,
            dimension=dimension, condition=condition, limit=limit,
        )  # fmt: skip
        if plan.tie_break is not None:
            # Rows that share a key: physically last is the newest there is to know.
            names = _names(len(fixed) + len(texts))
            statement = sql.SQL("SELECT {} FROM ({}) AS p ORDER BY o1, o2").format(names, statement)
        rows = self._copy(statement, [field for _, field in fixed], len(texts))
        return self._paged(plan, rows)

    def _paged(self, plan: _Plan, rows: BinaryRows) -> VectorPage:
        ints, texts = iter(rows.fixed[:-1]), iter(rows.texts)
        keys: Sequence[Key] = next(ints).tolist() if plan.key_is_int else next(texts)
        ids: Sequence[Id] = next(ints).tolist() if plan.id_is_int else next(texts)
        return VectorPage(keys, ids, rows.fixed[-1])

    def _copy(self, statement: sql.Composable, fixed: Sequence[FixedField], texts: int) -> BinaryRows:
        def read(connection: psycopg.Connection[Any]) -> bytes:
            copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(statement)
            with connection.cursor() as cursor, cursor.copy(copy) as stream:
                return b"".join(stream)

        try:
            return parse(self._session.execute(read), fixed, texts)
        except CopyFormatError as exc:
            raise SourceDown(f"{'.'.join(self._table.table)}: {exc}") from exc
        except psycopg.Error as exc:
            raise SettingsWrong(f"{'.'.join(self._table.table)}: {exc}") from exc


def _plain(key: Any) -> Key:
    return key if isinstance(key, str) else int(key)


def _kept(column: Any, good: npt.NDArray[np.bool_]) -> Any:
    return column[good] if isinstance(column, np.ndarray) else list(compress(column, good))


def _split(
    plan: _Plan, int_form: str, text_form: str
) -> tuple[list[tuple[sql.Composable, FixedField]], list[sql.Composable]]:
    """Return key and id as they are asked for: integers among the fixed fields, the others as texts."""
    fixed: list[tuple[sql.Composable, FixedField]] = []
    texts: list[sql.Composable] = []
    for column, is_int in ((plan.key, plan.key_is_int), (plan.id, plan.id_is_int)):
        if is_int:
            fixed.append((sql.SQL(int_form).format(column), FixedField("int64")))
        else:
            texts.append(sql.SQL(text_form).format(column))
    return fixed, texts


def _named(columns: Sequence[sql.Composable]) -> sql.Composable:
    parts = [sql.SQL("{} AS {}").format(column, sql.Identifier(f"c{n}")) for n, column in enumerate(columns)]
    return sql.SQL(", ").join(parts)


def _names(count: int) -> sql.Composable:
    return sql.SQL(", ").join([sql.Identifier(f"c{n}") for n in range(count)])
