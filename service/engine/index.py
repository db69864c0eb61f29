"""What opens, searches and copies the collections: the embedded engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from index_store.engine.index import EmbeddedIndex, EngineLimits
from index_store.maintenance.backup import backup_data
from index_store.types import CollectionSpec
from service.app.backups import Snapshots
from service.app.lifecycle import OpenableIndex
from service.settings import Settings


def index_of(settings: Settings, specs: Sequence[CollectionSpec]) -> OpenableIndex:
    """Return the index of these collections, not open yet."""
    limits = EngineLimits(metadata_bytes_max=settings.metadata_bytes_max)
    return EmbeddedIndex(settings.data_dir, specs, limits=limits)


def snapshots_of(settings: Settings) -> Snapshots:
    """Return what makes and keeps copies of the collections."""
    data_dir = settings.data_dir

    def back_up(target: Path) -> Mapping[str, int]:
        seqs: Mapping[str, int] = backup_data(data_dir, target).facts["seqs"]
        return seqs

    return Snapshots(
        back_up, data_dir / "backups", partial(datetime.now, UTC), kept_max=settings.snapshots_kept
    )
