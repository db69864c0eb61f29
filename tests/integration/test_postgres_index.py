"""An index in PostgreSQL among other processes: several over one database, writers that were killed, a server
that falls silent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import StoreUnavailable, VersionMismatch, WriteFailed
from index_store.port import VectorIndex
from index_store.postgres.connections import PostgresLimits
from index_store.postgres.index import PostgresIndex
from index_store.types import Content, ItemDelete, ItemWrite, NewGeneration, SearchRequest, WriteBatch
from tests.contract.vectors import SPECS, begin_all, fill, find, put, vectors
from tests.integration.databases import PostgresServer
from tests.waiting import until

HASTY = PostgresLimits(read_s=0.5, write_s=0.5)


@pytest.fixture
def both(postgres: PostgresServer, pg_database: str) -> Iterator[tuple[PostgresIndex, PostgresIndex]]:
    """Two processes' indexes over one database, empty generations begun."""
    opened = [PostgresIndex(postgres.address(pg_database), SPECS) for _ in range(2)]
    for each in opened:
        assert each.open() == {}
    begin_all(opened[0])
    yield opened[0], opened[1]
    for each in opened:
        each.close()


@pytest.fixture
def index(both: tuple[PostgresIndex, PostgresIndex]) -> PostgresIndex:
    return both[0]


def test_what_one_process_wrote_the_next_search_of_any_finds(
    both: tuple[PostgresIndex, PostgresIndex],
) -> None:
    data = vectors(60)
    for n, vector in enumerate(data):
        seq = put(both[n % 2], [ItemWrite(n, vector)])
        assert find(both[1 - n % 2], vector, 1, min_seq=seq) == [n]
        if n % 3 == 0:
            both[1 - n % 2].write("numbers", WriteBatch(deletes=[ItemDelete(n)]))
            assert n not in find(both[n % 2], vector, 60)
    assert both[0].digest("numbers").root == both[1].digest("numbers").root


