"""Changes of a MariaDB table out of its binary log, by GTID. Needs the extra `binlog` (mysql-replication).

Needs REPLICATION SLAVE, and a server with row events that carry whole rows and column names
(`binlog_format=ROW`, `binlog_row_image=FULL`, `binlog_row_metadata=FULL`). The reader library reconnects at
the place it was first given, so after any error it is thrown away, and a new one begins at the service's
position.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import MariadbGtidEvent, QueryEvent, XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from feeder.changes import Key
from feeder.errors import FeedLost, SettingsWrong, SourceDown
from feeder.settings import Database
from feeder.sources.change_feed import Backlog, ChangeBatch, Tier
from feeder.sources.session import CONNECT_SECONDS, MariaConnection, MariaSession
from feeder.table_mapping import Identifier

log = logging.getLogger(__name__)

PURGED = frozenset({1236})
SAME_SERVER_ID = frozenset({4052})
"""MariaDB ends a reader with this when another one begins under its server id."""
SAME_SERVER_ID_PAUSES_S = (0.05, 0.3, 1.0)
"""Before each attempt to read on. The other one may be this feed's own former connection, whose request the
server came to late; a reader that is alive comes back each time."""
DENIED = frozenset({1044, 1045, 1227})
TRANSACTIONS_AHEAD = 1_000
TAKE_SECONDS = 1.0
CONNECTIONS = 2
"""The library's own: one for the stream, one for questions."""
_KEEPS_ROWS = re.compile(
    r"\s*(COMMIT|ROLLBACK|RELEASE|GRANT|REVOKE|FLUSH|ANALYZE|SET|CREATE\s+USER)\b", re.IGNORECASE
)
_GTIDS = re.compile(r"\d+-\d+-\d+(,\d+-\d+-\d+)*")
_OPEN = re.compile(r"\s*(BEGIN|SAVEPOINT|ROLLBACK\s+TO)\b", re.IGNORECASE)
_SERVER = (
    "SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@gtid_binlog_pos,"
    " DATABASE()"
)


@dataclass(frozen=True, slots=True)
class BinlogNames:
    """The table, the column that names its rows, what a key becomes, and our server id: any number that no
    other replica of this server has. silence_s: after this silence a server counts as gone; a live one
    sends a heartbeat three times as often."""

    table: Identifier
    column: str
    read_key: Callable[[Key], Key]
    server_id: int
    silence_s: float = 15.0


@dataclass(slots=True)
class _Transaction:
    """One committed transaction, as far as it concerns our table."""

    gtid: str
    committed_at_s: float
    keys: dict[Key, None] = field(default_factory=dict)
    gap: str | None = None


class MariaBinlogFeed:
    """Fits sources.change_feed.ChangeFeed. A thread reads ahead; `read` takes what it has."""

    tier: Tier = "log"

    def __init__(
        self, session: MariaSession, database: Database, names: BinlogNames, changes_max: int
    ) -> None:
        self._session = session
        self._database = database
        self._names = names
        self._changes_max = changes_max
        self._reader: _BinlogReader | None = None
        self._position: dict[str, str] = {}
        self._pending: ChangeBatch | None = None

    def is_granted(self) -> bool:
        """Tell whether the server writes whole rows, and lets this user read them."""
        log_bin, row_format, image, metadata, position, _ = self._server()
        if not log_bin or row_format != "ROW" or image != "FULL" or metadata != "FULL" or not position:
            return False
        grants = self._session.execute(lambda connection: _column(connection, "SHOW GRANTS"))
        return any("REPLICATION SLAVE" in grant or "ALL PRIVILEGES ON *.*" in grant for grant in grants)

    def open(self, bookmark: str | None) -> None:
        """Read the log from a GTID position. Raises FeedLost for what is none; `read` for a purged one."""
        if bookmark is None:
            raise FeedLost("the service holds no position in the binary log")
        if not _GTIDS.fullmatch(bookmark):  # the server would refuse it, again and again
            raise FeedLost(f"not a position in the binary log: {bookmark[:80]!r}")
        self._resume(bookmark)

    def restart(self) -> str:
        """Read the log from where the server is now; return that GTID position."""
        self._stop_reader()
        position = str(self._server()[4])
        self._resume(position)
        return position

    def read(self) -> ChangeBatch:
        """The same changes again until they are acknowledged."""
        if self._pending is None:
            assert self._reader is not None, "open() comes first"
            self._pending = self._next_batch(self._reader)
        return self._pending or ChangeBatch()

    def acknowledge(self, batch: ChangeBatch) -> None:
        """Let `read` continue behind this batch; the server keeps its log by itself."""
        if batch.receipt is not None:
            self._position = batch.receipt
        self._pending = None

    def wait_for_changes(self, seconds: float) -> None:
        """Return when the thread has read a transaction or ended, or after `seconds`."""
        if self._reader is not None:
            self._reader.wait_for_transactions(seconds)

    def backlog(self) -> Backlog:
        """Return how many transactions the thread has read ahead."""
        return Backlog(rows=0 if self._reader is None else self._reader.waiting)

    def close(self) -> None:
        """End the thread and its connections."""
        self._stop_reader()
        self._session.close()

    def _resume(self, position: str) -> None:
        self._stop_reader()
        self._position = _parsed(position)
        self._pending = None
        schema = self._names.table[0] if len(self._names.table) > 1 else str(self._server()[5])
        self._reader = _BinlogReader(self._database, self._names, schema, position)
        self._reader.start()

    def _next_batch(self, reader: _BinlogReader) -> ChangeBatch | None:
        keys: dict[Key, None] = {}
        position = dict(self._position)
        gap: str | None = None
        first: float | None = None
        count = 0
        for transaction in reader.drain():
            position |= _parsed(transaction.gtid)
            keys |= transaction.keys
            gap = gap or transaction.gap
            if transaction.keys or transaction.gap:
                first = first or transaction.committed_at_s
            count += 1
            if len(keys) >= self._changes_max:
                break
        if not count:
            return None
        is_full = len(keys) >= self._changes_max
        return ChangeBatch(list(keys), gap, _joined(position), position, is_full, first)

    def _stop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()

    def _server(self) -> tuple[Any, ...]:
        def ask(connection: pymysql.Connection[Any]) -> tuple[Any, ...]:
            with connection.cursor() as cursor:
                cursor.execute(_SERVER)
                return tuple(cursor.fetchone() or ())

        return self._session.execute(ask)


