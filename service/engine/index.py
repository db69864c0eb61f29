"""What opens, searches and copies the collections: the embedded engine, or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from index_store.engine.index import EmbeddedIndex, EngineLimits
from index_store.maintenance.backup import backup_data
from index_store.types import CollectionSpec
from service.app.backups import BackUp, Snapshots
from service.app.lifecycle import OpenableIndex
from service.errors import NotSupported
from service.settings import Settings

_WAITING_SEARCHES = 4
"""Threads that wait for a server at a time; each takes one of its connections."""


def index_of(settings: Settings, specs: Sequence[CollectionSpec]) -> OpenableIndex:
    """Return the index of these collections, not open yet."""
    if settings.index_url:
        from index_store.postgres.connections import PostgresLimits  # .6 s: nobody else needs the driver
        from index_store.postgres.index import PostgresIndex

        # Nobody waits longer for an answer, and /health must not when the server is silent.
        read_s = settings.search_deadline_ms / 1000
        bounded = PostgresLimits(read_s=read_s, connect_s=min(read_s, PostgresLimits().connect_s))
        size = settings.metadata_bytes_max
        return PostgresIndex(settings.index_url, specs, limits=bounded, metadata_bytes_max=size)
    limits = EngineLimits(metadata_bytes_max=settings.metadata_bytes_max)
    return EmbeddedIndex(settings.data_dir, specs, limits=limits)


def search_threads(settings: Settings) -> int:
    """Return how many threads search: what computes here needs one, what waits for a server several."""
    return _WAITING_SEARCHES if settings.index_url else 1


def snapshots_of(settings: Settings) -> Snapshots:
    """Return what makes and keeps copies of the collections."""
    copy: BackUp = _refuse_copy if settings.index_url else partial(_copy_directory, settings.data_dir)
    backups = settings.data_dir / "backups"
    return Snapshots(copy, backups, partial(datetime.now, UTC), kept_max=settings.snapshots_kept)


def _copy_directory(data_dir: Path, target: Path) -> Mapping[str, int]:
    seqs: Mapping[str, int] = backup_data(data_dir, target).facts["seqs"]
    return seqs


def _refuse_copy(_target: Path) -> Mapping[str, int]:
    raise NotSupported(
        "The collections are in PostgreSQL, which makes its own backups.",
        hint="pg_basebackup of the server, or pg_dump of the database that INDEX_URL names",
    )
