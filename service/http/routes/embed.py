"""Content to vectors: /v1/embed, /v1/embed-batch, /v1/embeddings, /v1/model-info."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from service.app.encoders import Slot, TextEncoder
from service.collections import SEARCH_MODES, Collection, SearchMode
from service.confidence.calibration import calibration_of
from service.embedding.port import Encoding
from service.errors import InvalidImage, InvalidInput
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.quotas import PICTURE_UNITS, TEXT_UNITS
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import EmbedBatchIn, EmbeddingsIn, EmbedIn
from service.http.wire.values import in_range, not_one_of, read_picture, read_text


class EmbedRoutes:
    """Vectors of texts and pictures, and which models make them."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._embed_decoder = msgspec.json.Decoder(EmbedIn)
        self._batch_decoder = msgspec.json.Decoder(EmbedBatchIn)
        self._embeddings_decoder = msgspec.json.Decoder(EmbeddingsIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.SEARCH, is_charged=False))
        router.add_api_route("/v1/embed", self.post_embed, methods=["POST"])
        router.add_api_route("/v1/embed-batch", self.post_embed_batch, methods=["POST"])
        router.add_api_route("/v1/embeddings", self.post_embeddings, methods=["POST"])
        router.add_api_route("/v1/model-info", self.get_model_info, methods=["GET"])
        return router

    async def post_embed(self, request: Request) -> JsonResponse:
        """Answer with the vector of one text or one picture."""
        body = await self._dependencies.read_json(request, self._embed_decoder)
        caller = exchange_of(request).caller
        _require_unit(body.normalize)
        if (body.text is None) == (body.image is None):
            raise not_one_of({"text": body.text, "image": body.image})
        collection = self._collection(body, "text" if body.text is not None else "image")
        encoders, version = self._dependencies.encoders, body.embedding_version
        info = encoders.info(collection.name, version)
        answer: dict[str, Any] = {"dim": info.dim, "version": info.embedding_version}
        if body.image is not None:
            data = read_picture(body.image, "image")
            self._dependencies.charge_request(request, PICTURE_UNITS)
            answer["embedding"] = (
                await encoders.image(collection.name, version).embed_query(data, caller)
            ).vector
        else:
            text = read_text(str(body.text), self._dependencies.settings.query_chars_max, "text")
            self._dependencies.charge_request(request, TEXT_UNITS)
            (found,) = await _embedded(encoders.text(collection.name, version), [text], body.role, caller)
            answer["embedding"], answer["truncated"] = found.vector, found.truncated
        return JsonResponse(answer)

    async def post_embed_batch(self, request: Request) -> JsonResponse:
        """Answer with the vectors of many texts, in order."""
        body = await self._dependencies.read_json(request, self._batch_decoder)
        _require_unit(body.normalize)
        settings = self._dependencies.settings
        in_range("texts", len(body.texts), 1, settings.embed_texts_max)
        texts = [_nth_text(text, place, settings.query_chars_max) for place, text in enumerate(body.texts)]
        collection = self._collection(body, "text")
        encoders, version = self._dependencies.encoders, body.embedding_version
        info, encoder = encoders.info(collection.name, version), encoders.text(collection.name, version)
        self._dependencies.charge_request(request, TEXT_UNITS * len(texts))
        found = await _embedded(encoder, texts, body.role, exchange_of(request).caller)
        return JsonResponse(
            {
                "embeddings": [each.vector for each in found],
                "dim": info.dim,
                "version": info.embedding_version,
                "count": len(texts),
                "truncated": [each.truncated for each in found],
            }
        )

    async def post_embeddings(self, request: Request) -> JsonResponse:
        """Answer as OpenAI's route of this name does, by a model of /v1/model-info."""
        body = await self._dependencies.read_json(request, self._embeddings_decoder)
        collection = self._with_text_model(body.model)
        encoders, settings = self._dependencies.encoders, self._dependencies.settings
        info = encoders.info(collection.name)
        if body.dimensions not in (None, info.dim):
            raise InvalidInput("dimensions", f"must be {info.dim}: vectors of this model are not cut")
        given = [body.input] if isinstance(body.input, str) else body.input
        in_range("input", len(given), 1, settings.embed_texts_max)
        texts = [
            _nth_text(text, place, settings.query_chars_max, "input") for place, text in enumerate(given)
        ]
        encoder = encoders.text(collection.name)
        self._dependencies.charge_request(request, TEXT_UNITS * len(texts))
        found = await _embedded(encoder, texts, body.role, exchange_of(request).caller)
        tokens = sum(each.tokens for each in found)
        return JsonResponse(
            {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": place,
                        "embedding": _packed(each) if body.encoding_format == "base64" else each.vector,
                    }
                    for place, each in enumerate(found)
                ],
                "model": body.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "version": info.embedding_version,
                "truncated": [each.truncated for each in found],
            }
        )

    def _with_text_model(self, model: str) -> Collection:
        """The collection whose model of that name reads texts, be it one of pictures with a text tower."""
        collections = self._dependencies.catalogue.collections
        for collection in sorted(collections, key=lambda each: each.modality != "text"):
            slot = self._dependencies.encoders.slot(collection.name)
            is_text = collection.modality == "text" or slot.text is not None
            if is_text and model in _model_names(collection, slot):
                return collection
        raise InvalidInput("model", "is not one of the text models of /v1/model-info")

    def _collection(self, body: EmbedIn | EmbedBatchIn, modality: str) -> Collection:
        """The collection whose model embeds: named, found by its model, or the modality's default."""
        if body.collection is not None:
            return self._dependencies.collection(body.collection)
        catalogue = self._dependencies.catalogue
        if body.model is None:
            collection = catalogue.default_of(modality)
            if collection is None:
                raise HttpRefusal(404, "unknown_collection", f"No {modality} collection is configured.")
            return collection
        for collection in catalogue.collections:
            known = _model_names(collection, self._dependencies.encoders.slot(collection.name))
            if body.model in known and collection.modality == modality:
                return collection
        raise InvalidInput("model", f"is not one of the {modality} models of /v1/model-info")

    async def get_model_info(self, request: Request) -> JsonResponse:
        """Answer with each collection's model, the default one's at the head."""
        self._dependencies.charge_request(request)
        described = {each.name: self._described(each) for each in self._dependencies.catalogue.collections}
        default = described[self._dependencies.catalogue.default.name]
        head = {key: default[key] for key in ("model", "dim", "version", "model_available")}
        return JsonResponse({**head, "collections": described})

    def _described(self, collection: Collection) -> dict[str, Any]:
        slot = self._dependencies.encoders.slot(collection.name)
        info = slot.info
        described: dict[str, Any] = {
            "model": info.name if info else collection.model,
            "dim": info.dim if info else self._dependencies.catalogue.dim(collection),
            "version": info.embedding_version if info else "",
            "modality": collection.modality,
            "modes": _modes(collection, slot),
            "confidence": _calibrated_modes(collection, slot),
            "model_available": slot.is_available,
        }
        if info is not None:
            described["revision"] = info.revision
            described["runtime"] = info.runtime
            described["tokens_max"] = info.tokens_max
            described["is_placeholder"] = info.is_placeholder
        if info is None:
            described["reason"] = str(slot.unavailable())
        return described


