"""A process to be killed: 32 threads upsert for ever and tell each acknowledged write."""

from __future__ import annotations

import hashlib
import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec, Content, ItemDelete, ItemWrite, WriteBatch

SPEC = CollectionSpec("things", "int64", 16, "l2")
THREADS = 32
IDS_A_THREAD = 20


def batch_of(item_id: int, version: int) -> WriteBatch:
    """Every seventh write is a delete; the vector tells the version, and so does the content of even ids."""
    if version % 7 == 0:
        return WriteBatch(deletes=[ItemDelete(item_id, version)])
    vector = np.full(SPEC.dim, version + 1, dtype=np.float32)
    if item_id % 2:
        return WriteBatch([ItemWrite(item_id, vector, True, None, version)], (), "v1")
    data = text_of(version)
    item = ItemWrite(
        item_id, vector, True, None, version, hashlib.sha256(data).digest(), Content("text", data)
    )
    return WriteBatch([item], (), "v1")


def text_of(version: int) -> bytes:
    """What items of even ids are made of."""
    return f"text of version {version}".encode()


def upsert_for_ever(index: EmbeddedIndex, thread: int, first: int, told: int) -> None:
    for step in range(10**9):
        item_id, version = thread * IDS_A_THREAD + step % IDS_A_THREAD, first + step
        index.write("things", batch_of(item_id, version))
        os.write(told, f"{item_id} {version}\n".encode())


def upsert_until_killed(data_dir: Path, first: int, told: Connection) -> None:
    """Each thread writes versions `first`, `first` + 1, ... and a line to `told` for each."""
    index = EmbeddedIndex(data_dir, [SPEC])
    index.open()
    threads = [
        threading.Thread(target=upsert_for_ever, args=(index, thread, first, told.fileno()))
        for thread in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
