"""Any order of writes, searches, pages, lists and generation changes over PostgreSQL equals the reference:
for two processes that share nothing but the database, with a graph and without.

The seed is printed, and `--seed` replays it; `--histories N` tries N / 20 of them (default 3).
"""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from index_store.postgres.index import PostgresIndex
from index_store.types import CollectionSpec, ItemWrite
from tests.integration.conftest import postgres  # noqa: F401  # pytest finds fixtures by name
from tests.integration.databases import PostgresServer
from tests.simulation.index_rules import IndexRules
from tests.simulation.index_values import DIM, items
from tests.simulation.listing_rules import ListingRules

SEED = 18_050


class PostgresMachine(IndexRules, ListingRules):
    """Each history has a schema of its own in one database."""

    engines: list[PostgresIndex]
    address: str

    @initialize(
        id_kind=st.sampled_from(["int64", "string"]),
        metric=st.sampled_from(["l2", "cosine", "ip"]),
        graph_from=st.sampled_from([0, 2000]),
        some=st.lists(items, min_size=4, max_size=12),
    )
    def start(self, id_kind: Any, metric: Any, graph_from: int, some: list[ItemWrite]) -> None:
        self.schema = f"s_{secrets.token_hex(6)}"
        self.execute(f"CREATE SCHEMA {self.schema}")
        spec = CollectionSpec("things", id_kind, DIM, metric, ("title", "shade"))
        url = f"{self.address}?options=-csearch_path%3D{self.schema},public"
        self.engines = [PostgresIndex(url, [spec], graph_from=graph_from) for _ in range(2)]
        for engine in self.engines:
            assert engine.open() == {}
        self.begin_listing()
        self.begin(spec, some)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.address, autocommit=True) as db:
            db.execute(statement.encode())

    def teardown(self) -> None:
        if hasattr(self, "schema"):
            for engine in self.engines:
                engine.close()
            self.execute(f"DROP SCHEMA {self.schema} CASCADE")


@pytest.mark.long
def test_any_order_over_postgresql_equals_the_reference(
    postgres: PostgresServer,  # noqa: F811
    pytestconfig: pytest.Config,
) -> None:
    chosen = pytestconfig.getoption("--seed", default=None) or SEED
    print(f"seed {chosen}")
    machine = seed(chosen)(PostgresMachine)
    machine.address = postgres.address(postgres.create_database())
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, pytestconfig.getoption("--histories", default=60) // 20),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
