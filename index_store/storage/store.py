"""The store of record of one generation: what was acknowledged is here, whatever else is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index_store import hints
from index_store.contents.table import COUNTER, damaged_among
from index_store.diagnosis import (
    another_shape,
    contents_damaged,
    items_missing,
    rows_damaged,
    store_behind,
    unreadable,
)
from index_store.errors import StoreDamaged, StoreUnavailable, UnknownFormat
from index_store.record import digest
from index_store.record.batches import CommitResult, Passes, WriteJob
from index_store.record.digest import BUCKETS, ShareHasher
from index_store.record.rows import Row
from index_store.storage.commit_marks import ACKED_FILE, SharedSeq, acked_seq
from index_store.storage.digest_scan import bucket_sums, digest_pages
from index_store.storage.disk_guard import DiskGuard, require_free_files
from index_store.storage.durable_files import locked_within
from index_store.storage.group_commit import GroupCommitter, WriterLimits
from index_store.storage.schema import (
    COLUMNS,
    FORMAT_VERSION,
    LOCK_FILE,
    SQLITE_ERRORS,
    STORE_FILE,
    Connection,
    Connector,
    connect_sqlite,
    from_columns,
    is_bindable,
    prepare,
    read_lexical_fields,
)
from index_store.storage.scrub_state import read_scrub_state
from index_store.storage.transaction import read_rows
from index_store.types import (
    CollectionSpec,
    Digest,
    DigestRow,
    Id,
    Trouble,
    WriteBatch,
)

log = logging.getLogger(__name__)

_FILES = 16
"""Files that a store holds open, with a few for reads on their own connection."""
_PAGE_ROWS = 4096
_LISTED_ROWS = 256
"""Rows per lock hold while listing a digest; bounds how long other readers wait."""


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows in the order of commits. seq: everything up to it is in this page or before.
    damaged: ids whose row failed its checksum; they are in no other list. live: how many live items the store
    counts as of `seq`; None in a part that ends before it."""

    rows: Sequence[Row]
    damaged: Sequence[Id]
    seq: int
    live: int | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What a store counts. items: known ids, live or not. live: what searches can return. cursors: by
    source."""

    items: int
    live: int
    seq: int
    cursors: Mapping[str, str]
    dim: int
    origin: str
    contents: int
    awaiting: int


class Store:
    """Rows by id, in commit order. Any thread may call any method; several processes may hold one store."""

    def __init__(
        self,
        directory: Path,
        embedding_version: str,
        *,
        connect: Connector = connect_sqlite,
        disk: DiskGuard | None = None,
        limits: WriterLimits | None = None,
    ) -> None:
        self.directory = directory
        self.dim = 0
        self.lexical_fields: tuple[str, ...] = ()
        self._embedding_version = embedding_version
        self._connect = connect
        self._disk = disk or DiskGuard(directory)
        hasher = ShareHasher(embedding_version)
        self.shared_seq = SharedSeq(directory)
        self._committer = GroupCommitter(directory, hasher, connect, self._disk, limits or WriterLimits())
        self._tail_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._tail_connection: Connection | None = None
        self._read_connection: Connection | None = None
        self._damaged: dict[Id, int] = {}
        self._content_suspects: Sequence[Id] = ()
        self._seqs_behind = 0
        self._missing_rows = 0

    def open(self, spec: CollectionSpec) -> None:
        """Raises StoreDamaged when the file is not this collection's store of this version, StoreUnavailable
        when it was made with another metric or id type, or can't be opened now; OSError. To be closed even
        then. `dim` is the store's own from here on."""
        require_free_files(_FILES)
        with self._translating_errors():
            self._tail_connection = self._connect(self.directory / STORE_FILE)
            prepare(self._tail_connection)
            self._read_connection = self._connect(self.directory / STORE_FILE)
            prepare(self._read_connection)
            meta = dict(self._read_connection.execute("SELECT key, value FROM meta").fetchall())
            self.lexical_fields = read_lexical_fields(self._read_connection)
        self._check_identity(meta, spec)
        self.dim = int(meta["dim"])
        self._seqs_behind = max(0, acked_seq(self.directory, str(meta["store_uuid"])) - int(meta["seq"]))
        if self._seqs_behind:
            log.error(
                "seq_went_backwards",
                extra={"store": str(self.directory), "seq": meta["seq"], "lost": self._seqs_behind},
            )
        self.recheck_suspects()
        self.shared_seq.open()
        self._committer.start()

    def _check_identity(self, meta: Mapping[str, object], spec: CollectionSpec) -> None:
        path = self.directory / STORE_FILE
        if meta.get("format_version") != FORMAT_VERSION:
            raise UnknownFormat(
                f"{path}: its format_version is {meta.get('format_version')!r}, this program reads "
                f"{FORMAT_VERSION}; nothing was changed",
                hints.OTHER_RELEASE,
            )
        identity: dict[str, object] = {
            "collection": spec.name,
            "embedding_version": self._embedding_version,
        }
        for key, value in identity.items():
            if meta.get(key) != value:
                raise StoreDamaged(
                    f"{path}: the store says {key}={meta.get(key)!r}, expected {value!r}",
                    hints.check(path),
                )
        for setting, key, value in (("id_type", "id_kind", spec.id_kind), ("metric", "metric", spec.metric)):
            if meta.get(key) != value:
                raise another_shape(path, spec, setting, meta.get(key), value)

    def recheck_suspects(self) -> None:
        """Read the rows that the scrub found damaged: not every row is read any more when a generation opens.
        Raises StoreDamaged."""
        scrubbed = read_scrub_state(self.directory)
        self._content_suspects = list(filter(is_bindable, scrubbed.damaged_contents))
        if scrubbed.damaged:
            self.read(list(filter(is_bindable, scrubbed.damaged)))

    def close(self) -> None:
        """Commit what waits, then close every connection and file."""
        self._committer.close()
        with self._tail_lock, self._read_lock:
            for connection in (self._tail_connection, self._read_connection):
                if connection is not None:
                    connection.close()
            self._tail_connection = self._read_connection = None
        self.shared_seq.close()

    def commit(
        self, batch: WriteBatch, known_elsewhere: Set[Id] = frozenset(), passes: Passes | None = None
    ) -> CommitResult:
        """Store the whole batch durably, or nothing. known_elsewhere, passes: as of WriteJob. Raises
        WriteFailed, ReadOnly, Unavailable."""
        return self._committer.submit(WriteJob(batch, known_elsewhere, passes))

    def commits_blocked(self) -> AbstractContextManager[None]:
        """A context in which no process commits to this store. Raises OSError, also where a commit does
        not end."""
        return locked_within(self.directory / LOCK_FILE)

    def tail(self, after_seq: int) -> RowPage | None:
        """Return the rows committed after `after_seq`, at most one page; None when there are none (4 us; 10
        while searches run)."""
        with self._tail_lock, self._translating_errors():
            connection = _require_open(self._tail_connection)
            some = connection.execute("SELECT seq FROM item WHERE seq>? LIMIT 1", (after_seq,)).fetchone()
            if some is None:
                return None
            with _read_transaction(connection):
                values = connection.execute(
                    f"SELECT {COLUMNS} FROM item WHERE seq>? ORDER BY seq LIMIT {_PAGE_ROWS}", (after_seq,)
                ).fetchall()
                (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
        rows, damaged = self._checked(values)
        if len(values) == _PAGE_ROWS and rows:
            seq = min(seq, rows[-1].seq)
        return RowPage(rows, damaged, seq)

    def scan_items(self) -> Iterator[RowPage]:
        """Every known row, page by page, all as of the `seq` that each page names. In key order, which
        reads the file once from front to end."""
        yield from self._pages(f"SELECT {COLUMNS} FROM item WHERE deleted=0", ())

    def page_without_vectors(self) -> RowPage | None:
        """Return an empty page for all rows if none has a vector, as in a generation just begun; else None.
        SQLite passes them over in a moment: whoever opens a generation holds up searches."""
        (page,) = self._pages(f"SELECT {COLUMNS} FROM item WHERE vector IS NOT NULL LIMIT 1", ())
        return None if page.rows or page.damaged else page

    def commits_after(self, after_seq: int) -> Iterator[RowPage]:
        """All that was committed after `after_seq`, deleted rows included, as of the `seq` that each page
        names. On a connection of its own: `tail` does not wait for it."""
        yield from self._pages(f"SELECT {COLUMNS} FROM item WHERE seq>? ORDER BY seq", (after_seq,))

    def _pages(self, query: str, parameters: Sequence[object]) -> Iterator[RowPage]:
        with self._own_connection() as connection:
            (live,), (seq,) = connection.execute(
                "SELECT value FROM meta WHERE key IN ('live', 'seq') ORDER BY key"
            ).fetchall()
            page: list[Sequence[object]] = []
            for values in connection.execute(query, parameters):
                page.append(values)
                if len(page) == _PAGE_ROWS:
                    yield RowPage(*self._checked(page), seq)
                    page = []
            yield RowPage(*self._checked(page), seq, live)

    @contextmanager
    def _own_connection(self) -> Iterator[Connection]:
        """A connection of its own in one read transaction: long reads block no other caller."""
        with self._translating_errors():
            connection = self._connect(self.directory / STORE_FILE)
            try:
                with _read_transaction(connection):
                    yield connection
            finally:
                connection.close()

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLITE_ERRORS as exc:
            raise unreadable(self.directory / STORE_FILE, exc) from exc

    def read(self, ids: Sequence[Id]) -> dict[Id, Row]:
        """The rows of these ids that are known and sound."""
        return {item_id: row for item_id, row in self.read_all(ids).items() if not row.deleted}

    def read_all(self, ids: Sequence[Id]) -> dict[Id, Row]:
        """The sound rows of these ids, tombstones too."""
        with self._read_lock, self._translating_errors():
            sound, damaged = read_rows(_require_open(self._read_connection), ids)
        self._remember_damage(sound, damaged.values())
        return sound

    def counters(self) -> Counters:
        """Return the store's counters as of one commit. Raises StoreDamaged, StoreUnavailable."""
        with (
            self._read_lock,
            self._translating_errors(),
            _read_transaction(_require_open(self._read_connection)) as connection,
        ):
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            cursors = dict(connection.execute("SELECT source, value FROM cursor").fetchall())
        origin = str(meta.get("origin") or "")
        contents, awaiting = int(meta.get(COUNTER, 0)), int(meta.get("awaiting", 0))
        head = (meta["items"], meta["live"], meta["seq"], cursors, meta["dim"])
        return Counters(*head, origin, contents, awaiting)

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection of its own that sees one moment: what takes long is in nobody's way."""
        return self._own_connection()

    def compute_digest(self, parts: int = BUCKETS) -> Digest:
        """The sums as committed, less the shares of rows that are known to be damaged: what can't be
        served must not count as proof. More parts than are kept are added up from the rows' shares."""
        self._recheck_damaged()
        with self._own_connection() as connection:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            kept = connection.execute("SELECT bucket, sum FROM digest").fetchall()
            sums = digest.buckets_from(kept) if parts <= BUCKETS else bucket_sums(connection, parts)
        damaged = dict(self._damaged)
        for item_id, share in damaged.items():
            np.subtract.at(sums, [digest.crc_of(item_id) & (len(sums) - 1)], np.uint64(share))
        root = digest.root_of(digest.fold_buckets(sums, BUCKETS))
        sums = digest.fold_buckets(sums, parts)
        return Digest(root=root, buckets=sums, items=meta["items"] - len(damaged), seq=meta["seq"])

    def compute_digest_rows(self, numbers: Sequence[int], parts: int = BUCKETS) -> Iterator[DigestRow]:
        """The known ids of these parts, their shares computed from the rows."""
        is_wanted = np.zeros(parts, dtype=np.bool_)
        is_wanted[list(numbers)] = True
        with self._own_connection() as connection:
            wanted = [item_id for page in digest_pages(connection) for item_id in page.ids_in(is_wanted)]
        hasher = ShareHasher(self._embedding_version)
        for start in range(0, len(wanted), _LISTED_ROWS):
            some = list(filter(is_bindable, wanted[start : start + _LISTED_ROWS]))
            for row in self.read(some).values():
                share = hasher.share(row.id, row.active, row.vector, row.content_hash)
                yield DigestRow(row.id, share, row.active, row.vector is not None)

    @property
    def damaged_rows(self) -> int:
        """How many rows are known to fail their checksum. `troubles` reports them."""
        return len(self._damaged)

    def report_missing(self, rows: int) -> None:
        """Note that `rows` live items are missing from the store's file; `troubles` reports it from now
        on."""
        log.error("rows_missing", extra={"store": str(self.directory), "rows": rows})
        self._missing_rows = rows

    def troubles(self) -> list[Trouble]:
        """What is wrong that searches survive, worst first."""
        self._recheck_damaged()
        path = self.directory / STORE_FILE
        found: list[Trouble] = []
        if self._seqs_behind:
            found.append(store_behind(path, self._seqs_behind, path.with_name(ACKED_FILE)))
        if self._missing_rows:
            found.append(items_missing(path, self._missing_rows))
        if self._damaged:
            found.append(rows_damaged(path, len(self._damaged)))
        if self._content_suspects:
            with self.reading() as connection:
                self._content_suspects = damaged_among(connection, self._content_suspects)
            found += contents_damaged(path, len(self._content_suspects))
        refused = self._committer.trouble()
        return [*found, refused] if refused else found

    def _recheck_damaged(self) -> None:
        """Read damaged rows again, one page at most: any process may have written them since."""
        # An id whose own bytes are damaged may be no text at all, and can't be asked for.
        ids = [each for each in self._damaged if is_bindable(each)]
        if ids and self._read_connection is not None:
            self.read(ids[:_PAGE_ROWS])

    def _checked(self, page: Sequence[Sequence[object]]) -> tuple[list[Row], list[Id]]:
        rows: list[Row] = []
        damaged: list[Row] = []
        for values in page:
            row, is_sound = from_columns(values)
            (rows if is_sound else damaged).append(row)
        self._remember_damage({row.id: row for row in rows} if self._damaged else {}, damaged)
        return rows, [row.id for row in damaged]

    def _remember_damage(self, sound: Mapping[Id, Row], damaged: Iterable[Row]) -> None:
        for item_id in self._damaged.keys() & sound.keys():
            self._damaged.pop(item_id, None)
        for row in damaged:
            if row.id not in self._damaged and isinstance(row.id, int | str):
                log.error("row_damaged", extra={"store": str(self.directory), "id": row.id, "seq": row.seq})
                self._damaged[row.id] = row.share


def _require_open(connection: Connection | None) -> Connection:
    if connection is None:
        raise StoreUnavailable("the store is closed", hints.TRY_AGAIN)
    return connection


@contextmanager
def _read_transaction(connection: Connection) -> Iterator[Connection]:
    """All reads inside see the same commit."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")
