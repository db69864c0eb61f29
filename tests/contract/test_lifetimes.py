"""Every way to ask an index shows the items whose lifetime holds the moment, whatever names its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.listings import FacetsRequest, ItemsRequest
from index_store.port import ItemIndex
from index_store.postgres.index import GRAPH_FROM
from index_store.types import CollectionSpec, ItemWrite, SearchRequest
from item_rules.lifetime import Lifetime
from tests.clock import Clock
from tests.contract.conftest import POSTGRES, postgres_index
from tests.contract.vectors import DIM, put, vectors

CLOCK = Clock()
LIFETIME = Lifetime("from", "until", 9 * 3600.0, CLOCK)
SPECS = [CollectionSpec("numbers", "int64", DIM, "l2", lifetime=LIFETIME)]
BOUNDS: tuple[dict[str, Any], ...] = (
    {},
    {"from": 1000},
    {"from": 1_795_867_200_000, "until": 1_795_867_260.5},
    {"from": "2026-11-28T21:00:00+09:00"},
    {"from": "2026-11-28T21:00:00", "until": "2026-11-28T21:01:00.000001"},
    {"until": "2026-11-28"},
    {"until": "2026-11-28T12:00:30Z"},
    {"from": None, "until": 0},
)
EVENING = 1_795_867_200.0
"""2026-11-28T12:00:00Z."""


@pytest.fixture(params=["embedded", POSTGRES[0]])
def bounded_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ItemIndex]:
    if request.param == "postgres":
        with postgres_index(request.getfixturevalue("postgres_database"), GRAPH_FROM, SPECS) as opened:
            yield opened
        return
    engine = EmbeddedIndex(tmp_path, SPECS)
    engine.open()
    yield engine
    engine.close()


def test_every_way_to_ask_shows_what_is_shown_now(bounded_index: ItemIndex) -> None:
    CLOCK.now = EVENING
    bounded_index.advance("numbers", "begin", "v1")
    data = vectors(len(BOUNDS))
    put(bounded_index, [ItemWrite(n, data[n], metadata=bounds) for n, bounds in enumerate(BOUNDS)])
    source = bounded_index.item_source()
    for now in (-1.0, 999.9, 1000.0, EVENING - 1e-6, EVENING, EVENING + 30, EVENING + 60, EVENING + 61):
        CLOCK.now = now
        shown = [n for n, bounds in enumerate(BOUNDS) if LIFETIME.state(bounds, now) is None]
        (found,) = bounded_index.search("numbers", [SearchRequest(data[0], len(BOUNDS))])
        assert sorted(hit.id for hit in found.hits) == shown, now
        for is_live in (True, False):
            listed = source.list_items("numbers", ItemsRequest(is_live=is_live)).items
            assert [item.id for item in listed] == [n for n in range(len(BOUNDS)) if (n in shown) is is_live]
        assert list(source.list_ids("numbers", ItemsRequest(is_live=True)).ids) == shown
        assert source.count_items("numbers", None).live == len(shown)
        (facet,) = source.count_values("numbers", FacetsRequest(keys=["from"])).facets
        assert facet.items == sum("from" in BOUNDS[n] for n in shown)
