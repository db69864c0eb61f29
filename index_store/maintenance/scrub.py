"""Reads everything again, slowly, so that damage is found before the bytes are needed: row checksums, kept
contents, file hashes.

How far it has come is kept in a file, so that restarts do not begin again. What it found of rotten rows and
contents is kept there too: a process that opens the store checks those itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from index_store.catalog.snapshots import SEGMENTS, SNAPSHOTS, try_quarantine
from index_store.contents.table import scan_contents
from index_store.diagnosis import is_passing, what_helps
from index_store.errors import StoreDamaged
from index_store.storage.durable_files import publish
from index_store.storage.schema import COLUMNS, Connection, from_columns
from index_store.storage.scrub_state import SCRUB_FILE, read_scrub_state
from index_store.storage.sealed_directory import MARKS, read_manifest, verify
from index_store.types import Id

log = logging.getLogger(__name__)

_PAGE_ROWS = 2048
_SAVED_PAGES = 32
_CONTENTS_BYTES = 4 << 20
"""Read in one step: a picture is larger than many rows."""
DAMAGED_MAX = 1000


@dataclass(slots=True)
class ScrubProgress:
    """A round looks at the rows, then at the contents, then at the files. after: the last id looked at, None
    at the start of a part. rounds: whole passes done."""

    after: Id | None = None
    rows: int = 0
    rounds: int = 0
    damaged: tuple[Id, ...] = ()
    is_at_contents: bool = False
    damaged_contents: tuple[Id, ...] = ()


class Scrub:
    """One generation's scrub. `step` belongs to one thread.

    quarantined: how many directories did not match their checksums so far."""

    def __init__(self, directory: Path, contents_bytes: int = _CONTENTS_BYTES) -> None:
        """contents_bytes: about how much of the kept contents one step reads."""
        self._directory = directory
        self._contents_bytes = contents_bytes
        stored = read_scrub_state(directory)
        self.progress = ScrubProgress(
            stored.after,
            stored.rows,
            stored.rounds,
            tuple(stored.damaged),
            stored.is_at_contents,
            tuple(stored.damaged_contents),
        )
        self.quarantined = 0
        # Of a round that another process began: what that found belongs to it.
        is_under_way = stored.after is not None
        self._found = list(stored.damaged) if is_under_way and not stored.is_at_contents else []
        self._found_contents = list(stored.damaged_contents) if stored.is_at_contents else []
        self._pages = 0
        self._is_saved = True

    def step(self, connection: Connection) -> bool:
        """Look at one page of rows, after the last one at some contents, and then at the files. True: a round
        is done. Raises OSError (a file can't be listed), sqlite3.Error."""
        progress = self.progress
        if progress.is_at_contents:
            return self._step_contents(connection)
        where, parameters = ("", ()) if progress.after is None else ("WHERE id>?", (progress.after,))
        page: Sequence[Any] = connection.execute(
            f"SELECT {COLUMNS} FROM item {where} ORDER BY id LIMIT {_PAGE_ROWS}", parameters
        ).fetchall()
        for values in page:
            row, is_sound = from_columns(values)
            if not is_sound and len(self._found) < DAMAGED_MAX and isinstance(row.id, int | str):
                log.error("row_damaged", extra={"store": str(self._directory), "id": row.id})
                self._found.append(row.id)
        progress.rows += len(page)
        self._pages += 1
        if len(page) == _PAGE_ROWS:
            progress.after = page[-1][0]
            if self._pages % _SAVED_PAGES == 0 or self._found:
                self._save((*progress.damaged, *self._found))
            return False
        progress.after, progress.is_at_contents = None, True
        self._save(tuple(self._found))
        if self._is_saved:
            self._found = []
        return self._step_contents(connection)

    def _step_contents(self, connection: Connection) -> bool:
        progress = self.progress
        page = scan_contents(connection, progress.after, self._contents_bytes)
        for item_id in page.damaged:
            if len(self._found_contents) < DAMAGED_MAX:
                log.error("content_damaged", extra={"store": str(self._directory), "id": item_id})
                self._found_contents.append(item_id)
        if page.last is not None:
            progress.after = page.last
            self._save(progress.damaged, (*progress.damaged_contents, *self._found_contents))
            return False
        self.quarantined += len(scrub_files(self._directory))
        progress.after, progress.is_at_contents, progress.rows = None, False, 0
        progress.rounds += 1
        self._save(progress.damaged, tuple(self._found_contents))
        if self._is_saved:
            self._found_contents = []
        return True

    def _save(self, damaged: tuple[Id, ...], damaged_contents: tuple[Id, ...] | None = None) -> None:
        """Write down how far the scrub is. A disk without room must not keep it from reading on: what was
        found stays in memory until it is written, and a process that starts meanwhile reads again."""
        self.progress.damaged = tuple(dict.fromkeys(damaged))
        if damaged_contents is not None:
            self.progress.damaged_contents = tuple(dict.fromkeys(damaged_contents))
        path = self._directory / SCRUB_FILE
        try:
            publish(path, json.dumps(asdict(self.progress)).encode())
        except OSError as exc:
            if self._is_saved:
                extra = {"path": str(path), "error": str(exc), "hint": what_helps(exc, path)}
                log.warning("scrub_not_saved", extra=extra)
            self._is_saved = False
        else:
            self._is_saved = True


def scrub_files(directory: Path) -> list[Path]:
    """Hash every published file; set aside the directories that do not match and return where they were."""
    bad: list[Path] = []
    for folder in (SNAPSHOTS, SEGMENTS):
        for path in sorted((directory / folder).glob("*")):
            if any(mark in path.name for mark in MARKS):
                continue
            try:
                verify(path, read_manifest(path))
            except (StoreDamaged, FileNotFoundError) as exc:
                if is_passing(exc):
                    log.warning("files_not_read", extra={"path": str(path), "error": str(exc)})
                elif path.is_dir():
                    log.error("files_damaged", extra={"path": str(path), "error": str(exc)})
                    try_quarantine(path)
                    bad.append(path)
    return bad
