"""Processes to be killed: each is a copy of one that has loaded everything, so they start at once."""

from __future__ import annotations

import multiprocessing

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.simulation.loaded"])
