"""A process to be killed: it writes to an index in PostgreSQL for ever, and tells each acknowledged batch."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

import numpy as np

from index_store.errors import Unavailable, WriteFailed
from index_store.postgres.index import PostgresIndex
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, WriteBatch

SPEC = CollectionSpec("things", "int64", 8, "l2")
IDS = 30
"""Of each batch: it gives all of them one version, so a reader that sees two has seen half a batch."""


def batch_of(version: int) -> WriteBatch:
    """Every fifth batch deletes all, and the next one puts them back."""
    if version % 5 == 0:
        return WriteBatch(deletes=[ItemDelete(n, version) for n in range(IDS)])
    vector = np.full(SPEC.dim, version + 1, np.float32)
    items = [ItemWrite(n, vector, True, {"version": version}, version) for n in range(IDS)]
    return WriteBatch(items, (), "v1")


def write_until_killed(address: str, first: int, told: Connection) -> None:
    """Write versions `first`, `first` + 1, ... and a line to `told` for each that was acknowledged. What
    fails is sent again."""
    index = PostgresIndex(address, [SPEC])
    index.open()
    for version in range(first, first + 10**6):
        while True:
            try:
                index.write("things", batch_of(version))
            except (Unavailable, WriteFailed):
                continue
            break
        os.write(told.fileno(), f"{version}\n".encode())
