"""Makes the next snapshot of a generation out of its store, and publishes it.

One operation serves sealing, merging and rebuilding: the first `keep` segments stay, all live rows committed
after the last of them become one new segment. keep = all of them seals the delta, 1 merges the small
segments behind the large first one, 0 rebuilds everything.

`step` is called with a name after each effect on the disk; tests stop the process there.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from index_store.ann.background import sample_of
from index_store.ann.bitmap import all_rows, without
from index_store.ann.calibration import Clock
from index_store.ann.port import Bitmap
from index_store.catalog.registry import SnapshotEntry, read_registered, register
from index_store.catalog.snapshots import (
    SEGMENTS,
    SNAPSHOTS,
    StoreIdentity,
    live_file,
    read_identity,
    segments_named_by,
    snapshot_facts,
)
from index_store.errors import StoreDamaged, StoreUnavailable, WriteFailed
from index_store.lexical.postings import write_postings
from index_store.record.rows import Row
from index_store.segment.builder import BuildOptions, Progress, RowChunk, build_segment
from index_store.segment.ids import IdArray
from index_store.segment.info import SegmentIdentity
from index_store.segment.metadata import write_metadata
from index_store.segment.open import OpenSegment, OpenSnapshot, open_segment
from index_store.segment.reader import VECTORS_FILE, SegmentReader
from index_store.storage.schema import (
    COLUMNS,
    STORE_FILE,
    Connection,
    Connector,
    from_columns,
    read_lexical_fields,
)
from index_store.storage.sealed_directory import (
    MANIFEST,
    QUARANTINE_MARK,
    new_directory,
    publish,
    remove,
    seal,
)
from index_store.types import Id

log = logging.getLogger(__name__)

StepHook: TypeAlias = Callable[[str], None]

_PAGE_ROWS = 4096
_EVIDENCE_MAX = 2
_CHECKED_QUERIES = 48
_CHECKED_K = 10
_RECALL_MARGIN = 0.03
"""A few dozen queries can't tell .99 from .97: below that something is wrong with the graph."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What building needs. step: called after each effect on the disk; may raise."""

    connect: Connector
    options: BuildOptions
    clock: Clock
    progress: Progress
    step: StepHook


@dataclass(slots=True)
class _ScannedRows:
    """What was read of the store: the ids that changed, and the metadata of the live ones. lexical_fields:
    whose texts become postings."""

    seq: int
    lexical_fields: tuple[str, ...]
    changed: list[Id] = field(default_factory=list)
    texts: dict[Id, str | None] = field(default_factory=dict)


