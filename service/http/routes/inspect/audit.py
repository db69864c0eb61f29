"""GET /v1/audit: what was changed or operated last, and by whom."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse
from service.http.wire.problems import HttpRefusal
from service.observing.audit_log import AuditLog

SHOWN_MAX = 1000


class AuditRoutes:
    """The audit log as it can be read."""

    def __init__(self, dependencies: Dependencies, audit: AuditLog) -> None:
        self._dependencies = dependencies
        self._audit = audit

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route("/v1/audit", self.get_audit, methods=["GET"])
        return router

    async def get_audit(self, limit: Annotated[int, Query(ge=1, le=SHOWN_MAX)] = 100) -> JsonResponse:
        """Answer with the newest entries of all workers. Raises HttpRefusal 503 where the disk can't be
        read."""
        try:
            entries = await self._dependencies.run_blocking(partial(self._audit.newest_entries, limit))
        except OSError as exc:
            text = f"The audit log can't be read: {exc.strerror}."
            raise HttpRefusal(503, "audit_unreadable", text, headers={"retry-after": "5"}) from exc
        return JsonResponse({"state": self._audit.state, "lost": self._audit.lost, "entries": entries})
