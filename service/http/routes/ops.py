"""Operations: what is there, what serves, and the steps between generations."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from index_store.errors import GenerationConflict, Unavailable
from index_store.types import CollectionStatus, GenerationStatus, UnopenedGeneration
from service.app.backups import Snapshots
from service.app.generations.unopened import require_all_open
from service.app.health.prober import Prober
from service.app.monitoring.search_meter import SearchMeter
from service.app.rebuild.promotions import Promotions
from service.app.sync_report import sync_report
from service.collections import Collection
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import SnapshotIn, StepIn
from service.observing.metrics import METRICS_CONTENT_TYPE
from service.observing.reading.kept import KeptReading

log = logging.getLogger(__name__)

SLOW_SHOWN_MAX = 200
Step = Literal["promote", "rollback", "abort", "retire"]

_MAX_AGE = re.compile(r"\bmax-age=(\d{1,9})\b", re.ASCII)
_METRICS_AGE_S_MAX = 60.0


class OpsRoutes:
    """What an administrator sees and decides: metrics, generations, copies, state of the sync."""

    def __init__(
        self,
        dependencies: Dependencies,
        exposition: Callable[[], bytes],
        meter: SearchMeter,
        snapshots: Snapshots,
        store_id: Callable[[], str],
        promotions: Promotions,
    ) -> None:
        self._dependencies = dependencies
        self._reading = KeptReading(exposition)
        self._meter = meter
        self._snapshots = snapshots
        self._store_id = store_id
        self._promotions = promotions
        self._snapshot_decoder = msgspec.json.Decoder(SnapshotIn)
        self._step_decoder = msgspec.json.Decoder(StepIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route("/metrics", self.get_metrics, methods=["GET"])
        router.add_api_route("/v1/slow", self.get_slow, methods=["GET"])
        router.add_api_route("/v1/collections", self.get_collections, methods=["GET"])
        router.add_api_route(
            "/v1/collections/{collection}/generations", self.get_generations, methods=["GET"]
        )
        router.add_api_route("/v1/promote", self.post_promote, methods=["POST"])
        router.add_api_route("/v1/rollback", self.post_rollback, methods=["POST"])
        router.add_api_route("/v1/abort", self.post_abort, methods=["POST"])
        router.add_api_route("/v1/retire", self.post_retire, methods=["POST"])
        router.add_api_route("/v1/snapshot", self.post_snapshot, methods=["POST"])
        router.add_api_route("/v1/snapshot", self.get_snapshots, methods=["GET"])
        router.add_api_route("/v1/sync/status", self.get_sync_status, methods=["GET"])
        return router

    async def get_metrics(self, request: Request) -> Response:
        """Answer in Prometheus's text format, summed over all workers. To make it takes milliseconds of the
        interpreter, which searches wait for: who takes an older one (Cache-Control: max-age) shares it."""
        self._meter.count_waiting()
        accepted = _MAX_AGE.search(request.headers.get("cache-control", ""))
        age_s = min(float(accepted[1]), _METRICS_AGE_S_MAX) if accepted else 0.0
        text, is_s_old = await self._dependencies.run_blocking(partial(self._reading.at_most, age_s))
        return Response(text, media_type=METRICS_CONTENT_TYPE, headers={"age": str(int(is_s_old))})

    async def get_slow(self, limit: Annotated[int, Query(ge=1, le=SLOW_SHOWN_MAX)] = 20) -> JsonResponse:
        """Answer with the slowest searches of the last minutes, of all workers."""
        slowest = await self._dependencies.run_blocking(lambda: self._meter.slowest_searches(limit))
        return JsonResponse({"searches": slowest})

    async def get_collections(self) -> JsonResponse:
        """Answer with every collection: its settings, its current generation, what is wrong with it."""
        described = [
            self._described(each, await self._status_or_why(each))
            for each in self._dependencies.catalogue.collections
        ]
        return JsonResponse({"collections": described})

    def _described(self, collection: Collection, status: CollectionStatus | Unavailable) -> dict[str, Any]:
        """Return one entry of the list, also for a collection that can't be opened."""
        is_broken = isinstance(status, Unavailable)
        current = None if isinstance(status, Unavailable) else status.current
        unknown = None if is_broken else 0
        described = asdict(collection)
        described["is_default"] = collection is self._dependencies.catalogue.default_of(collection.modality)
        del described["default"]
        described["embedding_version"] = current.embedding_version if current else ""
        described["generation"] = current.generation if current else None
        described["count"] = current.live if current else unknown
        described["seq"] = current.seq if current else unknown
        described["dim"] = current.dim if current else collection.dim
        slot = self._dependencies.encoders.slot(collection.name)
        described["model"], described["text_template"] = slot.reference, slot.text_template
        described["model_available"] = slot.is_available
        described["problem"] = str(status) if isinstance(status, Unavailable) else status.problem
        hint = status.hint if isinstance(status, Unavailable) else _hints(status)
        return {**described, "hint": hint} if hint else described

    async def get_generations(self, collection: str) -> JsonResponse:
        """Answer with the generations of one collection, the current one first."""
        found = self._dependencies.collection(collection)
        status = require_all_open(await self._status(found))
        return self._generations_answer(found, status)

    async def post_promote(self, request: Request) -> JsonResponse:
        """Make the next generation current; the current one becomes the former."""
        return await self._take("promote", "next", request)

    async def post_rollback(self, request: Request) -> JsonResponse:
        """Make the former generation current again."""
        return await self._take("rollback", "former", request)

    async def post_abort(self, request: Request) -> JsonResponse:
        """Give up the next generation."""
        return await self._take("abort", "next", request)

    async def post_retire(self, request: Request) -> JsonResponse:
        """Let the former generation go: nothing is written to it any more, and no rollback leads to it."""
        return await self._take("retire", "former", request)

    async def _take(self, step: Step, role: str, request: Request) -> JsonResponse:
        """Apply `step` to the generation in `role`. Raises GenerationConflict if the caller names another."""
        body = await self._dependencies.read_json(request, self._step_decoder)
        collection = self._dependencies.collection(body.collection)
        exchange = exchange_of(request)
        exchange.note_work(collection.name, forced=body.force)
        status = await self._status(collection)
        subject = status.in_role(role) or _unopened_in_role(status, role, step)
        if subject is None:
            raise _nobody(step, role, collection, body.embedding_version, status)
        if body.embedding_version not in (None, subject.embedding_version):
            raise GenerationConflict(
                f"the {role} generation is of {subject.embedding_version!r}, not {body.embedding_version!r}"
            )
        exchange.note_work(collection.name, forced=body.force, embedding_version=subject.embedding_version)
        _require_match(request, status)
        if isinstance(subject, GenerationStatus) and step in ("promote", "rollback"):
            caller = exchange_of(request).caller
            await self._promotions.require_ready(collection, status, subject, caller, is_forced=body.force)
        version = subject.embedding_version
        after = await self._dependencies.run_blocking(
            lambda: self._dependencies.index.advance(collection.name, step, version, is_forced=body.force)
        )
        if after.current is not None:  # so that this worker's next answer of any kind speaks of it
            self._dependencies.encoders.follow(collection.name, after.current.embedding_version)
        log.info("generation_step", extra={"collection": collection.name, "step": step, "forced": body.force})
        return self._generations_answer(collection, after)

    def _generations_answer(self, collection: Collection, status: CollectionStatus) -> JsonResponse:
        document = _generations(collection, status, self._dependencies.settings.retire_after_h)
        return JsonResponse(document, headers={"etag": _etag(status)})

    async def post_snapshot(self, request: Request) -> JsonResponse:
        """Make a copy of the data directory while it serves; answer with where it lies."""
        await self._dependencies.read_json(request, self._snapshot_decoder)
        made = await self._dependencies.run_blocking(self._snapshots.make)
        exchange_of(request).note_work(snapshot=made.name)
        return JsonResponse(asdict(made))

    async def get_snapshots(self) -> JsonResponse:
        """Answer with the copies that are kept, the newest first."""
        kept = await self._dependencies.run_blocking(self._snapshots.kept)
        return JsonResponse({"snapshots": [asdict(each) for each in kept]})

    async def get_sync_status(self) -> JsonResponse:
        """Answer with what the feeder stored of its progress, by collection."""
        described = {}
        for collection in self._dependencies.catalogue.collections:
            status = await self._status_or_why(collection, is_whole=True)
            current = None if isinstance(status, Unavailable) else status.current
            cursors = dict(current.cursors) if current else {}
            known: dict[str, Any] = {
                "embedding_version": current.embedding_version if current else "",
                "seq": current.seq if current else 0,
                "cursors": cursors,
                **asdict(sync_report(cursors)),
            }
            if isinstance(status, Unavailable):
                known.update(seq=None, problem=str(status), hint=status.hint)
            else:
                known["generations"] = [asdict(each) for each in status.generations]
            described[collection.name] = known
        store = await self._dependencies.run_blocking(self._store_id)
        return JsonResponse({"store": store, "collections": described})

    async def _status_or_why(
        self, collection: Collection, *, is_whole: bool = False
    ) -> CollectionStatus | Unavailable:
        try:
            status = await self._status(collection)
            return require_all_open(status) if is_whole else status
        except Unavailable as exc:
            return exc

    async def _status(self, collection: Collection) -> CollectionStatus:
        return await self._dependencies.run_blocking(lambda: self._dependencies.index.status(collection.name))


