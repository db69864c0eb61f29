"""What a generation says about itself, read and noted without opening it: its version, its dim, its origin.

The *origin* says in the words of whoever writes the vectors how they can be made again (model and text
template). The index keeps it in the store of record, so that it goes with every backup, and never reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from index_store import hints
from index_store.catalog.pointer import read_pointer
from index_store.diagnosis import what_helps
from index_store.errors import StoreDamaged, Unavailable, WriteFailed
from index_store.storage.durable_files import LOCK_WAIT_S, holder_of, locked_within
from index_store.storage.schema import (
    LEXICAL_KEY,
    LOCK_FILE,
    SQLITE_ERRORS,
    STORE_FILE,
    Connector,
    connect_reading,
    prepare,
)
from index_store.types import GenerationIdentity

log = logging.getLogger(__name__)

ORIGIN_KEY = "origin"


def current_identity(collection: Path) -> GenerationIdentity | None:
    """Return what the current generation below the directory `collection` says of itself; None where there is
    none, or where it can't be read: opening the collection tells why. Changes nothing."""
    try:
        member = read_pointer(collection).current
        if member is None:
            return None
        connection = connect_reading(collection / member.name / STORE_FILE)
        try:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        finally:
            connection.close()
        return GenerationIdentity(member.embedding_version, int(meta["dim"]), str(meta.get(ORIGIN_KEY) or ""))
    except (*SQLITE_ERRORS, Unavailable, StoreDamaged, OSError, KeyError, ValueError, TypeError) as exc:
        log.warning("generation_not_identified", extra={"path": str(collection), "error": str(exc)})
        return None


def record_origin(generation: Path, connect: Connector, origin: str, wait_s: float = LOCK_WAIT_S) -> bool:
    """Note `origin` in the store of the directory `generation`, durably; return whether it said another one
    before. wait_s: for others' commits. Raises WriteFailed."""
    return _record(generation, connect, ORIGIN_KEY, origin, wait_s)


def record_lexical_fields(generation: Path, connect: Connector, fields: Sequence[str]) -> None:
    """Note in a store which fields of the metadata its items' words are taken from. Raises WriteFailed."""
    _record(generation, connect, LEXICAL_KEY, json.dumps(list(fields), ensure_ascii=False))


def _record(generation: Path, connect: Connector, key: str, value: str, wait_s: float = LOCK_WAIT_S) -> bool:
    """Note `value` under `key`; return whether it said another one before. Raises WriteFailed."""
    try:
        with locked_within(generation / LOCK_FILE, wait_s):
            connection = connect(generation / STORE_FILE)
            try:
                found = connection.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
                if found is not None and found[0] == value:
                    return False
                prepare(connection)
                connection.execute(
                    "INSERT INTO meta(key, value) VALUES(?,?) "
                    "ON CONFLICT(key) DO UPDATE SET value=excluded.value",
                    (key, value),
                )
                return True
            finally:
                connection.close()
    except TimeoutError as exc:
        raise WriteFailed(
            f"{generation}: its {key} could not be noted: {exc}",
            hints.stuck_writer(holder_of(generation / LOCK_FILE)),
        ) from exc
    except (*SQLITE_ERRORS, OSError) as exc:
        raise WriteFailed(
            f"{generation}: its {key} could not be noted: {exc}", what_helps(exc, generation)
        ) from exc
