"""What contract tests begin with: each implementation of `VectorIndex`, and data that a service wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.port import VectorIndex
from tests.contract.vectors import SPECS, begin_all
from tests.http_app import HttpApp, running_app, seed
from tests.reference_index import ReferenceIndex


@pytest.fixture(params=["embedded", "reference"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    if request.param == "reference":
        reference = ReferenceIndex(SPECS)
        begin_all(reference)
        yield reference
        return
    engine = EmbeddedIndex(tmp_path, SPECS)
    engine.open()
    begin_all(engine)
    yield engine
    engine.close()
    assert check(tmp_path) == []


@pytest.fixture(scope="session")
def seeded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that holds what `seed` writes. To be copied: no test opens it."""
    data_dir = tmp_path_factory.mktemp("seeded") / "data"
    with running_app(data_dir) as app:
        seed(app)
    return data_dir


@pytest.fixture
def seeded(seeded_once: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own that holds what `seed` writes."""
    return shutil.copytree(seeded_once, tmp_path / "data")


@pytest.fixture(scope="module")
def app(seeded_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """A service that the tests of a file share and that held what `seed` writes when they began. Files that
    need another one have a fixture of the same name."""
    with running_app(shutil.copytree(seeded_once, tmp_path_factory.mktemp("app") / "data")) as app:
        yield app
