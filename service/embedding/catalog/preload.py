"""Models that are opened while the program is still importing what serves them.

Opening takes the disk, hashing and the model runtime about as long as Python takes to import the rest, and
mostly without the interpreter's lock: begun first, it costs a start next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

from service.embedding.catalog.loader import load_image_embedder, load_text_embedder
from service.embedding.port import ImageEmbedder, Modality, TextEmbedder

_OPENED_AT_ONCE = 2

Wanted: TypeAlias = tuple[Modality, str, int]
"""What a model reads, its reference, and the dim of what it gives."""


class EarlyModels:
    """Opens each model once, in threads of its own from `begin` on. `begin` is called once and first; `text`
    and `image` may be called from any thread and block until the model is open."""

    def __init__(self, models_dir: Path, *, threads: int, runtime: str) -> None:
        """threads, runtime: as `load_text_embedder` takes them."""
        self._open_text = partial(load_text_embedder, models_dir=models_dir, threads=threads, runtime=runtime)
        self._open_image = partial(
            load_image_embedder, models_dir=models_dir, threads=threads, runtime=runtime
        )
        self._texts: dict[tuple[str, int], Future[TextEmbedder]] = {}
        self._images: dict[tuple[str, int], Future[ImageEmbedder]] = {}

    def begin(self, wanted: Iterable[Wanted]) -> None:
        """Open these in the order given; another one is opened when it is asked for."""
        opener = ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="model")
        for modality, reference, dim in dict.fromkeys(wanted):
            if modality == "text":
                self._texts[reference, dim] = opener.submit(self._open_text, reference, dim=dim)
            else:
                self._images[reference, dim] = opener.submit(self._open_image, reference, dim=dim)
        opener.shutdown(wait=False)

    def text(self, reference: str, dim: int) -> TextEmbedder:
        """Return the model; each caller gets one of its own. Raises ModelUnavailable."""
        early = self._texts.pop((reference, dim), None)
        return early.result() if early else self._open_text(reference, dim=dim)

    def image(self, reference: str, dim: int) -> ImageEmbedder:
        """As `text`."""
        early = self._images.pop((reference, dim), None)
        return early.result() if early else self._open_image(reference, dim=dim)