class _BinlogReader:
    """A thread that follows the binary log from one position until an error or `stop`."""

    def __init__(self, database: Database, names: BinlogNames, schema: str, position: str) -> None:
        self._database = database
        self._names = names
        self._schema = schema
        self._position = _parsed(position)
        self._ready: queue.Queue[_Transaction] = queue.Queue(maxsize=TRANSACTIONS_AHEAD)
        self._error: Exception | None = None
        self._is_over = threading.Event()
        self._has_news = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="binlog", daemon=True)
        self._stream: Any = None
        self._connector = _Connector(CONNECTIONS)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._ready.qsize()

    def drain(self) -> Iterator[_Transaction]:
        """Yield what is there. Raises what ended the thread once everything before it has been taken."""
        self._has_news.clear()
        while True:
            try:
                yield self._ready.get_nowait()
            except queue.Empty:
                break
        if self._error is not None and self._ready.empty():
            raise _translated(self._error, self._names.server_id) from self._error

    def wait_for_transactions(self, seconds: float) -> None:
        self._has_news.wait(seconds)

    def stop(self) -> None:
        self._is_over.set()
        self._let_go(is_over=True)

    def _follow(self) -> None:
        try:
            for pause_s in SAME_SERVER_ID_PAUSES_S:
                try:
                    return self._read_on()
                except pymysql.MySQLError as exc:
                    if _number_of(exc) not in SAME_SERVER_ID:
                        raise
                    log.info("binlog_reader_replaced", extra={"server_id": self._names.server_id})
                self._is_over.wait(pause_s)
                self._let_go()
            self._read_on()
        except Exception as exc:
            if not self._is_over.is_set():
                is_ours = not isinstance(exc, SourceDown | OSError | pymysql.MySQLError)
                log.warning("binlog_reader_ended", extra={"why": str(exc)}, exc_info=exc if is_ours else None)
            self._error = exc
            self._has_news.set()

    def _let_go(self, *, is_over: bool = False) -> None:
        self._connector.shut(is_over=is_over)  # else closing waits until the thread hears the next heartbeat
        if self._stream is not None:
            with contextlib.suppress(Exception):  # it may be the broken one
                self._stream.close()

    def _read_on(self) -> None:
        """Read behind the last transaction that was read, until `stop`. Raises what ended it before."""
        self._stream = self._connected()
        for transaction in _transactions(self._stream, self._names, self._schema):
            while not self._is_over.is_set():
                with contextlib.suppress(queue.Full):
                    self._ready.put(transaction, timeout=TAKE_SECONDS)
                    self._position |= _parsed(transaction.gtid)
                    break
            self._has_news.set()
            if self._is_over.is_set():
                return
        raise SourceDown("the binary log's stream ended")

    def _connected(self) -> Any:
        database = self._database
        return BinLogStreamReader(
            connection_settings={
                "host": database.host, "port": database.port, "user": database.user,
                "password": database.password, "charset": "utf8mb4",
                "connect_timeout": CONNECT_SECONDS, "read_timeout": self._names.silence_s,
            },
            server_id=self._names.server_id,
            pymysql_wrapper=self._connector,
            is_mariadb=True,
            auto_position=_joined(self._position),
            blocking=True,
            enable_logging=False,
            slave_heartbeat=self._names.silence_s / 3,
            only_events=[
                MariadbGtidEvent, QueryEvent, XidEvent, WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent,
            ],
        )  # fmt: skip


