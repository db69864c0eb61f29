"""Which snapshots belong to a store: their names and manifest checksums, kept in the store itself.

A store that was put back from an older backup knows nothing of snapshots that were made later, however far
its seq has come since; so a snapshot that is not registered is never opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index_store.storage.durable_files import locked_within
from index_store.storage.schema import LOCK_FILE, STORE_FILE, Connection, Connector, prepare

_PREFIX = "snapshot/"


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One snapshot. number: rises with each; seq: every write up to it is in the snapshot; sha256: of its
    manifest."""

    name: str
    number: int
    seq: int
    sha256: str


def read_registered(connection: Connection) -> list[SnapshotEntry]:
    """Newest first. Entries that can't be read are left out: without them the store is loaded instead."""
    found = connection.execute(
        "SELECT key, value FROM meta WHERE key >= ? AND key < ?", (_PREFIX, _PREFIX + "\x7f")
    ).fetchall()
    entries = [entry for key, value in found if (entry := _decoded(key, value)) is not None]
    return sorted(entries, key=lambda entry: entry.number, reverse=True)


def register(directory: Path, connect: Connector, add: Sequence[SnapshotEntry], drop: Sequence[str]) -> None:
    """Add and drop entries in one durable transaction. Raises OSError, sqlite3.Error."""
    with locked_within(directory / LOCK_FILE):
        connection = connect(directory / STORE_FILE)
        try:
            prepare(connection)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM meta WHERE key=?", [(_PREFIX + name,) for name in drop])
            connection.executemany(
                "INSERT INTO meta(key, value) VALUES(?,?)", [(_PREFIX + e.name, _encoded(e)) for e in add]
            )
            connection.execute("COMMIT")
        finally:
            connection.close()


def _encoded(entry: SnapshotEntry) -> str:
    return json.dumps({"number": entry.number, "seq": entry.seq, "sha256": entry.sha256})


def _decoded(key: str, value: object) -> SnapshotEntry | None:
    try:
        body = json.loads(str(value))
        return SnapshotEntry(
            key.removeprefix(_PREFIX), int(body["number"]), int(body["seq"]), str(body["sha256"])
        )
    except (ValueError, KeyError, TypeError):
        return None
