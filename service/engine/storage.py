"""Where the collections are kept, and what looks after them there: a data directory, or a database. Imported
without what opens or searches them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from index_store.catalog.data_directory import DataDirectory
from index_store.port import IndexStorage
from service.app.health.maintenance_status import MaintenanceStatus, maintenance_status
from service.settings import Settings


def index_storage(settings: Settings) -> IndexStorage:
    """Return what can be told and asked of the collections before they are opened."""
    if not settings.index_url:
        return DataDirectory(settings.data_dir)
    from index_store.postgres.sources.storage import Database  # .6 s, and nobody else needs the driver

    return Database(settings.index_url)


def maintenance_watch(settings: Settings) -> Callable[[], MaintenanceStatus]:
    """Return what tells whether the process of `maintenance_command` runs."""
    if settings.maintenance == "off":  # a file of DATA_DIR may speak of a time before
        return partial(MaintenanceStatus, "off")
    return partial(maintenance_status, settings.data_dir)


def maintenance_command(settings: Settings, parent: int) -> Sequence[str]:
    """Return what starts the process that looks after the collections while workers serve; nothing where none
    is to run. parent: the process that it ends with."""
    if settings.maintenance == "off":
        return []
    # The address of a database is in the environment already: arguments can be read by everyone.
    where = [] if settings.index_url else [str(settings.data_dir)]
    command = [sys.executable, "-m", "index_store", "maintain", *where]
    return [*command, "--parent", str(parent), "--keep-days", str(settings.set_aside_keep_days)]
