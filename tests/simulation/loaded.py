"""What a fork server loads once (`forking`): modules and compiled loops. Importing this does the work."""

from __future__ import annotations

from index_store.ann.compiled.all_kernels import warm_kernels
from tests.simulation import sealing_child, upserting

__all__ = ["sealing_child", "upserting"]

warm_kernels()