class HealthRoutes:
    """Health routes: open to everyone, and answered while the service is still starting."""

    def __init__(self, dependencies: Dependencies, prober: Prober, contract: bytes) -> None:
        """contract: openapi.yaml."""
        self._dependencies = dependencies
        self._prober = prober
        self._contract = contract

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter()
        router.add_api_route("/health", self.get_health, methods=["GET"])
        router.add_api_route("/livez", self.get_livez, methods=["GET"])
        router.add_api_route("/readyz", self.get_readyz, methods=["GET"])
        router.add_api_route("/openapi.yaml", self.get_openapi, methods=["GET"])
        return router

    async def get_health(self, request: Request) -> JsonResponse:
        """An administrator is also told which routes are open to whom."""
        health = await self._prober.health()
        peer = request.client.host if request.client else None
        if self._dependencies.keys.opens(Role.ADMIN, exchange_of(request).headers, peer):
            health = {**health, "access": self._dependencies.settings.access()}
        return _with_retry(health, is_good=health["status"] in ("ok", "degraded"))

    async def get_livez(self) -> JsonResponse:
        """Answer 200 as long as the event loop runs."""
        return JsonResponse({"status": "ok"})

    async def get_openapi(self) -> Response:
        """Answer with the contract of the running version."""
        return Response(self._contract, media_type="application/yaml")

    async def get_readyz(self) -> JsonResponse:
        """Answer 200 while every collection answers queries of its main kind, else 503 with the reasons."""
        waiting = await self._prober.waiting_for()
        status = "not_ready" if waiting else "ready"
        return _with_retry({"status": status, "waiting_for": waiting}, is_good=not waiting)


