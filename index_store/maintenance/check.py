"""Reads a whole data directory and says what is wrong with it. Changes nothing; writers need not stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from index_store.ann.bitmap import holds
from index_store.catalog.data_directory import collection_directories
from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE, decode, read_pointer
from index_store.catalog.quarantine import QuarantinedGeneration, quarantined_in
from index_store.catalog.snapshots import SNAPSHOTS, open_snapshot, registered_snapshots
from index_store.contents.table import check_contents
from index_store.errors import StoreDamaged, StoreUnavailable
from index_store.record import digest
from index_store.record.digest import ShareHasher
from index_store.record.pointer import Pointer
from index_store.record.rows import Row
from index_store.segment.open import OpenSnapshot
from index_store.storage.schema import (
    COLUMNS,
    FORMAT_VERSION,
    LIVE,
    SQLITE_ERRORS,
    STORE_FILE,
    Connection,
    Connector,
    connect_sqlite,
    from_columns,
)


@dataclass(slots=True)
class _Sums:
    """What the rows add up to."""

    items: int = 0
    live: int = 0
    awaiting: int = 0
    newest: int = 0
    shares: dict[int, int] = field(default_factory=dict)


def check(data_dir: Path) -> list[str]:
    """One sentence for each thing that is wrong; an empty list says that every byte read was sound."""
    problems: list[str] = []
    for directory in collection_directories(data_dir):
        problems.extend(_check_collection(directory))
    return problems


def notes(data_dir: Path) -> list[str]:
    """One sentence for each generation that was set aside; nothing is wrong with that."""
    return [_note(found) for path in collection_directories(data_dir) for found in quarantined_in(path)]


def _note(found: QuarantinedGeneration) -> str:
    if found.retired_at is None:
        return f"{found.path}: damaged and set aside, {found.size()} bytes; kept until somebody removes it"
    at = datetime.fromtimestamp(found.retired_at, UTC).isoformat(timespec="seconds")
    return f"{found.path}: retired at {at}, {found.size()} bytes; maintenance removes it some days later"


def _check_collection(directory: Path) -> Iterator[str]:
    try:
        pointer = read_pointer(directory)
    except StoreDamaged as exc:
        yield f"{exc}; what helps: {exc.hint}" if exc.hint else str(exc)
        return
    yield from _check_pointer_files(directory, pointer)
    for member in pointer.members:
        path = directory / member.name / STORE_FILE
        try:
            yield from (f"{path}: {problem}" for problem in check_store(path, member.embedding_version))
        except SQLITE_ERRORS as exc:
            yield f"{path}: {exc}"
            continue
        yield from check_snapshots(directory / member.name)


def _check_pointer_files(directory: Path, pointer: Pointer) -> Iterator[str]:
    """A lost pointer file that was never written is sound: the collection is new."""
    if not pointer.members and not (directory / POINTER_FILE).exists():
        return
    for name in (POINTER_FILE, BACKUP_FILE):
        try:
            decode((directory / name).read_bytes())
        except (OSError, ValueError) as exc:
            yield f"{directory / name}: {exc}"


def check_snapshots(directory: Path) -> Iterator[str]:
    """What is wrong with the published snapshots of one generation. A registered one that is not there is
    sound: the store is read instead."""
    try:
        identity, entries = registered_snapshots(directory, connect_sqlite)
    except (StoreDamaged, StoreUnavailable) as exc:
        yield str(exc)
        return
    for entry in entries:
        if not (directory / SNAPSHOTS / entry.name).is_dir():
            continue
        try:
            base = open_snapshot(directory, identity, entry, {}, trusts=False, quarantines=False)
            missing = _missing_rows(directory, base)
        except (StoreDamaged, OSError) as exc:
            yield str(exc)
            continue
        if missing:
            yield f"{directory / SNAPSHOTS / entry.name} lacks {missing} live rows or holds them twice"


def _missing_rows(directory: Path, base: OpenSnapshot) -> int:
    """Rows of the store, unchanged since the snapshot, that are not live in exactly one of its segments."""
    connection = connect_sqlite(directory / STORE_FILE)
    try:
        found = connection.execute(
            f"SELECT id, seq FROM item WHERE {LIVE} AND seq<=?",
            (base.seq,),
        ).fetchall()
    finally:
        connection.close()
    ids, seqs = [row[0] for row in found], np.array([row[1] for row in found], dtype=np.int64)
    times = np.zeros(len(ids), dtype=np.int64)
    for one, live in zip(base.segments, base.live, strict=True):
        rows = one.reader.rows_of(ids)
        known = np.flatnonzero(rows >= 0)
        known = known[holds(live, rows[known])]
        times[known] += one.reader.seqs[rows[known]] == seqs[known]
    return int(np.count_nonzero(times != 1))


def check_store(path: Path, embedding_version: str, connect: Connector = connect_sqlite) -> Iterator[str]:
    """What is wrong with one store. Raises sqlite3.Error where it can't be read at all."""
    connection = connect(path)
    try:
        connection.execute("BEGIN")
        for (line,) in connection.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"SQLite says: {line}"
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("format_version") != FORMAT_VERSION:
            yield f"format_version is {meta.get('format_version')!r}, this program reads {FORMAT_VERSION}"
            return
        if meta.get("embedding_version") != embedding_version:
            yield f"holds {meta.get('embedding_version')!r}, expected {embedding_version!r}"
        sums = _Sums()
        yield from _check_rows(connection, meta, sums)
        yield from _check_sums(connection, meta, sums)
        yield from check_contents(connection)
    finally:
        connection.close()


