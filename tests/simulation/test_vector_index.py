"""Any order of writes, reopenings, other processes' handles, generation changes, seals, merges, rebuilds,
scrubs, backups and restores equals the reference.

The seed is printed, and `--seed` replays it; `--histories N` tries more (default 60; `make crash` 600).
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    rule,
    run_state_machine_as_test,
)

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.backup import restore_data
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.scrub import Scrub
from index_store.maintenance.worker import Maintenance
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.types import (
    CollectionSpec,
    ItemWrite,
    SearchRequest,
)
from tests.simulation.index_rules import IndexRules
from tests.simulation.index_values import (
    DIM,
    items,
    vector_of,
)
from tests.simulation.listing_rules import ListingRules

SEED = 71_823


class IndexMachine(IndexRules, ListingRules):
    """Two engines on one directory stand for two processes: they share nothing but the files."""

    engines: list[EmbeddedIndex]
    folder: Path

    @initialize(
        id_kind=st.sampled_from(["int64", "string"]),
        metric=st.sampled_from(["l2", "cosine", "ip"]),
        some=st.lists(items, min_size=4, max_size=12),
    )
    def start(self, id_kind: Any, metric: Any, some: list[ItemWrite]) -> None:
        self.spec = CollectionSpec("things", id_kind, DIM, metric, ("title", "shade"))
        self.directory = Path(tempfile.mkdtemp(dir=self.folder))
        self.ticks = itertools.count()  # each look at the clock finds a second gone: each search looks around
        self.engines = [self.engine(DIM), self.engine(DIM)]
        for engine in self.engines:
            engine.open()
        self.begin_listing()
        self.begin(self.spec, some)

    def engine(self, dim: int) -> EmbeddedIndex:
        specs = [replace(self.spec, dim=dim)]
        return EmbeddedIndex(self.directory, specs, clock=lambda: float(next(self.ticks)))

    @rule(
        segments_max=st.sampled_from([1, 2, 9]),
        waste_share=st.sampled_from([0.0, 1e9]),
        swapped=st.lists(st.integers(0, 1), max_size=2),
    )
    def seal(self, segments_max: int, waste_share: float, swapped: list[int]) -> None:
        """Publish the next snapshot of every generation; some handles open it now, others some time."""
        limits = MaintenanceLimits(
            seal_rows=1, segments_max=segments_max, waste_share=waste_share, disk_reserve_bytes=0
        )
        assert Maintenance(self.directory, limits=limits).run_once()
        self.open_snapshots(swapped)

    @rule(swapped=st.lists(st.integers(0, 1), max_size=2))
    def rebuild(self, swapped: list[int]) -> None:
        """All segments again out of the stores alone."""
        assert Maintenance(self.directory, limits=MaintenanceLimits(disk_reserve_bytes=0)).rebuild() == []
        self.open_snapshots(swapped)

    def open_snapshots(self, swapped: list[int]) -> None:
        for which in swapped:
            with self.engines[which]._collections["things"].members() as members:
                for generation in members.in_order():
                    generation.refresh()
                    if generation._background is not None:
                        generation._background.join()

    @rule()
    def scrub(self) -> None:
        """Reading everything again finds nothing."""
        for path in self.directory.glob(f"collections/*/*/{STORE_FILE}"):
            scrub, connection = Scrub(path.parent), connect_sqlite(path)
            while not scrub.step(connection):
                pass
            connection.close()
            assert scrub.quarantined == 0 and scrub.progress.damaged == ()

    @rule(which=st.integers(0, 1), query=st.integers(0, 12), goes_on=st.booleans())
    def back_up_and_restore(self, which: int, query: int, goes_on: bool) -> None:
        """The copy answers alike; with `goes_on` it takes the place of what it was made of."""
        copy, restored = (
            self.directory.with_name(f"{self.directory.name}-{name}") for name in ("copy", "new")
        )
        self.engines[which].backup(copy)
        restore_data(copy, restored)
        shutil.rmtree(copy)
        if goes_on:
            for engine in self.engines:
                engine.close()
            shutil.rmtree(self.directory / "collections")
            (restored / "collections").rename(self.directory / "collections")
            for which in range(2):
                self.start_again(which)
        else:
            other = EmbeddedIndex(restored, [replace(self.spec, dim=self.dim())])
            other.open()
            request = SearchRequest(vector_of(query, self.dim()), 30)
            got, wanted = (one.search("things", [request])[0] for one in (other, self.reference))
            assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits]
            assert other.digest("things").root == self.reference.digest("things").root
            other.close()
        shutil.rmtree(restored)

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.engines[which].close()
        self.start_again(which)

    def start_again(self, which: int) -> None:
        """As a process does, which asks the current generation for its dim."""
        self.engines[which] = self.engine(self.dim())
        self.engines[which].open()

    def teardown(self) -> None:
        if hasattr(self, "engines"):
            for engine in self.engines:
                engine.close()
            assert check(self.directory) == []
            shutil.rmtree(self.directory)


def test_any_order_equals_the_reference(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    chosen = pytestconfig.getoption("--seed", default=None) or SEED
    print(f"seed {chosen}")
    machine = seed(chosen)(IndexMachine)
    machine.folder = tmp_path

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=pytestconfig.getoption("--histories", default=60),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
