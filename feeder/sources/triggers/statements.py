"""The statements of a dirty set, on each kind of database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pymysql
from psycopg import sql

from feeder.errors import FeedLost, SettingsWrong
from feeder.sources.session import MariaSession, PostgresSession
from feeder.sources.triggers.dirty_set import EVENTS, WatchedTable, names_of
from feeder.table_mapping import Identifier

T = TypeVar("T")

HERE = Path(__file__).parent
_MARIADB_MISSING = frozenset({1146, 1142, 1143, 1360})
"""No such table, no right to it, no such trigger."""
_SEEN = "INTO {seen} (reader, gen) SELECT %s, gen FROM {dirty} WHERE collection = %s AND side = %s AND "


class PostgresStatements:
    """Fits Statements. wait() listens: a commit that changed something wakes it."""

    moment = "extract(epoch FROM noticed_at)::float8"
    age = "extract(epoch FROM clock_timestamp() - min(noticed_at))::float8"
    any_gen = "gen = ANY (%s)"
    drop = "DELETE FROM {dirty} WHERE collection = %s AND side = %s AND " + any_gen
    register = (
        "INSERT INTO {readers} (collection, side, reader, seen_at) VALUES (%s, %s, %s, now())"
        " ON CONFLICT (collection, side, reader) DO UPDATE SET seen_at = now()"
    )
    beat = (
        "UPDATE {readers} SET seen_at = now() WHERE collection = %s AND side = %s AND reader = %s"
        " AND seen_at < now() - interval '1 minute'"
    )
    lapse = (
        "DELETE FROM {readers} WHERE collection = %s AND side = %s AND seen_at < now() - interval '7 days'"
    )
    note_seen = "INSERT " + _SEEN + any_gen + " ON CONFLICT DO NOTHING"
    claim = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
    enabled: str | None = (
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = ANY (%s)"
        " AND tgenabled IN ('O', 'A')"
    )

    def __init__(self, session: PostgresSession) -> None:
        self._session = session

    def quoted(self, names: Identifier) -> str:
        """Return a name as SQL, each part quoted."""
        return sql.Identifier(*names).as_string(None)

    def qualified(self, table: Identifier) -> Identifier:
        """Return the table's name with its schema. Raises SettingsWrong where there is no such table."""
        statement = (
            "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(%s)"
        )
        found = self.rows(statement, [self.quoted(table)])
        if not found:
            raise SettingsWrong(f"no table {self.quoted(table)}")
        return tuple(found[0])

    def literal(self, text: str) -> str:
        """Return a text as an SQL literal."""
        return sql.Literal(text).as_string(None)

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows of a statement. Raises FeedLost, SourceDown, SettingsWrong."""

        def read(connection: psycopg.Connection[Any]) -> list[Any]:
            return connection.execute(statement.encode(), parameters).fetchall()

        return self._run(read, is_quick=True)

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None:
        """Run statements in one transaction. Raises FeedLost, SourceDown, SettingsWrong."""

        def change(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement.encode(), parameters or None)

        self._run(change)

    def install(self, words: Mapping[str, str]) -> None:
        """Run dirty_postgres.sql."""
        self.change([_filled("dirty_postgres.sql", words)])

    def drop_triggers(self, watched: WatchedTable) -> None:
        """Drop the triggers and their function."""
        names = names_of(self, watched)
        function = self.quoted((*watched.table[:-1], watched.trigger))
        triggers = [self.quoted((f"{watched.trigger}_{event}",)) for event in EVENTS]
        self.change(
            [
                *(f"DROP TRIGGER IF EXISTS {trigger} ON {names['table']}" for trigger in triggers),
                f"DROP FUNCTION IF EXISTS {function}()",
            ]
        )

    def wait_for_notice(self, seconds: float) -> None:
        """Listen for NOTIFY, `seconds` at most."""

        def listen(connection: psycopg.Connection[Any]) -> None:
            connection.execute("LISTEN vs_dirty")
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                return

        self._run(listen)

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _run(self, work: Callable[[psycopg.Connection[Any]], T], *, is_quick: bool = False) -> T:
        try:
            return self._session.execute(work, is_quick=is_quick)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as exc:
            raise FeedLost(f"no dirty set for this user: {str(exc).strip()}") from exc
        except psycopg.Error as exc:
            raise SettingsWrong(f"dirty set: {str(exc).strip()}") from exc


class MariaStatements:
    """Fits Statements. MariaDB wakes nobody: wait() only waits."""

    moment = "UNIX_TIMESTAMP(noticed_at)"
    age = "TIMESTAMPDIFF(MICROSECOND, MIN(noticed_at), NOW(6)) / 1e6"
    any_gen = "gen IN %s"
    # InnoDB locks each row that a DELETE looks at, also one that a writer has not committed yet. By the
    # primary key it looks at these rows alone; the optimizer would take all rows of the side.
    drop = (
        "DELETE d FROM {dirty} AS d FORCE INDEX (PRIMARY)"
        " WHERE d.collection = %s AND d.side = %s AND d.gen IN %s"
    )
    register = (
        "INSERT INTO {readers} (collection, side, reader, seen_at) VALUES (%s, %s, %s, NOW(6))"
        " ON DUPLICATE KEY UPDATE seen_at = NOW(6)"
    )
    beat = (
        "UPDATE {readers} SET seen_at = NOW(6) WHERE collection = %s AND side = %s AND reader = %s"
        " AND seen_at < NOW(6) - INTERVAL 1 MINUTE"
    )
    lapse = "DELETE FROM {readers} WHERE collection = %s AND side = %s AND seen_at < NOW(6) - INTERVAL 7 DAY"
    note_seen = "INSERT IGNORE " + _SEEN + any_gen
    claim = "SELECT GET_LOCK(CONCAT(LEFT(MD5(%s), 32), ':', LEFT(MD5(DATABASE()), 8)), 0)"
    enabled: str | None = None

    def __init__(self, session: MariaSession, pause: Callable[[float], object]) -> None:
        self._session = session
        self._pause = pause

    def quoted(self, names: Identifier) -> str:
        """Return a name as SQL, each part quoted."""
        return ".".join("`" + name.replace("`", "``") + "`" for name in names)

    def qualified(self, table: Identifier) -> Identifier:
        """Return the name as it is: triggers find tables of their own database."""
        return table

    def literal(self, text: str) -> str:
        """Return a text as an SQL literal."""
        return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows of a statement. Raises FeedLost, SourceDown, SettingsWrong."""

        def read(connection: pymysql.Connection[Any]) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())

        return self._run(read, is_quick=True)

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None:
        """Run statements one by one, each committed by itself. Raises FeedLost, SourceDown, SettingsWrong."""

        def change(connection: pymysql.Connection[Any]) -> None:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement, parameters or None)

        self._run(change)

    def install(self, words: Mapping[str, str]) -> None:
        """Run dirty_mariadb.sql."""
        self.change(_filled("dirty_mariadb.sql", words).split("\n--;\n"))

    def drop_triggers(self, watched: WatchedTable) -> None:
        """Drop the triggers."""
        schema = watched.table[:-1]
        triggers = [self.quoted((*schema, f"{watched.trigger}_{event}")) for event in EVENTS]
        self.change([f"DROP TRIGGER IF EXISTS {trigger}" for trigger in triggers])

    def wait_for_notice(self, seconds: float) -> None:
        """Wait `seconds`: MariaDB notifies nobody."""
        self._pause(seconds)

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _run(self, work: Callable[[pymysql.Connection[Any]], T], *, is_quick: bool = False) -> T:
        try:
            return self._session.execute(work, is_quick=is_quick)
        except pymysql.MySQLError as exc:
            if exc.args and exc.args[0] in _MARIADB_MISSING:
                raise FeedLost(f"no dirty set for this user: {exc.args[-1]}") from exc
            raise SettingsWrong(f"dirty set: {exc.args[-1] if exc.args else exc}") from exc
        except SettingsWrong as exc:  # the session takes a missing right for a refused login
            raise FeedLost(str(exc)) from exc


def _filled(file: str, words: Mapping[str, str]) -> str:
    """Return a script with its {words} replaced, one pass, comments left out."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("-- "))
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    return text
