"""Every test bears the name of its folder as a mark, so that `-m` can choose by it."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDERS = {"tidy", "unit", "contract", "simulation", "recall", "integration"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        assert folder in FOLDERS, f"{item.path}: which folder of tests is this?"
        item.add_marker(folder)
