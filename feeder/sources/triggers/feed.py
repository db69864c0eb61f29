"""Changes of a table out of a dirty set: triggers write down which rows changed.

Each change adds a row `(collection, side, gen, source_key)` in the writer's own transaction; the feeder reads
a batch, the rows are read again as they are by then, and exactly the gens that were read are deleted. A
change that commits late, or during the reading, has a gen of its own and stays. No order, no cursor, no lock
that a writer could wait for (docs/decisions/0021).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
import pymysql
from psycopg import sql

from feeder.changes import Key
from feeder.errors import FeedLost, SettingsWrong
from feeder.sources.change_feed import Backlog, Noticed, Side, Tier
from feeder.sources.session import MariaSession, PostgresSession
from feeder.table_mapping import Identifier

T = TypeVar("T")

DIRTY, INSTALLS = "vs_dirty", "vs_dirty_install"
HERE = Path(__file__).parent
EVENTS = ("insert", "update", "delete", "truncate")
_MARIADB_MISSING = frozenset({1146, 1142, 1143, 1360})
"""No such table, no right to it, no such trigger."""

_INSTALLED = "SELECT install_id FROM {installs} WHERE collection = %s AND side = %s"
_READ = (
    "SELECT gen, source_key, {moment} FROM {dirty} WHERE collection = %s AND side = %s ORDER BY gen LIMIT %s"
)
_BACKLOG = "SELECT COUNT(*), COALESCE({age}, 0) FROM {dirty} WHERE collection = %s AND side = %s"
_FORGET_INSTALL = "DELETE FROM {installs} WHERE collection = %s AND side = %s"
_FORGET_ROWS = "DELETE FROM {dirty} WHERE collection = %s AND side = %s"


@dataclass(frozen=True, slots=True)
class Watched:
    """One side of one collection: the table, the column that names its rows, and what a key becomes."""

    collection: str
    side: Side
    table: Identifier
    column: str
    read_key: Callable[[str], Key | None]

    @property
    def trigger(self) -> str:
        return f"vs_{self.collection}_{self.side}"


class Statements(Protocol):
    """Runs statements on one kind of database, in words that both kinds understand."""

    moment: str
    age: str
    any_gen: str
    enabled: str | None
    """Counts a table's triggers of these names that fire; None where this user can't see that."""

    def quoted(self, names: Identifier) -> str: ...

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Raises FeedLost where the dirty set is not installed for this user."""

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None: ...

    def install(self, words: Mapping[str, str]) -> None: ...

    def qualified(self, table: Identifier) -> Identifier:
        """Return the table's name with its schema where a trigger would not find it without."""

    def literal(self, text: str) -> str: ...

    def wait(self, seconds: float) -> None: ...

    def close(self) -> None: ...


