"""What a data directory holds, in numbers, read from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from index_store.catalog.data_directory import collection_directories
from index_store.catalog.pointer import read_pointer
from index_store.catalog.quarantine import quarantined_in
from index_store.catalog.snapshots import SNAPSHOTS, registered_snapshots
from index_store.record.pointer import GenerationName, Pointer
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.storage.sealed_directory import read_manifest


def stats(data_dir: Path) -> dict[str, Any]:
    """By collection and role, as plain JSON values; `set_aside` lists retired and damaged generations.
    Raises StoreDamaged, sqlite3.Error."""
    return {path.name: _collection(path, read_pointer(path)) for path in collection_directories(data_dir)}


def _collection(directory: Path, pointer: Pointer) -> dict[str, Any]:
    roles = {"current": pointer.current, "next": pointer.next, "former": pointer.former}
    found: dict[str, Any] = {role: _generation(directory, member) for role, member in roles.items() if member}
    asides = [{"name": aside.path.name, "bytes": aside.size()} for aside in quarantined_in(directory)]
    return found | ({"set_aside": asides} if asides else {})


def _generation(directory: Path, member: GenerationName) -> dict[str, Any]:
    connection = connect_sqlite(directory / member.name / STORE_FILE)
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        cursors = dict(connection.execute("SELECT source, value FROM cursor").fetchall())
        (tombstones,) = connection.execute("SELECT COUNT(*) FROM item WHERE deleted=1").fetchone()
    finally:
        connection.close()
    files = [path.stat().st_size for path in (directory / member.name).rglob("*") if path.is_file()]
    return {
        "generation": member.name,
        **{
            key: meta[key]
            for key in ("embedding_version", "id_kind", "dim", "metric", "seq", "items", "live")
        },
        "tombstones": tombstones,
        "snapshot": _snapshot(directory / member.name),
        "bytes": sum(files),
        "cursors": cursors,
    }


def _snapshot(directory: Path) -> dict[str, Any] | None:
    """The newest snapshot that is there: how far it is, and the rows of its segments."""
    _, entries = registered_snapshots(directory, connect_sqlite)
    for entry in entries:
        path = directory / SNAPSHOTS / entry.name
        if path.is_dir():
            segments = read_manifest(path).facts["segments"]
            return {
                "name": entry.name,
                "seq": entry.seq,
                "segments": [one["rows"] for one in segments],
                "dead_rows": sum(one["rows"] - one["live"] for one in segments),
            }
    return None
