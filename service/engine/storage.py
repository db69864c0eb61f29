"""Where the collections are kept, and what looks after them there: a data directory. Imported without what
opens or searches one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from index_store.catalog.data_directory import DataDirectory
from index_store.port import IndexStorage
from service.settings import Settings


def index_storage(settings: Settings) -> IndexStorage:
    """Return what can be told and asked of the collections before they are opened."""
    return DataDirectory(settings.data_dir)


def maintenance_command(settings: Settings, parent: int) -> Sequence[str]:
    """Return what starts the process that seals and merges segments while workers serve; nothing where none
    is to run. parent: the process that it ends with."""
    if settings.maintenance == "off":
        return []
    command = [sys.executable, "-m", "index_store", "maintain", str(settings.data_dir)]
    return [*command, "--parent", str(parent), "--keep-days", str(settings.set_aside_keep_days)]
