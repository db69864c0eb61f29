"""/health and /readyz: what really works now, found out by doing it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

from index_store.errors import IndexStoreError
from index_store.port import VectorIndex
from index_store.types import CollectionStatus
from service.app.encoders import Encoders, Slot
from service.app.maintenance_status import MaintenanceStatus
from service.app.search import Question, Searcher
from service.app.sync_report import SyncReport, sync_report
from service.collections import NO_MODEL, Catalogue, Collection
from service.errors import ServiceError

log = logging.getLogger(__name__)

_PROBE_TEXT = "probe {number}"


class Prober:
    """Embeds and searches the default collection at most once in `probe_s`; event loop only."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: Encoders,
        searcher: Searcher,
        index: VectorIndex,
        readers: Executor,
        is_open: Callable[[], bool],
        maintenance: Callable[[], MaintenanceStatus],
        *,
        probe_s: float,
    ) -> None:
        self._catalogue = catalogue
        self._encoders = encoders
        self._searcher = searcher
        self._index = index
        self._readers = readers
        self._is_open = is_open
        self._maintenance = maintenance
        self._probe_s = probe_s
        self._probes = 0
        self._known: dict[str, Any] = {}
        self._known_until = 0.0
        self._under_way = asyncio.Lock()

    def waiting_for(self) -> list[dict[str, str]]:
        """Return what keeps the service from being ready, with the command that mends it if there is one."""
        if not self._is_open():
            return [{"collection": each.name, "reason": "opening"} for each in self._catalogue.collections]
        waiting = []
        for collection in self._catalogue.collections:
            slot = self._encoders.slot(collection.name)
            if slot.info is None and slot.reference != NO_MODEL:
                reason = {"collection": collection.name, "reason": str(slot.unavailable())}
                waiting.append({**reason, "hint": slot.hint, "mend": slot.hint} if slot.hint else reason)
        return waiting

    async def health(self) -> dict[str, Any]:
        """Return the answer of /health. `status` is ok, starting or failing."""
        is_starting = not self._is_open() or self._slot(self._catalogue.default).is_loading
        if is_starting:
            return self._document("starting", {})
        async with self._under_way:
            if time.monotonic() >= self._known_until:
                self._known = await self._probe()
                self._known_until = time.monotonic() + self._probe_s
        return self._known

    async def _probe(self) -> dict[str, Any]:
        try:
            loop = asyncio.get_running_loop()
            statuses = {
                each.name: await loop.run_in_executor(self._readers, self._index.status, each.name)
                for each in self._catalogue.collections
            }
            await self._find(statuses[self._catalogue.default.name])
        except (ServiceError, IndexStoreError) as exc:
            log.warning("probe_failed", extra={"reason": str(exc)})
            return {**self._document("failing", {}), "detail": str(exc)}
        return self._document("ok", statuses)

    async def _find(self, status: CollectionStatus) -> None:
        """A text never asked before, so that no cache answers; a vector where no model serves."""
        default = self._catalogue.default
        slot = self._slot(default)
        self._probes += 1
        if slot.text is not None and _fits(slot, status):
            text = _PROBE_TEXT.format(number=self._probes)
            await self._searcher.find(Question(default.name, k=1, text=text))
        else:
            vector = np.ones(default.dim, dtype=np.float32)
            await self._searcher.find(Question(default.name, k=1, vector=vector))

    def _document(self, status: str, statuses: dict[str, CollectionStatus]) -> dict[str, Any]:
        default = self._catalogue.default
        known = {
            each.name: self._described(each, statuses.get(each.name)) for each in self._catalogue.collections
        }
        head = known[default.name]
        return {
            "status": status,
            "model": head["model"],
            "dim": head["dim"],
            "version": head["version"],
            "ready": status == "ok" and not self.waiting_for(),
            "model_available": head["model_available"],
            "maintenance": self._maintenance().word,
            "collections": known,
        }

    def _described(self, collection: Collection, status: CollectionStatus | None) -> dict[str, Any]:
        slot = self._slot(collection)
        current = status.current if status else None
        report = sync_report(current.cursors) if current else SyncReport()
        model_version = slot.info.embedding_version if slot.info else ""
        described: dict[str, Any] = {
            "model": slot.info.name if slot.info else collection.model,
            "dim": collection.dim,
            "version": current.embedding_version if current else model_version,
            "count": current.live if current else 0,
            "seq": current.seq if current else 0,
            "generation": current.generation if current else None,
            "in_sync": report.in_sync,
            "lag_ms": report.lag_ms,
            "model_available": slot.is_available and _fits(slot, status),
        }
        reason = _reason(slot, status)
        if reason:
            described["reason"] = reason
        return described

    def _slot(self, collection: Collection) -> Slot:
        return self._encoders.slot(collection.name)


def _fits(slot: Slot, status: CollectionStatus | None) -> bool:
    """Whether the model's vectors may meet the ones that serve."""
    current = status.current if status else None
    return current is None or slot.info is None or current.embedding_version == slot.info.embedding_version


def _reason(slot: Slot, status: CollectionStatus | None) -> str:
    if status is not None and status.problem:
        return status.problem
    if slot.info is None:
        return str(slot.unavailable())
    if not _fits(slot, status):
        return f"embedding_version_mismatch: the model is {slot.info.embedding_version}"
    return "a placeholder serves: its vectors carry no meaning" if slot.info.is_placeholder else ""
