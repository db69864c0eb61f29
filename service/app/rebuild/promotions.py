"""What has to hold before another generation of a collection becomes current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Protocol, TypeVar

from index_store.errors import GenerationConflict
from index_store.port import RebuildSource, VectorIndex
from index_store.types import CollectionStatus, GenerationStatus, Id
from service.app.report.gates import GateResult, failing
from service.collections import Collection

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOKS, _LOOK_S = 20, 0.1
_IDS_NAMED = 5


class PromotionIndex(VectorIndex, RebuildSource, Protocol):
    """What is asked here of an index."""


class PromotionGates(Protocol):
    """What tells whether a report allows it: `Reports`."""

    async def gates_of_promotion(
        self, collection: Collection, status: CollectionStatus, *, is_made: bool
    ) -> Sequence[GateResult]:
        """Return what the gates say of making the next generation current."""


class PromotionModels(Protocol):
    """What tells which worker has which model: `GenerationModels`."""

    async def require_everywhere(self, collection: str, embedding_version: str) -> None:
        """Return when every worker has the model of that generation. Raises GenerationConflict."""

    async def require_in_memory(self, collection: str, embedding_version: str) -> None:
        """Return when every worker has its rows in memory. Raises GenerationConflict, Unavailable."""


class Promotions:
    """Event loop only; the index is read on threads of `readers`."""

    def __init__(
        self,
        index: PromotionIndex,
        gates: PromotionGates,
        models: PromotionModels,
        readers: Executor,
        *,
        look_s: float = _LOOK_S,
    ) -> None:
        """look_s: between two looks at what a promotion would lose."""
        self._look_s = look_s
        self._index = index
        self._gates = gates
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
        """Return when `subject`, the next or the former generation, may become current. What searches would
        lose is looked at before what takes long, and once more right before the step. A promotion that is
        forced is logged with what it passed over. Raises GenerationConflict, TryLater."""
        is_promotion = subject.role == "next"
        if is_promotion and not is_forced:
            await self._lost(collection, subject, is_forced=False)
        broken = await self._broken_gates(collection, status, is_made=not is_forced) if is_promotion else []
        if subject.origin and not is_forced:
            await self._models.require_everywhere(collection.name, subject.embedding_version)
        await self._require_in_memory(collection, subject, is_forced=is_forced)
        await self._require_same_roles(collection, status)
        lost = await self._lost(collection, subject, is_forced=is_forced) if is_promotion else []
        if lost or broken:
            passed = {"collection": collection.name, "lost": len(lost), "gates": broken}
            log.warning("promote_forced", extra={**passed, "caller": caller})

    async def _broken_gates(
        self, collection: Collection, status: CollectionStatus, *, is_made: bool
    ) -> list[str]:
        """Return a sentence of each gate that does not hold, for a promotion that is forced. Raises
        GenerationConflict."""
        gates = await self._gates.gates_of_promotion(collection, status, is_made=is_made)
        broken = [each.sentence for each in failing(gates)]
        if broken and is_made:
            raise GenerationConflict(
                f"a gate of {collection.name!r} does not hold: {'; '.join(broken)}",
                f"python -m service report {collection.name}",
            )
        return broken

    async def _require_in_memory(
        self, collection: Collection, subject: GenerationStatus, *, is_forced: bool
    ) -> None:
        """Raises GenerationConflict unless it is forced, Unavailable."""
        try:
            await self._models.require_in_memory(collection.name, subject.embedding_version)
        except GenerationConflict as exc:
            if not is_forced:
                raise
            log.warning("step_forced_early", extra={"collection": collection.name, "reason": str(exc)})

    async def _require_same_roles(self, collection: Collection, before: CollectionStatus) -> None:
        """What was found out is of the generations of `before`."""
        now = await self._run(partial(self._index.status, collection.name))
        if _roles(now) != _roles(before):
            raise GenerationConflict(
                f"somebody took a step of {collection.name!r} meanwhile, there are now: {_roles(now)}"
            )

    async def _lost(
        self, collection: Collection, subject: GenerationStatus, *, is_forced: bool
    ) -> Sequence[Id]:
        """Return the items that searches find now and would not find then. Beside writes a generation lacks
        items for moments, until a write is in both and what waits has a vector: a lack has to last. Raises
        GenerationConflict unless it is forced."""
        find = partial(self._index.find_lost, collection.name, subject.embedding_version)
        lost = await self._run(find)
        for _ in range(0 if is_forced else _LOOKS):
            if not lost:
                break
            await asyncio.sleep(self._look_s)
            lost = await self._run(partial(find, lost))
        if lost and not is_forced:
            named = ", ".join(map(str, lost[:_IDS_NAMED]))
            raise GenerationConflict(
                f"{len(lost)} item(s) that searches of {collection.name!r} find have no vector in the next "
                f"generation, as {named}: wait for its job, or say force to lose them from searches"
            )
        return lost

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)


def _roles(status: CollectionStatus) -> str:
    return ", ".join(f"{each.role} {each.generation}" for each in status.named)