def _modes(collection: Collection, slot: Slot) -> list[SearchMode]:
    """How a text can be searched, the collection's own way first."""
    if not slot.reads_text:
        return ["lexical"] if collection.lexical else []
    if not collection.lexical:
        return ["dense"]
    return [collection.mode, *(each for each in SEARCH_MODES if each != collection.mode)]


def _calibrated_modes(collection: Collection, slot: Slot) -> list[SearchMode]:
    """Which of them tell how likely a hit is what the text asks for."""
    version = slot.info.embedding_version if slot.info else ""
    found = calibration_of(version, collection.confidence) if version else None
    if found is None or not slot.reads_text:
        return []
    return ["dense", "hybrid"] if found.hybrid is not None and collection.lexical else ["dense"]


async def _embedded(
    encoder: TextEncoder, texts: Sequence[str], role: str | None, caller: str
) -> Sequence[Encoding]:
    """Without a role the texts are queries: that is what the deployed callers embed."""
    if role != "document":
        return await encoder.embed_queries(texts, caller)
    found = await encoder.embed_documents(texts)
    return [each for each in found if not isinstance(each, InvalidImage)]  # of a text never


def _require_unit(normalize: bool | None) -> None:
    if normalize is False:
        raise InvalidInput(
            "normalize", "must be true: every embedding_version here is of vectors of length 1"
        )


def _nth_text(text: object, place: int, chars_max: int, field: str = "texts") -> str:
    if not isinstance(text, str):
        raise InvalidInput((field, place), "must be a text: token ids are not read here")
    try:
        return read_text(text, chars_max, field)
    except InvalidInput as exc:
        raise InvalidInput((field, place), exc.msg) from exc


def _model_names(collection: Collection, slot: Slot) -> tuple[str, ...]:
    info = slot.info
    return (collection.model,) if info is None else (collection.model, info.name, info.embedding_version)


def _packed(encoding: Encoding) -> str:
    """Little-endian float32 in base64, as OpenAI's clients ask for."""
    return base64.b64encode(encoding.vector.astype("<f4", copy=False).tobytes()).decode()
