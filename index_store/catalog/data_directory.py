"""A data directory as the storage of an index: what can be told of it without opening a collection."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from index_store.catalog.identity import current_identity
from index_store.catalog.quarantine import quarantined_in
from index_store.catalog.store_id import store_id
from index_store.footprint import DiskSpace
from index_store.storage.disk_guard import RESERVE_BYTES
from index_store.types import GenerationIdentity


def collection_directories(data_dir: Path) -> list[Path]:
    """Return the directories of the data directory's collections, by name; none where there is no data."""
    return sorted(path for path in (data_dir / "collections").glob("*") if path.is_dir())


class DataDirectory:
    """Fits `index_store.port.IndexStorage`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def store_id(self) -> str:
        """See `IndexStorage`. Empty while the disk takes no new file."""
        return store_id(self._path)

    def current_identity(self, collection: str) -> GenerationIdentity | None:
        """See `IndexStorage`."""
        return current_identity(self._path / "collections" / collection)

    def is_empty(self) -> bool:
        """See `IndexStorage`."""
        return not any((self._path / "collections").glob("*"))

    def quarantined_bytes(self) -> Mapping[str, Sequence[int]]:
        """See `IndexStorage`."""
        return {
            directory.name: [aside.size() for aside in quarantined_in(directory)]
            for directory in collection_directories(self._path)
        }

    def disk_space(self) -> DiskSpace:
        """See `IndexStorage`."""
        try:
            free = shutil.disk_usage(self._path).free
        except OSError:
            return DiskSpace(None, RESERVE_BYTES)
        return DiskSpace(free, RESERVE_BYTES)
