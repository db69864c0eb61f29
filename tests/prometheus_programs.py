"""The programs of Prometheus that tests run, and the mark of a test that needs them."""

from __future__ import annotations

import os
import shutil

import pytest

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")

needs_prometheus = pytest.mark.skipif(
    (PROMETHEUS is None or PROMTOOL is None) and os.environ.get("CI") != "true",
    reason="no Prometheus: bash tests/setup_prometheus.sh",
)
"""Skips where they are missing, but not in CI: every test runs there, and one without its program fails."""
