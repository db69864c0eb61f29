"""A move of an index from one storage to another: all rows, then all roles.

Generations are copied row by row in the order of their seq, so that a move which was killed goes on where it
was, and one that is run again brings what was written since. When every row of both sides is equal, and the
digests too, the collection gets its roles: before that nobody serves what is half there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from index_store.errors import StoreDamaged, Unavailable
from index_store.moving.storages import MoveSource, MoveTarget, StoredCollection, StoredGeneration
from index_store.types import CollectionSpec

_ROUNDS = 5

Tell = Callable[[str], object]


def move(source: MoveSource, target: MoveTarget, tell: Tell) -> list[str]:
    """Move every collection and return a line for each generation. tell: called with how far it has come.
    One that the target serves as it is in the source, since an earlier move brought it, is left alone.
    Raises Unavailable where the target serves one otherwise, or the source is being written to; StoreDamaged
    for a damaged row, or where both sides differ in the end; WriteFailed."""
    source_id = source.source_id()
    found = source.collections()
    served = {each.spec.name: _content(each) for each in target.collections()}
    if other := [one.spec.name for one in found if served.get(one.spec.name, _content(one)) != _content(one)]:
        raise Unavailable(
            f"the target serves {', '.join(other)} already, and not as it is here; nothing was changed",
            "move into an empty storage, or remove those collections there first",
        )
    lines = []
    for collection in found:
        if collection.spec.name in served:
            lines.append(f"{collection.spec.name}: there already")
            continue
        for _ in range(_ROUNDS):
            names = {
                each.name: _copied(source, target, source_id, collection.spec, each, tell)
                for each in collection.generations
            }
            now = _again(source, collection.spec.name)
            if now == collection:
                break
            collection = now  # written to meanwhile: bring that too
        else:
            raise Unavailable(
                f"{collection.spec.name} is being written to; what was copied stays, for the next move",
                "stop the service and its feeders, then run the same move again",
            )
        counts = [
            _compared(source, target, collection.spec, each, names[each.name])
            for each in collection.generations
        ]
        target.give_roles(collection, names)
        for each, rows in zip(collection.generations, counts, strict=True):
            facts = f"{rows} rows, seq {each.seq}, digest {each.root}"
            lines.append(f"{collection.spec.name} {each.embedding_version}: {facts}")
    return lines


def _content(collection: StoredCollection) -> list[object]:
    """What is equal on both sides of a move that has ended: all but the generations' names."""
    roles = (collection.pointer.current, collection.pointer.next, collection.pointer.former)
    versions = [each and each.embedding_version for each in roles]
    return [versions, *(replace(each, name="") for each in collection.generations)]


def _again(side: MoveSource, name: str) -> StoredCollection:
    return next(each for each in side.collections() if each.spec.name == name)


def _copied(
    source: MoveSource,
    target: MoveTarget,
    source_id: str,
    collection: CollectionSpec,
    generation: StoredGeneration,
    tell: Tell,
) -> str:
    """Copy what is not there yet, up to the seq that was read, and return the generation's name in the
    target."""
    collection = replace(collection, dim=generation.dim)
    name = target.begin(source_id, collection, generation)
    seq = target.seq_of(collection, name)
    while seq < generation.seq and (page := source.rows_beyond(collection, generation.name, seq)).rows:
        target.put_rows(collection, name, page)
        seq = page.rows[-1].seq
        share = min(1.0, seq / max(1, generation.seq))
        tell(f"{collection.name} {generation.embedding_version}: {share:.0%} (seq {seq} of {generation.seq})")
    return name


def _compared(
    source: MoveSource,
    target: MoveTarget,
    collection: CollectionSpec,
    generation: StoredGeneration,
    name: str,
) -> int:
    """Read both sides once more, compare every row and content, and return how many rows there are."""
    collection = replace(collection, dim=generation.dim)
    seq = rows = 0
    while True:
        ours = source.rows_beyond(collection, generation.name, seq)
        theirs = target.rows_beyond(collection, name, seq)
        if ours != theirs:
            odd = [a.id for a, b in zip(ours.rows, theirs.rows, strict=False) if a != b][:5]
            raise StoreDamaged(
                f"{collection.name} {generation.embedding_version} differs from its copy behind seq {seq}"
                + (f", at {', '.join(map(str, odd))}" if odd else ""),
                "remove what was copied and move again; check both disks where it happens again",
            )
        if not ours.rows:
            break
        seq, rows = ours.rows[-1].seq, rows + len(ours.rows)
    root = target.root_of(collection, name)
    if root != generation.root:
        raise StoreDamaged(
            f"the digest of {collection.name} {generation.embedding_version} is {generation.root}, "
            f"of its copy {root}, though all rows are equal",
            "python -m index_store check DATA_DIR",
        )
    return rows
