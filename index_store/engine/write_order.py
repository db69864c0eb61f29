"""One order of writes over all generations of a collection.

Each store orders its own commits. Two callers who write one item at the same moment could come in one order
to the current generation and in the other to the next: they would differ for good, and a promotion would
bring back what the later write had changed. So whoever writes to several generations holds a lock of each
item from the first commit to the last. A lock is one of a few files, by the id's checksum: writes of other
items go on side by side and share their fsyncs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from index_store.diagnosis import hint_of
from index_store.errors import WriteFailed
from index_store.storage.digest import crc_of
from index_store.storage.durable_files import locked
from index_store.types import WriteBatch

LOCKS = 64
"""Two callers at one item are rare; this many keep the others apart. A large batch takes all."""


@contextmanager
def in_one_order(collection: Path, batch: WriteBatch) -> Iterator[None]:
    """Hold the items of `batch` against writers of this process and of others. What fills a gap needs no
    lock: it is stored only where its item still waits. Raises WriteFailed."""
    ids = [item.id for item in batch.items if item.fills is None]
    ids += [delete.id for delete in batch.deletes]
    with ExitStack() as held:
        # In one order, so that no two callers wait for each other.
        for number in sorted({crc_of(item_id) % LOCKS for item_id in ids}):
            path = collection / f"write-{number:02}.lock"
            try:
                held.enter_context(locked(path))
            except OSError as exc:
                text = f"{path} can't be locked, nothing was written, repeating it is safe: {exc}"
                raise WriteFailed(text, hint_of(exc, collection)) from exc
        yield