def _hints(status: CollectionStatus) -> str:
    return "; ".join(dict.fromkeys(each.hint for each in status.troubles if each.hint))


def _etag(status: CollectionStatus) -> str:
    """The roles of the generations, for If-Match: a step is refused if somebody has taken one meanwhile."""
    return '"' + ".".join(f"{each.role}-{each.generation}" for each in status.named) + '"'


def _unopened_in_role(status: CollectionStatus, role: str, step: Step) -> UnopenedGeneration | None:
    """Return the generation in that role which can't be opened here, to be given up. Raises StoreUnavailable
    for a step to it."""
    found = next((each for each in status.unopened if each.role == role), None)
    if found is not None and step in ("promote", "rollback"):
        require_all_open(status)
    return found


def _nobody(
    step: Step, role: str, collection: Collection, version: str | None, status: CollectionStatus
) -> GenerationConflict:
    """The error of a step about a generation that is not there, with what helps."""
    name, current = collection.name, status.current
    if step == "retire" and current is not None and version == current.embedding_version:
        return GenerationConflict(f"{version!r} is the current generation of {name!r}: it can't be retired")
    text = f"the collection {name!r} has no {role} generation"
    if step != "rollback":
        return GenerationConflict(text)
    return GenerationConflict(
        f"{text}: none was promoted over, or it was retired",
        f"python -m service rebuild {name} --model REFERENCE, then promote",
    )


def _require_match(request: Request, status: CollectionStatus) -> None:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip() not in ("*", _etag(status)):
        raise HttpRefusal(
            412,
            "precondition_failed",
            f"The generations are {_etag(status)} now, If-Match says {wanted[:64]}.",
        )


def _generations(collection: Collection, status: CollectionStatus, retire_after_h: int) -> dict[str, Any]:
    told = [asdict(each) for each in status.generations]
    for each in told:
        if each["role"] == "former" and retire_after_h:
            at = datetime.fromtimestamp(status.former_since, UTC) + timedelta(hours=retire_after_h)
            each["retires_at"] = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"collection": collection.name, "generations": told}


def _with_retry(document: dict[str, Any], *, is_good: bool) -> JsonResponse:
    if is_good:
        return JsonResponse(document)
    return JsonResponse(document, status_code=503, headers={"retry-after": "5"})
