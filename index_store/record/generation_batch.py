"""What one write means to each generation of a collection, whatever keeps their rows. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from index_store.contents.table import KeptContent
from index_store.record.batches import CommitResult
from index_store.record.rows import Row
from index_store.types import Ack, Id, ItemWrite, Vector, WriteBatch


@dataclass(frozen=True, slots=True)
class GenerationWrite:
    """What one generation made of a write. held: ids of the batch's items, but for those it does not know."""

    committed: CommitResult
    embedding_version: str
    held: Set[Id]


def acked(done: Mapping[str, GenerationWrite], addressed: str) -> Ack:
    """An id is unknown where no generation holds it."""
    answer = done[addressed]
    ours = answer.committed
    unknown = [each for each in ours.unknown_ids if not any(each in one.held for one in done.values())]
    return Ack(
        ours.upserted,
        ours.deleted,
        ours.stale_ignored,
        ours.seq,
        answer.embedding_version,
        ours.vanished,
        ours.reappeared,
        tuple(unknown),
        ours.passed_over,
        ours.too_large_ids,
    )


def batch_for(embedding_version: str, batch: WriteBatch, *, is_addressed: bool) -> WriteBatch:
    """Return what a generation of that version takes of `batch`.

    The addressed one takes all. Another one takes its own vectors if the batch has some, and everything else
    with them. Without vectors of its version it takes the content of an item and drops the vector that was
    made of another content, so that the item waits to be filled; of a vector that came without content,
    activity and metadata, for only its sender can tell what it was made of. What is said without a vector,
    and deletes, hold for each. Cursors stay with the addressed one: only it holds all the rows that they
    vouch for. One that is made of other contents takes activity and metadata; what is written for the current
    one takes the vector there, which is of what the item was before.
    """
    if is_addressed:
        return replace(batch, other_vectors={})
    if batch.takes_content is not None and not batch.takes_content(embedding_version):
        said = _of_other_content if batch.is_for_current else _without_content
        return WriteBatch(_present(map(said, batch.items)), batch.deletes)
    vectors = batch.other_vectors.get(embedding_version)
    if vectors is not None:
        return _with_vectors(batch, vectors)
    return WriteBatch(_present(map(_without_vector, batch.items)), batch.deletes)


def _present(items: Iterable[ItemWrite | None]) -> list[ItemWrite]:
    return [item for item in items if item is not None]


def _without_content(item: ItemWrite) -> ItemWrite | None:
    """Activity and metadata, of what was brought for another generation than the current one."""
    return _without_vector(replace(item, content=None))


def _of_other_content(item: ItemWrite) -> ItemWrite | None:
    """The item without vector and content: both were made otherwise, and are of what it was before."""
    if item.vector is None or item.content_hash is None or item.fills is not None:
        return _without_vector(item)
    return replace(item, vector=None, content_hash=None, content=None, drops_vector=True)


def _with_vectors(batch: WriteBatch, vectors: Sequence[Vector | None]) -> WriteBatch:
    items = [
        replace(item, vector=vector) if vector is not None else _waiting(item)
        for item, vector in zip(batch.items, vectors, strict=True)
    ]
    return WriteBatch(items, batch.deletes)


def _waiting(item: ItemWrite) -> ItemWrite:
    """The item without a vector of this version; one that is not made of content keeps the one it has."""
    if item.vector is None or item.fills is not None:
        return replace(item, vector=None)
    content_hash = item.content_hash if item.content is not None else None
    return replace(item, vector=None, content_hash=content_hash, drops_vector=True)


def _without_vector(item: ItemWrite) -> ItemWrite | None:
    if item.fills is not None:
        return None
    if item.vector is None:
        return item
    if item.content is not None:
        return _waiting(item)
    if item.active is None and item.metadata is None and item.merge is None:
        return None
    return replace(item, vector=None, content_hash=None)


def carried(row: Row, kept: KeptContent | None) -> ItemWrite:
    """Return what a new generation takes of a row: it without its vector; with its content, where that is
    kept, of which another vector can be made."""
    is_its = kept is not None and kept.content_hash == row.content_hash
    return ItemWrite(
        row.id,
        active=row.active,
        metadata=row.as_item().metadata,
        source_version=row.source_version,
        content_hash=row.content_hash if is_its else None,
        content=kept.content if kept is not None and is_its else None,
    )
