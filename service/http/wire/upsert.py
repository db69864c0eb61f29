"""From an upsert body to an Intake: each item is read on its own, so one bad item is one reject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from index_store.types import Id, ItemDelete
from item_rules.metadata import metadata_fault
from service.app.ingest import Intake, NewItem
from service.collections import Catalogue, Collection
from service.errors import InvalidInput, Loc, Reject
from service.http.wire.body import field_error_of
from service.http.wire.schemas import DeleteIn, ItemIn, UpsertIn, item_type
from service.http.wire.values import (
    check_lifetime,
    find_collection,
    in_range,
    not_one_of,
    read_id,
    read_picture,
    read_source_version,
    read_text,
    read_vector,
)
from service.settings import Settings

_URL_CHARS_MAX = 2048
_CURSORS_MAX = 16
_CURSOR_CHARS_MAX = 65_536


class IntakeReader:
    """Safe from any thread."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._decoders: Mapping[str, msgspec.json.Decoder[ItemIn]] = {
            each.name: msgspec.json.Decoder(item_type(each.id_field)) for each in catalogue.collections
        }
        self._delete_decoder: msgspec.json.Decoder[Id | DeleteIn] = msgspec.json.Decoder(int | str | DeleteIn)

    def read(self, body: UpsertIn) -> Intake:
        """Raises InvalidInput for what concerns the whole batch, HttpRefusal 404."""
        collection = self._collection_of(body)
        items_max = self._settings.upsert_items_max
        in_range("items", len(body.items), 0, items_max)
        in_range("delete_ids", len(body.delete_ids or ()), 0, items_max)
        dims = self._catalogue.dims_of(collection, body.embedding_version)
        items = [self._read_item(place, raw, collection, dims) for place, raw in enumerate(body.items)]
        deletes = [
            self._read_delete(place, raw, collection) for place, raw in enumerate(body.delete_ids or ())
        ]
        return Intake(
            collection=collection.name,
            items=[each for each in items if isinstance(each, NewItem)],
            deletes=[each for each in deletes if isinstance(each, ItemDelete)],
            rejects=[each for each in (*items, *deletes) if isinstance(each, Reject)],
            embedding_version=body.embedding_version,
            cursors=_read_cursors(body.source),
            except_versions=_read_except_versions(body),
        )

    def _collection_of(self, body: UpsertIn) -> Collection:
        """Named, or told by the first readable item: by its id field, or by its content."""
        if body.collection is not None:
            return find_collection(self._catalogue, body.collection)
        fields = next(filter(None, map(_fields_of, body.items)), ())
        for field in fields:
            collection = self._catalogue.by_id_field(field) if field != "id" else None
            if collection is not None:
                return collection
        modality = "image" if {"image", "image_url"} & set(fields) else "text" if "text" in fields else ""
        return self._catalogue.default_of(modality) or self._catalogue.default

    def _read_item(
        self, place: int, raw: msgspec.Raw, collection: Collection, dims: Sequence[int]
    ) -> NewItem | Reject:
        where: Loc = ("items", place)
        try:
            item = self._decoders[collection.name].decode(raw)
        except msgspec.ValidationError as exc:
            return _misshapen(where, _id_for_report(raw, collection), exc)
        except RecursionError:
            return Reject(where, None, "invalid_request", "The item is nested too deep.")
        given: Id | None = None
        try:
            field, given = _given_id(item, collection)
            return self._new_item(place, item, read_id(given, collection, field), collection, dims)
        except InvalidInput as exc:
            return Reject((*where, *exc.loc), given, exc.code, str(exc))

    def _read_delete(self, place: int, raw: msgspec.Raw, collection: Collection) -> ItemDelete | Reject:
        where: Loc = ("delete_ids", place)
        try:
            given = self._delete_decoder.decode(raw)
        except msgspec.ValidationError as exc:
            return _misshapen(where, None, exc)
        except RecursionError:
            return Reject(where, None, "invalid_request", "The entry is nested too deep.")
        entry = given if isinstance(given, DeleteIn) else DeleteIn(given)
        try:
            id = read_id(entry.id, collection, "id")
            return ItemDelete(id, read_source_version(entry.source_version))
        except InvalidInput as exc:
            loc = exc.loc if isinstance(given, DeleteIn) else ()
            return Reject((*where, *loc), entry.id, exc.code, str(exc))

    def _new_item(
        self, place: int, item: ItemIn, id: Id, collection: Collection, dims: Sequence[int]
    ) -> NewItem:
        named = {"vector": item.vector, "text": item.text, "image": item.image, "image_url": item.image_url}
        given = sum(content is not None for content in (item.vector, item.text, item.image))
        # With a vector or a text the address is metadata of the item; alone it is the content.
        if given > 1 or (item.image is not None and item.image_url is not None):
            raise not_one_of(named)
        has_content = any(content is not None for content in named.values())
        if not has_content and item.active is None and item.metadata is None:
            raise not_one_of(named)
        if collection.modality == "text" and (item.image is not None or (item.image_url and not given)):
            raise InvalidInput("image", f"is no content of the text collection {collection.name!r}")
        if collection.modality == "image" and item.text is not None:
            raise InvalidInput("text", f"is no content of the picture collection {collection.name!r}")
        return NewItem(
            place=place,
            id=id,
            vector=None if item.vector is None else read_vector(item.vector, dims),
            text=None if item.text is None else read_text(item.text, self._settings.text_chars_max, "text"),
            picture=None if item.image is None else read_picture(item.image, "image"),
            picture_url=None if given else _read_url(item.image_url),
            active=True if item.active is None and has_content else item.active,
            metadata=self._metadata(item, collection),
            source_version=read_source_version(item.source_version),
        )

    def _metadata(self, item: ItemIn, collection: Collection) -> dict[str, Any] | None:
        """The address of a picture is kept with it: /search_similar answers with it."""
        metadata = item.metadata
        if item.image_url is not None:
            metadata = {"image_url": item.image_url, **(metadata or {})}
        if metadata is None:
            return None
        fault = metadata_fault(metadata, self._settings.metadata_bytes_max)
        if fault is not None:
            raise InvalidInput("metadata", fault)
        check_lifetime(metadata, collection, "metadata")
        return metadata


