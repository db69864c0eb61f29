"""Generations that no role names any more: kept under another name for some days, then removed.

g000002.old-20261127T191000Z-1f0c44aa     retired then, removed some days later by maintenance
g000002.bad-5b21d0ce                      damaged; kept until somebody removes it
"""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from index_store.storage.commit_marks import ACKED_FILE
from index_store.storage.durable_files import sync_directory
from index_store.storage.schema import SQLITE_ERRORS, STORE_FILE, connect_reading
from index_store.storage.sealed_directory import QUARANTINE_MARK, sweep_leftovers

log = logging.getLogger(__name__)

GENERATION = re.compile(r"g[0-9]{6,18}")
RETIRED_MARK = ".old-"
_TIME = "%Y%m%dT%H%M%SZ"
_QUARANTINED_NAME = re.compile(
    rf"(g[0-9]{{6,18}})(?:{re.escape(RETIRED_MARK)}(\d{{8}}T\d{{6}}Z)-|{re.escape(QUARANTINE_MARK)})[0-9a-f]{{8}}"
)
_EVIDENCE_OF_ROWS = ("segments", ACKED_FILE)


@dataclass(frozen=True, slots=True)
class QuarantinedGeneration:
    """A directory that was set aside. retired_at: seconds since the epoch; None for a damaged one."""

    path: Path
    generation: str
    retired_at: float | None

    def size(self) -> int:
        """Its bytes on disk; what is removed meanwhile counts as nothing."""
        sizes = 0
        for path in self.path.rglob("*"):
            try:
                sizes += path.stat().st_size if path.is_file() else 0
            except OSError:
                continue
        return sizes


def generations_in(collection: Path) -> list[Path]:
    """The directories of a collection that bear a generation's name, oldest first, named by a role or not."""
    found = [p for p in collection.iterdir() if GENERATION.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name[1:]))


def quarantined_in(collection: Path) -> list[QuarantinedGeneration]:
    """What was set aside in a collection, by name."""
    found = []
    for path in sorted(collection.iterdir()):
        match = _QUARANTINED_NAME.fullmatch(path.name)
        if match and path.is_dir():
            since = match[2] and datetime.strptime(match[2], _TIME).replace(tzinfo=UTC).timestamp()
            found.append(QuarantinedGeneration(path, match[1], since or None))
    return found


def holds_rows(generation: Path) -> bool:
    """Whether a generation's directory may hold anything that was acknowledged. One that can't be read does.
    Changes nothing."""
    store = generation / STORE_FILE
    if any((generation / name).exists() for name in _EVIDENCE_OF_ROWS):
        return True
    try:
        if not store.exists() or (store.stat().st_size == 0 and not _write_ahead_log(store).exists()):
            return False
        connection = connect_reading(store)
        try:
            query = "SELECT EXISTS(SELECT 1 FROM item) OR EXISTS(SELECT 1 FROM cursor)"
            return bool(connection.execute(query).fetchone()[0])
        finally:
            connection.close()
    except (OSError, *SQLITE_ERRORS):
        return True


def _write_ahead_log(store: Path) -> Path:
    return store.with_name(f"{store.name}-wal")


def retire_or_remove(generation: Path, now: float) -> None:
    """Retire a generation that no role names: renamed when it may hold rows, removed when it
    was only begun. Processes that have it open keep its files. Raises OSError."""
    if not holds_rows(generation):
        shutil.rmtree(generation, ignore_errors=True)
        log.info("generation_removed", extra={"path": str(generation), "reason": "it never held a row"})
        return
    at = datetime.fromtimestamp(now, UTC).strftime(_TIME)
    retired = generation.with_name(f"{generation.name}{RETIRED_MARK}{at}-{uuid.uuid4().hex[:8]}")
    generation.rename(retired)
    sync_directory(retired.parent)
    log.warning("generation_retired", extra={"path": str(generation), "aside": str(retired)})


def retire_unnamed(collection: Path, named: Set[str], now: float) -> None:
    """Retire generations that no role names, and remove those that a crash left unpublished. Advance lock
    held. Processes that have them open keep reading their files. Raises OSError."""
    for path in generations_in(collection):
        if path.name not in named:
            retire_or_remove(path, now)
    sweep_leftovers(collection)
    sync_directory(collection)


def remove_expired(collection: Path, keep_s: float, now: float) -> list[Path]:
    """Remove what was retired more than `keep_s` ago, and return it. What was damaged stays."""
    expired = [
        one.path
        for one in quarantined_in(collection)
        if one.retired_at is not None and one.retired_at + keep_s <= now
    ]
    for path in expired:
        shutil.rmtree(path, ignore_errors=True)
        log.warning("retired_generation_removed", extra={"path": str(path), "kept_s": keep_s})
    return expired
