"""/health and /readyz: what works now, found out by real queries."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from index_store.errors import IndexStoreError
from index_store.port import VectorIndex
from index_store.types import CollectionStatus, SearchRequest
from service.app.encoders import Encoders, Slot
from service.app.generations.serving import ModelChange
from service.app.health.findings import STARTING, Finding, fits, of_change, of_error, of_model, of_troubles
from service.app.health.maintenance_status import MaintenanceStatus
from service.app.lifecycle import Opening
from service.app.search import NO_VECTOR, ParsedSearch, Searcher
from service.app.sync_report import SyncReport, sync_report
from service.collections import NO_MODEL, Catalogue, Collection
from service.errors import ServiceError
from service.observing.metrics import Metrics

log = logging.getLogger(__name__)

_PROBE_TEXT = "probe {number}"
_PROBE_PIXELS = 32
_MAINTENANCE_DOWN = Finding(
    None,
    "maintenance_down",
    "the process that seals and merges segments does not run; new rows stay in memory until it does",
    "read the log lines maintenance_ended and maintenance_not_started",
)


@dataclass(frozen=True, slots=True)
class _Report:
    """Of one probe. statuses: of the collections that could be asked. searched: those that answered a query
    of any kind. models: the versions of the models then, by collection."""

    statuses: Mapping[str, CollectionStatus] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    searched: frozenset[str] = frozenset()
    models: Mapping[str, str] = field(default_factory=dict)


class Prober:
    """Asks each collection a query of its main kind, at most once in `probe_s`; event loop only."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: Encoders,
        searcher: Searcher,
        index: VectorIndex,
        readers: Executor,
        opening: Opening,
        maintenance: Callable[[], MaintenanceStatus],
        metrics: Metrics,
        changes: Mapping[str, ModelChange],
        audit_fault: Callable[[], str],
        *,
        probe_s: float,
    ) -> None:
        """changes: what the configuration asks for, by collection. audit_fault: why the audit log can't be
        written, or an empty string."""
        self._audit_fault = audit_fault
        self._catalogue = catalogue
        self._encoders = encoders
        self._searcher = searcher
        self._index = index
        self._readers = readers
        self._opening = opening
        self._maintenance = maintenance
        self._metrics = metrics
        self._changes = changes
        self._probe_s = probe_s
        self._probes = 0
        self._report = _Report()
        self._known_until = 0.0
        self._under_way = asyncio.Lock()

    async def watch(self) -> None:
        """Probe while the service runs, so that logs and metrics report faults without a call of /health."""
        while True:
            try:
                if self._opening.is_open:
                    await self._newest()
            except Exception:
                log.exception("probe_failed")
                self._metrics.unexpected("probe")
            await asyncio.sleep(self._probe_s)

    async def waiting_for(self) -> list[dict[str, str | None]]:
        """Return what keeps the service from being ready, with the command that helps if there is one."""
        if not self._opening.is_open:
            return [
                {"collection": each.name, "code": STARTING, "reason": "opening"}
                for each in self._catalogue.collections
            ]
        report = await self._newest()
        blocking = [each.document() for each in report.findings if each.blocks]
        return [{**each, "mend": each["hint"]} if "hint" in each else each for each in blocking]

    async def health(self) -> dict[str, Any]:
        """Return the answer of /health. `status` is ok, degraded, starting or failing."""
        if not self._opening.is_open or self._slot(self._catalogue.default).is_loading:
            return self._document("starting", _Report())
        report = await self._newest()
        if not report.searched:
            return self._document("failing", report)
        return self._document("degraded" if report.findings else "ok", report)

    async def _newest(self) -> _Report:
        async with self._under_way:
            # A promotion since brings a model of another version: what was found speaks of the former one.
            if time.monotonic() >= self._known_until or self._report.models != self._models():
                report = await self._probe()
                self._tell(report)
                self._report = report
                # What is loading may be there in a moment: that is asked again each time.
                is_loading = any(each.code == STARTING for each in report.findings)
                self._known_until = 0.0 if is_loading else time.monotonic() + self._probe_s
        return self._report

    async def _probe(self) -> _Report:
        self._probes += 1
        collections = self._catalogue.collections
        statuses: dict[str, CollectionStatus] = {}
        found = await asyncio.gather(*[self._probed(each, statuses) for each in collections])
        findings = [finding for each, _ in found for finding in each]
        if self._maintenance().word == "down":
            findings.append(_MAINTENANCE_DOWN)
        if fault := self._audit_fault():
            reason = f"the audit log can't be written: {fault}; entries wait and then get lost"
            findings.append(Finding(None, "audit_failing", reason, "make room in DATA_DIR/audit"))
        searched = [
            each.name for each, (_, is_searched) in zip(collections, found, strict=True) if is_searched
        ]
        return _Report(statuses, findings, frozenset(searched), self._models())

    async def _probed(
        self, collection: Collection, statuses: dict[str, CollectionStatus]
    ) -> tuple[list[Finding], bool]:
        """What is wrong with one collection, and whether it answered. Puts its status in `statuses`."""
        name = collection.name
        try:
            loop = asyncio.get_running_loop()
            status = await loop.run_in_executor(self._readers, self._index.status, name)
        except IndexStoreError as exc:
            return [of_error(name, exc)], False
        statuses[name] = status
        if status.current is not None:
            self._encoders.follow(name, status.current.embedding_version)
        findings = of_troubles(name, status)
        has_model = collection.model != NO_MODEL
        of_its_model = of_model(name, self._slot(collection), status) if has_model else None
        if of_its_model is not None:
            findings.append(of_its_model)
        if name in self._changes:
            pending = of_change(name, self._changes[name], self._slot(collection), status)
            findings.extend([pending] if pending else [])
        by_content = has_model and (of_its_model is None or not of_its_model.blocks)
        try:
            await self._searcher.find(self._query(collection, by_content=by_content))
        except (ServiceError, IndexStoreError) as exc:
            finding = of_error(name, exc)
            return [*findings, finding], not finding.blocks
        return findings, True

    def _query(self, collection: Collection, *, by_content: bool) -> ParsedSearch:
        """Return a query that no cache holds: new content, or a vector where there is no model."""
        if not by_content:
            return ParsedSearch(
                collection, SearchRequest(np.ones(self._catalogue.dim(collection), dtype=np.float32), k=1)
            )
        request = SearchRequest(NO_VECTOR, k=1)
        if collection.modality == "text":
            return ParsedSearch(collection, request, content=_PROBE_TEXT.format(number=self._probes))
        return ParsedSearch(collection, request, content=_picture(self._probes))

    def _tell(self, report: _Report) -> None:
        """Log what is new and what is over, and set the metrics."""
        before = {(each.collection, each.code) for each in self._report.findings if each.code != STARTING}
        now = {(each.collection, each.code): each for each in report.findings if each.code != STARTING}
        for key in now.keys() - before:
            log.error("degraded", extra=now[key].document())
        for collection, code in before - now.keys():
            log.info("recovered", extra={"collection": collection, "code": code})
        blocked = {each.collection for each in report.findings if each.blocks}
        self._metrics.probed(
            {each.name: each.name not in blocked for each in self._catalogue.collections},
            {
                each.name: self._embeds(each, report.statuses.get(each.name))
                for each in self._catalogue.collections
                if each.model != NO_MODEL
            },
            {(collection or "", code) for collection, code in now},
        )

    def _document(self, status: str, report: _Report) -> dict[str, Any]:
        known = {each.name: self._described(each, report) for each in self._catalogue.collections}
        head = known[self._catalogue.default.name]
        document = {
            "status": status,
            "model": head["model"],
            "dim": head["dim"],
            "version": head["version"],
            "ready": status in ("ok", "degraded") and not any(each.blocks for each in report.findings),
            "model_available": head["model_available"],
            "maintenance": self._maintenance().word,
            "reasons": [each.document() for each in report.findings],
            "collections": known,
        }
        return document if status != "failing" else {**document, "detail": "no collection answers a query"}

    def _described(self, collection: Collection, report: _Report) -> dict[str, Any]:
        slot = self._slot(collection)
        status = report.statuses.get(collection.name)
        current = status.current if status else None
        sync = sync_report(current.cursors) if current else SyncReport()
        unknown = None if status is None else 0
        described: dict[str, Any] = {
            "model": slot.info.name if slot.info else collection.model,
            "dim": current.dim if current else collection.dim,
            "version": current.embedding_version if current else _version(slot),
            "count": current.live if current else unknown,
            "seq": current.seq if current else unknown,
            "generation": current.generation if current else None,
            "in_sync": sync.in_sync,
            "lag_ms": sync.lag_ms,
            "model_available": self._embeds(collection, status),
        }
        findings = [each for each in report.findings if each.collection == collection.name]
        reasons = [each.reason for each in findings] or _remarks(slot)
        if reasons:
            described["reason"] = "; ".join(reasons)
        hints = [each.hint for each in findings if each.hint]
        if hints:
            described["hint"] = "; ".join(dict.fromkeys(hints))
        return described

    def _embeds(self, collection: Collection, status: CollectionStatus | None) -> bool:
        """Whether the model embeds, and its vectors may meet the ones that serve."""
        slot = self._slot(collection)
        return slot.is_available and fits(slot, status)

    def _models(self) -> dict[str, str]:
        return {each.name: _version(self._slot(each)) for each in self._catalogue.collections}

    def _slot(self, collection: Collection) -> Slot:
        return self._encoders.slot(collection.name)


def _version(slot: Slot) -> str:
    return slot.info.embedding_version if slot.info else ""


def _remarks(slot: Slot) -> list[str]:
    """Return what is configured this way and still limits the service."""
    if slot.info is None:
        return [str(slot.unavailable())]
    return ["a placeholder serves: its vectors carry no meaning"] if slot.info.is_placeholder else []


def _picture(number: int) -> bytes:
    """A small PNG, another one each time."""
    image = Image.new("RGB", (_PROBE_PIXELS, _PROBE_PIXELS), (number % 256, number // 256 % 256, 128))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