class _Connector:
    """Makes `connections_max` connections and, until `shut`, no more: the library would answer a broken link
    by starting again at its first position, unseen. A thread that was still connecting at the end would
    come back and replace the next reader. Safe from any thread."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._made: list[pymysql.Connection[Any]] = []
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, **settings: Any) -> pymysql.Connection[Any]:
        if self._is_over.is_set() or len(self._made) >= self._connections_max:
            raise pymysql.err.InterfaceError("the link to the binary log broke")
        connection = MariaConnection(**settings)
        with self._lock:
            if not self._is_over.is_set():
                self._made.append(connection)
                return connection
        connection.close()
        raise pymysql.err.InterfaceError("the reader of the binary log was stopped")

    def shut(self, *, is_over: bool) -> None:
        """Wake the thread that reads from one of them. is_over: make none any more, else count anew."""
        with self._lock:
            if is_over:
                self._is_over.set()
            made, self._made = self._made, []
        for connection in made:
            with contextlib.suppress(OSError, AttributeError):  # it may be closed already
                connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


def _transactions(stream: Any, names: BinlogNames, schema: str) -> Iterator[_Transaction]:
    """Group events into committed transactions."""
    current = _Transaction("", 0.0)
    for event in stream:
        if isinstance(event, MariadbGtidEvent):
            current = _Transaction(str(event.gtid), float(event.timestamp))
        elif isinstance(event, XidEvent):
            yield current
        elif isinstance(event, QueryEvent):
            yield from _after_query(event, current, names, schema)
        elif event.schema == schema and event.table == names.table[-1]:
            for row in event.rows:
                _note_row(row, current, names)


def _after_query(
    event: Any, current: _Transaction, names: BinlogNames, schema: str
) -> Iterator[_Transaction]:
    """DDL and TRUNCATE commit by themselves and bring no row events; a COMMIT of a table without
    transactions is text."""
    statement = event.query.decode("utf-8", "replace") if isinstance(event.query, bytes) else str(event.query)
    if _OPEN.match(statement):
        return
    database = event.schema.decode() if isinstance(event.schema, bytes) else str(event.schema)
    words = _words(statement.lower())
    is_ours = names.table[-1].lower() in words and schema.lower() in (database.lower(), *words)
    if is_ours and not _KEEPS_ROWS.match(statement):
        current.gap = f"a statement without row events: {' '.join(statement.split())[:80]}"
    yield current


def _words(statement: str) -> list[str]:
    return re.findall(r"[^\s.,;()`]+", statement)


def _note_row(row: dict[str, Any], current: _Transaction, names: BinlogNames) -> None:
    for name in ("values", "before_values", "after_values"):
        image = row.get(name)
        if image is None:
            continue
        if names.column not in image:
            current.gap = f"row events carry no column {names.column!r} (binlog_row_metadata=FULL?)"
        elif image[names.column] is not None:
            current.keys[names.read_key(image[names.column])] = None


def _column(connection: pymysql.Connection[Any], statement: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [str(row[0]) for row in cursor.fetchall()]


def _parsed(position: str) -> dict[str, str]:
    """Return a GTID position by domain: `0-11-5,1-12-9`."""
    gtids = [gtid.strip() for gtid in position.split(",") if gtid.strip()]
    return {gtid.split("-")[0]: gtid for gtid in gtids}


def _joined(position: dict[str, str]) -> str:
    return ",".join(position[domain] for domain in sorted(position))


def _number_of(exc: Exception) -> object:
    return exc.args[0] if exc.args else None


def _translated(exc: Exception, server_id: int) -> Exception:
    number = _number_of(exc)
    if number in SAME_SERVER_ID:
        return SourceDown(
            f"another reader of the binary log uses our server id {server_id}",
            hint="Look for a second feeder of this store or a replica of that server_id: SHOW SLAVE HOSTS.",
        )
    if number in PURGED:
        return FeedLost(f"the binary log no longer holds our place: {exc.args[-1]}")
    if number in DENIED:
        return SettingsWrong(f"the binary log is refused: {exc.args[-1]}")
    return exc if isinstance(exc, SourceDown) else SourceDown(f"the binary log: {exc or type(exc).__name__}")
