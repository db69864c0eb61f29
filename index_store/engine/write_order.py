"""One order of writes over all generations of a collection.

Each store orders its own commits. Two callers who write one item at the same moment could come in one order
to the current generation and in the other to the next: they would differ for good, and a promotion would
bring back what the later write had changed. So whoever writes to several generations holds a lock of each
item from the first commit to the last. A lock is one of a few files, by the id's checksum: writes of other
items go on side by side and share their fsyncs.

The kernel lets go of the locks of a process that dies. One that lives and is stuck would hold up every other
writer for good: nobody waits longer than a while.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from index_store import hints
from index_store.diagnosis import hint_of
from index_store.errors import WriteFailed
from index_store.record.digest import crc_of
from index_store.storage.durable_files import WaitingWriter, holder_of
from index_store.types import WriteBatch

log = logging.getLogger(__name__)

LOCKS = 64
"""Two callers at one item are rare; this many keep the others apart. A large batch takes all."""
WAITING_MAX = 64
"""Threads of a collection that wait for a lock, those that nobody waits for any more among them."""


class WriteOrder:
    """The locks of one collection in one process. Any thread."""

    def __init__(self, collection: Path, wait_s: float) -> None:
        """collection: its directory. wait_s: for each lock."""
        self._collection = collection
        self._wait_s = wait_s
        self._waiting = threading.Semaphore(WAITING_MAX)

    @contextmanager
    def holding(self, batch: WriteBatch) -> Iterator[None]:
        """Hold the items of `batch` against writers of this process and of others. What fills a gap needs no
        lock: it is stored only where its item still waits. Raises WriteFailed."""
        ids = [item.id for item in batch.items if item.fills is None]
        ids += [delete.id for delete in batch.deletes]
        with ExitStack() as held:
            # In one order, so that no two callers wait for each other.
            for number in sorted({crc_of(item_id) % LOCKS for item_id in ids}):
                path = self._collection / f"write-{number:02}.lock"
                try:
                    descriptor = self._locked(path)
                except OSError as exc:
                    text = f"{path} can't be locked, nothing was written, repeating it is safe: {exc}"
                    raise WriteFailed(text, hint_of(exc, self._collection)) from exc
                held.callback(os.close, descriptor)
            yield

    def _locked(self, path: Path) -> int:
        """Return a descriptor that holds the lock until it is closed. Raises OSError, WriteFailed."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not self._waiting.acquire(blocking=False):
                os.close(descriptor)
                raise self._stalled(path, "too many writers wait for it") from None
            waiting = WaitingWriter(descriptor, self._waiting.release)
            if not waiting.is_over_within(self._wait_s):
                raise self._stalled(path, f"another writer has held it for {self._wait_s:g} s") from None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _stalled(self, path: Path, why: str) -> WriteFailed:
        holder = holder_of(path)
        who = f" (process {holder})" if holder else ""
        log.error("write_order_stalled", extra={"path": str(path), "reason": why, "holder": holder})
        text = f"{path}: {why}{who}; nothing was written, repeating it is safe"
        return WriteFailed(text, hints.stuck_writer(holder))