def make_snapshot(
    directory: Path, base: OpenSnapshot | None, keep: int, context: BuildContext
) -> SnapshotEntry:
    """Build, check and publish; return what the store has registered. base: the newest sound snapshot, as
    opened. Raises OSError, WriteFailed, StoreDamaged, sqlite3.Error: nothing was published then."""
    for name in (SEGMENTS, SNAPSHOTS):
        (directory / name).mkdir(exist_ok=True)
    kept = () if base is None else base.segments[:keep]
    connection = context.connect(directory / STORE_FILE)
    try:
        owner, entries = read_identity(connection), read_registered(connection)
        connection.execute("BEGIN")
        try:
            (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
            scanned = _ScannedRows(seq, read_lexical_fields(connection))
            fresh = _build(directory, owner, _rows(connection, kept[-1].seq if kept else 0), scanned, context)
        finally:
            connection.execute("ROLLBACK")
    finally:
        connection.close()
    live = (
        [] if base is None else [_still_live(*pair, scanned) for pair in zip(kept, base.live, strict=False)]
    )
    segments = list(kept)
    if fresh is not None:
        segments.append(fresh)
        live.append(all_rows(fresh.reader.rows))
    number = max((entry.number for entry in entries), default=0) + 1
    return _publish(directory, number, snapshot_facts(owner, scanned.seq, segments, live), live, context)


def _rows(connection: Connection, after_seq: int) -> Iterator[Row | Id]:
    """Rows in order of commits; only the id of one that fails its checksum."""
    for values in connection.execute(f"SELECT {COLUMNS} FROM item WHERE seq>? ORDER BY seq", (after_seq,)):
        row, is_sound = from_columns(values)
        yield row if is_sound else row.id


def _build(
    directory: Path,
    owner: StoreIdentity,
    rows: Iterator[Row | Id],
    scanned: _ScannedRows,
    context: BuildContext,
) -> OpenSegment | None:
    """A new segment of the live rows, published under its name; None when no row is live."""
    chunks = _chunks(rows, scanned, owner.dim)
    first = next(chunks, None)
    if first is None:
        return None
    temporary = new_directory(directory / SEGMENTS, "segment")
    context.step("segment_begun")

    def everything() -> Iterator[RowChunk]:
        yield first
        yield from chunks

    def decorate(into: Path, ids: IdArray) -> None:
        context.step("segment_engines_written")
        texts = [scanned.texts[item_id] for item_id in ids.tolist()]
        write_metadata(into, texts)
        context.step("segment_metadata_written")
        if scanned.lexical_fields:
            vectors = np.memmap(into / VECTORS_FILE, np.float32, "r", shape=(len(ids), owner.dim))
            spread = sample_of(vectors, identity.metric).spread
            write_postings(into, texts, scanned.lexical_fields, spread)
            context.step("segment_postings_written")

    identity = SegmentIdentity(
        owner.store_uuid,
        owner.embedding_version,
        "int64" if owner.id_kind == "int64" else "string",
        owner.dim,
        owner.metric,  # type: ignore[arg-type]  # the store checked it when it was opened
        scanned.seq,
    )
    try:
        manifest = build_segment(
            temporary, identity, everything(), context.options, context.clock, context.progress, decorate
        )
        context.step("segment_sealed")
        check_recall(SegmentReader.open(temporary, manifest.sha256), context.options.target)
        final = directory / SEGMENTS / f"s{scanned.seq:012d}-{uuid.uuid4().hex[:8]}"
        publish(temporary, final)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    context.step("segment_published")
    return open_segment(final, manifest.sha256)


def _chunks(rows: Iterator[Row | Id], scanned: _ScannedRows, dim: int) -> Iterator[RowChunk]:
    page: list[Row] = []
    for row in rows:
        if not isinstance(row, Row):
            if isinstance(row, int | str):
                scanned.changed.append(row)
            continue
        scanned.changed.append(row.id)
        if row.is_live:
            scanned.texts[row.id] = row.metadata
            page.append(row)
        if len(page) == _PAGE_ROWS:
            yield _chunk(page, dim)
            page = []
    if page:
        yield _chunk(page, dim)


def _chunk(page: Sequence[Row], dim: int) -> RowChunk:
    vectors = np.frombuffer(b"".join(row.vector or b"" for row in page), "<f4").reshape(len(page), dim)
    return RowChunk([row.id for row in page], np.array([row.seq for row in page], np.int64), vectors)


def _still_live(one: OpenSegment, live: Bitmap, scanned: _ScannedRows) -> Bitmap:
    """What is left of a kept segment: every change that was read came after it."""
    rows = one.reader.rows_of(scanned.changed)
    return without(live, rows)


def check_recall(segment: SegmentReader, target: float) -> None:
    """Compare the segment's own answers with exact ones. Raises StoreDamaged when they are not as good as
    they are meant to be: a graph that was built wrong must not be published."""
    if segment.facts.storage is None:
        return
    random = np.random.default_rng(segment.rows)
    rows = random.integers(0, segment.rows, (2, _CHECKED_QUERIES))
    hits = wanted = 0
    for query in segment.vectors[rows[0]] + np.float32(0.2) * segment.vectors[rows[1]]:
        truth = segment.candidates(query, _CHECKED_K, None, exact=True)[1]
        found = segment.candidates(query, _CHECKED_K, None)[1]
        hits += int(np.count_nonzero(found <= truth[-1]))
        wanted += len(truth)
    if hits < (target - _RECALL_MARGIN) * wanted:
        raise StoreDamaged(
            f"a new segment has recall {hits / wanted:.3f}, wanted {target}",
            "nothing was published and the next try builds it again; if it stays so, report it with the log",
        )


def _publish(
    directory: Path, number: int, facts: dict[str, object], live: Sequence[Bitmap], context: BuildContext
) -> SnapshotEntry:
    temporary = new_directory(directory / SEGMENTS, "snapshot")
    try:
        for position, bits in enumerate(live):
            (temporary / live_file(position)).write_bytes(bits.tobytes())
        context.step("snapshot_written")
        manifest = seal(temporary, facts)
        context.step("snapshot_sealed")
        name = f"n{number:08d}-{uuid.uuid4().hex[:8]}"
        entry = SnapshotEntry(name, number, int(str(facts["seq"])), manifest.sha256)
        register(directory, context.connect, [entry], [])
        context.step("snapshot_registered")
        publish(temporary, directory / SNAPSHOTS / name)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    context.step("snapshot_published")
    log.info("snapshot_published", extra={"snapshot": name, "segments": len(live), "seq": facts["seq"]})
    return entry


def drop_old(directory: Path, connect: Connector, kept_max: int, step: StepHook) -> None:
    """Keep the newest snapshots, remove all others and the segments that only they named. Processes that have
    those open can still read the unlinked files. Only for the one process that builds."""
    connection = connect(directory / STORE_FILE)
    try:
        entries = read_registered(connection)
    finally:
        connection.close()
    there = [entry for entry in entries if (directory / SNAPSHOTS / entry.name / MANIFEST).exists()]
    kept = there[:kept_max]
    dropped = [entry.name for entry in entries if entry not in kept]
    if dropped:
        register(directory, connect, [], dropped)
        step("snapshots_unregistered")
    try:
        named = {name for entry in kept for name in segments_named_by(directory, entry)}
    except StoreDamaged as exc:
        log.error("snapshot_damaged", extra={"path": str(directory), "error": str(exc)})
        return
    for folder, names in ((SNAPSHOTS, {entry.name for entry in kept}), (SEGMENTS, named)):
        for path in sorted((directory / folder).glob("*")):
            if path.name not in names and not _is_evidence(path, directory / folder):
                remove(path)
                step("old_removed")


def _is_evidence(path: Path, folder: Path) -> bool:
    """The newest few damaged directories are kept as evidence."""
    if QUARANTINE_MARK not in path.name:
        return False
    bad = sorted(folder.glob(f"*{QUARANTINE_MARK}*"), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    return path in bad[:_EVIDENCE_MAX]


BUILD_ERRORS = (
    OSError,
    WriteFailed,
    StoreDamaged,
    StoreUnavailable,
    sqlite3.Error,
    ValueError,
    RuntimeError,
    MemoryError,
)
