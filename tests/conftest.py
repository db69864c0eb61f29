"""Every test bears the name of its folder as a mark, so that `-m` can choose by it. Files that take longest
come first: side by side, no process begins one of them when the others have nothing left to do."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDERS = {"tidy", "unit", "contract", "simulation", "recall", "integration"}
LONGEST = (
    "simulation/test_upkeep_faults.py",
    "integration/test_service_rebuild.py",
    "contract/test_embedders_reference.py",
    "integration/test_feeder_next_generation.py",
    "integration/test_feeder_sync_tiers.py",
    "integration/test_pgvector_parity.py",
    "integration/test_service_model_change_kills.py",
    "integration/test_client_package.py",
    "simulation/test_file_rot.py",
    "recall/test_generation_recall.py",
    "recall/test_answer_quality.py",
    "integration/test_alerts.py",
    "integration/test_feeder_brake.py",
    "contract/test_change_feed.py",
    "integration/test_service_model_change.py",
    "integration/test_demo_start.py",
    "integration/test_service_start.py",
)
"""Half a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    files = {item.path: item.path.relative_to(here) for item in items}
    for item in items:
        folder = files[item.path].parts[0]
        assert folder in FOLDERS, f"{item.path}: which folder of tests is this?"
        item.add_marker(folder)
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
