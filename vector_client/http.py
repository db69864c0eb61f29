"""The vector service as Python calls, for the feeder and for any backend."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from vector_client.errors import BadAnswer, NotFound
from vector_client.transport import Call, Limits, Transport
from vector_client.types import (
    CollectionState,
    Differing,
    Digest,
    DigestRow,
    Embedded,
    Found,
    Hit,
    Id,
    Item,
    Keys,
    Query,
    Rejected,
    Role,
    Vector,
    Written,
)

Answer = TypeVar("Answer")

SEARCH_FIELDS = ("distance", "score", "rank", "metadata", "vector")
"""What a result row holds beside its id, whose name is the collection's own."""


class VectorClient:
    """One service. Safe from any thread; opens no connection before the first call.

    Every method raises VectorClientError (errors.py draws the tree).
    """

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    @classmethod
    def to(cls, url: str, keys: Keys | None = None, limits: Limits | None = None) -> VectorClient:
        return cls(Transport(url, limits or Limits()), keys or Keys())

    def search(self, query: Query) -> Found:
        """Return the k nearest live items that are not excluded."""
        return _found(self._post("/v1/search", _search_body(query), self._keys.search))

    def embed_batch(
        self, texts: Sequence[str], collection: str | None = None, role: Role = "query"
    ) -> Embedded:
        """Return the unit vectors of 1 to 100 texts, order kept, with the space they belong to."""
        body = _without_none(
            {"texts": list(texts), "normalize": True, "collection": collection, "role": role}
        )
        answer = self._post("/v1/embed-batch", body, self._keys.search)
        return _read(lambda: Embedded(answer["embeddings"], answer["dim"], answer["version"]))

    def embed_image(self, image: bytes, collection: str | None = None) -> Embedded:
        """Return the unit vector of one picture file."""
        body = _without_none({"image": _base64(image), "normalize": True, "collection": collection})
        answer = self._post("/v1/embed", body, self._keys.search)
        return _read(lambda: Embedded([answer["embedding"]], answer["dim"], answer["version"]))

    def upsert(
        self,
        collection: str,
        items: Sequence[Item],
        *,
        embedding_version: str | None = None,
        delete_ids: Sequence[Id] = (),
        delete_version: int | None = None,
        cursors: Mapping[str, str] | None = None,
        partial: bool = False,
    ) -> Written:
        """Store items and deletes in one commit, with the cursors of their sources. All or nothing; partial:
        the good items are stored and `rejected` lists the others. delete_version: the deletes'
        source_version."""
        body: dict[str, Any] = {"collection": collection, "items": [_item_body(item) for item in items]}
        if embedding_version is not None:
            body["embedding_version"] = embedding_version
        if delete_ids:
            body["delete_ids"] = (
                list(delete_ids)
                if delete_version is None
                else [{"id": item_id, "source_version": delete_version} for item_id in delete_ids]
            )
        if cursors:
            body["source"] = dict(cursors)
        return self._write("/v1/upsert" + ("?partial=true" if partial else ""), body)

    def delete(self, collection: str, ids: Sequence[Id]) -> Written:
        return self._write("/v1/delete", {"collection": collection, "ids": list(ids)})

    def activate(self, collection: str, ids: Sequence[Id]) -> Written:
        return self._write("/v1/activate", {"collection": collection, "ids": list(ids)})

    def deactivate(self, collection: str, ids: Sequence[Id]) -> Written:
        """Hide ids from every search; their vectors stay."""
        return self._write("/v1/deactivate", {"collection": collection, "ids": list(ids)})

    def is_live(self, collection: str, item_id: Id) -> bool:
        """Tell whether a search can return this item."""
        path = f"/v1/items/{quote(str(item_id), safe='')}?collection={quote(collection, safe='')}"
        try:
            answer = self._transport.send(Call("GET", path, key=self._keys.search))
        except NotFound as exc:
            if exc.code != "unknown_item":
                raise
            return False
        return _read(lambda: bool(answer["live"]))

    def status(self) -> dict[str, CollectionState]:
        """Return every collection's version, seq and cursors, by name."""
        answer = self._get("/v1/sync/status")

        def read() -> dict[str, CollectionState]:
            store = str(answer.get("store", ""))
            return {
                name: CollectionState(
                    name,
                    row["embedding_version"] or None,
                    row["seq"] or 0,
                    row["cursors"],
                    store,
                    " ".join(filter(None, (row.get("problem"), row.get("hint")))),
                )
                for name, row in answer["collections"].items()
            }

        return _read(read)

    def digest(self, collection: str) -> Digest:
        """Return the proof of what the current generation holds."""
        answer = self._get(f"/v1/collections/{quote(collection, safe='')}/digest")

        def read() -> Digest:
            buckets = [int(value, 16) for value in answer["buckets"]]
            return Digest(answer["root"], buckets, answer["items"], answer["seq"])

        return _read(read)

    def digest_rows(self, collection: str, buckets: Sequence[int]) -> list[DigestRow]:
        """Return the ids of these buckets of the proof, with what each adds to it; one pass for all."""
        named = ",".join(map(str, buckets))
        answer = self._get(f"/v1/collections/{quote(collection, safe='')}/digest?bucket={named}")
        return _read(
            lambda: [
                DigestRow(row["id"], int(row["sum"], 16), row["active"], row["has_vector"])
                for row in answer["rows"]
            ]
        )

    def differing(self, collection: str, sums: bytes) -> Differing:
        """Return what the current generation holds where its sums are not these. sums: 1, 2, 4 ... 2**20
        unsigned 64-bit integers, little end first; an id counts in the sum that its CRC-32 ends in."""
        path = f"/v1/collections/{quote(collection, safe='')}/digest"
        body: dict[str, Any] = {"sums": _base64(sums)}
        parts: list[int] = []
        rows: list[DigestRow] = []
        following: int | None = 0

        def read(answer: Mapping[str, Any], first: int) -> int | None:
            parts.extend(answer["parts"])
            rows.extend(_columns(answer))
            after: int | None = answer["next"]
            if after is not None and after <= first:
                raise ValueError(f"goes on at {after} after {first}")
            return after

        while following is not None:
            answer = self._post(path, {**body, "first": following}, self._keys.admin)
            following = _read(partial(read, answer, following))
        return Differing(parts, rows)

    def close(self) -> None:
        self._transport.close()

    def _get(self, path: str) -> Any:
        return self._transport.send(Call("GET", path, key=self._keys.admin))

    def _post(self, path: str, body: Mapping[str, Any], key: str, repeats_on_timeout: bool = True) -> Any:
        return self._transport.send(Call("POST", path, orjson.dumps(body), key, repeats_on_timeout))

    def _write(self, path: str, body: Mapping[str, Any]) -> Written:
        answer = self._post(path, body, self._keys.write, repeats_on_timeout=False)

        def read() -> Written:
            rejected = [Rejected(row.get("id"), row["code"], row["detail"]) for row in answer["rejected"]]
            counts = (answer["upserted"], answer["deleted"], answer["stale_ignored"])
            seen = (answer.get("vanished"), answer.get("reappeared"))
            unknown = answer.get("unknown_ids", ())  # an older release does not tell
            return Written(*counts, rejected, answer["seq"], answer["version"], *seen, unknown)

        return _read(read)


