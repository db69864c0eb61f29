"""What a new generation takes along of the current one."""

from __future__ import annotations

from collections.abc import Callable

from index_store.contents.table import read_contents
from index_store.record.generation_batch import carried
from index_store.storage.store import Store
from index_store.types import ItemDelete, WriteBatch


def copy_without_vectors(
    source: Store, target: Store, publish: Callable[[], object], *, with_contents: bool
) -> None:
    """Give a new generation what does not depend on the embedding: who is known, active, deleted, metadata
    and, with_contents, the kept content; then publish it."""
    seq = _copy(source, target, 0, with_contents=with_contents)
    # No process writes to the source between the last copy and the rename, so every later write finds the new
    # generation.
    with source.commits_blocked():
        _copy(source, target, seq, with_contents=with_contents)
        publish()


def _copy(source: Store, target: Store, after_seq: int, *, with_contents: bool) -> int:
    """Return the source's seq up to which this was done."""
    seq = after_seq
    for page in source.commits_after(after_seq):  # not `tail`: searches of this process would wait for it
        made_of_content = [row.id for row in page.rows if row.content_hash is not None and with_contents]
        with source.reading() as connection:
            contents = read_contents(connection, made_of_content)
        items = [carried(row, contents.get(row.id)) for row in page.rows if not row.deleted]
        deletes = [ItemDelete(row.id, row.source_version) for row in page.rows if row.deleted]
        target.commit(WriteBatch(items=items, deletes=deletes), {item.id for item in items})
        seq = page.seq
    return seq
