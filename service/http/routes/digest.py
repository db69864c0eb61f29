"""The proof of what a collection holds, for comparing it with its source.

Answers may list tens of thousands of rows, so they are built on a thread: searches would wait for the event
loop otherwise.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Query, Request, Response

from index_store.errors import GenerationConflict
from service.collections import Collection
from service.errors import InvalidInput
from service.http.auth import Role
from service.http.dependencies import Dependencies
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import DigestIn
from service.http.wire.values import read_base64

_BUCKET = "(?:[0-9]|[1-9][0-9]{1,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-5])"
_BUCKETS = f"^{_BUCKET}(?:,{_BUCKET}){{0,511}}$"
"""As openapi.yaml has it: each bucket costs a look at its rows, all of them one pass over the ids."""
PARTS_MAX = 1 << 20


class DigestRoutes:
    """/v1/collections/{collection}/digest: proof of content, for administrators."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._decoder = msgspec.json.Decoder(DigestIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        path = "/v1/collections/{collection}/digest"
        router.add_api_route(path, self.get_digest, methods=["GET"])
        router.add_api_route(path, self.post_digest, methods=["POST"])
        return router

    async def get_digest(
        self,
        collection: str,
        bucket: Annotated[str | None, Query(pattern=_BUCKETS)] = None,
        embedding_version: str | None = None,
    ) -> Response:
        """Answer with all sums, or with the rows of the buckets named. bucket: numbers with commas.
        embedding_version: of which generation, the current one unless named."""
        found = self._dependencies.collection(collection)
        if bucket is None:
            return await self._answer(found, lambda: self._sums(found, embedding_version))
        numbers = [int(each) for each in bucket.split(",")]
        return await self._answer(found, lambda: self._listed(found, numbers, embedding_version))

    async def post_digest(self, collection: str, request: Request) -> Response:
        """Answer with the rows of the buckets in which the caller's sums differ from ours."""
        found = self._dependencies.collection(collection)
        body = await self._dependencies.read_json(request, self._decoder)
        return await self._answer(found, lambda: self._compared(found, body))

    async def _answer(self, collection: Collection, make: Callable[[], dict[str, Any]]) -> Response:
        try:
            data = await self._dependencies.run_blocking(
                lambda: orjson.dumps({"collection": collection.name, **make()})
            )
        except GenerationConflict as exc:
            raise HttpRefusal(404, "unknown_item", f"The collection {collection.name!r} is empty.") from exc
        return Response(data, media_type="application/json")

    def _sums(self, collection: Collection, version: str | None) -> dict[str, Any]:
        digest = self._dependencies.index.digest(collection.name, embedding_version=version)
        return {
            "root": digest.root,
            "items": digest.items,
            "seq": digest.seq,
            "buckets": [f"{int(each):016x}" for each in digest.buckets],
        }

    def _listed(self, collection: Collection, buckets: list[int], version: str | None) -> dict[str, Any]:
        rows = self._dependencies.index.digest_rows(collection.name, buckets, embedding_version=version)
        described = [
            {"id": row.id, "sum": f"{row.sum:016x}", "active": row.active, "has_vector": row.has_vector}
            for row in rows
        ]
        asked = {"bucket": buckets[0]} if len(buckets) == 1 else {}
        return {**asked, "rows": described}

    def _compared(self, collection: Collection, body: DigestIn) -> dict[str, Any]:
        """The rows of the parts whose sums are not those of the caller, of some of them if they are many."""
        theirs, version = _sums_in(body.sums), body.embedding_version
        index, name = self._dependencies.index, collection.name
        digest = index.digest(name, len(theirs), version)
        numbers = np.flatnonzero(digest.buckets != theirs)
        numbers = numbers[np.searchsorted(numbers, body.first) :]
        rows_max = self._dependencies.settings.digest_rows_max
        some = max(1, rows_max * len(theirs) // max(1, digest.items))
        following = int(numbers[some]) if len(numbers) > some else None
        wanted = numbers[:some].tolist()
        rows = list(index.digest_rows(name, wanted, len(theirs), version)) if wanted else []
        return {
            "seq": digest.seq,
            "parts": wanted,
            "ids": [row.id for row in rows],
            "sums": _packed(np.fromiter((row.sum for row in rows), dtype="<u8", count=len(rows))),
            "flags": _packed(
                np.fromiter((row.active | row.has_vector << 1 for row in rows), dtype="u1", count=len(rows))
            ),
            "next": following,
        }


def _sums_in(text: str) -> npt.NDArray[np.uint64]:
    data = read_base64(text, "sums")
    count = len(data) // 8
    if len(data) != 8 * count or not 1 <= count <= PARTS_MAX or count & (count - 1):
        raise InvalidInput("sums", f"must hold 8 bytes for each of 1, 2, 4 ... {PARTS_MAX} sums")
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def _packed(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
