"""Group commit under pressure: how long a write waits for a place."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex, EngineLimits
from index_store.errors import Unavailable
from index_store.storage.durable_files import locked
from index_store.storage.group_commit import WriterLimits
from index_store.storage.schema import LOCK_FILE
from index_store.types import CollectionSpec, ItemWrite, WriteBatch
from tests.waiting import until

SPEC = CollectionSpec("things", "int64", 4, "l2")
WAIT_S = 1.0


def batch(number: int) -> WriteBatch:
    return WriteBatch([ItemWrite(number, np.ones(4, np.float32))], (), "v1")


@pytest.fixture
def index(tmp_path: Path) -> EmbeddedIndex:
    limits = EngineLimits(writer=WriterLimits(queue_batches_max=2, batches_max=1, queue_wait_s=WAIT_S))
    index = EmbeddedIndex(tmp_path, [SPEC], limits=limits)
    index.open()
    index.advance("things", "begin", "v1")
    return index


@pytest.mark.long
def test_each_write_waits_no_longer_than_the_limit(index: EmbeddedIndex, tmp_path: Path) -> None:
    """Nine writes while another process holds the store: one is being committed, two have places."""
    refused: dict[int, float] = {}
    stored: list[int] = []

    def write(number: int) -> None:
        began = time.monotonic()
        try:
            index.write("things", batch(number))
            stored.append(number)
        except Unavailable:
            refused[number] = time.monotonic() - began

    threads = [threading.Thread(target=write, args=(number,)) for number in range(9)]
    with locked(tmp_path / "collections" / "things" / "g000001" / LOCK_FILE):
        for thread in threads:
            thread.start()
        until(lambda: len(refused) == 6)
    for thread in threads:
        thread.join()
    print({number: round(waited, 2) for number, waited in refused.items()})
    # One after the other the last of six would have waited six times the limit.
    assert max(refused.values()) < 4 * WAIT_S
    assert index.status("things").current.live == len(stored) == 3  # type: ignore[union-attr]
    index.close()


def test_places_are_given_back(index: EmbeddedIndex) -> None:
    for number in range(20):
        index.write("things", batch(number))
    index.close()
    with pytest.raises(Unavailable, match="closed"):
        index.write("things", batch(1))
