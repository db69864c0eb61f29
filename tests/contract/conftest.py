"""The implementations of `VectorIndex` that every contract test runs over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.port import VectorIndex
from tests.contract.vectors import SPECS, begin_all
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