class DirtySetFeed:
    """Fits feeds.ChangeFeed. Needs SELECT on the two tables of the dirty set, and DELETE on `vs_dirty`."""

    tier: Tier = "triggers"

    def __init__(self, statements: Statements, watched: Watched, rows_max: int) -> None:
        self._statements = statements
        self._watched = watched
        self._rows_max = rows_max
        self._names = names_of(statements, watched)
        self._followed: str | None = None

    def is_granted(self) -> bool:
        """Tell whether triggers are installed and this role may read what they write."""
        try:
            return self._install_id() is not None
        except FeedLost:
            return False

    def open(self, bookmark: str | None) -> None:
        installed = self._install_id()
        if installed is None:
            raise FeedLost(f"the triggers of {self._watched.trigger} are not installed")
        if bookmark != installed:
            raise FeedLost(f"the triggers of {self._watched.trigger} were installed anew, or never followed")
        self._followed = installed

    def begin(self) -> str:
        installed = self._install_id()
        if installed is None:
            raise FeedLost(f"the triggers of {self._watched.trigger} are not installed")
        self._followed = installed
        return installed

    def read(self) -> Noticed:
        statement = _READ.format(moment=self._statements.moment, **self._names)
        rows = self._statements.rows(statement, [*self._side, self._rows_max])
        keys = (None if text is None else self._watched.read_key(str(text)) for _, text, _ in rows)
        return Noticed(
            keys=list(dict.fromkeys(key for key in keys if key is not None)),
            gap="the table was truncated" if any(text is None for _, text, _ in rows) else None,
            receipt=[int(gen) for gen, _, _ in rows],
            is_full=len(rows) >= self._rows_max,
            committed_at_s=min((float(at) for _, _, at in rows), default=None),
        )

    def acknowledge(self, noticed: Noticed) -> None:
        if noticed.receipt:
            statement = _FORGET_ROWS + " AND " + self._statements.any_gen
            self._statements.change([statement.format(**self._names)], [*self._side, noticed.receipt])

    def wait(self, seconds: float) -> None:
        self._statements.wait(seconds)

    def backlog(self) -> Backlog:
        statement = _BACKLOG.format(age=self._statements.age, **self._names)
        ((rows, oldest_s),) = self._statements.rows(statement, self._side)
        if self._followed is not None and self._install_id() != self._followed:
            raise FeedLost(f"the triggers of {self._watched.trigger} were removed, or installed anew")
        return Backlog(rows=int(rows), oldest_s=max(0.0, float(oldest_s)))

    def close(self) -> None:
        self._statements.close()

    @property
    def _side(self) -> list[str]:
        return [self._watched.collection, self._watched.side]

    def _install_id(self) -> str | None:
        """Return which installation it is; None where it is not, or its triggers do not fire (a table made
        anew has none, a bulk load may switch them off)."""
        rows = self._statements.rows(_INSTALLED.format(**self._names), self._side)
        if rows and self._statements.enabled is not None:
            triggers = [f"{self._watched.trigger}_{event}" for event in EVENTS]
            ((count,),) = self._statements.rows(self._statements.enabled, [self._names["table"], triggers])
            rows = rows if count == len(EVENTS) else []
        return str(rows[0][0]) if rows else None


def names_of(statements: Statements, watched: Watched) -> dict[str, str]:
    """Return the dirty set's tables: they lie beside the watched table, in its schema."""
    schema = watched.table[:-1]
    return {
        "dirty": statements.quoted((*schema, DIRTY)),
        "installs": statements.quoted((*schema, INSTALLS)),
        "table": statements.quoted(watched.table),
    }


def install(statements: Statements, watched: Watched) -> None:
    """Make the dirty set and the triggers of one side; doing it again is harmless, and tells the feeder to
    compare everything once. Needs the table's owner."""
    table = statements.qualified(watched.table)
    schema = table[:-1]
    statements.install(
        {
            **names_of(statements, replace(watched, table=table)),
            "key": statements.quoted((watched.column,)),
            "collection": statements.literal(watched.collection),
            "side": statements.literal(watched.side),
            "function": statements.quoted((*schema, watched.trigger)),
            **{f"trigger_{event}": statements.quoted((f"{watched.trigger}_{event}",)) for event in EVENTS},
        }
    )


