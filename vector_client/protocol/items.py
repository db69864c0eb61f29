"""Writing items, and reading what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vector_client.protocol.call import (
    Call,
    base64,
    finite,
    json_body,
    packed,
    with_query,
    without_none,
)
from vector_client.types import (
    ByFilter,
    Changed,
    Facet,
    Id,
    Item,
    ItemPage,
    Keys,
    Rejected,
    StoredItem,
    Written,
)

ITEM_FIELDS = frozenset(
    {"active", "live", "metadata", "source_version", "content_hash", "seq", "embedding_version", "vector"}
)


@dataclass(frozen=True, slots=True)
class Upsert:
    """Items and deletes of one commit, with the cursors of their sources. All or nothing; partial: the good
    items are stored and `rejected` lists the others. delete_version: the deletes' source_version.
    except_versions: generations of these take nothing of it, not even deletes and activity."""

    collection: str
    items: Sequence[Item]
    embedding_version: str | None = None
    delete_ids: Sequence[Id] = ()
    delete_version: int | None = None
    cursors: Mapping[str, str] | None = None
    partial: bool = False
    except_versions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of stored items. conditions: a filter over metadata, as in a search. live: only items that a
    search can show; False: only the others; None: all. limit: 1 to 1000; None: 100. cursor: of the page
    before."""

    collection: str
    conditions: Mapping[str, Any] | None = None
    cursor: str | None = None
    live: bool | None = True
    limit: int | None = None
    with_vectors: bool = False


def upsert(batch: Upsert, keys: Keys) -> Call[Written]:
    """Return the call of POST /v1/upsert. Raises NotSent."""
    body: dict[str, Any] = {
        "collection": batch.collection,
        "items": [_item_body(item) for item in batch.items],
    }
    if batch.embedding_version is not None:
        body["embedding_version"] = batch.embedding_version
    if batch.delete_ids:
        version = batch.delete_version
        body["delete_ids"] = (
            list(batch.delete_ids)
            if version is None
            else [{"id": item_id, "source_version": version} for item_id in batch.delete_ids]
        )
    if batch.cursors:
        body["source"] = dict(batch.cursors)
    if batch.except_versions:
        body["except_versions"] = list(batch.except_versions)
    return _write("/v1/upsert" + ("?partial=true" if batch.partial else ""), body, keys)


def change_ids(verb: str, collection: str, ids: Sequence[Id], keys: Keys) -> Call[Written]:
    """verb: delete, activate or deactivate."""
    return _write(f"/v1/{verb}", {"collection": collection, "ids": list(ids)}, keys)


def change_metadata(
    collection: str, ids: Sequence[Id], metadata: Mapping[str, Any], keys: Keys, *, merges: bool
) -> Call[Written]:
    """merges: the keys are put over what is stored, and those that are None removed. Raises NotSent."""
    how = "merge" if merges else "replace"
    return _write("/v1/metadata", {"collection": collection, "ids": list(ids), how: finite(metadata)}, keys)


def change_by_filter(change: ByFilter, keys: Keys) -> Call[Changed]:
    """Return the call. Raises NotSent."""
    body = without_none(
        {
            "collection": change.collection,
            "filter": finite(change.conditions),
            "all_items": change.all_items or None,
            "merge": None if change.merge is None else finite(change.merge),
            "confirm": change.confirm,
            "dry_run": change.dry_run,
        }
    )
    return Call(
        "POST",
        f"/v1/{change.verb}",
        lambda answer: Changed(
            answer["matched"],
            answer.get("done", 0),
            answer["dry_run"],
            answer.get("needs_confirm", False),
            dict(answer),
        ),
        json_body(body),
        keys.write,
        repeats_on_timeout=False,
    )


def item(item_id: Id, collection: str | None, with_vector: bool, keys: Keys) -> Call[StoredItem]:
    """Return the call of GET /v1/items/{id}."""
    path = f"/v1/items/{quote(str(item_id), safe='')}"
    asked = without_none({"collection": collection, "include": "vector" if with_vector else None})
    return Call("GET", with_query(path, asked), _stored_item, key=keys.search)


def items(listing: Listing, keys: Keys) -> Call[ItemPage]:
    """Return the call of GET /v1/items. Raises NotSent."""
    asked = {
        "collection": listing.collection,
        "filter": json_body(finite(listing.conditions)).decode() if listing.conditions else None,
        "live": "any" if listing.live is None else str(listing.live).lower(),
        "limit": None if listing.limit is None else str(listing.limit),
        "cursor": listing.cursor,
        "include": "vector" if listing.with_vectors else None,
    }
    return Call(
        "GET",
        with_query("/v1/items", without_none(asked)),
        lambda answer: ItemPage(
            [_stored_item(row, answer) for row in answer["items"]], answer.get("next_cursor")
        ),
        key=keys.search,
    )


def count(collection: str, conditions: Mapping[str, Any] | None, keys: Keys) -> Call[int]:
    """Return the call of POST /v1/count. conditions: a filter over metadata, as in a search. Raises
    NotSent."""
    body = {"collection": collection, "filter": finite(conditions or {})}
    return Call("POST", "/v1/count", lambda answer: int(answer["count"]), json_body(body), keys.search)


def facets(
    collection: str,
    conditions: Mapping[str, Any] | None,
    metadata_keys: Sequence[str] | None,
    top: int,
    keys: Keys,
) -> Call[list[Facet]]:
    """Return the call of POST /v1/facets. metadata_keys: None for the most common ones. Raises NotSent."""
    body = {"collection": collection, "filter": finite(conditions or {}), "top": top}
    if metadata_keys is not None:
        body["keys"] = list(metadata_keys)
    return Call(
        "POST",
        "/v1/facets",
        lambda answer: [_facet(each) for each in answer["facets"]],
        json_body(body),
        keys.search,
    )


def _facet(row: Any) -> Facet:
    values = [(each["value"], each["count"]) for each in row["values"]]
    ranges = [(each["from"], each["to"], each["count"]) for each in row["ranges"]]
    return Facet(row["key"], row["count"], row["distinct"], values, ranges)


def _write(path: str, body: Mapping[str, Any], keys: Keys) -> Call[Written]:
    def read(answer: Any) -> Written:
        rejected = [Rejected(row.get("id"), row["code"], row["detail"]) for row in answer["rejected"]]
        counts = (answer["upserted"], answer["deleted"], answer["stale_ignored"])
        seen = (answer.get("vanished"), answer.get("reappeared"))
        unknown = answer.get("unknown_ids", ())  # an older release does not tell
        return Written(*counts, rejected, answer["seq"], answer["version"], *seen, unknown)

    return Call("POST", path, read, json_body(body), keys.write, repeats_on_timeout=False)


def _item_body(item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {"id": item.id, "active": item.active}
    if item.vector is not None:
        body["vector"] = packed(item.vector)
    if item.text is not None:
        body["text"] = item.text
    if item.image is not None:
        body["image"] = base64(item.image)
    if item.metadata is not None:
        body["metadata"] = finite(item.metadata)
    if item.source_version is not None:
        body["source_version"] = item.source_version
    return body


def _stored_item(row: Any, around: Any = None) -> StoredItem:
    """around: the answer that holds the row; what all its rows share may stand there."""
    shared = around or row
    name = "id" if "id" in row else next(name for name in row if name not in ITEM_FIELDS)
    return StoredItem(
        row[name],
        row["active"],
        row["live"],
        row.get("metadata"),
        row.get("source_version"),
        row["seq"],
        row.get("embedding_version") or shared["embedding_version"],
        row.get("vector"),
    )