def _read(read: Callable[[], Answer]) -> Answer:
    """Return what `read` makes of an answer; a field that is not there means another program answered."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as exc:
        raise BadAnswer(f"the answer is not the vector service's: {type(exc).__name__} {exc}") from exc


def _item_body(item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {"id": item.id, "active": item.active}
    if item.vector is not None:
        body["vector"] = _vector_body(item.vector)
    if item.text is not None:
        body["text"] = item.text
    if item.image is not None:
        body["image"] = _base64(item.image)
    if item.metadata is not None:
        body["metadata"] = item.metadata
    if item.source_version is not None:
        body["source_version"] = item.source_version
    return body


def _search_body(query: Query) -> dict[str, Any]:
    return _without_none(
        {
            "query": query.text,
            "vector": None if query.vector is None else _vector_body(query.vector),
            "image": None if query.image is None else _base64(query.image),
            "like_ids": list(query.like_ids) or None,
            "top_k": query.k,
            "collection": query.collection,
            "exclude_ids": list(query.exclude_ids) or None,
            "filter": query.filter,
            "offset": query.offset or None,
            "max_distance": query.max_distance,
            "embedding_version": query.embedding_version,
            "min_seq": query.min_seq,
            "exact": query.exact or None,
            "include": ["metadata"] if query.with_metadata else None,
        }
    )


def _found(answer: Any) -> Found:
    def hit(row: Mapping[str, Any]) -> Hit:
        id_field = next(name for name in row if name not in SEARCH_FIELDS)  # the id stands first
        return Hit(row[id_field], row["distance"], row.get("metadata"))

    def read() -> Found:
        hits = [hit(row) for row in answer["results"]]
        return Found(hits, answer["embedding_version"], answer["seq"], answer["exhausted"])

    return _read(read)


def _vector_body(vector: Vector) -> str | list[float]:
    return _base64(vector) if isinstance(vector, bytes) else list(vector)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _columns(answer: Mapping[str, Any]) -> list[DigestRow]:
    ids, flags = answer["ids"], binascii.a2b_base64(answer["flags"])
    packed = binascii.a2b_base64(answer["sums"])
    sums = [share for (share,) in struct.iter_unpack("<Q", packed[: len(packed) // 8 * 8])]
    return [
        DigestRow(item_id, share, bool(flag & 1), bool(flag & 2))
        for item_id, share, flag in zip(ids, sums, flags, strict=True)
    ]


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
