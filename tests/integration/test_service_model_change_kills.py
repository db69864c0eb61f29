"""kill -9 of the service, of its parent alone and of a worker, at each step of a model change under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.embedding_service import Served
from benchmarks.model_change_kills import TARGETS, Campaign, Target
from benchmarks.model_change_load import Load, Pace, fill
from benchmarks.model_change_shop import Shop
from benchmarks.model_change_stages import NEW, OLD, both_versions, embed_of
from index_store.maintenance.check import check
from tests.integration.service_process import ROOT

ITEMS = 600
SEED = 20_261_128


OTHERWISE: Sequence[Target] = ("worker", "everything", "parent")


@pytest.mark.parametrize("targets", [TARGETS, pytest.param(OTHERWISE, marks=pytest.mark.slow)])
def test_killed_at_each_step_old_or_new_serves(tmp_path: Path, targets: Sequence[Target]) -> None:
    """Filling rests almost all the time here, so that kills meet it half done, and so does the report."""
    environ = {"TEXT_MODEL": OLD, "IMAGE_MODEL": "none", "WORKERS": "2", "REBUILD_SEARCH_MS_MAX": "1"}
    environ["REPORT_QUERIES_MAX"] = "10"
    data_dir = tmp_path / "data"
    with Served(data_dir, ROOT / ".models", log=tmp_path / "log", **environ) as service:
        fill(service.port, ITEMS)
        old, new = both_versions(service.port)
        shop = Shop(ITEMS, {old: embed_of(OLD), new: embed_of(NEW)}, old)
        load = Load(service.port, shop.items, Pace(3, 0.05, 2, 0.05), SEED)
        folder = data_dir / "collections" / "recipes"
        campaign = Campaign(service, folder, shop, load, old, new, NEW)
        campaign.run(targets, delays_s=(0.001,))
    assert campaign.problems == []
    assert campaign.kills >= 6 and campaign.answers > 100 and campaign.changes > 50
    assert check(data_dir) == []
