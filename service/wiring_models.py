"""Opens the models that collections name, each behind its queues."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from service.app.encoders import ImageEncoder, TextEncoder
from service.embedding.catalog.loader import version_of
from service.embedding.catalog.preload import EarlyModels
from service.embedding.pictures.decoders import DecodeLimits
from service.embedding.port import Modality
from service.embedding.serving.encoders import QueuedImages, QueuedTexts
from service.embedding.serving.queue import QueueLimits
from service.errors import ModelUnavailable
from service.settings import Settings

log = logging.getLogger(__name__)

QueuedT = TypeVar("QueuedT", QueuedTexts, QueuedImages)
_MODALITIES: tuple[Modality, ...] = ("text", "image")
_PICTURES_A_BATCH = 16
"""A picture's forward pass gains nothing from larger batches."""
_PICTURES_A_QUERY_BATCH = 4
"""What the runtime takes at once: more would wait for each other."""
_QUEUES_OF_A_PICTURE = 2
"""Before decoders and before the model: each gets a half of QUEUE_MS_MAX."""
_LONG_PICTURE_MS = 500
_STREAMS_MIN = 2
"""One long forward pass must not hold up every other query."""


class ModelLoader:
    """Fits `service.app.lifecycle.Loader`: local files, ONNX Runtime, a line of requests before each model.

    Collections with the same model share it.
    """

    def __init__(self, settings: Settings, models: EarlyModels | None) -> None:
        self._settings = settings
        self._models = models or EarlyModels(
            settings.models_dir, threads=settings.model_threads, runtime=settings.model_runtime
        )
        self._texts: dict[tuple[str, int], QueuedTexts] = {}
        self._images: dict[tuple[str, int], QueuedImages] = {}

    def load_text(self, reference: str, dim: int) -> TextEncoder:
        """See Loader."""
        return _started(self._texts, (reference, dim), self._text_encoder)

    def load_image(self, reference: str, dim: int) -> ImageEncoder:
        """See Loader."""
        return _started(self._images, (reference, dim), self._image_encoder)

    def _text_encoder(self, reference: str, dim: int) -> QueuedTexts:
        settings = self._settings
        return QueuedTexts(
            self._models.load("text", reference, dim),
            limits=_queue_limits(settings, settings.batch_size),
            query_deadline_ms=settings.search_deadline_ms,
            document_deadline_ms=settings.upsert_deadline_ms,
        )

    def _image_encoder(self, reference: str, dim: int) -> QueuedImages:
        settings = self._settings
        bytes_max, pixels_max, work_ms_max = (
            settings.image_bytes_max,
            settings.image_pixels_max,
            settings.image_work_ms_max,
        )
        return QueuedImages(
            self._models.load("image", reference, dim),
            limits=replace(
                _queue_limits(settings, min(settings.batch_size, _PICTURES_A_BATCH)),
                query_weight_max=_PICTURES_A_QUERY_BATCH,
                wait_ms_max=settings.queue_ms_max / _QUEUES_OF_A_PICTURE,
            ),
            decode_limits=_decode_limits(settings),
            pictures=DecodeLimits(bytes_max, pixels_max, work_ms_max),
            query_deadline_ms=settings.search_deadline_ms,
            document_deadline_ms=settings.upsert_deadline_ms,
        )

    def load_text_tower(self, reference: str, dim: int) -> TextEncoder | None:
        """See Loader."""
        models_dir = self._settings.models_dir
        try:
            versions = {version_of(reference, models_dir, modality=each, dim=dim) for each in _MODALITIES}
            return self.load_text(reference, dim) if len(versions) == 1 else None
        except ModelUnavailable as exc:
            log.info("no_text_to_picture_search", extra={"model": reference, "reason": exc.reason})
            return None


def _started(
    started: dict[tuple[str, int], QueuedT], key: tuple[str, int], make: Callable[[str, int], QueuedT]
) -> QueuedT:
    """Return the encoder of `key`, made and started the first time."""
    if key not in started:
        encoder = make(*key)
        encoder.start()
        started[key] = encoder
    return started[key]


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
