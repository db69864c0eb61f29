from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 << 30


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is room: what a power cut leaves is computed here, never left to a real disk."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=MEMORY) as folder:
        yield Path(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--power-states", type=int, default=1200, help="simulated power losses to try")
    parser.addoption("--every-fault", action="store_true", help="let every single call of upkeep fail")
    parser.addoption("--histories", type=int, default=60, help="random orders of operations to try")
    parser.addoption(
        "--seed", type=int, default=None, help="of the random tests here; the printed one replays"
    )
