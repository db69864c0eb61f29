"""What has to hold before another generation of a collection becomes current."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from functools import partial

from index_store.errors import GenerationConflict
from index_store.port import VectorIndex
from index_store.types import CollectionStatus, GenerationStatus
from service.app.generations.models import GenerationModels
from service.app.rebuild.rebuilds import shortfall
from service.app.report.reports import Reports
from service.collections import Collection

log = logging.getLogger(__name__)

_LOOKS, _LOOK_S = 20, 0.1


class Promotions:
    """Event loop only; the index is read on threads of `readers`."""

    def __init__(
        self, index: VectorIndex, reports: Reports, models: GenerationModels, readers: Executor
    ) -> None:
        self._index = index
        self._reports = reports
        self._models = models
        self._readers = readers

    async def require_ready(
        self,
        collection: Collection,
        status: CollectionStatus,
        subject: GenerationStatus,
        caller: str,
        *,
        is_forced: bool,
    ) -> None:
        """Return when `subject`, the next or the former generation, may become current. Raises
        GenerationConflict."""
        if subject.role == "next":
            await self._require_fit(collection, status, caller, is_forced=is_forced)
        if subject.origin and not is_forced:
            await self._models.require_everywhere(collection.name, subject.embedding_version)

    async def _require_fit(
        self, collection: Collection, status: CollectionStatus, caller: str, *, is_forced: bool
    ) -> None:
        """Raises GenerationConflict where a promotion would lose items or a gate does not hold; a promotion
        that is forced is logged with what it passed over. Beside writes the counts of two generations differ
        for moments, until each write is in both and what waited for a vector has one: a lack has to last."""
        lost = shortfall(status)
        for _ in range(0 if is_forced else _LOOKS):
            if not lost:
                break
            await asyncio.sleep(_LOOK_S)
            lost = shortfall(status := await self._status(collection))
        if lost and not is_forced:
            raise GenerationConflict(
                f"{lost} item(s) of {collection.name!r} have no vector in the next generation: wait for its "
                "job, or say force to lose them from searches"
            )
        gates = await self._reports.gates_of_promotion(collection, status, is_made=not is_forced)
        broken = [each.sentence for each in gates if not each.holds]
        if broken and not is_forced:
            raise GenerationConflict(
                f"a gate of {collection.name!r} does not hold: {'; '.join(broken)}",
                f"python -m service report {collection.name}",
            )
        if is_forced and (lost or broken):
            passed = {"collection": collection.name, "lost": lost, "gates": broken}
            log.warning("promote_forced", extra={**passed, "caller": caller})

    async def _status(self, collection: Collection) -> CollectionStatus:
        call = partial(self._index.status, collection.name)
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)