def _check_rows(connection: Connection, meta: dict[str, Any], sums: _Sums) -> Iterator[str]:
    hasher = ShareHasher(meta["embedding_version"])
    for values in connection.execute(f"SELECT {COLUMNS} FROM item"):
        row, is_sound = from_columns(values)
        if not is_sound:
            yield f"row {row.id!r} fails its checksum"
            continue
        yield from (f"row {row.id!r} {problem}" for problem in _check_row(row, meta, hasher))
        sums.newest = max(sums.newest, row.seq)
        sums.items += not row.deleted
        sums.live += row.is_live
        sums.awaiting += row.is_awaiting
        digest.add(sums.shares, digest.bucket_of(row.id), row.share)


def _check_row(row: Row, meta: dict[str, Any], hasher: ShareHasher) -> Iterator[str]:
    if row.seq > meta["seq"]:
        yield f"has seq {row.seq}, newer than the store's {meta['seq']}"
    if row.deleted:
        if row.share or row.active or row.vector is not None or row.metadata is not None:
            yield "is a tombstone with content"
        return
    if row.share != hasher.share(row.id, row.active, row.vector, row.content_hash):
        yield "has a wrong digest share"
    if row.vector is None:
        return
    if len(row.vector) != 4 * meta["dim"]:
        yield f"has a vector of {len(row.vector)} bytes"
        return
    square = float(np.square(np.frombuffer(row.vector, dtype="<f4"), dtype=np.float64).sum())
    if not math.isfinite(square) or square == 0:
        yield "has a vector that is zero or not finite"


def _check_sums(connection: Connection, meta: dict[str, Any], sums: _Sums) -> Iterator[str]:
    if sums.newest > meta["seq"]:
        yield f"seq is {meta['seq']}, its rows go up to {sums.newest}"
    counted = (("items", sums.items), ("live", sums.live), ("awaiting", sums.awaiting))
    for name, found in counted:
        if meta.get(name, found) != found:
            yield f"counts {meta[name]} {name}, its rows are {found}"
    stored = {
        bucket: digest.to_unsigned(value)
        for bucket, value in connection.execute("SELECT bucket, sum FROM digest")
    }
    wrong = [b for b in range(digest.BUCKETS) if stored.get(b, 0) != sums.shares.get(b, 0)]
    if wrong:
        yield f"{len(wrong)} digest buckets differ from their rows, the first is {wrong[0]}"
