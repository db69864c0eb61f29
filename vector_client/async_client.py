"""The vector service from an event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from vector_client.async_transport import AsyncTransport
from vector_client.errors import NotFound
from vector_client.protocol import items as stored
from vector_client.protocol import operations, search
from vector_client.retries import Limits
from vector_client.settings import ClientSettings
from vector_client.types import (
    ByFilter,
    Changed,
    CollectionState,
    Differing,
    Digest,
    DigestRow,
    Embedded,
    Facet,
    Found,
    Generation,
    Health,
    Id,
    Item,
    ItemPage,
    Job,
    Keys,
    Query,
    Role,
    SimilarProduct,
    StoredItem,
    Written,
)


class AsyncVectorClient:
    """One service, for one event loop: that of the first call, which opens the pooled session. Any number of
    tasks may call at once. Keep one client for the life of the process: a client for each call costs a
    connection for each call.

    Every method returns or raises VectorClientError (errors.py draws the tree) within `Limits.deadline_s`. A
    cancelled call closes its connection.
    """

    def __init__(self, transport: AsyncTransport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    @classmethod
    def to(cls, url: str, keys: Keys | None = None, limits: Limits | None = None) -> AsyncVectorClient:
        """Return a client of the service at `url`. keys None: none are sent; limits None: Limits().

        Raises ValueError for what is no http(s) address.
        """
        return cls(AsyncTransport(url, limits or Limits()), keys or Keys())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AsyncVectorClient:
        """Return a client as the environment says (ClientSettings). Raises SettingsWrong."""
        settings = ClientSettings.from_env(environ)
        return cls.to(settings.url, settings.keys, settings.limits)

    async def __aenter__(self) -> AsyncVectorClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def search(self, query: Query) -> Found:
        """Return the k nearest live items that are not excluded, nearest first, ties by id."""
        return await self._transport.exchange(search.search(query, self._keys))

    async def search_batch(self, queries: Sequence[Query]) -> list[Found]:
        """Return the answers to 1 to 100 searches, in order; one bad search fails them all."""
        return await self._transport.exchange(search.search_batch(queries, self._keys))

    async def search_similar(self, image: bytes, k: int = 5) -> list[SimilarProduct]:
        """Return the active products that look like a picture file, best first."""
        return await self._transport.exchange(search.search_similar(image, k, self._keys))

    async def embed(self, text: str, collection: str | None = None, role: Role = "query") -> Embedded:
        """Return the unit vector of one text of 1 to 1000 characters."""
        return await self._transport.exchange(search.embed(text, collection, role, self._keys))

    async def embed_batch(
        self,
        texts: Sequence[str],
        collection: str | None = None,
        role: Role = "query",
        embedding_version: str | None = None,
    ) -> Embedded:
        """Return the unit vectors of 1 to 100 texts, order kept, with the space they belong to.

        embedding_version: by the model of that generation of the collection. Raises Conflict where it is not
        loaded.
        """
        call = search.embed_batch(texts, collection, role, self._keys, embedding_version)
        return await self._transport.exchange(call)

    async def embed_image(
        self, image: bytes, collection: str | None = None, embedding_version: str | None = None
    ) -> Embedded:
        """Return the unit vector of one picture file. embedding_version: as of `embed_batch`."""
        call = search.embed(image, collection, "query", self._keys, embedding_version)
        return await self._transport.exchange(call)

    async def upsert(
        self,
        collection: str,
        items: Sequence[Item],
        *,
        embedding_version: str | None = None,
        delete_ids: Sequence[Id] = (),
        delete_version: int | None = None,
        cursors: Mapping[str, str] | None = None,
        partial: bool = False,
        except_versions: Sequence[str] = (),
    ) -> Written:
        """Store items and deletes in one commit; on return it is on disk and in every later search.

        Not repeated after silence (TimedOut): it may still be applied, and sending it again is safe.
        delete_version, cursors, partial, except_versions: as protocol.items.Upsert says.
        """
        batch = stored.Upsert(
            collection,
            items,
            embedding_version,
            delete_ids,
            delete_version,
            cursors,
            partial,
            except_versions,
        )
        return await self._transport.exchange(stored.upsert(batch, self._keys))

    async def delete(self, collection: str, ids: Sequence[Id]) -> Written:
        """Delete ids for good; those that are unknown are no error. A later upsert brings an id back."""
        return await self._transport.exchange(stored.change_ids("delete", collection, ids, self._keys))

    async def activate(self, collection: str, ids: Sequence[Id]) -> Written:
        """Show ids in searches again; `unknown_ids` lists those that the collection does not hold."""
        return await self._transport.exchange(stored.change_ids("activate", collection, ids, self._keys))

    async def deactivate(self, collection: str, ids: Sequence[Id]) -> Written:
        """Hide ids from every search; their vectors stay. `unknown_ids` lists those that are not stored."""
        return await self._transport.exchange(stored.change_ids("deactivate", collection, ids, self._keys))

    async def merge_metadata(self, collection: str, ids: Sequence[Id], keys: Mapping[str, Any]) -> Written:
        """Put keys over the metadata of items, and remove those that are None; other keys stay, whoever wrote
        them meanwhile. `unknown_ids` lists ids that are not stored."""
        return await self._transport.exchange(
            stored.change_metadata(collection, ids, keys, self._keys, merges=True)
        )

    async def replace_metadata(
        self, collection: str, ids: Sequence[Id], metadata: Mapping[str, Any]
    ) -> Written:
        """Give items these metadata and no other. `unknown_ids` lists ids that are not stored."""
        return await self._transport.exchange(
            stored.change_metadata(collection, ids, metadata, self._keys, merges=False)
        )

    async def change_by_filter(self, change: ByFilter) -> Changed:
        """Delete, show, hide or merge metadata of all items that pass a filter. Raises Conflict where the
        brake wants `confirm`, Unavailable where it stopped in the middle: repeating it goes on."""
        return await self._transport.exchange(stored.change_by_filter(change, self._keys))

    async def item(self, item_id: Id, collection: str | None = None, with_vector: bool = False) -> StoredItem:
        """Return what is stored of one id. Raises NotFound."""
        return await self._transport.exchange(stored.item(item_id, collection, with_vector, self._keys))

    async def items(
        self,
        collection: str,
        conditions: Mapping[str, Any] | None = None,
        cursor: str | None = None,
        *,
        live: bool | None = True,
        limit: int | None = None,
        with_vectors: bool = False,
    ) -> ItemPage:
        """Return one page of stored items by id; `next_cursor` leads on. conditions: a filter over metadata.
        live, limit: as protocol.items.Listing says."""
        listing = stored.Listing(collection, conditions, cursor, live, limit, with_vectors)
        return await self._transport.exchange(stored.items(listing, self._keys))

    async def count(self, collection: str, conditions: Mapping[str, Any] | None = None) -> int:
        """Return how many items a search with this filter could return."""
        return await self._transport.exchange(stored.count(collection, conditions, self._keys))

    async def facets(
        self,
        collection: str,
        conditions: Mapping[str, Any] | None = None,
        keys: Sequence[str] | None = None,
        top: int = 10,
    ) -> list[Facet]:
        """Return the most common values of metadata keys among the items that pass a filter. keys: 1 to 20;
        None: the most common ones."""
        return await self._transport.exchange(stored.facets(collection, conditions, keys, top, self._keys))

    async def is_live(self, collection: str, item_id: Id) -> bool:
        """Tell whether a search can return this item."""
        try:
            return (await self.item(item_id, collection)).live
        except NotFound as exc:
            if exc.code != "unknown_item":
                raise
            return False

    async def health(self) -> Health:
        """Return GET /health, a service that is not ready included."""
        return await self._transport.exchange(operations.health())

    async def status(self) -> dict[str, CollectionState]:
        """Return every collection's version, seq and cursors, by name."""
        return await self._transport.exchange(operations.status(self._keys))

    async def generations(self, collection: str) -> list[Generation]:
        """Return a collection's generations, the current one first."""
        return await self._transport.exchange(operations.generations(collection, self._keys))

    async def jobs(self) -> list[Job]:
        """Return rebuilds and other long work, finished work too. Raises NotFound from a service without
        jobs."""
        return await self._transport.exchange(operations.jobs(self._keys))

    async def job(self, job_id: str) -> Job:
        """Return one job with its progress. Raises NotFound."""
        return await self._transport.exchange(operations.job(job_id, self._keys))

    async def digest(self, collection: str, embedding_version: str | None = None) -> Digest:
        """Return the proof of what a generation holds: that of `embedding_version`, or the current one.
        Raises Conflict where none is of it."""
        return await self._transport.exchange(operations.digest(collection, self._keys, embedding_version))

    async def digest_rows(
        self, collection: str, buckets: Sequence[int], embedding_version: str | None = None
    ) -> list[DigestRow]:
        """Return the ids of these buckets of the proof, with what each adds to it; one pass for all."""
        call = operations.digest_rows(collection, buckets, self._keys, embedding_version)
        return await self._transport.exchange(call)

    async def differing(
        self, collection: str, sums: bytes, embedding_version: str | None = None
    ) -> Differing:
        """Return what a generation holds where its sums are not these. sums: 1, 2, 4 ... 2**20 unsigned
        64-bit integers, little end first; an id counts in the sum that its CRC-32 ends in."""
        parts: list[int] = []
        rows: list[DigestRow] = []
        first: int | None = 0
        while first is not None:
            more_parts, more_rows, first = await self._transport.exchange(
                operations.differing(collection, sums, first, self._keys, embedding_version)
            )
            parts += more_parts
            rows += more_rows
        return Differing(parts, rows)

    async def close(self) -> None:
        """Close all connections, for good: calls in flight fail, later ones raise NotSent."""
        await self._transport.close()
