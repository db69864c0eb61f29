"""A model change by those on call: /v1/rebuild and /v1/jobs."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from service.app.rebuild.jobs import Job
from service.app.rebuild.rebuilds import Rebuild, Rebuilds
from service.collections import DIM_MAX
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import RebuildIn
from service.http.wire.values import in_range


class RebuildRoutes:
    """The rebuild group."""

    def __init__(self, dependencies: Dependencies, rebuilds: Rebuilds) -> None:
        self._dependencies = dependencies
        self._rebuilds = rebuilds
        self._decoder = msgspec.json.Decoder(RebuildIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route("/v1/rebuild", self.post_rebuild, methods=["POST"])
        router.add_api_route("/v1/jobs", self.get_jobs, methods=["GET"])
        router.add_api_route("/v1/jobs/{id}", self.get_job, methods=["GET"])
        router.add_api_route("/v1/jobs/{id}", self.delete_job, methods=["DELETE"])
        return router

    async def post_rebuild(self, request: Request) -> JsonResponse:
        """Begin filling a generation of another model: 202 and its job, or with `dry_run` what it takes."""
        body = await self._dependencies.read_json(request, self._decoder)
        collection = self._dependencies.collection(body.collection)
        exchange_of(request).note_work(collection.name, dry_run=body.dry_run)
        dim = None if body.dim is None else in_range("dim", body.dim, 1, DIM_MAX)
        given = (body.model, body.embedding_version, dim, body.text_template)
        plan = partial(self._rebuilds.plan, collection, *given)
        rebuild = await self._dependencies.run_blocking(plan)
        if body.dry_run:
            return JsonResponse(_planned(rebuild))
        job = await self._dependencies.run_blocking(partial(self._rebuilds.start, rebuild))
        exchange_of(request).note_work(
            collection.name, dry_run=False, job=job.id, embedding_version=rebuild.embedding_version
        )
        return JsonResponse({"job": job.to_wire(), **_planned(rebuild)}, status_code=202)

    async def get_jobs(self) -> JsonResponse:
        """Answer with the jobs that are known, the newest first."""
        jobs = await self._dependencies.run_blocking(self._rebuilds.jobs.all)
        return JsonResponse({"jobs": [job.to_wire() for job in jobs]})

    async def get_job(self, id: str) -> JsonResponse:
        """Answer with how far one job is."""
        return JsonResponse((await self._job(id)).to_wire())

    async def delete_job(self, id: str, request: Request) -> JsonResponse:
        """Ask for the end of a job; its generation is given up within a second or two."""
        job = await self._job(id)
        exchange_of(request).note_work(job.collection, job=job.id)
        ended = await self._dependencies.run_blocking(partial(self._rebuilds.end_job, job))
        return JsonResponse(ended.to_wire(), status_code=202)

    async def _job(self, job_id: str) -> Job:
        job = await self._dependencies.run_blocking(partial(self._rebuilds.jobs.find_job, job_id))
        if job is None:
            raise HttpRefusal(404, "unknown_job", f"There is no job {job_id[:64]!r}.")
        return job


def _planned(rebuild: Rebuild) -> dict[str, Any]:
    return {
        "collection": rebuild.collection.name,
        "model": rebuild.model,
        "dim": rebuild.dim,
        "text_template": rebuild.text_template,
        "embedding_version": rebuild.embedding_version,
        "estimate": asdict(rebuild.estimate),
        "problem": rebuild.estimate.problem,
    }