class PostgresStatements:
    """Fits Statements. wait() listens: a commit that changed something wakes it."""

    moment = "extract(epoch FROM noticed_at)::float8"
    age = "extract(epoch FROM clock_timestamp() - min(noticed_at))::float8"
    any_gen = "gen = ANY (%s)"
    enabled: str | None = (
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = ANY (%s)"
        " AND tgenabled IN ('O', 'A')"
    )

    def __init__(self, session: PostgresSession) -> None:
        self._session = session

    def quoted(self, names: Identifier) -> str:
        return sql.Identifier(*names).as_string(None)

    def qualified(self, table: Identifier) -> Identifier:
        statement = (
            "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(%s)"
        )
        found = self.rows(statement, [self.quoted(table)])
        if not found:
            raise SettingsWrong(f"no table {self.quoted(table)}")
        return tuple(found[0])

    def literal(self, text: str) -> str:
        return sql.Literal(text).as_string(None)

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        def read(connection: psycopg.Connection[Any]) -> list[Any]:
            return connection.execute(statement.encode(), parameters).fetchall()

        return self._run(read, is_quick=True)

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None:
        def change(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement.encode(), parameters or None)

        self._run(change)

    def install(self, words: Mapping[str, str]) -> None:
        self.change([_filled("dirty_postgres.sql", words)])

    def remove(self, watched: Watched) -> None:
        names = names_of(self, watched)
        function = self.quoted((*watched.table[:-1], watched.trigger))
        triggers = [self.quoted((f"{watched.trigger}_{event}",)) for event in EVENTS]
        self.change(
            [
                *(f"DROP TRIGGER IF EXISTS {trigger} ON {names['table']}" for trigger in triggers),
                f"DROP FUNCTION IF EXISTS {function}()",
            ]
        )
        _forget(self, watched)

    def wait(self, seconds: float) -> None:
        def listen(connection: psycopg.Connection[Any]) -> None:
            connection.execute("LISTEN vs_dirty")
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                return

        self._run(listen)

    def close(self) -> None:
        self._session.close()

    def _run(self, work: Callable[[psycopg.Connection[Any]], T], *, is_quick: bool = False) -> T:
        try:
            return self._session.run(work, is_quick=is_quick)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as exc:
            raise FeedLost(f"no dirty set for this user: {str(exc).strip()}") from exc
        except psycopg.Error as exc:
            raise SettingsWrong(f"dirty set: {str(exc).strip()}") from exc


class MariaStatements:
    """Fits Statements. MariaDB wakes nobody: wait() only waits."""

    moment = "UNIX_TIMESTAMP(noticed_at)"
    age = "TIMESTAMPDIFF(MICROSECOND, MIN(noticed_at), NOW(6)) / 1e6"
    any_gen = "gen IN %s"
    enabled: str | None = None

    def __init__(self, session: MariaSession, pause: Callable[[float], object]) -> None:
        self._session = session
        self._pause = pause

    def quoted(self, names: Identifier) -> str:
        return ".".join("`" + name.replace("`", "``") + "`" for name in names)

    def qualified(self, table: Identifier) -> Identifier:
        return table

    def literal(self, text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        def read(connection: pymysql.Connection[Any]) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())

        return self._run(read, is_quick=True)

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None:
        def change(connection: pymysql.Connection[Any]) -> None:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement, parameters or None)

        self._run(change)

    def install(self, words: Mapping[str, str]) -> None:
        self.change(_filled("dirty_mariadb.sql", words).split("\n--;\n"))

    def remove(self, watched: Watched) -> None:
        schema = watched.table[:-1]
        triggers = [self.quoted((*schema, f"{watched.trigger}_{event}")) for event in EVENTS]
        self.change([f"DROP TRIGGER IF EXISTS {trigger}" for trigger in triggers])
        _forget(self, watched)

    def wait(self, seconds: float) -> None:
        self._pause(seconds)

    def close(self) -> None:
        self._session.close()

    def _run(self, work: Callable[[pymysql.Connection[Any]], T], *, is_quick: bool = False) -> T:
        try:
            return self._session.run(work, is_quick=is_quick)
        except pymysql.MySQLError as exc:
            if exc.args and exc.args[0] in _MARIADB_MISSING:
                raise FeedLost(f"no dirty set for this user: {exc.args[-1]}") from exc
            raise SettingsWrong(f"dirty set: {exc.args[-1] if exc.args else exc}") from exc
        except SettingsWrong as exc:  # the session takes a missing right for a refused login
            raise FeedLost(str(exc)) from exc


def _forget(statements: Statements, watched: Watched) -> None:
    names = names_of(statements, watched)
    sides = [watched.collection, watched.side]
    with contextlib.suppress(FeedLost):  # the tables may be gone already
        statements.change([_FORGET_INSTALL.format(**names), _FORGET_ROWS.format(**names)], sides)


def _filled(file: str, words: Mapping[str, str]) -> str:
    """Return a script with its {words} replaced, one pass, comments left out."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("-- "))
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    return text