def _misshapen(where: Loc, id: Id | None, error: msgspec.ValidationError) -> Reject:
    """Another shape than the schema's."""
    what, (_, *loc) = field_error_of(error)
    name = ".".join(map(str, loc))
    return Reject((*where, *loc), id, "invalid_request", f"{name}: {what}.".lstrip(": "))


def _given_id(item: ItemIn, collection: Collection) -> tuple[str, Id]:
    """Return the id and the name of the field that it came in."""
    own: Id | None = getattr(item, collection.id_field)
    if own is not None and item.id is not None and collection.id_field != "id":
        raise InvalidInput(collection.id_field, "and id are both given")
    if own is not None:
        return collection.id_field, own
    if item.id is None:
        raise InvalidInput(collection.id_field, "is missing")
    return "id", item.id


def _read_url(url: str | None) -> str | None:
    if url is not None and not 1 <= len(url) <= _URL_CHARS_MAX:
        raise InvalidInput("image_url", f"must have 1 to {_URL_CHARS_MAX} characters")
    return url


def _read_cursors(source: Mapping[str, str] | None) -> Mapping[str, str]:
    cursors = source or {}
    in_range("source", len(cursors), 0, _CURSORS_MAX)
    for name, cursor in cursors.items():
        if not 1 <= len(name) <= 255 or len(cursor) > _CURSOR_CHARS_MAX or "\x00" in name + cursor:
            raise InvalidInput(
                "source", "must hold names of 1 to 255 characters and cursors of at most 64 KiB"
            )
    return cursors


def _read_except_versions(body: UpsertIn) -> Sequence[str]:
    versions = body.except_versions or ()
    if versions and (body.embedding_version is None or body.embedding_version in versions):
        raise InvalidInput(
            "except_versions", "must stand beside the embedding_version of this write, and without it"
        )
    return versions


def _fields_of(raw: msgspec.Raw) -> Mapping[str, Any]:
    """Return what is in an object of any shape; nothing for what is no object or can't be read."""
    try:
        item = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return item if isinstance(item, dict) else {}


def _id_for_report(raw: msgspec.Raw, collection: Collection) -> Id | None:
    """Return the id of an item of the wrong shape, where it can be read."""
    item = _fields_of(raw)
    id = item.get(collection.id_field, item.get("id"))
    return id if isinstance(id, (int, str)) and not isinstance(id, bool) else None
