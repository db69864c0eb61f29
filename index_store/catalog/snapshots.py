"""Snapshots of a generation on disk: which segments, which of their rows are live, as of which seq.

    segments/<name>/        sealed rows, shared by the snapshots that name them
    snapshots/<name>/       manifest.json, and live-<i>.bits: a bit a row of the i-th segment

A snapshot is opened only if the store has registered it with the checksum of its manifest; everything it
names is checked by checksums from there on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_store import hints
from index_store.ann.port import Bitmap
from index_store.ann.validation import count_allowed
from index_store.catalog.registry import SnapshotEntry, read_registered
from index_store.diagnosis import is_passing, unreadable
from index_store.errors import StoreDamaged
from index_store.segment.open import OpenSegment, OpenSegments, OpenSnapshot, open_segment
from index_store.storage.schema import SQLITE_ERRORS, STORE_FILE, Connection, Connector
from index_store.storage.sealed_directory import Manifest, quarantine, read_manifest, verify

log = logging.getLogger(__name__)

SEGMENTS = "segments"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """The store that a snapshot must belong to."""

    store_uuid: str
    embedding_version: str
    id_kind: str
    dim: int
    metric: str


@dataclass(frozen=True, slots=True)
class SegmentCounts:
    """A segment as a snapshot's manifest states it. live: of its rows, as of the snapshot."""

    name: str
    rows: int
    live: int


def read_identity(connection: Connection) -> StoreIdentity:
    """Raises sqlite3.Error, KeyError."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    return StoreIdentity(
        meta["store_uuid"], meta["embedding_version"], meta["id_kind"], meta["dim"], meta["metric"]
    )


def snapshot_facts(
    identity: StoreIdentity, seq: int, segments: Sequence[OpenSegment], live: Sequence[Bitmap]
) -> dict[str, Any]:
    """What a snapshot's manifest states."""
    return {
        "store_uuid": identity.store_uuid,
        "embedding_version": identity.embedding_version,
        "seq": seq,
        "segments": [
            {"name": s.name, "sha256": s.reader.sha256, "rows": s.reader.rows, "live": count_allowed(bits)}
            for s, bits in zip(segments, live, strict=True)
        ],
    }


def live_file(position: int) -> str:
    """Name of the file that holds the live rows of the snapshot's segment at this position."""
    return f"live-{position}.bits"


def registered_snapshots(directory: Path, connect: Connector) -> tuple[StoreIdentity, list[SnapshotEntry]]:
    """The store's identity and its snapshots, newest first. Raises StoreDamaged, StoreUnavailable."""
    try:
        connection = connect(directory / STORE_FILE)
        try:
            return read_identity(connection), read_registered(connection)
        finally:
            connection.close()
    except (*SQLITE_ERRORS, KeyError) as exc:
        raise unreadable(directory / STORE_FILE, exc) from exc


def newest_published(directory: Path, connection: Connection) -> tuple[int, list[SegmentCounts]] | None:
    """Return the seq of the newest snapshot that is there and what its manifest states of its segments,
    without opening them; None where there is none that can be read. Raises sqlite3.Error."""
    for entry in read_registered(connection):
        try:
            stated = read_manifest(directory / SNAPSHOTS / entry.name).facts["segments"]
        except (StoreDamaged, OSError):
            continue
        return entry.seq, [SegmentCounts(one["name"], one["rows"], one["live"]) for one in stated]
    return None


def open_newest(
    directory: Path,
    identity: StoreIdentity,
    entries: Sequence[SnapshotEntry],
    known: OpenSegments,
    trusts: bool = False,
) -> OpenSnapshot | None:
    """The newest snapshot that is whole; those that are not are set aside. None: load the store.

    trusts: files that were published while this process was running are not read again in full.
    """
    for entry in entries:
        if not (directory / SNAPSHOTS / entry.name).is_dir():
            continue  # registered, and then a crash came before the rename; or set aside already
        try:
            return open_snapshot(directory, identity, entry, known, trusts)
        except (StoreDamaged, OSError) as exc:
            if is_passing(exc):
                log.error("snapshot_not_opened", extra={"snapshot": entry.name, "error": str(exc)})
                continue
            log.error("snapshot_damaged", extra={"snapshot": entry.name, "error": str(exc)})
            try_quarantine(directory / SNAPSHOTS / entry.name)
    return None


def open_snapshot(
    directory: Path,
    identity: StoreIdentity,
    entry: SnapshotEntry,
    known: OpenSegments,
    trusts: bool,
    quarantines: bool = True,
) -> OpenSnapshot:
    """Raises StoreDamaged, and sets aside the segment whose files do not match, unless the system kept them
    from being read. Raises OSError."""
    path = directory / SNAPSHOTS / entry.name
    manifest = read_manifest(path)
    if manifest.sha256 != entry.sha256:
        raise StoreDamaged(f"{path} is not the snapshot that the store has registered", hints.rebuild(path))
    verify(path, manifest)
    facts = manifest.facts
    stated = (facts.get("store_uuid"), facts.get("embedding_version"), facts.get("seq"))
    if stated != (identity.store_uuid, identity.embedding_version, entry.seq):
        raise StoreDamaged(f"{path} belongs to another store", hints.rebuild(path))
    segments = tuple(
        _open_named_segment(directory, identity, one, known, trusts, quarantines) for one in facts["segments"]
    )
    live = tuple(_read_live(path, position, one.reader.rows) for position, one in enumerate(segments))
    return OpenSnapshot(entry.name, entry.seq, segments, live)


def _open_named_segment(
    directory: Path,
    identity: StoreIdentity,
    stated: Mapping[str, Any],
    known: OpenSegments,
    trusts: bool,
    quarantines: bool,
) -> OpenSegment:
    name, sha256 = str(stated["name"]), str(stated["sha256"])
    found = known.get((name, sha256))
    if found is not None:
        return found
    path = directory / SEGMENTS / name
    try:
        segment = open_segment(path, sha256 if trusts else None)
        if segment.reader.sha256 != sha256:
            raise StoreDamaged(f"{path} is not the segment that its snapshot names", hints.rebuild(path))
        its = segment.reader.facts.identity
        owner = StoreIdentity(its.store_uuid, its.embedding_version, its.id_kind, its.dim, its.metric)
        if owner != identity:
            raise StoreDamaged(f"{path} belongs to another store", hints.rebuild(path))
    except (StoreDamaged, OSError) as exc:
        if quarantines and not is_passing(exc):
            try_quarantine(path)
        raise
    return segment


def _read_live(path: Path, position: int, rows: int) -> Bitmap:
    live = np.fromfile(path / live_file(position), np.uint8)
    if len(live) != (rows + 7) // 8:
        raise StoreDamaged(f"{path / live_file(position)} does not fit its segment", hints.rebuild(path))
    return live


def try_quarantine(path: Path) -> None:
    """Quarantine a directory that another process may be setting aside at this moment."""
    try:
        quarantined = quarantine(path)
    except OSError as exc:
        log.warning("quarantine_failed", extra={"path": str(path), "error": str(exc)})
        return
    log.error("quarantined", extra={"path": str(path), "aside": str(quarantined)})


def segments_named_by(directory: Path, entry: SnapshotEntry) -> set[str]:
    """Names of the segments that a snapshot needs. Raises StoreDamaged."""
    manifest: Manifest = read_manifest(directory / SNAPSHOTS / entry.name)
    return {str(one["name"]) for one in manifest.facts["segments"]}
