from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--power-states", type=int, default=1200, help="simulated power losses to try")
    parser.addoption("--every-fault", action="store_true", help="let every single call of upkeep fail")
    parser.addoption("--histories", type=int, default=60, help="random orders of operations to try")
    parser.addoption(
        "--seed", type=int, default=None, help="of the random tests here; the printed one replays"
    )
