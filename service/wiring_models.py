"""Opens the models that collections name, each behind its queues."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from index_store.processes import give_memory_back
from service.app.encoders import Encoder, ImageEncoder, TextEncoder
from service.embedding.catalog.loader import version_of
from service.embedding.catalog.preload import EarlyModels, Wanted
from service.embedding.pictures.decoders import DecodeLimits
from service.embedding.port import Embedder, ImageEmbedder, Modality, TextEmbedder
from service.embedding.serving.encoders import (
    CacheCounters,
    EncoderLimits,
    QueuedEncoder,
    QueuedPictures,
    QueuedTexts,
    queued_pictures,
    queued_texts,
)
from service.embedding.serving.language_shift import language_shift
from service.embedding.serving.queue import PassObserver, QueryObserver, QueueLimits
from service.errors import ModelUnavailable
from service.settings import Settings

log = logging.getLogger(__name__)

_MODALITIES: tuple[Modality, ...] = ("text", "image")
_PICTURES_A_BATCH = 16
"""A picture's forward pass gains nothing from larger batches."""
_PASSES_A_QUERY_BATCH = 4
"""What the runtime takes at once, pictures or their views: more would wait for each other."""
_QUEUES_OF_A_PICTURE = 2
"""Before decoders and before the model: each gets a half of QUEUE_MS_MAX."""
_LONG_PICTURE_MS = 500
_STREAMS_MIN = 2
"""One long forward pass must not hold up every other query."""


class ModelLoader:
    """Fits `service.app.generations.loading.Loader`: local files, ONNX Runtime, a line of requests before
    each model.

    Collections with the same model share it.
    """

    def __init__(
        self,
        settings: Settings,
        models: EarlyModels | None,
        observe_pass: PassObserver | None = None,
        observe_query: QueryObserver | None = None,
        *,
        is_hybrid_possible: bool,
    ) -> None:
        """observe_pass: is told of each pass of a model over queries, observe_query of each query.
        is_hybrid_possible: see `Catalogue`. Without it no query is moved by a language shift, and the .3 s to
        measure one are saved."""
        self._is_hybrid_possible = is_hybrid_possible
        self._observe_query = observe_query
        self._settings = settings
        self._observe_pass = observe_pass
        self._models = models or EarlyModels(
            settings.models_dir, threads=settings.model_threads, runtime=settings.model_runtime
        )
        self._started: dict[Wanted, QueuedEncoder[Any, Any]] = {}

    def load_text(self, reference: str, dim: int) -> TextEncoder:
        """See Loader."""
        return self._encoder("text", reference, dim, self._queued_texts)

    def load_image(self, reference: str, dim: int) -> ImageEncoder:
        """See Loader."""
        return self._encoder("image", reference, dim, self._queued_pictures)

    def _encoder(
        self,
        modality: Modality,
        reference: str,
        dim: int,
        queued: Callable[[Embedder[Any]], QueuedEncoder[Any, Any]],
    ) -> Encoder[Any]:
        """Return the encoder of a model, made and started the first time."""
        wanted = (modality, reference, dim)
        if wanted not in self._started:
            encoder = queued(self._models.load(*wanted))
            if self._observe_pass is not None:
                encoder.observe_passes(self._observe_pass, self._observe_query)
            encoder.start()
            self._started[wanted] = encoder
        return self._started[wanted]

    def _queued_texts(self, embedder: TextEmbedder) -> QueuedTexts:
        settings = self._settings
        limits = _limits(settings, _queue_limits(settings, settings.batch_size))
        shift = language_shift(embedder) if self._is_hybrid_possible else None
        return queued_texts(embedder, limits, replace(embedder.info, language_shift=shift))

    def _queued_pictures(self, embedder: ImageEmbedder) -> QueuedPictures:
        settings = self._settings
        queue = replace(
            _queue_limits(settings, min(settings.batch_size, _PICTURES_A_BATCH)),
            query_weight_max=_PASSES_A_QUERY_BATCH,
            wait_ms_max=settings.queue_ms_max / _QUEUES_OF_A_PICTURE,
        )
        return queued_pictures(
            embedder,
            replace(_limits(settings, queue), cache_items_max=0),
            _decode_limits(settings),
            DecodeLimits(settings.image_bytes_max, settings.image_pixels_max, settings.image_work_ms_max),
        )

    def caches(self) -> list[tuple[str, CacheCounters]]:
        """Return what each text model's cache of query vectors counted, with its embedding version. Safe from
        any thread."""
        return [
            (encoder.info.embedding_version, encoder.cache_counters)
            for (modality, _, _), encoder in list(self._started.items())
            if modality == "text"
        ]

    def started_encoders(self) -> Sequence[Encoder[Any]]:
        """See Loader."""
        return list({id(each): each for each in list(self._started.values())}.values())

    def release_encoder(self, encoder: Encoder[Any]) -> None:
        """See Loader."""
        for wanted, each in list(self._started.items()):
            if each is encoder:
                del self._started[wanted]  # first: who asks from here on opens another
        encoder.close()
        give_memory_back()  # a process of 32 MB held 72 after multilingual-e5-small, and 47 to 51 with this

    def load_text_tower(self, reference: str, dim: int) -> TextEncoder | None:
        """See Loader."""
        models_dir = self._settings.models_dir
        try:
            versions = {version_of(reference, models_dir, modality=each, dim=dim) for each in _MODALITIES}
            return self.load_text(reference, dim) if len(versions) == 1 else None
        except ModelUnavailable as exc:
            log.info("no_text_to_picture_search", extra={"model": reference, "reason": exc.reason})
            return None


def _limits(settings: Settings, queue: QueueLimits) -> EncoderLimits:
    return EncoderLimits(
        queue,
        query_deadline_ms=settings.search_deadline_ms,
        document_deadline_ms=settings.upsert_deadline_ms,
    )


def _queue_limits(settings: Settings, batch_items_max: int) -> QueueLimits:
    return QueueLimits(
        streams=_streams(settings),
        wait_ms_max=settings.queue_ms_max,
        queries_max=settings.queue_requests_max,
        batch_items_max=batch_items_max,
    )


def _decode_limits(settings: Settings) -> QueueLimits:
    """One stream more than cores: a picture that takes long leaves one for the others."""
    return replace(
        _queue_limits(settings, 1),
        streams=_streams(settings) + 1,
        wait_ms_max=settings.queue_ms_max / _QUEUES_OF_A_PICTURE,
        long_ms=_LONG_PICTURE_MS,
    )


def _streams(settings: Settings) -> int:
    return settings.model_streams or max(_STREAMS_MIN, os.cpu_count() or 1)
