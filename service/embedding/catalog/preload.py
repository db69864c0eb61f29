"""Models that are opened while the program is still importing what serves them.

Opening takes the disk, hashing and the model runtime about as long as Python takes to import the rest, and
mostly without the interpreter's lock: begun first, it costs a start next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from service.embedding.catalog.loader import load_embedder
from service.embedding.port import Embedder, Modality

_OPENED_AT_ONCE = 2

Wanted: TypeAlias = tuple[Modality, str, int]
"""What a model reads, its reference, and the dim of what it gives."""


class EarlyModels:
    """Opens each model once, in threads of its own. Call `begin_loading` once and first; `load` may be called
    from any thread and returns when the model is open."""

    def __init__(self, models_dir: Path, *, threads: int, runtime: str) -> None:
        """threads, runtime: as `load_embedder` takes them."""
        self._load = partial(load_embedder, models_dir=models_dir, threads=threads, runtime=runtime)
        self._early: dict[Wanted, Future[Embedder[Any]]] = {}

    def begin_loading(self, wanted: Iterable[Wanted]) -> None:
        """Open these in the order given; any other is opened when it is asked for."""
        opener = ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="model")
        for modality, reference, dim in dict.fromkeys(wanted):
            self._early[modality, reference, dim] = opener.submit(self._load, reference, modality, dim=dim)
        opener.shutdown(wait=False)

    def load(self, modality: Modality, reference: str, dim: int) -> Embedder[Any]:
        """Return the model; each caller gets one of its own. Raises ModelUnavailable."""
        early = self._early.pop((modality, reference, dim), None)
        return early.result() if early else self._load(reference, modality, dim=dim)
