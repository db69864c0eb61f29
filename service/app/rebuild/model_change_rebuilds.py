"""`ON_MODEL_CHANGE=rebuild`: a changed model is rebuilt without being asked for, once for each change.

    jobs/begun.json     by collection, the version whose rebuild was begun like this

What was begun is not begun again: not by another worker, not after a restart, and not after somebody has
cancelled or aborted it or rolled back. It is forgotten when the configuration asks for nothing any more or
for something else, and under `ON_MODEL_CHANGE=keep`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from index_store.errors import GenerationConflict, IndexStoreError
from index_store.port import VectorIndex
from service.app.generations.serving import ModelChange
from service.app.rebuild.rebuilds import Rebuilds
from service.collections import Catalogue, Collection
from service.errors import InvalidInput, JobConflict, ModelUnavailable

log = logging.getLogger(__name__)


class ModelChangeRebuilds:
    """Blocking; used by one process at a time (the elected one) from one thread at a time."""

    def __init__(
        self,
        rebuilds: Rebuilds,
        index: VectorIndex,
        catalogue: Catalogue,
        changes: Mapping[str, ModelChange],
        record: Path,
        *,
        is_on: bool,
    ) -> None:
        """changes: what the configuration asks for, by collection."""
        self._rebuilds = rebuilds
        self._index = index
        self._undecided = [each for each in catalogue.collections if each.name in changes]
        self._changes = changes
        self._record = record
        self._is_on = is_on

    def begin_pending(self) -> None:
        """Begin what this start asks for; a collection that can't be asked yet is looked at by the next call.
        Raises OSError."""
        if not self._undecided:
            return
        if not self._is_on:
            self._record.unlink(missing_ok=True)
            self._undecided = []
            return
        begun = self._read()
        undecided: list[Collection] = []
        for collection in self._undecided:
            try:
                self._decide(collection, begun)
            except IndexStoreError as exc:  # not open yet, or told by the health probe
                log.debug("rebuild_not_decided", extra={"collection": collection.name, "reason": str(exc)})
                undecided.append(collection)
        self._undecided = undecided

    def _decide(self, collection: Collection, begun: dict[str, str]) -> None:
        name, wanted = collection.name, self._changes[collection.name].embedding_version
        status = self._index.status(name)
        if status.current is None or status.current.embedding_version == wanted:
            self._note(begun, name, None)
            return
        if not wanted or begun.get(name) == wanted:
            return  # its files are missing, which the health probe tells; or it was begun before
        try:
            job = self._rebuilds.start(self._rebuilds.plan(collection, None, wanted))
        except (GenerationConflict, JobConflict, ModelUnavailable, InvalidInput) as exc:
            log.warning("rebuild_not_begun", extra={"collection": name, "reason": str(exc)})
            return
        self._note(begun, name, wanted)
        log.info("rebuild_begun", extra={"collection": name, "job": job.id, "embedding_version": wanted})

    def _note(self, begun: dict[str, str], collection: str, embedding_version: str | None) -> None:
        if begun.get(collection) == embedding_version:
            return
        begun.pop(collection, None)
        if embedding_version is not None:
            begun[collection] = embedding_version
        self._record.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._record.with_suffix(".tmp-")
        temporary.write_text(json.dumps(begun, indent=1, sort_keys=True))
        temporary.replace(self._record)

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._record.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as exc:
            log.warning("begun_rebuilds_not_read", extra={"path": str(self._record), "error": str(exc)})
            return {}
