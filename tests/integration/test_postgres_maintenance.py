"""What is done beside searches and writes in PostgreSQL: graphs, their breadth, statistics, old versions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.vectors import Dataset, load
from index_store.errors import PageExpired
from index_store.postgres.index import PostgresIndex
from index_store.postgres.maintenance.worker import DatabaseLimits, DatabaseMaintenance
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.clock import Clock
from tests.integration.databases import PostgresServer
from tests.waiting import until

pytestmark = pytest.mark.long

ROWS, QUERIES, K = 4_000, 50, 25
FLOOR = 0.985
"""What is measured is .99; less what 50 queries can tell apart."""
MANY = CollectionSpec("many", "int64", 384, "cosine")
FEW = CollectionSpec("few", "int64", 4, "l2")
HISTORY_S, GRACE_S = 100.0, 10.0
LIMITS = DatabaseLimits(quiet_s=0.0, queries=50, history_s=HISTORY_S, grace_s=GRACE_S)


class Stage:
    """An index over a database of its own, and what looks after it."""

    def __init__(self, server: PostgresServer, address: str) -> None:
        self.server = server
        self.address = address
        self.clock = Clock()
        self.index = PostgresIndex(address, [MANY, FEW])
        assert self.index.open() == {}
        for spec in (MANY, FEW):
            self.index.advance(spec.name, "begin", "v1")
        self.maintenance = DatabaseMaintenance(address, LIMITS, clock=self.clock)
        self.data: Dataset = load(ROWS, QUERIES)

    def close(self) -> None:
        self.maintenance.close()
        self.index.close()

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with self.server.connect(self.address.rsplit("/", 1)[1]) as db:
            found = db.execute(query.encode())
            return found.fetchall() if found.description else []

    def generation(self, collection: str) -> dict[str, int]:
        columns = ("number", "ef", "head", "sealed_head", "measured_live", "history_from")
        found = self.ask(f"SELECT {', '.join(columns)} FROM generation WHERE collection = '{collection}'")
        return dict(zip(columns, found[0], strict=True))  # type: ignore[arg-type]

    def way(self, **asked: object) -> str:
        """How a search went about it."""
        steps: list[tuple[str, int, int]] = []
        request = SearchRequest(self.data.queries[0], K, steps=steps, **asked)  # type: ignore[arg-type]
        self.index.search("many", [request])
        return steps[-1][0]

    def recall(self, **asked: object) -> float:
        """Mean share of the exact nearest K, by distance. Fails on an answer that is short or doubled."""
        shares = []
        for query in self.data.queries:
            request = SearchRequest(query, K, **asked)  # type: ignore[arg-type]
            found, exact = self.index.search("many", [request, replace(request, exact=True)])
            assert len({hit.id for hit in found.hits}) == len(found.hits) == len(exact.hits) == K
            furthest = exact.hits[-1].distance
            shares.append(sum(hit.distance <= furthest for hit in found.hits) / K)
        return float(np.mean(shares))

    def nearest(self, count: int) -> list[int]:
        """The ids nearest to the first query."""
        request = SearchRequest(self.data.queries[0], count, exact=True)
        return [int(hit.id) for hit in self.index.search("many", [request])[0].hits]


@pytest.fixture(scope="module")
def stage(postgres: PostgresServer) -> Iterator[Stage]:
    name = postgres.create_database()
    made = Stage(postgres, postgres.address(name))
    for start in range(0, ROWS, 1000):
        items = [
            ItemWrite(n, made.data.rows[n], metadata={"shade": n % 100, "pair": n % 2})
            for n in range(start, start + 1000)
        ]
        made.index.write("many", WriteBatch(items, embedding_version="v1"))
    assert made.maintenance.maintain_once()
    yield made
    made.close()
    postgres.drop_database(name)


def put_few(stage: Stage, first: int, count: int) -> None:
    items = [ItemWrite(n, np.full(4, n + 1, np.float32)) for n in range(first, first + count)]
    stage.index.write("few", WriteBatch(items, embedding_version="v1"))


def test_a_generation_is_sealed_and_found_by_its_graph(stage: Stage) -> None:
    sealed = stage.generation("many")
    assert sealed["ef"] >= 50
    assert sealed["sealed_head"] == sealed["head"] and sealed["measured_live"] == ROWS
    assert stage.generation("few")["ef"] == 0, "so few rows are compared one by one"
    statistics = stage.ask(f"SELECT reltuples FROM pg_class WHERE relname = 'rows_{sealed['number']}'")
    assert statistics == [(float(ROWS),)]
    assert stage.way() == "graph"


def test_the_graph_finds_what_there_is(stage: Stage) -> None:
    seen = {
        "all": stage.recall(),
        "100 nearest excluded": stage.recall(exclude_ids=stage.nearest(100)),
        "1,000 nearest excluded": stage.recall(exclude_ids=stage.nearest(1000)),
        "half pass": stage.recall(filter={"pair": 1}, ef=stage.generation("many")["ef"]),
    }
    print(seen, stage.generation("many"))
    assert {asked: share for asked, share in seen.items() if share < FLOOR} == {}


def test_few_that_pass_are_compared_one_by_one(stage: Stage) -> None:
    assert stage.way(filter={"shade": 3}) == "scan"
    assert stage.recall(filter={"shade": 3}) == 1.0


def test_an_answer_is_full_however_much_is_excluded(stage: Stage) -> None:
    ids = np.setdiff1d(np.arange(100_000), np.arange(0, ROWS, 40))
    request = SearchRequest(stage.data.queries[0], K, exclude_ids=ids)
    found, exact = stage.index.search("many", [request, replace(request, exact=True)])
    assert len(found.hits) == K
    assert [hit.id for hit in found.hits] == [hit.id for hit in exact.hits]


def test_searches_and_writes_go_on_while_a_graph_is_made(stage: Stage) -> None:
    number = stage.generation("many")["number"]
    stage.ask(f"DROP INDEX rows_{number}_graph")
    with stage.server.connect(stage.address.rsplit("/", 1)[1]) as other:
        other.autocommit = False
        other.execute(f"UPDATE rows_{number} SET until = until WHERE id = 0".encode())  # waited for
        maintenance = threading.Thread(target=stage.maintenance.maintain_once)
        maintenance.start()
        until(lambda: stage.ask("SELECT 1 FROM pg_stat_progress_create_index") != [], "a build")
        stage.index.write("many", WriteBatch([ItemWrite(1, None, active=False)]))
        assert stage.way() == "graph"
        stage.index.write("many", WriteBatch([ItemWrite(1, None)]))
        other.rollback()
    maintenance.join()
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = 'rows_{number}_graph'::regclass"
    assert stage.ask(valid) == [(True,)]


def test_what_a_killed_build_left_is_made_again(stage: Stage) -> None:
    graph = f"rows_{stage.generation('many')['number']}_graph"
    stage.ask(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{graph}'::regclass")
    assert stage.maintenance.maintain_once()
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{graph}'::regclass"
    assert stage.ask(valid) == [(True,)]


def test_one_process_looks_after_a_database_at_a_time(stage: Stage) -> None:
    other = DatabaseMaintenance(stage.address, LIMITS)
    with stage.server.connect(stage.address.rsplit("/", 1)[1]) as db:
        lock = "hashtext(current_schema()), hashtext('maintenance of every collection')"
        db.execute(f"SELECT pg_advisory_lock({lock})".encode())
        assert not stage.maintenance.maintain_once() and not other.maintain_once()
        db.execute(f"SELECT pg_advisory_unlock({lock})".encode())
    assert other.maintain_once() and stage.maintenance.maintain_once()
    other.close()


def test_old_versions_go_when_no_page_can_ask_for_them(stage: Stage) -> None:
    table = f"rows_{stage.generation('few')['number']}"
    put_few(stage, 0, 20)
    assert stage.maintenance.maintain_once()
    first = SearchRequest(np.ones(4, np.float32), 5)
    page = stage.index.search("few", [first])[0].next_page
    stage.index.write("few", WriteBatch(deletes=[ItemDelete(n) for n in range(10)]))
    next_page = replace(first, after=page)
    old = f"SELECT count(*) FROM {table} WHERE until IS NOT NULL"

    def pass_time(seconds: float) -> None:
        stage.clock.now += seconds
        assert stage.maintenance.maintain_once()

    pass_time(1.0)
    pass_time(HISTORY_S - 2.0)
    assert [hit.id for hit in stage.index.search("few", [next_page])[0].hits] == [10, 11, 12, 13, 14]
    assert stage.ask(old) == [(10,)]
    pass_time(3.0)
    with pytest.raises(PageExpired):
        stage.index.search("few", [next_page])
    assert stage.ask(old) == [(10,)], "a search that began before may still read them"
    pass_time(GRACE_S)
    assert stage.ask(old) == [(0,)]
    assert len(stage.index.search("few", [replace(first, k=20)])[0].hits) == 10