def test_a_step_of_one_process_is_followed_by_the_others(both: tuple[PostgresIndex, PostgresIndex]) -> None:
    one, other = both
    data = fill(one, 9)
    page = other.search("numbers", [SearchRequest(data[0], 3)])[0].next_page
    one.advance("numbers", "begin", "v2", NewGeneration(16))
    wide = np.ones(16, np.float32)
    put(other, [ItemWrite(n, wide + np.float32(n)) for n in range(9)], version="v2")
    one.advance("numbers", "promote", "v2")
    assert find(other, wide, 1) == [0] and page is not None
    item = other.get("numbers", [4])[0]
    assert item is not None and item.vector is not None and len(item.vector) == 16
    with pytest.raises(VersionMismatch):
        find(other, data[0], 1, embedding_version="v1")
    one.advance("numbers", "retire", "v1")
    other.write("numbers", WriteBatch(deletes=[ItemDelete(0)]))
    assert 0 not in find(other, wide, 9)
    with one.connections.using(9.0) as connection:
        tables = {name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r'")}
    assert "rows_1" not in tables, "what has no role is dropped"


def test_writers_of_two_processes_lose_nothing(both: tuple[PostgresIndex, PostgresIndex]) -> None:
    put(both[0], [ItemWrite(1, vectors(1)[0], metadata={})])

    def merge(n: int) -> None:
        both[n % 2].write("numbers", WriteBatch([ItemWrite(1, merge={f"k{n}": n})]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(merge, range(40)))
    item = both[0].get("numbers", [1])[0]
    assert item is not None and item.metadata == {f"k{n}": n for n in range(40)}
    status = both[1].status("numbers").current
    assert status is not None and status.seq == 41


def test_one_refused_batch_refuses_no_other_of_its_commit(index: PostgresIndex) -> None:
    data = vectors(30)
    barrier = threading.Barrier(6)

    def write(n: int) -> str:
        barrier.wait(30)
        try:
            put(index, [ItemWrite(n, data[n])], version="v1" if n % 3 else "v9")
        except VersionMismatch:
            return "refused"
        return "stored"

    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(write, range(30)))
    assert outcomes == ["stored" if n % 3 else "refused" for n in range(30)]
    assert len(find(index, data[0], 99)) == 20


def test_what_a_killed_writer_left_above_the_head_the_next_one_removes(index: PostgresIndex) -> None:
    """On one server a transaction leaves nothing; over several it may leave this."""
    data = fill(index, 5)
    with index.connections.using(9.0) as connection:
        connection.execute("UPDATE rows_1 SET until = 6 WHERE id = 3")
        connection.execute(
            "INSERT INTO rows_1(id, seq, deleted, active, facts, share, bucket, vector) "
            "VALUES(3, 6, false, true, '{}', 0, 0, '[9,9,9,9,9,9,9,9]'), "
            "(77, 7, false, true, '{}', 0, 0, '[9,9,9,9,9,9,9,9]')"
        )
    assert set(find(index, data[3], 9)) <= {0, 1, 2, 3, 4}, "never seen"
    before = index.digest("numbers").root
    put(index, [ItemWrite(6, data[0], active=False)])
    index.write("numbers", WriteBatch(deletes=[ItemDelete(6)]))
    assert find(index, data[3], 9)[0] == 3 and set(find(index, data[3], 9)) == {0, 1, 2, 3, 4}
    assert index.digest("numbers").root == before and index.get("numbers", [77]) == [None]


def history(index: VectorIndex, seed: int) -> None:
    """The same writes, deletes and steps for each index."""
    random = Random(seed)
    data = vectors(400, seed)
    for version, other in ((None, "v2"), ("v2", "v3"), ("v3", None)):
        for _ in range(12):
            ids = [random.randrange(60) for _ in range(random.randrange(1, 40))]
            items = [
                ItemWrite(
                    n,
                    data[random.randrange(400)] if random.random() < 0.7 else None,
                    active=random.choice([None, True, False]),
                    metadata={"n": random.randrange(9)} if random.random() < 0.5 else None,
                    source_version=random.choice([None, random.randrange(99)]),
                )
                for n in ids
            ]
            items = [
                replace(each, content_hash=b"h%d" % each.id, content=Content("text", b"t"))
                if isinstance(each.id, int) and each.vector is not None and random.random() < 0.5
                else each
                for each in items
            ]
            deletes = [ItemDelete(random.randrange(60), random.choice([None, random.randrange(99)]))]
            index.write(
                "numbers", WriteBatch(items, deletes, version or "v1", {"feed": str(random.random())})
            )
        if other is not None:
            index.advance("numbers", "begin", other)
            index.write("numbers", WriteBatch([ItemWrite(n, data[n]) for n in range(60)], (), other))
            index.advance("numbers", "promote", other, is_forced=True)
            former = index.status("numbers").in_role("former")
            assert former is not None
            index.advance("numbers", "retire", former.embedding_version)


@pytest.mark.parametrize("seed", [1, 2])
def test_one_history_gives_one_digest_in_both_engines(
    index: PostgresIndex, tmp_path: Path, seed: int
) -> None:
    embedded = EmbeddedIndex(tmp_path, SPECS)
    embedded.open()
    begin_all(embedded)
    for each in (index, embedded):
        history(each, seed)
    ours, theirs = index.status("numbers").current, embedded.status("numbers").current
    assert ours is not None and theirs is not None
    assert replace(ours, generation="", origin="") == replace(theirs, generation="", origin="")
    assert index.digest("numbers").root == embedded.digest("numbers").root
    assert (
        index.digest("numbers", 2**14).buckets.tolist() == embedded.digest("numbers", 2**14).buckets.tolist()
    )
    for item_id, mine, other in zip(
        range(60), index.get("numbers", range(60)), embedded.get("numbers", range(60)), strict=True
    ):
        assert (mine is None) == (other is None), item_id
        if mine is not None and other is not None:
            assert replace(mine, vector=None) == replace(other, vector=None)
    query = vectors(1, 9)[0]
    assert find(index, query, 60) == find(embedded, query, 60)
    embedded.close()


def test_a_server_that_falls_silent_is_told_within_the_limit_and_found_again(
    postgres: PostgresServer, index: PostgresIndex
) -> None:
    data = fill(index, 5)
    hasty = PostgresIndex(index.connections.dsn, SPECS, limits=HASTY)

    def is_reached() -> bool:
        try:
            return find(hasty, data[1], 1) == [1]
        except StoreUnavailable:
            return False

    until(is_reached)
    postgres.send(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as threads:
            search = threads.submit(find, hasty, data[0], 1)
            write = threads.submit(put, hasty, [ItemWrite(9, data[0])])
            assert isinstance(search.exception(30), StoreUnavailable)
            assert isinstance(write.exception(30), StoreUnavailable | WriteFailed)
    finally:
        postgres.send(signal.SIGCONT)
    until(is_reached, "the server found again without help")
    assert find(index, data[2], 1) == [2]
    hasty.close()


def test_connections_that_the_server_ends_cost_no_answer(index: PostgresIndex) -> None:
    data = fill(index, 3)
    with index.connections.using(9.0) as connection:
        mine = connection.info.backend_pid
    with index.connections.using(9.0) as connection:
        connection.execute("SELECT 1")
    other = PostgresIndex(index.connections.dsn, SPECS)
    with other.connections.using(9.0) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (mine,))
        connection.execute("SELECT pg_sleep(0)")
        while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (mine,)).fetchone():
            pass
    assert find(index, data[1], 1) == [1]
    other.close()


def test_a_forked_process_leaves_the_connections_alone(index: PostgresIndex) -> None:
    data = fill(index, 3)
    child = os.fork()
    if child == 0:
        try:
            found = find(index, data[2], 1) == [2]
            index.close()
            os._exit(0 if found else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert find(index, data[1], 1) == [1]
