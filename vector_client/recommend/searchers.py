"""The three paths behind the port: which of them embeds, and which of them searches."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from vector_client.async_client import AsyncVectorClient
from vector_client.errors import PathFailed, SpaceChanged
from vector_client.log_events import log_event
from vector_client.recommend.drivers import sqlalchemy_rows
from vector_client.recommend.pgvector import PgTable, Rows, nearest_rows
from vector_client.recommend.port import Neighbours
from vector_client.types import Embedded, Id, Query

log = logging.getLogger(__name__)

Encode: TypeAlias = Callable[[str], Sequence[float] | Awaitable[Sequence[float]]]
"""The backend's own model: a text in, its unit vector out. Called in a thread, one text at a time; the
coroutine of an `async def` is awaited in the event loop."""

PAGE_ITEMS_MAX = 10_000
"""The service's bound of `top_k`; an infinite scroll goes beyond it, and is answered in several searches."""


class DBVectorRecommender:
    """The backend's model and pgvector (ML_MODE local, db). Nothing leaves the backend."""

    def __init__(self, encode: Encode, table: PgTable | None = None, rows: Rows = sqlalchemy_rows) -> None:
        self._encode = encode
        self._table = table or PgTable()
        self._rows = rows
        # Not the loop's own threads: a model that is busy must not hold up name look-ups.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        """As the port says. Raises PathFailed for the model, DatabaseFailed."""
        loop = asyncio.get_running_loop()
        try:
            encoded = await loop.run_in_executor(self._thread, self._encode, query)
            vector: Sequence[float] = await encoded if inspect.isawaitable(encoded) else encoded
        except Exception as exc:
            raise PathFailed(f"the backend's model: {type(exc).__name__}: {exc}") from exc
        return await nearest_rows(self._rows, pg_db, self._table, vector, top_k, exclude_ids)

    async def close(self) -> None:
        """Let the thread of the model end; a text that it encodes is finished first."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class RemoteDBVectorRecommender:
    """The service's model and pgvector (ML_MODE remote_embed).

    embedding_version: of the vectors in the table. Empty: that of the first answer is assumed, and a warning
    says so. An answer of another version raises SpaceChanged: distances between two models mean nothing.
    """

    def __init__(
        self,
        client: AsyncVectorClient,
        table: PgTable | None = None,
        rows: Rows = sqlalchemy_rows,
        collection: str | None = None,
        embedding_version: str = "",
    ) -> None:
        self._client = client
        self._table = table or PgTable()
        self._rows = rows
        self._collection = collection
        self._version = embedding_version

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        """As the port says. Raises VectorClientError: of the embedding, SpaceChanged, DatabaseFailed."""
        vector = self._checked(await self._client.embed(query, self._collection))
        return await nearest_rows(self._rows, pg_db, self._table, vector, top_k, exclude_ids)

    def _checked(self, embedded: Embedded) -> Sequence[float]:
        if not self._version:
            self._version = embedded.version
            log_event(log, logging.WARNING, "embedding_version_assumed", version=embedded.version)
        if embedded.version != self._version:
            raise SpaceChanged(
                f"the service embeds with {embedded.version}, the table holds {self._version}: "
                "embed the table again, or set ML_MODE to a path of one model"
            )
        return embedded.vectors[0]


class RemoteVectorStoreRecommender:
    """The service alone (ML_MODE remote_store). The session stands in the port; nothing here asks it."""

    def __init__(
        self,
        client: AsyncVectorClient,
        collection: str | None = None,
        page_items_max: int = PAGE_ITEMS_MAX,
    ) -> None:
        """collection: of the service; None: its default one. page_items_max: results of one search."""
        self._client = client
        self._collection = collection
        self._page_items_max = page_items_max

    async def find_similar_ids(
        self,
        pg_db: Any,  # noqa: ARG002
        query: str,
        top_k: int,
        exclude_ids: Sequence[Id] | None = None,
    ) -> Neighbours:
        """As the port says. Raises VectorClientError. Beyond `page_items_max` results: one search, and one
        deadline, for each page; pages neither repeat nor skip."""
        neighbours: Neighbours = []
        cursor: str | None = None
        while len(neighbours) < top_k:
            found = await self._client.search(
                Query(
                    text=query,
                    k=min(top_k - len(neighbours), self._page_items_max),
                    collection=self._collection,
                    exclude_ids=() if exclude_ids is None else exclude_ids,
                    cursor=cursor,
                )
            )
            neighbours += [(hit.id, hit.distance) for hit in found.hits]
            cursor = found.next_cursor
            if cursor is None or not found.hits:
                break
        return neighbours
