"""kill -9 of the writer and of PostgreSQL under readers; a server that is away, and comes back."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import Unavailable
from index_store.postgres.connections import PostgresLimits
from index_store.postgres.index import PostgresIndex
from index_store.types import SearchRequest
from tests.integration.conftest import start_or_skip
from tests.integration.databases import PostgresServer
from tests.integration.postgres_writing import IDS, SPEC, batch_of, write_until_killed
from tests.simulation.forking import FORKING

pytestmark = pytest.mark.slow

SEED = 9_133
WRITER_KILLS, SERVER_KILLS = 24, 8
READERS = 2
LIMITS = PostgresLimits(connect_s=2.0, wait_s=2.0, read_s=2.0, write_s=4.0)
DEADLINE_S = LIMITS.write_s + LIMITS.connect_s + 30.0
"""Of a call on a server that is away; the rest is for a busy machine."""
QUERY = SearchRequest(np.ones(SPEC.dim, np.float32), 2 * IDS, with_metadata=True)


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server of its own that keeps what it acknowledged, whatever ends it."""
    server = start_or_skip(PostgresServer())
    yield server
    server.close()


class Reader(threading.Thread):
    """Searches for ever. Of each answer: it shows one version or nothing, and none older than was
    acknowledged before it was asked for."""

    def __init__(self, address: str, newest: list[int]) -> None:
        """newest: its last number is the version that was acknowledged last."""
        super().__init__(daemon=True)
        self._index = PostgresIndex(address, [SPEC], limits=LIMITS)
        self._newest = newest
        self._ends = threading.Event()
        self.reads = 0
        self.wrong: list[object] = []

    def run(self) -> None:
        while not self._ends.is_set():
            known = self._newest[-1]
            try:
                hits = self._index.search("things", [QUERY])[0].hits
            except Unavailable:
                continue
            self.reads += 1
            versions = {(hit.metadata or {})["version"] for hit in hits}
            if len(versions) > 1 or (hits and len(hits) != IDS):
                self.wrong.append(("torn", versions, len(hits)))
            elif versions and min(versions) < known:
                self.wrong.append(("stale", versions, known))

    def end(self) -> None:
        self._ends.set()
        self.join()
        self._index.close()


class Scene:
    """A writer that is started and killed, readers, and what was acknowledged."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.address = server.address(server.create_database())
        self.index = PostgresIndex(self.address, [SPEC], limits=LIMITS)
        assert self.index.open() == {}
        self.index.advance("things", "begin", "v1")
        self.newest = [0]
        self.begun = 1
        self.readers = [Reader(self.address, self.newest) for _ in range(READERS)]
        for reader in self.readers:
            reader.start()

    def write(self) -> tuple[BaseProcess, Connection]:
        """Start a writer at the version after the one that may be under way."""
        pipe, end = FORKING.Pipe(duplex=False)
        child = FORKING.Process(target=write_until_killed, args=(self.address, self.begun, end))
        child.start()
        end.close()
        return child, pipe

    def hear(self, pipe: Connection, acks: int) -> None:
        """Wait for so many more acknowledged batches; 0: for what the dead writer still told."""
        heard = 0
        while heard < acks or not acks:
            ready, _, _ = select.select([pipe], [], [], 60)
            assert ready, "the writer made no progress for a minute"
            told = os.read(pipe.fileno(), 65_536).split()
            if not told:
                assert not acks, "the writer died by itself"
                return
            heard += len(told)
            self.newest.append(int(told[-1]))

    def stored(self) -> int:
        """The version of all items, asked for until the server answers."""
        while True:
            with contextlib.suppress(Unavailable):
                items = self.index.get("things", list(range(IDS)))
                found = {0 if item is None else item.source_version for item in items}
                assert len(found) == 1, f"half a batch is stored: {found}"
                return found.pop() or 0

    def check(self) -> int:
        """Return the version that is stored: the one acknowledged last, or the one after it."""
        stored, known = self.stored(), self.newest[-1]
        if stored == 0:
            possible = [version for version in (known, known + 1) if version % 5 == 0]
            assert possible or known == 0, f"nothing is stored and {known} was acknowledged"
            return possible[0] if possible else 0
        assert stored in (known, known + 1), f"{stored} is stored and {known} was acknowledged"
        return stored


def test_nothing_is_lost_torn_or_stale_by_kill_9(
    durable: PostgresServer, tmp_path: Path, outcome: Callable[[str], None]
) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    scene = Scene(durable)
    kills = ["writer"] * WRITER_KILLS + ["server"] * SERVER_KILLS
    chance.shuffle(kills)
    for killed in kills:
        child, pipe = scene.write()
        scene.hear(pipe, chance.randrange(3, 40))
        if killed == "server":
            durable.kill()
            durable.start()
            scene.hear(pipe, 2)  # without help
        child.kill()
        child.join()
        scene.hear(pipe, 0)
        pipe.close()
        stored = scene.check()
        scene.newest.append(stored)
        scene.begun = stored + 1
    for reader in scene.readers:
        reader.end()
    assert [wrong for reader in scene.readers for wrong in reader.wrong] == []
    embedded = EmbeddedIndex(tmp_path, [SPEC])
    embedded.open()
    embedded.advance("things", "begin", "v1")
    for version in range(1, scene.newest[-1] + 1):
        embedded.write("things", batch_of(version))
    ours, theirs = scene.index.digest("things"), embedded.digest("things")
    assert ours.root == theirs.root
    reads = sum(reader.reads for reader in scene.readers)
    outcome(
        f"{WRITER_KILLS} kill -9 of the writer, {SERVER_KILLS} of the server: {scene.newest[-1]} batches, "
        f"{reads} reads: 0 torn, 0 lost, 0 stale"
    )
    embedded.close()
    scene.index.close()


@pytest.mark.parametrize("way", ["stopped", "frozen", "killed"])
def test_a_server_that_is_away_is_said_in_time_and_found_again(durable: PostgresServer, way: str) -> None:
    index = PostgresIndex(durable.address(durable.create_database()), [SPEC], limits=LIMITS)
    assert index.open() == {}
    index.advance("things", "begin", "v1")
    index.write("things", batch_of(1))
    if way == "frozen":
        durable.send(signal.SIGSTOP)
    elif way == "killed":
        durable.kill()
    else:
        durable.stop()
    try:
        for call in (
            lambda: index.search("things", [QUERY]),
            lambda: index.get("things", [1]),
            lambda: index.write("things", batch_of(2)),
        ):
            began = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                call()
            assert time.monotonic() - began < DEADLINE_S
            assert refused.value.hint
    finally:
        if way == "frozen":
            durable.send(signal.SIGCONT)
        else:
            durable.start()
    write_again(index)
    assert len(index.search("things", [QUERY])[0].hits) == IDS
    index.close()


def write_again(index: PostgresIndex) -> None:
    """As a caller repeats what failed, until the server has started and what hung is over."""
    give_up = time.monotonic() + 60.0
    while True:
        try:
            index.write("things", batch_of(3))
            return
        except Unavailable:
            assert time.monotonic() < give_up
