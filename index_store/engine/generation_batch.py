"""One write, committed to each generation of a collection that takes it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial

from index_store.engine.generation import Generation
from index_store.filter.cache import compiled_filter
from index_store.filter.texts import passing_texts
from index_store.record.batches import Passes
from index_store.record.generation_batch import GenerationWrite, batch_for
from index_store.types import Id, WriteBatch


def takers_of(generations: Sequence[Generation], batch: WriteBatch, addressed: str) -> Sequence[Generation]:
    """Return the generations that `batch` goes to, in their order. addressed: the name of one that takes it
    in any case."""
    return [g for g in generations if g.name == addressed or g.embedding_version not in batch.except_versions]


def commit_each(
    waiting: Sequence[Generation], batch: WriteBatch, addressed: str, done: dict[str, GenerationWrite]
) -> None:
    """Commit to those that wait, and put what each made of it into `done`. What the first one does not hold
    is not made known to others without a vector."""
    passes = None
    if batch.only_where is not None:
        passes = partial(passing_texts, compiled_filter(batch.only_where).node)
    for generation in waiting:
        known = next(iter(done.values())).held if done else frozenset[Id]()
        done[generation.name] = _commit(generation, batch, generation.name == addressed, known, passes)


def _commit(
    generation: Generation, batch: WriteBatch, is_addressed: bool, known: Set[Id], passes: Passes | None
) -> GenerationWrite:
    """known: what is said of these ids is stored ahead of a vector. passes: as of WriteJob."""
    batch = batch_for(generation.embedding_version, batch, is_addressed=is_addressed)
    committed = generation.store.commit(batch, known, passes)
    generation.catch_up(committed.seq)
    held = {item.id for item in batch.items}.difference(committed.unknown_ids)
    return GenerationWrite(committed, generation.embedding_version, held)
